"""Conversations imported while the leader dies: every turn is on every node, byte for byte."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from node.client import HivememClient
from scripts import import_conversations as script
from tests.cluster.harness import LocalCluster, eventually

conversations = script.conversations
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
# Real conversations, where somebody has them: they may be read, but not shipped.
LOCOMO = Path(os.environ.get("HIVEMEM_LOCOMO") or ROOT / ".." / "shared/data/locomo_dev.json")
NAMESPACE = "talks"


def synthetic(conversations: int, sessions: int, turns: int) -> list[object]:
    """Invented talk in the same format: the order of its keys is not the order of its names."""
    document: list[object] = []
    for number in range(conversations):
        fields: dict[str, object] = {"speaker_a": "Ada", "speaker_b": "Bo"}
        # Written backwards, to show that the order of the fields does not matter.
        for session in range(sessions, 0, -1):
            fields[f"session_{session}"] = [
                {
                    "speaker": "Ada" if turn % 2 else "Bo",
                    "dia_id": f"D{session}:{turn}",
                    "text": f'talk {number}, turn {turn} of {session}: „ä“ 🐝 \\ " \n',
                    "img_url": [] if turn % 3 else ["http://example.invalid/1.jpg"],
                    "re-download": turn % 5 == 0,
                }
                for turn in range(1, turns + 1)
            ]
            if session % 4:
                fields[f"session_{session}_date_time"] = f"{session}:00 pm on 8 May, 2023"
        document.append({"sample_id": f"talk-{number}", "conversation": fields, "qa": []})
    return document


async def import_through_a_kill(cluster: LocalCluster, turns: list[script.Turn]) -> script.Imported:
    """Import, with `kill -9` of the leader once a third is stored."""
    leader = await cluster.wait_leader()
    third = asyncio.Event()

    def progress(done: int, total: int) -> None:
        if done >= total // 3:
            third.set()

    async with HivememClient(cluster.endpoints, timeout_ms=30_000) as client:
        importing = asyncio.create_task(script.store(client, NAMESPACE, turns, progress))
        reached = asyncio.create_task(third.wait())
        await asyncio.wait({importing, reached}, return_when=asyncio.FIRST_COMPLETED)
        reached.cancel()
        assert not importing.done(), "it was over before the leader could die"
        await cluster.kill(leader)
        done = await importing
    await cluster.restart(leader)
    return done


async def check_every_node(cluster: LocalCluster, turns: list[script.Turn], revision: int) -> None:
    seen: list[int] = []
    async with HivememClient(cluster.endpoints, timeout_ms=30_000) as client:
        names = await script.verify(
            client,
            lambda http: HivememClient([http], timeout_ms=30_000, follow=False),
            NAMESPACE,
            turns,
            revision,
            lambda done, total: seen.append(done),
        )
    assert sorted(names) == sorted(node.name for node in cluster.nodes)
    assert seen[-1] == 2 * 3 * len(turns)


async def test_a_synthetic_conversation_survives_its_leader(cluster: LocalCluster) -> None:
    turns = conversations.turns(synthetic(2, 12, 40))
    done = await import_through_a_kill(cluster, turns)
    assert done.count == len(turns) == 960
    await check_every_node(cluster, turns, done.revision)
    async with HivememClient(cluster.endpoints) as client:
        assert [name async for name in client.sessions(NAMESPACE)] == ["talk-0", "talk-1"]
        listed = [item async for item in client.list(NAMESPACE, "talk-1", values=True)]
        assert [item.version for item in listed] == [1] * 480, "retries were applied once"
        said = [json.loads(item.value or b"")["turn"]["dia_id"] for item in listed]
        assert said == [f"D{session}:{turn}" for session in range(1, 13) for turn in range(1, 41)]


async def test_an_import_is_repeatable_and_notices_what_differs(cluster: LocalCluster) -> None:
    turns = conversations.turns(synthetic(1, 2, 30))
    async with HivememClient(cluster.endpoints, timeout_ms=30_000) as client:
        first = await script.store(client, NAMESPACE, turns[:40], lambda done, total: None)
        assert (first.stored, first.present) == (40, 0)
        second = await script.store(client, NAMESPACE, turns, lambda done, total: None)
        assert (second.stored, second.present) == (20, 40)
        gone = turns[7]
        await client.delete(NAMESPACE, gone.session, gone.key)
        third = await script.store(client, NAMESPACE, turns, lambda done, total: None)
        assert (third.stored, third.present) == (1, 59), "what was removed is stored again"
        await client.put(NAMESPACE, gone.session, gone.key, b"something else")
        with pytest.raises(script.Mismatch, match=gone.key):
            await script.store(client, NAMESPACE, turns, lambda done, total: None)
        with pytest.raises(script.Mismatch, match=gone.key):
            await check_every_node(cluster, turns, third.revision)


async def test_the_command_imports_and_verifies(cluster: LocalCluster, tmp_path: Path) -> None:
    file = tmp_path / "talks.json"
    file.write_text(json.dumps(synthetic(1, 3, 10)))
    command = [str(ROOT / "scripts" / "import_conversations.py"), str(file), "--verify"]
    command += ["--endpoints", cluster.endpoints[1], "--namespace", NAMESPACE]
    for stored, present in ((30, 0), (0, 30)):
        code, output, told = await run(*command)
        assert code == 0, told
        assert f"{stored} turns stored, {present} were there" in output
        assert "30 turns are the same on node1, node2, node3" in output
    await cluster.kill((await cluster.wait_leader()) - 1)

    async def refused() -> bool:
        code, _, told = await run(*command, "--timeout-ms", "1500")
        return code == 1 and "run it again" in told

    await eventually(refused, 20, "a node that is down was called the same")


async def run(*command: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, told = await process.communicate()
    return process.returncode, output.decode(), told.decode()


@pytest.mark.skipif(not LOCOMO.exists(), reason="no LoCoMo file: set HIVEMEM_LOCOMO to its path")
async def test_real_conversations_survive_their_leader(cluster: LocalCluster) -> None:
    turns = conversations.load(LOCOMO)
    done = await import_through_a_kill(cluster, turns)
    assert done.count == len(turns) > 0
    await check_every_node(cluster, turns, done.revision)
