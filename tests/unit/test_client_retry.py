"""What the client does when nodes refuse, vanish, hang or disagree, and what it then says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from node.client import BatchDelete, BatchGet, BatchPut, HivememClient, PutResult
from node.errors import (
    BadRequest,
    Conflict,
    DeadlineExceeded,
    HivememError,
    InternalError,
    Unavailable,
    WrongCluster,
)
from tests.unit.client_nodes import (
    Act,
    Behave,
    FakeNode,
    Says,
    Seen,
    fake_nodes,
    ok,
    refusal,
    refused_address,
)

STORED = ok(version=1, revision=7)
WAIT_SECONDS = 30.0  # far beyond what is waited for


def always(answer: Says | Act) -> Behave:
    return lambda seen: answer


def script(*answers: Says | Act) -> Behave:
    """These answers to writes, in turn, the last one for ever; the cluster's view is refused."""
    left = list(answers)

    def behave(seen: Seen) -> Says | Act:
        if seen.path == "/v1/cluster":
            return refusal(503, "QUORUM_NOT_REACHED")
        return left.pop(0) if len(left) > 1 else left[0]

    return behave


async def raised(client: HivememClient, timeout_ms: int = 600) -> HivememError:
    with pytest.raises(HivememError) as caught:
        await client.put("n", "s", "k", "v", timeout_ms=timeout_ms)
    return caught.value


async def test_a_retry_carries_the_same_request_id():
    async with (
        fake_nodes(script(Act.CLOSE), script(STORED)) as (first, second),
        HivememClient([first.address, second.address]) as client,
    ):
        assert await client.put("n", "s", "k", "v") == PutResult(1, 7)
    # The library itself repeats a PUT on a broken connection: the id holds there, too.
    ids = {seen.query["request_id"] for seen in first.writes + second.writes}
    assert len(ids) == 1
    assert first.writes
    assert second.writes


async def test_a_given_request_id_is_kept():
    async with fake_nodes(script(STORED)) as (node,), HivememClient([node.address]) as client:
        await client.put("n", "s", "k", "v", request_id="mine")
    assert node.writes[0].query["request_id"] == "mine"


async def test_different_calls_have_different_request_ids():
    async with fake_nodes(script(STORED)) as (node,), HivememClient([node.address]) as client:
        await client.put("n", "s", "k", "v")
        await client.put("n", "s", "k", "v")
    first, second = node.writes
    assert first.query["request_id"] != second.query["request_id"]


async def test_refused_connections_are_definite_and_fail_within_the_deadline():
    addresses = [await refused_address(), await refused_address()]
    async with HivememClient(addresses) as client, asyncio.timeout(WAIT_SECONDS):
        error = await raised(client)
    assert isinstance(error, Unavailable)
    assert (error.code, error.definite) == ("UNREACHABLE", True)


async def test_nobody_waits_longer_than_asked_for_a_cluster_that_is_not_there():
    address = await refused_address()
    async with (
        HivememClient([address], unreachable_ms_max=200) as client,
        asyncio.timeout(WAIT_SECONDS),
    ):
        assert (await raised(client, 60_000)).code == "UNREACHABLE"


async def test_a_lost_answer_is_not_definite_even_if_the_retry_was_refused():
    async with fake_nodes(script(Act.DIE)) as (node,), HivememClient([node.address]) as client:
        error = await raised(client)
    assert isinstance(error, Unavailable)
    assert (error.code, error.definite) == ("OUTCOME_UNKNOWN", False)


async def test_a_lost_answer_on_a_kept_connection_is_not_definite():
    """The HTTP library retries that by itself, and then reports only "connection refused"."""
    async with (
        fake_nodes(script(STORED, Act.DIE)) as (node,),
        HivememClient([node.address]) as client,
    ):
        await client.put("n", "s", "k", "v")
        error = await raised(client)
    assert node.connections <= 2
    assert (error.code, error.definite) == ("OUTCOME_UNKNOWN", False)


async def test_a_write_past_its_deadline_has_an_unknown_outcome():
    async with (
        fake_nodes(always(Act.HANG)) as (node,),
        HivememClient([node.address]) as client,
        asyncio.timeout(WAIT_SECONDS),
    ):
        error = await raised(client, 300)
    assert isinstance(error, Unavailable)
    assert (error.code, error.definite) == ("OUTCOME_UNKNOWN", False)


async def test_a_read_past_its_deadline_changed_nothing():
    async with fake_nodes(always(Act.HANG)) as (node,), HivememClient([node.address]) as client:
        with pytest.raises(DeadlineExceeded) as caught:
            await client.get("n", "s", "k", timeout_ms=300)
    assert caught.value.definite


async def test_a_node_that_hangs_does_not_use_up_the_deadline():
    async with (
        fake_nodes(script(Act.HANG), script(STORED)) as (hung, good),
        HivememClient([hung.address, good.address]) as client,
    ):
        await client.put("n", "s", "k", "v", timeout_ms=4000)
        # From now on it is asked last.
        await client.put("n", "s", "k", "v")
    assert len(hung.writes) == 1


async def test_the_node_gets_less_time_than_the_client_has():
    async with fake_nodes(script(STORED)) as (node,), HivememClient([node.address]) as client:
        await client.put("n", "s", "k", "v", timeout_ms=1000)
    assert 500 < int(node.writes[0].query["timeout_ms"]) < 1000


async def test_a_conflict_is_not_retried():
    conflict = refusal(409, "VERSION_CONFLICT", version=4)
    async with fake_nodes(script(conflict)) as (node,), HivememClient([node.address]) as client:
        error = await raised(client)
    assert isinstance(error, Conflict)
    assert (error.version, error.definite) == (4, True)
    assert len(node.writes) == 1


@pytest.mark.parametrize(
    ("later", "definite"),
    [
        # Nodes remember a conflict under the request id, so that it is final.
        (refusal(409, "VERSION_CONFLICT", version=4), True),
        (refusal(401, "UNAUTHENTICATED"), False),
        (refusal(409, "LIMIT_EXCEEDED"), False),
        (refusal(503, "QUORUM_NOT_REACHED"), False),
    ],
)
async def test_an_error_is_definite_only_if_every_attempt_was(later: Says, definite: bool):
    unknown = refusal(503, "OUTCOME_UNKNOWN", definite=False)
    async with (
        fake_nodes(script(unknown, later)) as (node,),
        HivememClient([node.address]) as client,
    ):
        error = await raised(client)
    assert error.code == json.loads(later.body)["error"]["code"]
    assert error.definite is definite


async def test_a_nodes_words_are_reported_rather_than_its_dead_neighbours():
    async with (
        fake_nodes(script(refusal(503, "QUORUM_NOT_REACHED"))) as (node,),
        HivememClient([node.address, await refused_address()]) as client,
    ):
        error = await raised(client)
    assert (error.code, error.definite) == ("QUORUM_NOT_REACHED", True)


WRONG = refusal(421, "WRONG_CLUSTER")


async def test_a_node_of_another_cluster_is_passed_over():
    async with (
        fake_nodes(script(WRONG), script(STORED)) as (foreign, own),
        HivememClient([foreign.address, own.address], cluster_id="c") as client,
    ):
        assert await client.put("n", "s", "k", "v") == PutResult(1, 7)
    assert (len(foreign.writes), len(own.writes)) == (1, 1)


async def test_nothing_but_nodes_of_another_cluster_is_told_at_once():
    async with (
        fake_nodes(script(WRONG), script(WRONG)) as nodes,
        HivememClient([node.address for node in nodes], cluster_id="c") as client,
    ):
        error = await raised(client, int(WAIT_SECONDS * 1000))
    assert isinstance(error, WrongCluster)
    assert error.definite
    assert [len(node.writes) for node in nodes] == [1, 1]


async def test_nodes_of_another_cluster_and_none_of_ours():
    async with (
        fake_nodes(script(WRONG)) as (foreign,),
        HivememClient(
            [await refused_address(), foreign.address], cluster_id="c", unreachable_ms_max=50
        ) as client,
    ):
        error = await raised(client, int(WAIT_SECONDS * 1000))
    assert isinstance(error, WrongCluster)


async def test_our_own_nodes_words_count_more_than_another_clusters():
    async with (
        fake_nodes(script(refusal(503, "QUORUM_NOT_REACHED")), script(WRONG)) as nodes,
        HivememClient([node.address for node in nodes], cluster_id="c") as client,
    ):
        error = await raised(client)
    assert error.code == "QUORUM_NOT_REACHED"


async def test_unavailable_is_retried_until_it_succeeds():
    waiting = [refusal(503, "QUORUM_NOT_REACHED"), refusal(503, "OVERLOADED"), STORED]
    async with fake_nodes(script(*waiting)) as (node,), HivememClient([node.address]) as client:
        assert await client.put("n", "s", "k", "v") == PutResult(1, 7)
    assert len(node.writes) == 3


async def test_a_defect_is_not_retried():
    defect = refusal(500, "INTERNAL", definite=False)
    async with fake_nodes(script(defect)) as (node,), HivememClient([node.address]) as client:
        error = await raised(client)
    assert isinstance(error, InternalError)
    assert len(node.writes) == 1


async def test_a_leader_that_an_error_names_is_asked_next():
    async with fake_nodes(script(STORED), script(STORED)) as (leader, other):
        follower = FakeNode(lambda seen: refusal(503, "QUORUM_NOT_REACHED", leader=leader.address))
        await follower.start()
        addresses = [follower.address, other.address, leader.address]
        try:
            async with HivememClient(addresses) as client:
                await client.put("n", "s", "k", "v")
        finally:
            await follower.stop()
    assert len(leader.writes) == 1
    assert not other.writes


def member(name: str, node: FakeNode) -> dict[str, object]:
    return {"id": name, "name": name, "role": None, "http": node.address, "healthy": True}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_writes_find_the_leader_and_reads_that_may_be_stale_are_spread():
    nodes: list[FakeNode] = []
    found = Says(
        200, b"v", "Content-Type: text/plain\r\nX-Hivemem-Version: 1\r\nX-Hivemem-Revision: 1\r\n"
    )

    def behave(seen: Seen) -> Says:
        if seen.path == "/v1/cluster":
            members = [member("a", nodes[0]), member("b", nodes[1])]
            return ok(cluster_id="c", leader="b", term=1, nodes=members)
        return STORED if seen.method == "PUT" else found

    async with fake_nodes(behave, behave) as started:
        nodes.extend(started)
        first, leader = started
        async with HivememClient([first.address]) as client:
            await client.put("n", "s", "k", "v")
            assert len(first.seen) == 1  # who makes one call pays for no discovery
            await client.put("n", "s", "k", "v")
            await until(lambda: client.endpoints == (first.address, leader.address))
            before = len(first.writes)
            await client.put("n", "s", "k", "v")
            await client.get("n", "s", "k")
            assert len(first.writes) == before
            assert [seen.method for seen in leader.writes] == ["PUT", "GET"]
            for _ in range(4):
                await client.get("n", "s", "k", consistency="stale")
            assert len(first.writes) == before + 2


async def test_an_address_that_turns_out_to_be_another_clusters_is_never_written_to():
    """Through a tunnel, a node's own address may lead to a cluster on this machine."""
    nodes: list[FakeNode] = []

    def behave(cluster_id: str) -> Behave:
        def answer(seen: Seen) -> Says:
            if seen.path != "/v1/cluster":
                return STORED
            members = [member("a", nodes[0]), member("b", nodes[1])]
            return ok(cluster_id=cluster_id, leader="b", term=1, nodes=members)

        return answer

    async with fake_nodes(behave("ours"), behave("theirs")) as started:
        nodes.extend(started)
        ours, theirs = started
        async with HivememClient([ours.address]) as client:
            for _ in range(2):
                await client.put("n", "s", "k", "v")
            await until(lambda: bool(theirs.seen))
            for _ in range(3):
                await client.put("n", "s", "k", "v")
    assert not theirs.writes


async def test_a_learned_node_that_failed_once_is_found_again():
    nodes: list[FakeNode] = []
    puts: list[Seen] = []

    def behave(seen: Seen) -> Says | Act:
        if seen.path == "/v1/cluster":
            members = [member("a", nodes[0]), member("b", nodes[1])]
            return ok(cluster_id="c", leader="b", term=1, nodes=members)
        puts.append(seen)
        return Act.CLOSE if len(puts) == 4 else STORED

    async with fake_nodes(behave, behave) as started:
        nodes.extend(started)
        given, learned = started
        async with HivememClient([given.address]) as client:
            for _ in range(2):
                await client.put("n", "s", "k", "v")
            await until(lambda: learned.address in client.endpoints)
            await given.stop()
            for number in range(3):
                await client.put("n", "s", f"after-{number}", "v")
    assert puts[-1].path == "/v1/kv/n/s/after-2"


async def test_a_client_that_does_not_follow_asks_only_where_it_was_told():
    nodes: list[FakeNode] = []

    def behave(seen: Seen) -> Says:
        members = [member("a", nodes[0]), member("b", nodes[1])]
        view = ok(cluster_id="c", leader="b", term=1, nodes=members)
        return view if seen.path == "/v1/cluster" else STORED

    async with fake_nodes(behave, behave) as started:
        nodes.extend(started)
        async with HivememClient([nodes[0].address], follow=False) as client:
            for _ in range(5):
                await client.put("n", "s", "k", "v")
    assert not nodes[1].seen
    assert len(nodes[0].seen) == 5


async def test_another_servers_404_is_not_a_missing_key():
    page = Says(404, b"<html>nginx</html>")
    async with fake_nodes(script(page)) as (node,), HivememClient([node.address]) as client:
        with pytest.raises(InternalError, match="nginx"):
            await client.get("n", "s", "k")


async def test_an_answer_of_another_shape_is_an_internal_error():
    async with fake_nodes(script(ok(hello=1))) as (node,), HivememClient([node.address]) as client:
        error = await raised(client)
    assert isinstance(error, InternalError)
    assert not error.definite


async def test_a_batch_repeats_only_what_had_no_quorum_with_the_same_ids():
    stored = {"status": 200, "version": 1, "revision": 1}
    unavailable = {"status": 503, "error": json.loads(refusal(503, "STOPPING").body)["error"]}
    missing = {"status": 404, "error": json.loads(refusal(404, "KEY_NOT_FOUND").body)["error"]}
    answers = [ok(results=[unavailable, missing, stored]), ok(results=[stored])]
    operations = [
        BatchPut("n", "s", "a", b"\xff"),
        BatchGet("n", "s", "b"),
        BatchPut("n", "s", "c", "x"),
    ]
    async with fake_nodes(script(*answers)) as (node,), HivememClient([node.address]) as client:
        results = await client.batch(operations)
    assert results[0] == results[2] == PutResult(1, 1)
    assert isinstance(results[1], HivememError)
    first, second = (json.loads(seen.body)["operations"] for seen in node.writes)
    assert [op["key"] for op in first] == ["a", "b", "c"]
    assert second == [first[0]]
    assert first[0]["request_id"] != first[2]["request_id"]


async def test_a_batch_that_stays_unavailable_says_so_for_each():
    unavailable = {
        "status": 503,
        "error": json.loads(refusal(503, "OUTCOME_UNKNOWN", definite=False).body)["error"],
    }
    deleted = {"status": 200, "deleted": True, "version": 1, "revision": 2}
    answer = script(ok(results=[deleted, unavailable]), ok(results=[unavailable]))
    async with fake_nodes(answer) as (node,), HivememClient([node.address]) as client:
        good, bad = await client.batch(
            [BatchDelete("n", "s", "a"), BatchDelete("n", "s", "b")], timeout_ms=400
        )
    assert not isinstance(good, HivememError)
    assert isinstance(bad, Unavailable)
    assert not bad.definite


async def test_connections_are_bounded_and_reused():
    async with fake_nodes(script(STORED)) as (node,):
        async with HivememClient([node.address], connections_max=3) as client:
            await asyncio.gather(*(client.put("n", "s", f"{i}", "v") for i in range(30)))
        assert node.connections <= 4  # one more for finding the leader


@pytest.mark.parametrize("timeout_ms", [0, 60_001, -1, 1.5, True])
async def test_a_timeout_out_of_range_is_refused(timeout_ms: int):
    async with HivememClient(["http://127.0.0.1:1"]) as client:
        with pytest.raises(BadRequest) as caught:
            await client.get("n", "s", "k", timeout_ms=timeout_ms)
    assert caught.value.field == "timeout_ms"


@pytest.mark.parametrize(
    ("place", "field"),
    [
        (("", "s", "k"), "namespace"),
        (("n", "", "k"), "session"),
        (("n", "s", ""), "key"),
        (("n", "s", "\ud800"), "key"),
    ],
)
async def test_names_that_would_be_another_route_never_leave(place: tuple[str, str, str], field):
    async with fake_nodes(script(STORED)) as (node,), HivememClient([node.address]) as client:
        for call in (client.get(*place), client.delete(*place), client.put(*place, "v")):
            with pytest.raises(BadRequest) as caught:
                await call
            assert caught.value.field == field
    assert not node.seen


async def test_a_content_type_cannot_smuggle_headers():
    async with fake_nodes(script(STORED)) as (node,), HivememClient([node.address]) as client:
        with pytest.raises(BadRequest):
            await client.put("n", "s", "k", "v", content_type="a\r\nX-Evil: 1")
    assert not node.writes
