"""What must hold after a fault is healed: nothing lost, nothing wrong, all nodes alike."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass

from node.client import HivememClient
from node.errors import HivememError, NotFound
from tests.fault.workload import Record
from tests.histories.history import ABSENT, FAILED, Kind, ok
from tests.histories.linearizability import check_history
from tests.histories.search import Verdict

AGREE_SECONDS = 30.0  # for every node to hold the same, once nothing is written any more
READ_TIMEOUT_MS = 20_000
BARRIER = "~barrier"  # key of the last write
_POLL_SECONDS = 0.1

Contents = dict[tuple[str, str], tuple[str, int, int]]  # (session, key) → value, version, revision


@dataclass(frozen=True)
class Judgement:
    """One round, judged."""

    operations: int
    ops_per_second: float
    acknowledged: int  # writes
    unknown: int  # writes
    refused: int  # writes that certainly had no effect
    lost: tuple[str, ...]  # acknowledged writes that some node lacks
    resurrected: tuple[str, ...]  # writes refused for certain that some node holds
    violation: str | None  # of linearizability, or undecided: explained
    defects: tuple[str, ...]  # errors that no fault explains
    errors: Counter[str]

    @property
    def good(self) -> bool:
        return not (self.lost or self.resurrected or self.violation or self.defects)

    def explain(self) -> str:
        parts = [
            f"{len(found)} {what}, first {list(found[:3])}"
            for what, found in (
                ("acknowledged writes lost", self.lost),
                ("refused writes present", self.resurrected),
                ("unexplained errors", self.defects),
            )
            if found
        ]
        return "\n".join(parts + ([self.violation] if self.violation else []))


async def judge(record: Record, endpoints: list[str]) -> Judgement:
    """Read everything on every node, and judge. The workload has ended, the fault is healed.

    Raises TimeoutError if the nodes do not come to hold the same.
    """
    # The reads of every register, through every node, are part of the history.
    for endpoint in endpoints:
        await _read_registers(record, endpoint)
    barriers = await _write_barriers(record, endpoints)
    contents = await _agreed(record, endpoints, barriers)
    lost = [
        f"group {group}: revisions {barriers[group]} to {revision}"
        for group, revision in record.revisions.items()
        if barriers[group] <= revision
    ]
    lost += [
        f"{session}/{key}"
        for session, entries in record.ledger.items()
        for key, value in entries.items()
        if contents.get((session, key), ("",))[0] != value
    ]
    resurrected = [
        f"{session}/{key}" for session, key in record.refused if (session, key) in contents
    ]
    result = await asyncio.to_thread(check_history, record.history)
    return Judgement(
        record.operations,
        record.ops_per_second,
        len(record.acknowledged),
        record.unknown,
        record.refusals,
        tuple(lost),
        tuple(resurrected),
        None if result.verdict is Verdict.OK else str(result),
        tuple(record.defects),
        record.errors,
    )


async def _read_registers(record: Record, endpoint: str) -> None:
    """Raises TimeoutError: the node does not answer."""
    deadline = time.monotonic() + AGREE_SECONDS
    async with HivememClient([endpoint], timeout_ms=READ_TIMEOUT_MS, follow=False) as client:
        for key in sorted(record.registers):
            while not await _read_register(record, client, f"final {endpoint}", key):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{endpoint} does not answer within {AGREE_SECONDS} s")
                await asyncio.sleep(_POLL_SECONDS)


async def _read_register(record: Record, client: HivememClient, name: str, key: str) -> bool:
    """False: it did not answer."""
    number = record.history.begin(name, Kind.GET, key, time.monotonic())
    outcome = FAILED
    try:
        found = await client.get(record.namespace, record.session_of(key), key)
        outcome = ok(found.version, found.text())
    except NotFound:
        outcome = ABSENT
    except HivememError:
        return False
    finally:
        record.history.end(number, outcome, time.monotonic())
    return True


async def _write_barriers(record: Record, endpoints: list[str]) -> dict[int, int]:
    """By group, the revision of a write that comes after all others. Where it is lower than
    one that was acknowledged, acknowledged writes are gone."""
    barriers: dict[int, int] = {}
    async with HivememClient(endpoints, timeout_ms=READ_TIMEOUT_MS) as client:
        for session in sorted(record.sessions):
            group = record.group_of(session)
            if group not in barriers:
                written = await client.put(record.namespace, session, BARRIER, "v")
                barriers[group] = written.revision
    return barriers


async def _agreed(record: Record, endpoints: list[str], barriers: dict[int, int]) -> Contents:
    """What every node holds by itself, or has from one that does, once all agree."""
    deadline = time.monotonic() + AGREE_SECONDS
    while True:
        try:
            found = await asyncio.gather(
                *(_held(record, endpoint, barriers) for endpoint in endpoints)
            )
        except HivememError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"a node does not answer: {error}") from error
        else:
            if all(each == found[0] for each in found):
                return found[0]
            if time.monotonic() > deadline:
                different = _differences(found)
                raise TimeoutError(f"the nodes differ after {AGREE_SECONDS} s: {different}")
        await asyncio.sleep(_POLL_SECONDS)


async def _held(record: Record, endpoint: str, barriers: dict[int, int]) -> Contents:
    """What one node shows without asking a leader, at those revisions or later."""
    contents: Contents = {}
    async with HivememClient([endpoint], timeout_ms=READ_TIMEOUT_MS, follow=False) as client:
        for session in sorted(record.sessions):
            cursor: str | None = None
            while True:
                page = await client.list_page(
                    record.namespace,
                    session,
                    limit=1000,
                    cursor=cursor,
                    values=True,
                    consistency="stale",
                    min_revision=barriers[record.group_of(session)],
                )
                for item in page.items:
                    contents[session, item.key] = (item.text(), item.version, item.revision)
                cursor = page.next_cursor
                if cursor is None:
                    break
    return contents


def _differences(found: list[Contents]) -> list[str]:
    places = sorted({place for each in found for place in each})
    return [
        f"{place}: {[each.get(place) for each in found]}"
        for place in places
        if any(each.get(place) != found[0].get(place) for each in found)
    ][:3]
