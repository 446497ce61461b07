"""Concurrent writers that remember what was acknowledged, and the check that it is there."""

from __future__ import annotations

import asyncio
import itertools
import time

from node.client import HivememClient
from node.errors import HivememError

NAMESPACE = "durability"


class Writers:
    """`count` writers, each putting its own keys one after another until `stop`.

    acknowledged: session → {key: value}. refused: writes that certainly had no effect.
    Times of acknowledgements are monotonic seconds, in order.
    """

    def __init__(self, endpoints: list[str], count: int = 64) -> None:
        self.endpoints = endpoints
        self.count = count
        self.acknowledged: dict[str, dict[str, str]] = {}
        self.refused: list[tuple[str, str]] = []
        self.unknown = 0
        self.times: list[float] = []
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Writers:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        self._stop.set()
        if self._task is not None:
            await self._task

    async def reach(self, acknowledgements: int, seconds: float = 30.0) -> None:
        """Wait until that many more writes are acknowledged."""
        goal = len(self.times) + acknowledgements
        deadline = time.monotonic() + seconds
        while len(self.times) < goal:
            assert time.monotonic() < deadline, f"{len(self.times)} of {goal} acknowledged"
            await asyncio.sleep(0.01)

    def pause_after(self, moment: float) -> float:
        """Seconds of the longest silence between two acknowledgements from `moment` on."""
        before = [at for at in self.times if at <= moment]
        at_or_after = [before[-1], *(at for at in self.times if at > moment)]
        return max(b - a for a, b in itertools.pairwise(at_or_after))

    async def _run(self) -> None:
        async with HivememClient(self.endpoints, timeout_ms=20_000) as client:
            await asyncio.gather(*(self._write(client, number) for number in range(self.count)))

    async def _write(self, client: HivememClient, writer: int) -> None:
        session = f"writer-{writer:03d}"
        mine = self.acknowledged.setdefault(session, {})
        number = 0
        while not self._stop.is_set():
            key, value = f"{number:06d}", f"{session}:{number}"
            number += 1
            try:
                await client.put(NAMESPACE, session, key, value)
            except HivememError as error:
                if error.definite:
                    self.refused.append((session, key))
                else:
                    self.unknown += 1
                continue
            mine[key] = value
            self.times.append(time.monotonic())


async def stored(client: HivememClient) -> dict[str, dict[str, str]]:
    """Everything the writers' namespace holds: session → {key: value}."""
    found: dict[str, dict[str, str]] = {}
    async for session in client.sessions(NAMESPACE):
        found[session] = {
            item.key: (item.value or b"").decode()
            async for item in client.list(NAMESPACE, session, values=True)
        }
    return found


async def check_nothing_lost(writers: Writers, endpoint: str) -> None:
    """This very node has every acknowledged write as written, and no definitely refused one."""
    async with HivememClient([endpoint], timeout_ms=20_000, follow=False) as client:
        found = await stored(client)
    lost = [
        (session, key)
        for session, records in writers.acknowledged.items()
        for key, value in records.items()
        if found.get(session, {}).get(key) != value
    ]
    assert not lost, f"{len(lost)} acknowledged writes lost, first {lost[:3]}"
    wrong = [place for place in writers.refused if place[1] in found.get(place[0], {})]
    assert not wrong, f"refused with definite: true, yet stored: {wrong[:3]}"
