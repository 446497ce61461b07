"""Forgetting a session: over HTTP, by the client, and what is said when it ends midway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engines.command import Command, Put
from engines.interfaces import Limits
from engines.read_requests import ReadRequest, Shown
from node import forget
from node.client import BatchPut, HivememClient
from node.clock import SystemClock
from node.errors import BadRequest, DeadlineExceeded, HivememError, OutOfSpace, Unavailable
from node.forget import Forget, Forgetting
from tests.openapi_check import Document
from tests.unit.client_nodes import Act, Says, Seen, addressed_door, door_address, fake_nodes, ok
from tests.unit.engine_state import State, checked_state
from tests.unit.http_door import OpenDoor, Reply, open_door

SESSION = "/v1/kv/n/s"


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[OpenDoor]:
    async with open_door(tmp_path) as opened:
        yield opened


async def fill(door: OpenDoor, *keys: str, session: str = "s") -> None:
    puts = [
        {"op": "put", "namespace": "n", "session": session, "key": key, "value": "v"}
        for key in keys
    ]
    for at in range(0, len(puts), 1000):
        assert (await door.post("/v1/batch", {"operations": puts[at : at + 1000]})).status == 200


async def keys(door: OpenDoor, session: str = "s") -> list[str]:
    listed = await door.request("GET", f"/v1/kv/n/{session}?limit=1000")
    return [item["key"] for item in listed.json()["items"]]


async def test_a_session_is_forgotten_and_no_other(door: OpenDoor) -> None:
    document = Document((await door.request("GET", "/openapi.json")).json())
    await fill(door, "a1", "a2", "b/1", "é", "k" * 4096)
    await fill(door, "a1", session="s2")

    async def asked(query: str = "") -> Any:
        reply: Reply = await door.request("DELETE", f"{SESSION}{query}")
        document.check(
            "DELETE", "/v1/kv/{namespace}/{session}", reply.status, reply.headers, reply.body
        )
        return reply.json()

    assert await asked("?prefix=a") == {"deleted": 2, "kept": 0, "more": False, "revision": 6}
    assert await keys(door) == ["b/1", "k" * 4096, "é"]
    assert await asked("?prefix=none") == {"deleted": 0, "kept": 0, "more": False, "revision": 7}
    assert await asked("?limit=1") == {"deleted": 1, "kept": 0, "more": True, "revision": 7}
    assert await asked() == {"deleted": 2, "kept": 0, "more": False, "revision": 8}
    assert await asked() == {"deleted": 0, "kept": 0, "more": False, "revision": 9}
    assert (await door.request("GET", "/v1/kv/n")).json()["items"] == [{"session": "s2"}]
    history = (await door.request("GET", "/v1/history/n/s/a1")).json()["items"]
    assert [item["type"] for item in history] == ["delete", "put"]


async def test_what_changed_after_the_given_revision_is_kept(door: OpenDoor) -> None:
    await fill(door, "a", "b", "c")
    before = door.machine.revision
    await door.put("b", b"again")
    await door.put("d", b"new")
    reply = await door.request("DELETE", f"{SESSION}?max_revision={before}")
    assert reply.json() == {"deleted": 2, "kept": 2, "more": False, "revision": before}
    assert await keys(door) == ["b", "d"]
    # A revision that is yet to come is no reason to delete what is written meanwhile.
    reply = await door.request("DELETE", f"{SESSION}?max_revision=999999")
    assert reply.json()["revision"] == before + 3
    assert await keys(door) == []


async def test_a_key_that_was_made_anew_has_its_old_version_and_stays(door: OpenDoor) -> None:
    await fill(door, *(f"k{number:03}" for number in range(300)))
    listing = door.router.read

    async def read(request: ReadRequest[Any], options: Any, deadline: float) -> Shown[Any]:
        shown: Shown[Any] = await listing(request, options, deadline)
        door.router.read = listing  # type: ignore[method-assign]
        await door.request("DELETE", f"{SESSION}/k007")
        assert (await door.put("k007", b"new")).json()["version"] == 1
        await door.put("k123", b"newer")
        await door.request("DELETE", f"{SESSION}/k250")
        return shown

    door.router.read = read  # type: ignore[assignment,method-assign]
    reply = await door.request("DELETE", SESSION)
    # What somebody else deleted is neither deleted here nor kept.
    assert (reply.json()["deleted"], reply.json()["kept"]) == (297, 2)
    assert await keys(door) == ["k007", "k123"]
    assert (await door.request("GET", f"{SESSION}/k007")).body == b"new"


class Scripted:
    """A router to one state. `before`: called as something is read, with the steps so far."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.steps: list[Sequence[Any]] = []
        self.before: Callable[[int], Awaitable[None]] | None = None
        self.fails: dict[int, HivememError] = {}  # by step: its last command's outcome

    async def read(self, request: ReadRequest[Any], options: Any, deadline: float) -> Shown[Any]:
        if self.before is not None:
            await self.before(len(self.steps))
        shown: Shown[Any] = self.state.read(request.run)
        return shown

    async def propose_many(self, commands: Sequence[Command], deadline: float) -> list[Any]:
        self.steps.append(commands)
        error = self.fails.get(len(self.steps))
        if error is not None:
            return [*self.state.apply(*commands[:-1]), error]
        return self.state.apply(*commands)


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[Scripted]:
    with checked_state(tmp_path / "state") as state:
        yield Scripted(state)


def forgetting(router: Scripted, limit: int = 10_000, clock: Any = None) -> Forgetting:
    clock = clock or SystemClock()
    request = Forget("n", "s", b"", limit)
    return Forgetting(router, request, router.state.limits, clock, clock.monotonic() + 10)


def put_many(state: State, count: int, length: int = 6) -> None:
    puts = [
        Put("n", "s", b"%0*d" % (length, number), b"v", "x", state.now) for number in range(count)
    ]
    state.apply(*puts)


async def test_what_is_proposed_at_once_is_bounded_in_keys_and_bytes(scripted: Scripted) -> None:
    put_many(scripted.state, 1100)
    assert (await forgetting(scripted).run()).deleted == 1100
    sizes = [[len(command.then) for command in step] for step in scripted.steps]
    assert sizes == [[128, 128, 128, 116], [128, 128, 128, 116], [100]]
    scripted.steps.clear()
    put_many(scripted.state, 40, 4000)
    assert (await forgetting(scripted).run()).deleted == 40
    (step,) = scripted.steps
    assert [len(command.then) for command in step] == [16, 16, 8]


async def test_small_limits_of_transactions_are_kept(tmp_path: Path) -> None:
    small = replace(Limits(), value_bytes_max=32 << 10, txn_bytes_max=128 << 10)
    with checked_state(tmp_path / "small") as state:
        state.limits = small
        scripted = Scripted(state)
        put_many(state, 300, 1005)
        assert (await forgetting(scripted).run()).deleted == 300


async def test_one_changed_key_costs_no_other_its_deletion(scripted: Scripted) -> None:
    put_many(scripted.state, 128)
    plain = scripted.propose_many

    async def changed(commands: Sequence[Command], deadline: float) -> list[Any]:
        if not scripted.steps:
            scripted.state.put(b"000077", b"new")
        return await plain(commands, deadline)

    scripted.propose_many = changed  # type: ignore[method-assign]
    done = await forgetting(scripted).run()
    assert (done.deleted, done.kept, done.more) == (127, 1, False)
    assert scripted.state.value(b"000077") == b"new"
    assert sum(map(len, scripted.steps)) == 1 + 2 * 7, "it is halved"
    ids = [command.request_id for step in scripted.steps for command in step]
    assert None not in ids
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("definite", [True, False])
async def test_an_error_says_what_was_done_before_it(scripted: Scripted, definite: bool) -> None:
    put_many(scripted.state, 700)
    scripted.fails = {2: Unavailable("lost", code="OUTCOME_UNKNOWN", definite=definite)}
    with pytest.raises(Unavailable) as caught:
        await forgetting(scripted).run()
    assert caught.value.definite is False, "the request had an effect"
    assert "628 keys were deleted by this request before" in caught.value.message
    assert "max_revision=700" in caught.value.message
    assert (await forgetting(scripted).run()).deleted == 72


@pytest.mark.parametrize(
    "error", [OutOfSpace("full"), Unavailable("lost", code="OUTCOME_UNKNOWN", definite=False)]
)
async def test_an_error_before_anything_was_done_is_what_it_is(
    scripted: Scripted, error: HivememError
) -> None:
    put_many(scripted.state, 5)
    scripted.fails = {1: error}
    definite, message = error.definite, error.message
    with pytest.raises(type(error)) as caught:
        await forgetting(scripted).run()
    assert (caught.value.definite, caught.value.message) == (definite, message)


class Passing(SystemClock):
    now = 100.0

    def monotonic(self) -> float:
        return self.now


async def test_no_page_is_begun_late(scripted: Scripted) -> None:
    put_many(scripted.state, 2000)
    clock = Passing()

    async def before(step: int) -> None:
        clock.now += 2.0

    scripted.before = before
    done = await forgetting(scripted, clock=clock).run()
    assert (done.deleted, done.more) == (1500, True)


async def test_more_is_not_said_of_nothing_done(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_many(scripted.state, 2000)
    clock = Passing()

    async def before(step: int) -> None:
        clock.now += 2.0

    scripted.before = before
    request = Forget("n", "s", b"", 10, 0)
    walk = Forgetting(scripted, request, Limits(), clock, clock.monotonic() + 5)
    with pytest.raises(DeadlineExceeded) as caught:
        await walk.run()
    assert caught.value.definite
    monkeypatch.setattr(forget, "PAGE_KEYS_MAX", 1000)
    walk = Forgetting(scripted, request, Limits(), clock, clock.monotonic() + 5)
    done = await walk.run()
    assert done == (0, 2000, False, 0), "what is kept does not count against the limit"


# --- The client --------------------------------------------------------------------------


async def test_the_client_goes_on_until_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.client_api.FORGET_KEYS", 400)
    async with (
        addressed_door(tmp_path) as door,
        HivememClient([door_address(door)]) as client,
    ):
        await client.batch([BatchPut("n", "s/é", f"k{i:04}", "v") for i in range(900)])
        await client.put("n", "s/é", "other", "v")
        done = await client.forget("n", "s/é", prefix="k")
        assert (done.deleted, done.kept, done.more) == (900, 0, False)
        assert [item.key async for item in client.list("n", "s/é")] == ["other"]
        assert (await client.forget("n", "s/é")).deleted == 1
        assert (await client.forget("n", "s/é")).deleted == 0
        assert (await client.forget("n", "never")).deleted == 0


ITEM = {
    "key": "k", "version": 1, "revision": 7, "created_revision": 7, "content_type": "x", "size": 1,
    "created_at": "2026-01-01T00:00:00.000Z", "updated_at": "2026-01-01T00:00:00.000Z",
    "expires_at": None,
}  # fmt: skip


@pytest.mark.parametrize("call", ["forget", "forget_page"])
async def test_an_empty_prefix_is_no_way_to_say_all(tmp_path: Path, call: str) -> None:
    async with addressed_door(tmp_path) as door, HivememClient([door_address(door)]) as client:
        await client.put("n", "s", "k", "v")
        with pytest.raises(BadRequest) as caught:
            await getattr(client, call)("n", "s", prefix="")
        assert caught.value.field == "prefix"
        assert (await client.get("n", "s", "k")).value == b"v"


async def test_a_page_that_is_asked_for_again_has_the_bound_of_the_first_time() -> None:
    bounds: list[str | None] = []

    def behave(seen: Seen) -> Says | Act:
        if seen.method == "GET":
            return ok(items=[ITEM], next_cursor=None, revision=12)
        bounds.append(seen.query.get("max_revision"))
        return Act.CLOSE if len(bounds) == 1 else ok(deleted=3, kept=0, more=False, revision=12)

    async with fake_nodes(behave) as (node,), HivememClient([node.address], follow=False) as client:
        await client.forget_page("n", "s")
        await client.forget_page("n", "s", max_revision=7)
    assert bounds == ["12", "12", "7"]


async def test_all_requests_of_a_call_have_the_bound_of_its_beginning() -> None:
    bounds: list[str | None] = []

    def behave(seen: Seen) -> Says | Act:
        if seen.method == "GET":
            return ok(items=[ITEM], next_cursor=None, revision=12)
        bounds.append(seen.query.get("max_revision"))
        if len(bounds) == 1:
            return Act.CLOSE  # it may have been done, and others write before it is repeated
        more = len(bounds) == 2
        return ok(deleted=3, kept=len(bounds), more=more, revision=12)

    async with fake_nodes(behave) as (node,), HivememClient([node.address], follow=False) as client:
        done = await client.forget("n", "s")
    assert bounds == ["12", "12", "12"]
    assert (done.deleted, done.kept, done.more, done.revision) == (6, 3, False, 12)


async def test_an_error_of_a_later_request_is_not_definite() -> None:
    count = 0

    def behave(seen: Seen) -> Says | Act:
        nonlocal count
        if seen.method == "GET":
            return ok(items=[ITEM], next_cursor=None, revision=12)
        count += 1
        if count == 1:
            return ok(deleted=3, kept=0, more=True, revision=12)
        error = {"code": "DISK_FULL", "message": "full", "definite": True, "leader": None}
        return Says(507, json.dumps({"error": error}).encode())

    async with fake_nodes(behave) as (node,), HivememClient([node.address], follow=False) as client:
        with pytest.raises(OutOfSpace) as caught:
            await client.forget("n", "s")
    assert not caught.value.definite
    assert "3 keys were deleted" in caught.value.message


async def test_writers_lose_nothing_to_a_call_beside_them(tmp_path: Path) -> None:
    async with (
        addressed_door(tmp_path) as door,
        HivememClient([door_address(door)]) as client,
    ):
        await client.batch([BatchPut("n", "s", f"{i:04}", "old") for i in range(1000)])
        written: dict[str, str] = {}
        stop = asyncio.Event()

        async def rewrite() -> None:
            number = 0
            while not stop.is_set():
                key = f"{number * 37 % 1000:04}"
                await client.put("n", "s", key, f"new {number}")
                written[key] = f"new {number}"
                number += 1

        task = asyncio.create_task(rewrite())
        while len(written) < 5:
            await asyncio.sleep(0)
        before = set(written)
        done = await client.forget("n", "s")
        stop.set()
        await task
        left = {item.key: item.text() async for item in client.list("n", "s", values=True)}
        assert left.items() <= written.items()
        assert written.keys() - left.keys() <= before, "what was written after the call began"
        assert done.deleted + len(left) >= 1000
