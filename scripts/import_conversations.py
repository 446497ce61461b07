#!/usr/bin/env python3
"""Store conversations in a LoCoMo-format file: a session each, a key for each turn.

    scripts/import_conversations.py FILE [--namespace N] [--endpoints URL[,URL...]] [--verify]

The file is a JSON list of {"sample_id", "conversation": {"session_1": [turns],
"session_1_date_time": text, ...}}; everything else in it is left alone. A conversation
becomes the hivemem session `sample_id`; the seventh turn of its session 3 becomes the key

    session_0003/turn_0007

numbered from 1 and padded, so that byte order is the order of the conversation. The value is
canonical JSON (application/json, UTF-8, sorted names, no spaces):

    {"conversation": sample_id, "date_time": text or null, "session": 3, "turn": the turn}

Running it again changes nothing: a turn is only created, never overwritten, so an import that
was cut short goes on where it stopped. A turn that is there with another content is an error.

--verify reads every turn from every node, once from the node's own state (not older than this
import) and once linearizably, and compares byte for byte.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import itertools
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# Found also when imported, and from a checkout that is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import conversations
from conversations import Turn

from node.client import (
    BatchGet,
    BatchPut,
    HivememClient,
    PutResult,
    Value,
)
from node.discovery import add_endpoint_arguments, from_options
from node.errors import HivememError, NotFound

JSON = "application/json"
BATCH_TURNS_MAX = 100
BATCH_BYTES_MAX = 4 << 20  # bytes of values in one request
BATCHES_INFLIGHT_MAX = 4
READS_INFLIGHT_MAX = 16  # for each node
TIMEOUT_MS_DEFAULT = 30_000  # of one request with its retries; an election takes a second or two


class Mismatch(Exception):
    """The store holds something else than the file. The message names the place."""


# --- The import ----------------------------------------------------------------------


@dataclass(slots=True)
class Imported:
    """What an import did. `revision`: a state that is at least as new holds every turn."""

    stored: int = 0
    present: int = 0  # there from an earlier import, with the same content
    revision: int = 0

    @property
    def count(self) -> int:
        return self.stored + self.present


Progress = Callable[[int, int], None]
"""Called with turns done and turns in all."""


async def store(
    client: HivememClient, namespace: str, found: Sequence[Turn], progress: Progress
) -> Imported:
    """Create every turn that is not there yet.

    Raises: Mismatch if one is there with another content, HivememError. What was stored
    stays; the same import may be repeated.
    """
    # Ids of this run only: one that an earlier run used would be answered from memory even
    # if the turn was deleted since, and nothing would be stored.
    run = uuid.uuid4().hex
    done = Imported()
    pending = asyncio.Queue[list[Turn]]()
    for batch in batches(found):
        pending.put_nowait(batch)

    async def work() -> None:
        while not pending.empty():
            await _store_batch(client, namespace, run, pending.get_nowait(), done)
            progress(done.count, len(found))

    await _together(work, BATCHES_INFLIGHT_MAX)
    return done


async def _together(work: Callable[[], Awaitable[None]], count: int) -> None:
    """Run `count` times `work` at once; the first error ends them all and is raised."""

    async def one() -> None:
        await work()

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(one())
    except ExceptionGroup as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


async def _store_batch(
    client: HivememClient, namespace: str, run: str, batch: list[Turn], done: Imported
) -> None:
    puts = [
        BatchPut(
            namespace,
            turn.session,
            turn.key,
            turn.value,
            content_type=JSON,
            if_version=0,
            request_id=request_id(run, namespace, turn),
        )
        for turn in batch
    ]
    there: list[Turn] = []
    for turn, result in zip(batch, await client.batch(puts), strict=True):
        if isinstance(result, PutResult):
            done.stored += 1
            done.revision = max(done.revision, result.revision)
        elif isinstance(result, HivememError) and result.code == "VERSION_CONFLICT":
            there.append(turn)
        else:
            assert isinstance(result, HivememError)
            raise result
    if there:
        await _compare(client, namespace, there, done)


async def _compare(
    client: HivememClient, namespace: str, there: list[Turn], done: Imported
) -> None:
    gets = [BatchGet(namespace, turn.session, turn.key) for turn in there]
    for turn, result in zip(there, await client.batch(gets), strict=True):
        if isinstance(result, HivememError):
            raise result
        assert isinstance(result, Value)
        if result.value != turn.value:
            place = f"{namespace}/{turn.session}/{turn.key}"
            raise Mismatch(
                f"{place} exists with another content (version {result.version}); "
                "choose another --namespace, or remove it first"
            )
        done.present += 1
        done.revision = max(done.revision, result.revision)


def request_id(run: str, namespace: str, turn: Turn) -> str:
    """The same for each attempt within a run, so that a retry cannot apply a turn twice."""
    parts = (run, namespace, turn.session, turn.key)
    digest = hashlib.sha256(b"\0".join(part.encode() for part in parts) + turn.value)
    return f"import-{digest.hexdigest()[:32]}"


def batches(found: Sequence[Turn]) -> Iterator[list[Turn]]:
    """Turns in order, in requests of bounded count and size; a longer turn goes by itself."""
    batch: list[Turn] = []
    size = 0
    for turn in found:
        full = len(batch) == BATCH_TURNS_MAX or size + len(turn.value) > BATCH_BYTES_MAX
        if batch and full:
            yield batch
            batch, size = [], 0
        batch.append(turn)
        size += len(turn.value)
    if batch:
        yield batch


# --- The proof -----------------------------------------------------------------------


async def verify(
    client: HivememClient,
    one_node: Callable[[str], HivememClient],
    namespace: str,
    found: Sequence[Turn],
    revision: int,
    progress: Progress,
) -> list[str]:
    """Read every turn from every node, twice, and compare bytes; returns the nodes' names.

    `one_node` makes a client of the node at an address, that asks no other. Raises:
    Mismatch naming node and place, HivememError if a node does not answer.
    """
    nodes = (await client.cluster())["nodes"]
    total = 2 * len(found) * len(nodes)
    done = itertools.count(1)
    for node in nodes:
        assert node["http"] is not None, "a member's address is one of the cluster's settings"
        async with one_node(node["http"]) as reader:
            pending = iter(found)

            async def work(
                reader: HivememClient = reader,
                name: str = node["name"],
                pending: Iterator[Turn] = pending,
            ) -> None:
                for turn in pending:
                    await _check_turn_at(reader, name, namespace, turn, revision)
                    progress(2 * next(done), total)

            await _together(work, READS_INFLIGHT_MAX)
    return [node["name"] for node in nodes]


async def _check_turn_at(
    reader: HivememClient,
    name: str,
    namespace: str,
    turn: Turn,
    revision: int,
) -> None:
    place = (namespace, turn.session, turn.key)
    for reading in ("stale", "linearizable"):
        where = f"{name}, {reading} read of {'/'.join(place)}"
        try:
            if reading == "stale":
                value = await reader.get(*place, consistency="stale", min_revision=revision)
            else:
                value = await reader.get(*place)
        except NotFound as error:
            raise Mismatch(f"{where}: {error}") from None
        if value.served_by != name:
            raise Mismatch(f"{where}: {value.served_by} answered instead")
        if value.value != turn.value or value.content_type != JSON:
            raise Mismatch(f"{where}: it is not what the file says")


# --- The command ---------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 failed, 2 wrong usage or a malformed file, 130 interrupted."""
    parser = argparse.ArgumentParser(
        description="Store LoCoMo-format conversations: a session each, a key for each turn."
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="JSON list of conversations")
    parser.add_argument("--namespace", default="conversations", help="default: conversations")
    parser.add_argument(
        "--verify", action="store_true", help="then read every turn back from every node"
    )
    parser.add_argument("--timeout-ms", type=int, default=TIMEOUT_MS_DEFAULT, metavar="MS")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    add_endpoint_arguments(parser)
    options = parser.parse_args(arguments)
    try:
        found = conversations.load(options.file)
    except conversations.BadFile as error:
        return _fail(str(error), 2)
    try:
        asyncio.run(_run(options, found))
    except Mismatch as error:
        return _fail(str(error), 1)
    except HivememError as error:
        return _fail(f"{error}; run it again to go on", 1)
    except KeyboardInterrupt:
        return _fail("interrupted; run it again to go on", 130)
    return 0


async def _run(options: argparse.Namespace, found: Sequence[Turn]) -> None:
    attachment = from_options(options)

    def client(endpoints: Sequence[str], follow: bool) -> HivememClient:
        return HivememClient(
            endpoints,
            token=attachment.token,
            ca_file=attachment.ca_file,
            cluster_id=attachment.cluster_id,
            timeout_ms=options.timeout_ms,
            follow=follow,
        )

    progress = _ignore if options.quiet else _Bar()
    async with client(attachment.endpoints, True) as memory:
        done = await store(memory, options.namespace, found, progress)
        sessions = len({turn.session for turn in found})
        print(
            f"{done.stored} turns stored, {done.present} were there, "
            f"in {sessions} sessions of namespace {options.namespace}; revision {done.revision}"
        )
        if options.verify:
            names = await verify(
                memory,
                lambda http: client([http], False),
                options.namespace,
                found,
                done.revision,
                progress,
            )
            on = ", ".join(names)
            print(f"{len(found)} turns are the same on {on}, read stale and linearizable")


class _Bar:
    """One line on standard error, renewed at most once a percent; lines if it is no terminal."""

    def __init__(self) -> None:
        self._shown = -1

    def __call__(self, done: int, total: int) -> None:
        percent = 100 * done // total if total else 100
        terminal = sys.stderr.isatty()
        if percent == self._shown or not (terminal or percent % 25 == 0):
            return
        self._shown = percent
        end = "\r" if terminal and done < total else "\n"
        print(f"{done} of {total} ({percent} %)", end=end, file=sys.stderr, flush=True)


def _ignore(done: int, total: int) -> None:
    """No progress is wanted."""


def _fail(message: str, status: int) -> int:
    print(f"import_conversations: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
