"""Prometheus metrics of one node: the only importer of prometheus_client.

Requests are counted in plain slots that a handler finds without a lookup (about half a
microsecond each) and turned into metrics when somebody scrapes. Everything else is read
from its owner at that moment, so that no gauge can be out of date. A figure that is not
known is left out.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from cluster.contact import GAP_SECONDS
from cluster.log_rounds import SYNC_SECONDS, SyncFigures
from node.admission import Admission, ByteBudget
from node.read_queue import ReadQueue
from node.reads import PRIORITIES
from node.views import GroupFigures
from node.watch_sources import Watches

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Upper bounds in seconds: a local read takes a tenth of a millisecond, a quorum write
# about one, and no deadline is above sixty seconds.
LATENCY_SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
ROLES = ("leader", "follower", "candidate")


class RouteFigures:
    """What was measured of one route and method, by class of status (index 2: 2xx)."""

    __slots__ = ("buckets", "method", "request_bytes", "response_bytes", "route", "seconds")

    def __init__(self, route: str, method: str) -> None:
        self.route = route
        self.method = method
        self.seconds = [0.0] * 6
        self.buckets = [[0] * (len(LATENCY_SECONDS) + 1) for _ in range(6)]
        self.request_bytes = 0
        self.response_bytes = 0

    def observe(self, status: int, seconds: float) -> None:
        """Count one answer; `seconds` from its arrival."""
        kind = status // 100
        self.seconds[kind] += seconds
        self.buckets[kind][bisect_left(LATENCY_SECONDS, seconds)] += 1


@dataclass(frozen=True, slots=True)
class Sources:
    """Whom a scrape asks."""

    groups: Callable[[], Sequence[GroupFigures]]
    syncs: Callable[[], SyncFigures]
    watches: Watches
    admission: Admission
    request_bytes: ByteBudget
    response_bytes: ByteBudget
    connections: Callable[[], int]
    reads: ReadQueue


class Metrics:
    """All metrics of one node, in a registry of its own. Loop thread only."""

    def __init__(self, sources: Sources) -> None:
        self.errors: Counter[str] = Counter()  # answers by error code
        self._routes: list[RouteFigures] = []
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_NodeCollector(self._routes, self.errors, sources))
        # Resident memory, CPU seconds, open files; nothing where /proc is missing.
        ProcessCollector(registry=self._registry)

    def route(self, route: str, method: str) -> RouteFigures:
        """The slots to count into; ask once and keep them."""
        figures = RouteFigures(route, method)
        self._routes.append(figures)
        return figures

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self._registry)


class _NodeCollector(Collector):
    def __init__(
        self, routes: Sequence[RouteFigures], errors: Counter[str], sources: Sources
    ) -> None:
        self._routes = routes
        self._errors = errors
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        yield from self._http()
        yield from self._load()
        yield from self._watches()
        figures = self._sources.groups()
        yield from _raft(figures)
        yield from _syncs(self._sources.syncs())
        yield from _state(figures)
        yield from _integrity(figures)

    def _http(self) -> Iterator[Metric]:
        labels = ["route", "method", "status_class"]
        requests = CounterMetricFamily("hivemem_http_requests", "Answered requests", labels=labels)
        latency = HistogramMetricFamily(
            "hivemem_http_request_duration_seconds",
            "From the arrival of a request to its answer",
            labels=labels,
        )
        for route in self._routes:
            for kind in range(1, 6):
                counts = route.buckets[kind]
                total = sum(counts)
                if total:
                    names = [route.route, route.method, f"{kind}xx"]
                    requests.add_metric(names, total)
                    latency.add_metric(names, _cumulative(counts), route.seconds[kind])
        yield requests
        yield latency
        received = CounterMetricFamily(
            "hivemem_http_request_body_bytes", "Bytes of request bodies", labels=labels[:2]
        )
        sent = CounterMetricFamily(
            "hivemem_http_response_body_bytes", "Bytes of answers' bodies", labels=labels[:2]
        )
        for route in self._routes:
            received.add_metric([route.route, route.method], route.request_bytes)
            sent.add_metric([route.route, route.method], route.response_bytes)
        yield received
        yield sent
        errors = CounterMetricFamily("hivemem_http_errors", "Error answers", labels=["code"])
        for code, count in sorted(self._errors.items()):
            errors.add_metric([code], count)
        yield errors

    def _load(self) -> Iterator[Metric]:
        sources = self._sources
        for name, text, value in (
            ("http_connections", "Open HTTP connections", sources.connections()),
            ("http_requests_inflight", "Requests being handled", sources.admission.requests),
            (
                "http_request_body_inflight_bytes",
                "Request bodies held in memory",
                sources.request_bytes.held,
            ),
            (
                "http_response_body_inflight_bytes",
                "Large answers held in memory",
                sources.response_bytes.held,
            ),
        ):
            yield GaugeMetricFamily(f"hivemem_{name}", text, value)
        refused = CounterMetricFamily(
            "hivemem_overload_refusals", "Refused as OVERLOADED, by limit", labels=["limit"]
        )
        for limit, count in sorted(sources.admission.refused.items()):
            refused.add_metric([limit], count)
        if sources.watches.figures.refused:
            refused.add_metric(["watches_max"], sources.watches.figures.refused)
        if shed := sources.reads.shed.total():
            refused.add_metric(["reads_waiting_max"], shed)
        yield refused
        yield from _reads(sources.reads)

    def _watches(self) -> Iterator[Metric]:
        watches = self._sources.watches
        figures = watches.figures
        yield GaugeMetricFamily("hivemem_watches", "Open watches", watches.count)
        yield GaugeMetricFamily(
            "hivemem_watches_lagging", "Open watches that read from the store", watches.lagging
        )
        for name, text, value in (
            ("watch_changes_delivered", "Changes handed to watches", figures.delivered),
            ("watch_overflows", "Live watches that fell behind", figures.overflows),
        ):
            yield CounterMetricFamily(f"hivemem_{name}", text, value)


def _reads(queue: ReadQueue) -> Iterator[Metric]:
    waiting = GaugeMetricFamily(
        "hivemem_reads_waiting", "Reads that wait for a thread", labels=["priority"]
    )
    shed = CounterMetricFamily(
        "hivemem_reads_shed", "Reads refused since too many wait", labels=["priority"]
    )
    for priority in PRIORITIES:
        waiting.add_metric([priority.value], queue.waiting[priority])
        shed.add_metric([priority.value], queue.shed[priority])
    yield GaugeMetricFamily("hivemem_reads_running", "Reads on a thread", queue.running)
    yield waiting
    yield shed


def _cumulative(
    counts: Sequence[int], upper: Sequence[float] = LATENCY_SECONDS
) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    total = 0
    bounds = [*map(str, upper), "+Inf"]
    for bound, count in zip(bounds, counts, strict=True):
        total += count
        found.append((bound, total))
    return found


def _raft(figures: Sequence[GroupFigures]) -> Iterator[Metric]:
    for name, text in (
        ("term", "Current term"),
        ("last_index", "Index of the last log entry"),
        ("durable_index", "Index of the last fsynced log entry"),
        ("commit_index", "Index of the last committed log entry"),
        ("applied_index", "Index of the last applied log entry"),
        ("proposals_inflight", "Proposals waiting for their quorum"),
        ("has_quorum", "1 while a majority of members can be reached"),
        ("log_first_index", "Index of the first log entry that is kept"),
        ("snapshot_index", "Last log entry in the newest snapshot; 0: there is none"),
        ("room", "0 while the disk is nearly full and no entries are taken"),
    ):
        gauge = GaugeMetricFamily(f"hivemem_raft_{name}", text, labels=["group"])
        for group in figures:
            gauge.add_metric([str(group.status.group)], getattr(group.status, name))
        yield gauge
    role = GaugeMetricFamily("hivemem_raft_role", "1 for the role held", labels=["group", "role"])
    match = GaugeMetricFamily(
        "hivemem_raft_match_index", "Leader only: what a peer holds", labels=["group", "peer"]
    )
    for group in figures:
        for name in ROLES:
            role.add_metric([str(group.status.group), name], group.status.role == name)
        for peer, index in sorted(group.status.match_index.items()):
            match.add_metric([str(group.status.group), peer], index)
    yield role
    yield match
    gaps = HistogramMetricFamily(
        "hivemem_raft_leader_contact_gap_seconds",
        "Follower only: between two messages of its leader",
        labels=["group"],
    )
    for group in figures:
        found = group.status.contact
        name = str(group.status.group)
        gaps.add_metric([name], _cumulative(found.counts, GAP_SECONDS), found.seconds)
    yield gaps


def _syncs(figures: SyncFigures) -> Iterator[Metric]:
    syncs = HistogramMetricFamily(
        "hivemem_log_sync_duration_seconds", "What an fsync of the log took, over all groups"
    )
    syncs.add_metric([], _cumulative(figures.counts, SYNC_SECONDS), figures.seconds)
    yield syncs
    yield CounterMetricFamily(
        "hivemem_log_loop_rounds",
        "Writes of the log, with their fsync, that the event loop did without the thread",
        figures.loop_rounds,
    )


def _state(figures: Sequence[GroupFigures]) -> Iterator[Metric]:
    for name, field, text in (
        ("keys", "keys", "Live records"),
        ("value_bytes", "value_bytes", "Bytes of live values"),
        ("revision", "revision", "Revision of the newest change"),
        ("compacted_revision", "compacted_revision", "A watch may resume from here"),
        ("changes", "changes", "Changes kept for history and watch"),
        ("request_ids", "request_ids", "Remembered request ids"),
        ("map_used_bytes", "map_bytes_used", "Bytes of the store's pages that hold data"),
    ):
        gauge = GaugeMetricFamily(f"hivemem_{name}", text, labels=["group"])
        for group in figures:
            if group.state is not None:
                gauge.add_metric([str(group.status.group)], getattr(group.state, field))
        yield gauge
    log = GaugeMetricFamily("hivemem_log_bytes", "Bytes of log files", labels=["group"])
    for group in figures:
        if group.log_bytes is not None:
            log.add_metric([str(group.status.group)], group.log_bytes)
    yield log


def _integrity(figures: Sequence[GroupFigures]) -> Iterator[Metric]:
    """Whether a state is answered from, and what was found in it."""
    quarantined = GaugeMetricFamily(
        "hivemem_state_quarantined",
        "1 while the state was found damaged and is being rebuilt",
        labels=["group"],
    )
    found = CounterMetricFamily(
        "hivemem_quarantines", "Times the state was found damaged", labels=["group", "found_by"]
    )
    views = [figure.integrity for figure in figures if figure.integrity is not None]
    for view in views:
        quarantined.add_metric([str(view.group)], view.state != "serving")
        for found_by, count in sorted(view.quarantines.items()):
            found.add_metric([str(view.group), found_by], count)
    yield quarantined
    yield found
    scrubs = [(str(view.group), view.scrub) for view in views if view.scrub is not None]
    for name, field, text in (
        ("scrub_passes", "passes", "Finished passes of the scrub"),
        ("scrub_bytes", "bytes", "Bytes that the scrub has verified"),
        ("scrub_records", "records", "Records that the scrub has verified"),
        ("scrub_errors", "errors", "Damage that the scrub has found"),
    ):
        counter = CounterMetricFamily(f"hivemem_{name}", text, labels=["group"])
        for group, scrub in scrubs:
            counter.add_metric([group], getattr(scrub, field))
        yield counter
    progress = GaugeMetricFamily(
        "hivemem_scrub_progress", "Share of the pass that is done", labels=["group"]
    )
    finished = GaugeMetricFamily(
        "hivemem_scrub_last_finished_timestamp_seconds",
        "When the last pass of the scrub ended",
        labels=["group"],
    )
    for group, scrub in scrubs:
        if scrub.progress is not None:
            progress.add_metric([group], scrub.progress)
        if scrub.last_finished_at_ms is not None:
            finished.add_metric([group], scrub.last_finished_at_ms / 1000)
    yield progress
    yield finished
    compared = GaugeMetricFamily(
        "hivemem_digest_compared_index", "Log index of the newest comparison", labels=["group"]
    )
    agreed = GaugeMetricFamily(
        "hivemem_digest_agreed", "1 if it agreed with the majority's then", labels=["group"]
    )
    for view in views:
        if view.comparison is not None:
            compared.add_metric([str(view.group)], view.comparison.index)
            if view.comparison.agreed is not None:
                agreed.add_metric([str(view.group)], view.comparison.agreed)
    yield compared
    yield agreed
