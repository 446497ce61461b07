"""Which node to ask next: what a client knows of a cluster's addresses. Pure: time comes in.

Theory of operation. Addresses come from the caller (*configured*) and from the cluster
itself (*learned*). A learned address is used only while a node there has proved to be of
the same cluster: through a tunnel, or after a restart, `127.0.0.1:7411` may be another one,
and a write must not end up there. So one that does not answer must prove itself again.

The leader is preferred for writes and linearizable reads, since every other node would only
forward them; everything else stays on the node that answered last, which keeps connections
few, or is spread where the caller wants that. An address that failed *rests*: it goes to
the end of the order, for longer with each failure in a row, but is never excluded: it may
be the only one that works.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from node.errors import BadRequest

ADDRESSES_MAX = 64  # addresses remembered; a cluster has far fewer nodes
REST_SECONDS_MIN = 0.25  # after the first failure
REST_SECONDS_MAX = 5.0
_REST_DOUBLINGS_MAX = 6  # beyond that the maximum is reached anyway


def normalised(address: str, scheme: str = "http") -> str:
    """`scheme://host:port` of an address that may lack its scheme or end in a slash.

    Raises: BadRequest for anything that is not just an address.
    """
    text = address.strip().rstrip("/")
    if "://" not in text:
        text = f"{scheme}://{text}"
    kind, _, rest = text.partition("://")
    kind = kind.lower()
    if kind not in ("http", "https") or not rest or any(mark in rest for mark in "/?#@ "):
        raise BadRequest(
            f"endpoint {address!r} is not an address such as http://127.0.0.1:7411",
            field="endpoints",
        )
    _, colon, port = rest.rpartition(":")
    if colon and not rest.endswith("]") and not (port.isdecimal() and 0 < int(port) < 65536):
        raise BadRequest(f"endpoint {address!r} has a bad port", field="endpoints")
    return f"{kind}://{rest}"


class Topology:
    """Addresses in the order in which to try them. Invariant: `known` is never empty."""

    def __init__(self, configured: Sequence[str]) -> None:
        """Raises: BadRequest if an address is none, or there is none."""
        if not configured:
            raise BadRequest("at least one endpoint is needed", field="endpoints")
        self._configured = tuple(dict.fromkeys(normalised(each) for each in configured))
        self._learned: tuple[str, ...] = ()
        self.unproven: tuple[str, ...] = ()  # learned once; to be asked who they are, no more
        # A cluster that was reached over TLS must not talk us into plain text.
        self._tls_only = all(each.startswith("https:") for each in self._configured)
        self._scheme = "https" if self._tls_only else "http"
        self._current = self._configured[0]
        self._failures: dict[str, int] = {}  # address → failures in a row
        self._rests_until: dict[str, float] = {}
        self._turn = 0
        self.leader: str | None = None

    @property
    def known(self) -> tuple[str, ...]:
        """Every address, the configured ones first."""
        return tuple(dict.fromkeys((*self._configured, *self._learned)))

    def next(
        self, tried: Collection[str], now: float, *, leader: bool, spread: bool = False
    ) -> str | None:
        """The best address that is not in `tried`; None when all were tried.

        `now`: monotonic seconds. `leader`: prefer it. `spread`: take turns.
        """
        left = [each for each in self.known if each not in tried]
        if not left:
            return None
        if spread:
            self._turn += 1
            start = self._turn % len(left)
            left = left[start:] + left[:start]

        def rank(address: str) -> tuple[float, bool, bool]:
            rest = max(0.0, self._rests_until.get(address, 0.0) - now)
            is_leader = leader and address == self.leader
            return rest, not is_leader, spread or address != self._current

        return min(left, key=rank)

    def answered(self, address: str) -> None:
        self._failures.pop(address, None)
        self._rests_until.pop(address, None)
        self._current = address

    def unable(self, address: str, now: float) -> None:
        """The node at `address` says that it cannot serve now."""
        failures = self._failures.get(address, 0)
        self._failures[address] = failures + 1
        rest = REST_SECONDS_MIN * 2.0 ** min(failures, _REST_DOUBLINGS_MAX)
        self._rests_until[address] = now + min(rest, REST_SECONDS_MAX)
        if self.leader == address:
            self.leader = None

    def failed(self, address: str, now: float) -> None:
        """`address` could not be reached, or did not answer."""
        self.unable(address, now)
        if address in self._learned:
            self._learned = tuple(each for each in self._learned if each != address)
            self.unproven = (*self.unproven, address)

    def led_by(self, address: str) -> bool:
        """A node says that the leader is at `address`. False if that address is not known."""
        found = self.acceptable(address)
        if found not in self.known:
            return False
        self.leader = found
        return True

    def learn(self, address: str) -> None:
        """An address that proved to be of this cluster may be used from now on."""
        found = self.acceptable(address)
        if found is not None and found not in self.known and len(self.known) < ADDRESSES_MAX:
            self._learned = (*self._learned, found)
            self.unproven = tuple(each for each in self.unproven if each != found)

    def acceptable(self, address: str) -> str | None:
        """The address in its normal form; None for one that may not be used."""
        try:
            found = normalised(address, self._scheme)
        except BadRequest:
            return None  # a cluster's odd answer must not break a request that works
        return None if self._tls_only and not found.startswith("https:") else found
