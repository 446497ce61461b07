"""Import and export: nothing lost, nothing twice, also when killed midway."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import transfer_export, transfer_import
from node.client import HivememClient, Item
from node.errors import BadRequest, Unavailable
from node.transfer_checkpoint import path_of
from node.transfer_export import Position, resume_position
from node.transfer_import import Problem, Report
from node.transfer_lines import BadLine, format_item, parse, read_lines
from tests.unit.client_nodes import addressed_door, door_address
from tests.unit.http_door import OpenDoor


@dataclass
class Place:
    """A door, a client of it, and a folder for files."""

    door: OpenDoor
    client: HivememClient
    folder: Path
    problems: list[Problem] = field(default_factory=list)

    def write(self, lines: Iterable[object], name: str = "in.jsonl") -> Path:
        path = self.folder / name
        texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
        path.write_text("".join(f"{text}\n" for text in texts))
        return path

    async def load(self, path: Path, **options: object) -> Report:
        self.problems.clear()
        with path.open("rb", buffering=0) as file:
            request = transfer_import.Request(file, path, **options)  # type: ignore[arg-type]
            run = transfer_import.Import(
                self.client,
                request,
                on_problem=self.problems.append,
                on_progress=lambda items, done_bytes: None,
            )
            return await run.run()

    async def dump(
        self, namespace: str, session: str | None = None, after: Position | None = None
    ) -> bytes:
        out = io.BytesIO()
        request = transfer_export.Request(namespace, session, after)
        await transfer_export.run(self.client, request, out, lambda items, done_bytes: None)
        return out.getvalue()

    async def stored(self, namespace: str = "n", session: str = "s") -> dict[str, tuple[str, int]]:
        """Key → (value, version)."""
        listed = self.client.list(namespace, session, values=True)
        return {item.key: (item.text(), item.version) async for item in listed}


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with (
        addressed_door(tmp_path) as door,
        HivememClient([door_address(door)]) as client,
    ):
        yield Place(door, client, tmp_path)


def record(key: str, value: str = "v", **more: object) -> dict[str, object]:
    return {"namespace": "n", "session": "s", "key": key, "value": value, **more}


async def test_every_record_is_stored_once(place: Place):
    path = place.write(record(f"{i:05d}", f"value {i}") for i in range(1500))
    report = await place.load(path)
    assert report == Report(stored=1500)
    assert await place.stored() == {f"{i:05d}": (f"value {i}", 1) for i in range(1500)}
    assert not path_of(path).exists()


async def test_the_later_line_wins(place: Place):
    lines = [record("k", f"{i}") for i in range(50)] + [
        record(f"x{i % 7}", f"{i}") for i in range(50)
    ]
    await place.load(place.write(lines))
    stored = await place.stored()
    assert stored["k"] == ("49", 50)
    assert {key: value for key, (value, _) in stored.items() if key != "k"} == {
        f"x{i % 7}": f"{i}" for i in range(43, 50)
    }


async def test_bytes_content_types_and_expiry_arrive(place: Place):
    soon = datetime.now(UTC) + timedelta(hours=1)
    lines = [
        record("b", "/w==", encoding="base64"),
        record("t", "ü", content_type="text/x"),
        record("e", "x", expires_at=soon.isoformat()),
        record("gone", "x", expires_at="2020-01-01T00:00:00Z"),
        "",
        record("v", "x", version=7, revision=9, created_at="?", updated_at="?"),
    ]
    assert await place.load(place.write(lines)) == Report(stored=4, expired=1)
    values = {key: await place.client.get("n", "s", key) for key in ("b", "t", "e", "v")}
    assert (values["b"].value, values["b"].content_type) == (b"\xff", "application/octet-stream")
    assert (values["t"].text(), values["t"].content_type) == ("ü", "text/x")
    expires_at = values["e"].expires_at
    assert expires_at is not None
    assert abs((expires_at - soon).total_seconds()) < 5
    assert values["v"].version == 1


async def test_a_large_value_goes_alone(place: Place):
    large = "x" * (3 << 20)
    await place.load(place.write([record("a"), record("large", large), record("z")]))
    assert {key: len(value) for key, (value, _) in (await place.stored()).items()} == {
        "a": 1,
        "large": 3 << 20,
        "z": 1,
    }


BAD = {
    "{": "",
    '"text"': "",
    "[1]": "",
    '{"namespace": "n", "session": "s", "value": "v"}': "key",
    '{"namespace": "n", "session": "s", "key": "", "value": "v"}': "key",
    '{"session": "s", "key": "k", "value": "v"}': "namespace",
    '{"namespace": "n", "session": "s", "key": "k"}': "value",
    '{"namespace": "n", "session": "s", "key": "k", "value": 5}': "value",
    '{"namespace": "n", "session": "s", "key": 5, "value": "v"}': "key",
    '{"namespace": "n", "session": "s", "key": "k", "value": "?", "encoding": "base64"}': "value",
    '{"namespace": "n", "session": "s", "key": "k", "value": "v", "encoding": "x"}': "encoding",
    '{"namespace": "n", "session": "s", "key": "k", "value": "v", "ttl": 1}': "ttl",
    '{"namespace": "n", "session": "s", "key": "k", "value": "\\ud800"}': "value",
    '{"namespace": "n", "session": "s", "key": "k", "value": "v", "expires_at": 1}': "expires_at",
    '{"namespace": "n", "session": "s", "key": "k", "value": "", "expires_at": "x"}': "expires_at",
    '{"namespace": "n", "session": "s", "key": "k", "value": "", "expires_at": "2030-01-01"}': (
        "expires_at"
    ),
    # These only the cluster refuses.
    '{"namespace": "n!", "session": "s", "key": "k", "value": "v"}': "namespace",
    '{"namespace": "n", "session": "\\n", "key": "k", "value": "v"}': "session",
    json.dumps(record("k" * 4097)): "key",
    json.dumps(record("k", content_type="\n")): "content_type",
}


@pytest.mark.parametrize(("line", "field"), BAD.items(), ids=range(len(BAD)))
async def test_a_bad_line_stops_the_import_and_the_rest_follows_when_it_is_corrected(
    place: Place, line: str, field: str
):
    before, after = [record(f"a{i}") for i in range(3)], [record(f"z{i}") for i in range(3)]
    path = place.write([*before, line, *after])
    report = await place.load(path)
    assert (report.stored, report.bad_lines) == (3, 1)
    (problem,) = place.problems
    assert (problem.line, problem.field) == (4, field)
    assert sorted(await place.stored()) == ["a0", "a1", "a2"]
    place.write([*before, record("corrected"), *after])
    report = await place.load(path)
    assert report.bad_lines == 0
    assert sorted(await place.stored()) == ["a0", "a1", "a2", "corrected", "z0", "z1", "z2"]
    # What was stored before the bad line was not stored once more.
    assert {version for _, version in (await place.stored()).values()} == {1}


@pytest.mark.parametrize("line", BAD)
async def test_bad_lines_can_be_skipped(place: Place, line: str):
    lines = [record("a"), line, record("m"), line, record("z")]
    path = place.write(lines)
    report = await place.load(path, skip_bad=True)
    assert (report.stored, report.bad_lines) == (3, 2)
    assert [problem.line for problem in place.problems] == [2, 4]
    assert sorted(await place.stored()) == ["a", "m", "z"]
    assert not path_of(path).exists()


async def test_records_can_go_to_another_namespace(place: Place):
    lines = [record("a"), {"session": "s", "key": "b", "value": "v"}]
    await place.load(place.write(lines), namespace="other")
    assert sorted(await place.stored("other")) == ["a", "b"]
    assert [name async for name in place.client.namespaces()] == ["other"]


async def killed_import(place: Place, path: Path, after_lines: int) -> int:
    """Import in another process, kill -9 it once so many lines are noted; lines noted."""
    environ = {**os.environ, "HIVEMEM_ENDPOINTS": door_address(place.door)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "node.cli", "import", str(path)),
        env=environ,
        stderr=asyncio.subprocess.DEVNULL,
    )
    noted = 0
    async with asyncio.timeout(30):
        while noted < after_lines and process.returncode is None:
            await asyncio.sleep(0.005)
            if path_of(path).exists():
                noted = json.loads(path_of(path).read_text())["lines"]
    assert process.returncode is None, "the import ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    await process.wait()
    return noted


async def test_an_import_that_was_killed_goes_on_and_stores_nothing_twice(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    count = 20_000
    path = place.write(record(f"{i:05d}", f"value {i}") for i in range(count))
    noted = await killed_import(place, path, 200)
    report = await place.load(path)
    assert report.resumed_lines >= noted > 0
    assert report.stored == count - report.resumed_lines
    stored = await place.stored()
    assert len(stored) == count
    # Version 1 everywhere: what was under way at the kill was sent again, and not applied.
    assert stored == {f"{i:05d}": (f"value {i}", 1) for i in range(count)}


async def test_an_import_of_what_changed_since_says_so(place: Place):
    lines: list[object] = [record(f"{i}") for i in range(3)]
    path = place.write([*lines, "bad"])
    await place.load(path)
    place.write([record("other"), *lines[1:], "bad"])
    with pytest.raises(BadRequest, match="--restart"):
        await place.load(path)
    assert (await place.load(path, restart=True)).stored == 3
    with pytest.raises(BadRequest, match="namespace"):
        await place.load(path, namespace="other")
    path_of(path).write_text("{}")
    with pytest.raises(BadRequest, match="damaged"):
        await place.load(path)


async def test_importing_a_finished_file_again_restores_its_values(place: Place):
    path = place.write([record("k", "from file")])
    await place.load(path)
    await place.client.put("n", "s", "k", "changed")
    assert (await place.load(path)).stored == 1
    assert (await place.client.get("n", "s", "k")).text() == "from file"


async def test_an_import_without_a_quorum_fails_and_can_go_on(place: Place):
    path = place.write(record(f"{i:03d}") for i in range(300))
    place.door.router.error = Unavailable("no quorum", code="STOPPING")
    monkey = pytest.MonkeyPatch()
    monkey.setattr(transfer_import, "BATCH_TIMEOUT_MS", 300)
    with pytest.raises(Unavailable):
        await place.load(path)
    monkey.undo()
    assert path_of(path).exists()
    place.door.router.error = None
    assert (await place.load(path)).stored == 300


async def test_what_is_exported_can_be_imported(place: Place):
    for key in ("a", "..", "a//b", "\0", "ü", "z"):
        await place.client.put("n", "s/1", key, key.encode() + b"\xff", content_type="x/y")
        await place.client.put("n", "s/2", key, key, ttl_seconds=1000)
    data = await place.dump("n")
    path = place.folder / "dump.jsonl"
    path.write_bytes(data)
    assert (await place.load(path, namespace="copy")).stored == 12
    again = await place.dump("copy")
    lines = zip(again.splitlines(), data.splitlines(), strict=True)
    for copy, original in [(parse(new, "n"), parse(old, None)) for new, old in lines]:
        # The API takes how long a record has left, so that a few ms are lost on the way.
        assert replace(copy, expires_at=None) == replace(original, expires_at=None)
        if original.expires_at is not None:
            assert copy.expires_at is not None
            assert abs((copy.expires_at - original.expires_at).total_seconds()) < 5


async def test_one_session_can_be_exported(place: Place):
    await place.client.put("n", "s", "k", "v")
    await place.client.put("n", "t", "k", "v")
    assert len((await place.dump("n", "s")).splitlines()) == 1
    assert await place.dump("none") == b""


async def test_an_export_resumes_after_any_byte(place: Place, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(transfer_export, "PAGE_ITEMS", 2)
    monkeypatch.setattr(transfer_export, "TAIL_BYTES", 64)
    for session in ("a", "b"):
        for key in ("1", "2", "3", "ü", "ü/1"):
            await place.client.put("n", session, key, f"value {key}" * 5)
    whole = await place.dump("n")
    path = place.folder / "part.jsonl"
    for cut in [*range(0, len(whole), 97), len(whole) - 1, len(whole)]:
        path.write_bytes(whole[:cut])
        with path.open("r+b") as file:
            after = resume_position(file, "n", None)
        kept = path.read_bytes()
        assert whole.startswith(kept)
        assert kept.count(b"\n") == whole[:cut].count(b"\n")
        assert kept + await place.dump("n", after=after) == whole


async def test_an_export_resumes_after_a_key_that_was_deleted(place: Place):
    for key in "abcd":
        await place.client.put("n", "s", key, "v")
    await place.client.delete("n", "s", "b")
    rest = await place.dump("n", after=Position("s", "b"))
    assert [parse(line, None).key for line in rest.splitlines()] == ["c", "d"]


@pytest.mark.parametrize(
    "content", [b"no json\n", b'{"a": 1}\n', json.dumps(record("k")).encode() + b"\n"]
)
def test_what_is_no_export_of_this_is_not_resumed(tmp_path: Path, content: bytes):
    path = tmp_path / "f"
    path.write_bytes(content)
    with path.open("r+b") as file, pytest.raises(BadRequest):
        resume_position(file, "other", None)
    assert path.read_bytes() == content


@given(st.binary(max_size=40), st.text(min_size=1), st.booleans())
def test_a_line_says_what_the_record_was(value: bytes, key: str, expires: bool):
    try:
        key.encode()
    except UnicodeEncodeError:
        return
    now = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
    item = Item(key, 3, 9, 1, "t/t", len(value), now, now, now if expires else None, value)
    line = format_item("n", "s", item)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    entry = parse(line, None)
    assert (entry.key, entry.value, entry.content_type) == (key, value, "t/t")
    assert entry.expires_at == item.expires_at


async def test_lines_are_read_from_files_and_pipes(tmp_path: Path):
    content = b"one\n\ntwo\r\nlast"
    path = tmp_path / "f"
    path.write_bytes(content)
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    with path.open("rb", buffering=0) as file:
        from_file = [line async for line in read_lines(file.fileno())]
    from_pipe = [line async for line in read_lines(reading)]
    os.close(reading)
    assert from_file == from_pipe
    assert [line.data for line in from_file] == [b"one", b"", b"two\r", b"last"]
    assert [line.end for line in from_file] == [4, 5, 10, 14]


async def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("node.transfer_lines.LINE_BYTES_MAX", 1000)
    path = tmp_path / "f"
    path.write_bytes(b"x" * 2000)
    with path.open("rb", buffering=0) as file, pytest.raises(BadLine, match="longer"):
        assert [line async for line in read_lines(file.fileno())]
