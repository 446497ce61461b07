"""The command line: answers, exit status, and one line for every error."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from node import bench, cli, console
from node.views import ClusterView
from tests.unit.cli_shell import Shell, open_shell
from tests.unit.client_nodes import refused_address


@pytest.fixture
async def run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> AsyncIterator[Shell]:
    async with open_shell(tmp_path, monkeypatch, capsysbinary) as shell:
        yield shell


async def test_put_get_and_rm(run: Shell):
    assert (await run("put", "n/s/a/b", "Lisbon")).text == "version 1, revision 1\n"
    found = await run("get", "n/s/a/b")
    assert (found.status, found.out, found.err) == (0, b"Lisbon", "")
    document = (await run("get", "n/s/a/b", "-o", "json")).json()
    assert document["value"] == "Lisbon"
    assert document["encoding"] == "utf-8"
    assert document["version"] == document["revision"] == 1
    assert document["content_type"] == "text/plain; charset=utf-8"
    assert (await run("get", "n/s/a/b", "--version-of")).text == "1\n"
    assert (await run("rm", "n/s/a/b")).text == "deleted version 1, revision 2\n"
    assert (await run("rm", "n/s/a/b")).text == "nothing was there\n"
    assert (await run("get", "n/s/a/b", "--at-revision", "1")).out == b"Lisbon"


async def test_bytes_pass_unchanged_through_files(run: Shell, tmp_path: Path):
    data = bytes(range(256)) * 50
    (tmp_path / "in").write_bytes(data)
    await run("put", "n/s/k", "--file", "in", "--content-type", "x/y")
    assert (await run("get", "n/s/k")).out == data
    assert (await run("get", "n/s/k", "--out", "out")).out == b""
    assert (tmp_path / "out").read_bytes() == data
    assert (await run.client.get("n", "s", "k")).content_type == "x/y"


async def test_a_value_may_come_from_a_pipe(run: Shell):
    data = b"\xff\0piped\n"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "node.cli", "put", "n/s/k", "-"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ},
    )
    await process.communicate(data)
    assert process.returncode == 0
    found = await run.client.get("n", "s", "k")
    assert (found.value, found.content_type) == (data, "application/octet-stream")


async def test_exit_status_says_what_kind_of_failure(run: Shell):
    await run("put", "n/s/k", "v")
    refused = await refused_address()
    cases = [
        (("get", "n/s/none"), 3, "no such key: n/s/none"),
        (("put", "n/s/k", "v", "--if-version", "0"), 4, "version is 1"),
        (("rm", "n/s/k", "--if-version", "9"), 4, "version is 1"),
        (("get", "n/s/k", "--endpoints", refused), 5, "hivemem up"),
        (("get", "n/s"), 2, "NAMESPACE/SESSION/KEY"),
        (("put", "n/s/k"), 2, "VALUE"),
        (("get",), 2, "required"),
        (("nonsense",), 2, "invalid choice"),
        (("get", "b!/s/k"), 1, "namespace"),
        (("put", "n/s/k", "--file", "none"), 1, "none: No such file"),
        (("get", "n/s/k", "--endpoints", "ftp://x"), 1, "address"),
        (("get", "n/s/k", "--token-file", "none"), 1, "none"),
        (("watch", "n", "--since", "x"), 1, "since"),
    ]
    for arguments, status, text in cases:
        ran = await run(*arguments)
        assert ran.status == status, (arguments, ran)
        assert text in ran.err
        assert "Traceback" not in ran.err
        assert ran.out == b""
        if status != 2:
            assert ran.err.startswith("hivemem: ")
            assert ran.err.count("\n") == 1


async def test_errors_for_programs_are_json(run: Shell):
    await run("put", "n/s/k", "v")
    ran = await run("put", "n/s/k", "v", "--if-version", "0", "-o", "json")
    error = json.loads(ran.err)["error"]
    assert (ran.status, error["code"], error["version"]) == (4, "VERSION_CONFLICT", 1)
    assert error["definite"] is True


async def test_an_unknown_outcome_says_how_to_repeat_it(run: Shell):
    from node.errors import Unavailable

    run.door.router.error = Unavailable("lost", code="OUTCOME_UNKNOWN", definite=False)
    ran = await run("put", "n/s/k", "v", "--timeout-ms", "300")
    assert ran.status == 5
    found = re.search(r"--request-id (\S+)\)", ran.err)
    assert found
    told = await run("rm", "n/s/k", "--timeout-ms", "300", "--request-id", "mine", "-o", "json")
    assert json.loads(told.err)["error"]["request_id"] == "mine"
    run.door.router.error = None
    for _ in range(2):
        again = await run("put", "n/s/k", "v", "--request-id", found[1], "-o", "json")
        assert (again.json()["version"], again.json()["request_id"]) == (1, found[1])


async def test_search_finds_records_by_their_words(run: Shell):
    await run("put", "a/s/garden/bees", "they dance")
    await run("put", "a/s/kitchen", "no bees, no flowers")
    await run("put", "a/t/bees", "elsewhere")
    found = await run("search", "a/s", "bee", "--key-weight", "5")
    lines = found.text.splitlines()
    assert lines[0].split() == ["SCORE", "KEY", "SIZE", "UPDATED", "SNIPPET"]
    assert [line.split()[1] for line in lines[1:]] == ["garden/bees", "kitchen"]
    assert "[bees]" in lines[2]
    assert "they dance" in (await run("search", "a/s/garden", "bee", "--values")).text
    one = await run("search", "a/s", "bees", "-o", "json", "--limit", "1", "--value-weight", "9")
    document = one.json()
    assert (document["truncated"], document["items"][0]["key"]) == (True, "kitchen")
    assert document["items"][0]["snippet"] == "no [bees], no flowers"
    assert document["items"][0]["score"] > 0
    assert "there are more" in (await run("search", "a/s", "bees", "--limit", "1")).err
    both = await run("search", "a/s", "bees", "flowers", "--mode", "all")
    assert len(both.text.splitlines()) == 2
    assert "garden" not in (await run("search", "a/s", "--", "bees", "-dance")).text
    assert (await run("search", "a", "bees")).status == 2
    assert (await run("search", "a/s", "...")).status == 1


async def test_ls_goes_from_namespaces_down_to_keys(run: Shell):
    for place in ("a/s/k1", "a/s/k2", "a/s/x", "a/t/k", "b/s/k"):
        await run("put", place, "value of " + place)
    assert (await run("ls")).text == "a\nb\n"
    assert (await run("ls", "a")).text == "s\nt\n"
    listed = await run("ls", "a/s/k", "--values")
    assert [line.split()[0] for line in listed.text.splitlines()] == ["KEY", "k1", "k2"]
    assert "value of a/s/k2" in listed.text
    document = (await run("ls", "a/s", "-o", "json", "--limit", "2")).json()
    assert [item["key"] for item in document["items"]] == ["k1", "k2"]
    assert document["truncated"] is True
    assert "there are more" in (await run("ls", "a/s", "--limit", "1")).err
    assert (await run("ls", "-o", "json")).json() == {
        "items": [{"namespace": "a"}, {"namespace": "b"}],
        "truncated": False,
    }
    assert (await run("ls", "none")).text == ""


async def test_ls_says_which_collections_there_are(run: Shell):
    await run("put", "a/s/k", "v")
    for namespace in ("only", "a"):
        for name in ("tasks", "notes"):
            await run.client.create_collection(namespace, name, "text")
    assert (await run("ls")).text == "a\nonly\n"
    listed = await run("ls", "a")
    assert listed.text == "s\n"
    assert listed.err == "collections: notes, tasks (`hivemem collection list a`)\n"
    assert (await run("ls", "only", "-o", "json")).json() == {
        "items": [],
        "truncated": False,
        "collections": ["notes", "tasks"],
    }
    cut = (await run("ls", "only", "-o", "json", "--limit", "1")).json()
    assert (cut["collections"], cut["truncated"]) == (["notes"], True)
    assert (await run("ls", "none")).err == ""


async def test_names_that_a_path_cannot_hold_can_be_encoded(run: Shell):
    await run("put", "--encoded", "n/a%2Fb/%00%ff".replace("%ff", "%C3%BC"), "v")
    assert (await run.client.get("n", "a/b", "\0ü")).text() == "v"
    assert (await run("ls", "n")).text == "a/b\n"
    listed = await run("ls", "--encoded", "n/a%2Fb")
    assert "\\x00ü" in listed.text
    assert (await run("get", "--encoded", "n/s/%ff")).status == 2


async def test_what_is_stored_cannot_redraw_the_terminal(run: Shell):
    await run.client.put("n", "s", "k\x1b[31m", "v\x1b[2J\nsecond")
    for command in (("ls", "n/s", "--values"), ("history", "n/s/k\x1b[31m")):
        ran = await run(*command)
        assert b"\x1b" not in ran.out
        assert len(ran.text.splitlines()) == 2


async def test_history_is_newest_first(run: Shell):
    for value in ("one", "two"):
        await run("put", "n/s/k", value)
    await run("rm", "n/s/k")
    lines = (await run("history", "n/s/k")).text.splitlines()
    assert [line.split()[2] for line in lines] == ["CHANGE", "delete", "put", "put"]
    document = (await run("history", "n/s/k", "-o", "json", "--limit", "2")).json()
    assert [item["type"] for item in document["items"]] == ["delete", "put"]
    assert (document["truncated"], document["compacted"]) == (True, False)


async def test_watch_prints_each_change(run: Shell):
    await run("put", "n/s/k", "one")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "node.cli", "watch", "n", "--since", "0", "-o", "json"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(20):
        first = json.loads(await process.stdout.readline())
        await run.client.delete("n", "s", "k")
        second = json.loads(await process.stdout.readline())
        process.send_signal(2)  # as Ctrl-C does
        assert await process.wait() == 130
    assert (first["type"], first["key"], first["value"]) == ("put", "k", "one")
    assert (second["type"], second["id"]) == ("delete", "2.0")


async def test_status_shows_every_node_and_whether_there_is_a_quorum(run: Shell):
    ran = await run("status")
    assert ran.status == 0
    heading, row = ran.text.splitlines()
    wanted = "NODE ID VERSION ROLE TERM LOG COMMIT APPLIED DISK MEMORY UPTIME HTTP"
    assert heading.split() == wanted.split()
    assert row.split()[0] == "node1"
    document = (await run("status", "-o", "json")).json()
    assert document["quorum"] is True
    nowhere = await run("status", "--endpoints", await refused_address())
    assert nowhere.status == 1
    assert "unreachable" in nowhere.text
    assert nowhere.err.count("\n") == 1


async def test_status_tells_a_node_without_a_leader_from_one_that_does_not_answer(
    run: Shell, monkeypatch: pytest.MonkeyPatch
):
    (own,) = (await run.door.info.cluster_status(1)).nodes
    alone = replace(own, healthy=False, role="follower")
    lost = [replace(own, id=name, name=name, healthy=False, role=None) for name in ("b", "c")]

    async def seen(timeout: float) -> ClusterView:
        return ClusterView("c1", None, 4, (alone, *lost))

    monkeypatch.setattr(run.door.info, "cluster_status", seen)
    ran = await run("status")
    assert ran.status == 1
    assert ran.err == "hivemem: no quorum: 1 of 3 voters answer, 0 of them with a leader\n"
    assert [line.split()[3] for line in ran.text.splitlines()[1:]].count("unreachable") == 2


async def test_import_and_export(run: Shell, tmp_path: Path):
    lines = [{"namespace": "n", "session": "s", "key": f"{i}", "value": "v"} for i in range(9)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert (await run("import", "in.jsonl")).text == "imported 9 records\n"
    assert (await run("export", "n", "-o", "out.jsonl")).status == 0
    exported = (tmp_path / "out.jsonl").read_bytes()
    assert (await run("export", "n/s")).out == exported
    assert exported.count(b"\n") == 9
    again = await run("export", "n", "--out", "out.jsonl")
    assert again.status == 2
    assert "--resume" in again.err
    (tmp_path / "out.jsonl").write_bytes(exported[:700])
    resumed = await run("export", "n", "--out", "out.jsonl", "--resume", "-o", "json")
    assert 0 < resumed.json()["exported"] < 9
    assert (tmp_path / "out.jsonl").read_bytes() == exported
    assert (await run("export", "n", "--out", "out.jsonl", "--force")).status == 0
    assert (await run("export", "n/s/k")).status == 2
    assert (await run("export", "n", "--resume")).status == 2


async def test_import_reports_bad_lines(run: Shell, tmp_path: Path):
    good = '{"namespace": "n", "session": "s", "key": "k", "value": "v"}\n'
    (tmp_path / "in.jsonl").write_text(good + '{"key": 5}\n')
    ran = await run("import", "in.jsonl")
    assert ran.status == 1
    assert "in.jsonl: line 2: key: must be a string" in ran.err
    document = (await run("import", "in.jsonl", "--skip-bad", "-o", "json")).json()
    assert (document["resumed_lines"], document["bad_lines"]) == (1, 1)
    assert (
        await run("import", "none.jsonl")
    ).err == "hivemem: none.jsonl: No such file or directory\n"


async def test_collections_are_imported_and_exported(run: Shell, tmp_path: Path):
    (tmp_path / "in.csv").write_text('_id,n:number,note\na,1,\nb,,""\nc,x,\n')
    flags = ("--collection", "n/c", "--create", "--engine", "json", "-o", "json")
    ran = await run("import", "in.csv", *flags)
    assert (ran.status, ran.json()["stored"], ran.json()["bad_lines"]) == (1, 2, 1)
    assert "in.csv: line 4: n: is not a number" in ran.err
    ran = await run("import", "in.csv", *flags, "--on-error", "skip")
    assert ran.json() == {"stored": 0, "expired": 0, "bad_lines": 1, "resumed_lines": 3}
    shown = await run("export", "--collection", "n/c")
    assert shown.text == '{"_id":"a","n":1}\n{"_id":"b","note":""}\n'
    ran = await run("export", "--collection", "n/c", "--out", "out.csv", "--columns", "_id,note")
    assert "exported 2 records" in ran.err
    assert (tmp_path / "out.csv").read_text() == '_id:text,note:text\na,\nb,""\n'
    refusals = {
        ("export", "--collection", "n/c", "--out", "out.csv", "--columns", "_id"): "--force",
        ("export", "n/s", "--collection", "n/c"): "one of",
        ("export", "n", "--sql", "SELECT 1"): "--collection",
        ("export", "--collection", "n/c", "--format", "csv"): "--columns",
        ("import", "in.csv", "--table", "t"): "--collection",
        ("import", "in.csv", "--collection", "n/c", "--engine", "graph"): "--create",
        ("import", "in.csv", "--collection", "n/c", "--shards", "2"): "--create",
        ("import", "in.csv", "--shards", "2"): "--collection",
        ("import", "in.csv", "--collection", "n/c", "--vectors", "in.csv"): None,
        ("import", "in.csv", "--collection", "n/c", "--create", "--engine", "text"): "document",
    }
    for arguments, said in refusals.items():
        ran = await run(*arguments)
        assert ran.status == (2 if said else 1), arguments
        assert (said or "vectors") in ran.err
    assert (await run("export", "--collection", "n/none")).status == 3
    assert (await run("import", "in.csv", "--collection", "n/none")).status == 3


async def test_a_flag_that_a_collection_needs_is_named(run: Shell, tmp_path: Path):
    for engine in ("relational", "graph", "document"):
        await run.client.create_collection("default", engine, engine)
    (tmp_path / "in.csv").write_text("id\na\n")
    (tmp_path / "in.jsonl").write_text('{"node": {"id": "a"}}\n')
    cases = [
        (("import", "in.csv", "--collection", "relational"), "--table: "),
        (("import", "in.csv", "--collection", "document", "--table", "t"), "--table: "),
        (("import", "in.csv", "--collection", "document", "--part", "nodes"), "--part: "),
        (("import", "in.csv", "--collection", "graph"), "--part nodes"),
        (("import", "in.jsonl", "--collection", "graph", "--part", "nodes"), "--part nodes"),
        (("export", "--collection", "relational"), "--table or --sql: "),
        (("export", "--collection", "document", "--sql", "SELECT 1"), "--table or --sql: "),
    ]
    for arguments, flag in cases:
        ran = await run(*arguments)
        assert (ran.status, ran.out) == (2, b""), arguments
        assert ran.err.startswith(f"hivemem {arguments[0]}: {flag}"), ran.err
    ran = await run("import", "in.csv", "--collection", "graph", "--part", "nodes")
    assert ran.text == "imported 1 records\n"


async def test_bench_measures_and_cleans_up(run: Shell, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench, "KEYS", 2 * bench.CHUNK_KEYS)
    ran = await run("bench", "--seconds", "0.3", "--clients", "2", "-o", "json")
    assert ran.status == 0, ran.err
    write, read = ran.json()["rows"]
    assert (write["case"], read["case"]) == ("write", "read")
    for row in (write, read):
        assert row["operations"] > 0
        assert row["errors"] == 0
        assert 0 < row["p50_ms"] <= row["p99_ms"] <= row["max_ms"]
    assert [name async for name in run.client.sessions("hivemem-bench")] == []


async def test_a_reader_that_goes_away_is_no_error_to_talk_about(run: Shell):
    await run.client.put("n", "s", "k", b"x" * (4 << 20))
    process = await asyncio.create_subprocess_shell(
        f"{sys.executable} -m node.cli get n/s/k | head -c 10",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert (out, err) == (b"x" * 10, b"")


def test_every_command_is_found_in_its_module():
    everything = cli.build_parser().format_help()
    for commands in cli.MODULES.values():
        for command in commands:
            listed = re.compile(rf"^    {command}\s", re.MULTILINE)  # a long one stands alone
            assert listed.search(everything)
            assert listed.search(cli.build_parser(command).format_help())


def test_help_documents_the_exit_status(capsys: pytest.CaptureFixture[str]):
    for command in ("get", "import", "status"):
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        assert "3 not found; 4 conflict" in " ".join(capsys.readouterr().out.split())


def test_the_version_needs_no_http_library():
    script = (
        "import sys; from node import cli\n"
        "try: cli.main(['--version'])\n"
        "except SystemExit: pass\n"
        "assert not {'aiohttp', 'rich', 'mcp'} & set(sys.modules), sys.modules.keys()"
    )
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", script]) == 0


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "-"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB")],
)
def test_sizes_for_people(count: int | None, text: str):
    assert console.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (5.9, "5s"), (65, "1m 5s"), (3700, "1h 1m"), (90000, "1d 1h")],
)
def test_durations_for_people(seconds: float | None, text: str):
    assert console.duration(seconds) == text
