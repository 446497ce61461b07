"""`hivemem forget`: what it deletes, what it asks, what it says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from engines.command import Command
from node import console
from node.client import BatchPut
from node.errors import Unavailable
from tests.unit.cli_shell import Shell, open_shell


@pytest.fixture
async def run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> AsyncIterator[Shell]:
    async with open_shell(tmp_path, monkeypatch, capsysbinary) as shell:
        places = [("n", session) for session in ("a", "b/c")] + [("other", "a")]
        await shell.client.batch(
            [BatchPut(*place, f"k{i}", "v") for i in range(5) for place in places]
        )
        await shell.client.put("n", "a", "x", "v")
        yield shell


async def left(run: Shell) -> list[str]:
    return [
        f"{namespace}/{session}/{item.key}"
        async for namespace in run.client.namespaces()
        async for session in run.client.sessions(namespace)
        async for item in run.client.list(namespace, session)
        if namespace == "n"
    ]


async def test_a_session_or_what_starts_with_a_prefix(run: Shell):
    ran = await run("forget", "n/a", "--prefix", "k")
    assert (ran.status, ran.text, ran.err) == (0, "deleted 5 keys\n", "")
    assert [place for place in await left(run) if place.startswith("n/a/")] == ["n/a/x"]
    done = await run("forget", "--encoded", "n/b%2Fc", "-o", "json")
    assert done.json() == {"sessions": 1, "deleted": 5, "kept": 0}
    assert await left(run) == ["n/a/x"]
    assert (await run("forget", "n/a")).text == "deleted 1 keys\n"
    assert (await run("forget", "n/a")).text == "deleted 0 keys\n"


async def test_a_namespace_is_forgotten_when_somebody_says_yes(
    run: Shell, monkeypatch: pytest.MonkeyPatch
):
    asked: list[str] = []
    monkeypatch.setattr(console, "confirm", lambda question: bool(asked.append(question)))
    ran = await run("forget", "n", "--all-sessions")
    assert (ran.status, ran.out, ran.err) == (1, b"", "hivemem: nothing was deleted\n")
    assert asked == ["Delete the keys of every session of namespace n?"]
    monkeypatch.setattr(console, "confirm", lambda question: None)
    ran = await run("forget", "n", "--all-sessions")
    assert (ran.status, "--yes" in ran.err) == (2, True)
    assert len(await left(run)) == 11
    ran = await run("forget", "n", "--all-sessions", "--yes", "--prefix", "k")
    assert ran.text == "deleted 10 keys of 2 sessions\n"
    monkeypatch.setattr(console, "confirm", lambda question: True)
    done = await run("forget", "n", "--all-sessions", "-o", "json")
    assert done.json() == {"sessions": 1, "deleted": 1, "kept": 0}
    assert [name async for name in run.client.namespaces()] == ["other"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("n",),
        ("n/a/k1",),
        ("n/a/",),
        ("n/", "--all-sessions", "--yes"),
        ("n/a", "--prefix", ""),
        ("n/a", "--all-sessions"),
        ("n/a", "--all-sessions", "--yes"),
        ("",),
    ],
)
async def test_a_path_to_something_else_deletes_nothing(run: Shell, arguments: tuple[str, ...]):
    ran = await run("forget", *arguments)
    assert (ran.status, ran.out) == (2, b"")
    assert ran.err.startswith("hivemem forget: ")
    assert len(await left(run)) == 11


async def test_an_error_in_the_middle_says_what_was_deleted(run: Shell):
    router = run.door.router
    real = router.propose_many

    async def lost(commands: Sequence[Command], deadline: float) -> list[Any]:
        return [Unavailable("lost", code="QUORUM_NOT_REACHED") for _ in commands]

    async def once(commands: Sequence[Command], deadline: float) -> list[Any]:
        router.propose_many = lost  # type: ignore[method-assign]
        return await real(commands, deadline)

    router.propose_many = once  # type: ignore[method-assign]
    ran = await run("forget", "n", "--all-sessions", "--yes", "--timeout-ms", "300", "-o", "json")
    error = json.loads(ran.err)["error"]
    assert ran.status == 5
    assert error["definite"] is False
    assert "6 keys were deleted" in error["message"]
