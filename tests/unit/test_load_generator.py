"""The benchmarks' load generator: its histogram, and what it takes for an answer."""

from __future__ import annotations

import base64
import json
import random
import struct
import subprocess
from pathlib import Path

import pytest

from scripts.benchmarks import generator

SECONDS = 30.0
CHUNKS = (1, 7, 4096)  # bytes that arrive together
GRPC_STATUS = bytes.fromhex("9acac8b21234da8f")  # `grpc-status` in HPACK's Huffman code


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if generator.compiler() is None:
        pytest.skip("a C compiler is not installed (Debian: gcc)")
    return generator.build(tmp_path_factory.mktemp("load"))


def call(program: Path, *arguments: str, data: bytes = b"") -> str:
    done = subprocess.run(
        [str(program), *arguments], input=data, capture_output=True, timeout=SECONDS, check=True
    )
    return done.stdout.decode()


def verdicts(program: Path, protocol: str, data: bytes, *options: str) -> list[str]:
    """What each answer is taken for, however the bytes are cut."""
    found = [
        call(program, "--protocol", protocol, "--parse", str(chunk), *options, data=data)
        for chunk in CHUNKS
    ]
    assert found[1:] == found[:-1]
    return [line.rstrip() for line in found[0].splitlines()]


def value(key: int, length: int = 100) -> bytes:
    return b"000000000k%08d".ljust(length - 4, b"x") % key


# The histogram


@pytest.mark.parametrize("spread", [300, 10**6, 10**9])
def test_quantiles_are_within_a_percent(program: Path, spread: int) -> None:
    rng = random.Random(spread)
    values = sorted(rng.randrange(1, spread) for _ in range(5000))
    text = call(program, "--histogram", data="\n".join(map(str, values)).encode())
    found = json.loads(text)
    assert found["count"] == len(values)
    for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99), ("p999_ms", 0.999)):
        exact = values[round(share * len(values)) - 1] / 1e6
        assert found[name] == pytest.approx(exact, rel=0.01, abs=1e-6)
    assert found["max_ms"] == pytest.approx(values[-1] / 1e6, abs=1e-6)
    assert found["mean_ms"] == pytest.approx(sum(values) / len(values) / 1e6, abs=1e-6)


def test_what_is_too_long_for_the_histogram_is_counted_last(program: Path) -> None:
    found = json.loads(call(program, "--histogram", data=b"1000 %d" % (1 << 50)))
    assert found["count"] == 2
    assert found["p99_ms"] > found["p50_ms"] == pytest.approx(0.001, rel=0.01)


# RESP


def test_writes_over_resp(program: Path) -> None:
    data = b"+OK\r\n-TRYAGAIN full\r\n+OK\r\n"
    assert verdicts(program, "resp", data, "--depth", "3") == [
        "ok 0",
        "error 1 -TRYAGAIN full",
        "ok 2",
    ]


def test_reads_over_resp_are_of_the_key_that_was_asked_for(program: Path) -> None:
    data = b"".join(b"$100\r\n%s\r\n" % value(key) for key in (0, 5)) + b"$-1\r\n"
    options = ("--depth", "3", "--reads-percent", "100")
    assert verdicts(program, "resp", data, *options) == ["ok 0", "error 1 $100", "error 2 $-1"]


@pytest.mark.parametrize(
    ("replicas", "outcome"), [(1, "ok {}"), (0, "error {} WAIT: too few replicas")]
)
def test_no_write_counts_before_wait_is_answered(
    program: Path, replicas: int, outcome: str
) -> None:
    options = ("--depth", "2", "--wait", "1")
    assert verdicts(program, "resp", b"+OK\r\n+OK\r\n", *options) == []
    found = verdicts(program, "resp", b"+OK\r\n+OK\r\n:%d\r\n" % replicas, *options)
    assert found == [outcome.format(slot) for slot in (0, 1)]


def test_a_refused_write_is_none_whatever_wait_says(program: Path) -> None:
    data = b"+OK\r\n-MISCONF disk\r\n:2\r\n"
    options = ("--depth", "2", "--wait", "1")
    assert verdicts(program, "resp", data, *options) == [
        "error 0 -MISCONF disk",
        "error 1 -MISCONF disk",
    ]


def test_what_is_not_resp_ends_the_connection(program: Path) -> None:
    assert verdicts(program, "resp", b"HTTP/1.1 200 OK\r\n") == ["broken not RESP"]


def test_an_answer_too_many_ends_the_connection(program: Path) -> None:
    found = verdicts(program, "resp", b"+OK\r\n+OK\r\n")
    assert found == ["ok 0", "broken an answer that nobody asked for"]


# HTTP


def message(status: int, body: bytes, *, chunked: bool = False) -> bytes:
    head = b"HTTP/1.1 %d Any\r\nServer: x\r\n" % status
    if not chunked:
        return head + b"content-length: %d\r\n\r\n%s" % (len(body), body)
    parts = [body[:10], body[10:]]
    joined = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + joined + b"0\r\n\r\n"


@pytest.mark.parametrize("chunked", [False, True])
def test_answers_over_http(program: Path, chunked: bool) -> None:
    writes = message(200, b'{"version":1,"revision":2}', chunked=chunked)
    writes += message(503, b'{"error":{"code":"OVERLOADED"}}', chunked=chunked)
    found = verdicts(program, "http-hivemem", writes, "--depth", "2")
    assert found == ["ok 0", "error 1 503 { error :{ code : OVERLOADED }}"]
    reads = message(200, value(0), chunked=chunked) + message(200, value(2), chunked=chunked)
    options = ("--depth", "2", "--reads-percent", "100")
    first, second = verdicts(program, "http-hivemem", reads, *options)
    assert first == "ok 0"
    assert second.startswith("error 1 200 000000000k00000002")


def test_a_batch_counts_when_all_of_it_was_written(program: Path) -> None:
    def answer(*statuses: int) -> bytes:
        results = [{"status": status} for status in statuses]
        return message(200, json.dumps({"results": results}, separators=(",", ":")).encode())

    options = ("--batch", "3", "--depth", "2")
    data = answer(200, 200, 200) + answer(200, 409, 200)
    first, second = verdicts(program, "http-hivemem", data, *options)
    assert (first, second[:7]) == ("ok 0", "error 1")


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("length", [100, 4096])
def test_answers_of_the_gateway(program: Path, chunked: bool, length: int) -> None:
    def found(key: int) -> bytes:
        text = base64.b64encode(value(key, length)).decode()
        body = {"header": {"revision": "7"}, "kvs": [{"value": text}], "count": "1"}
        return message(200, json.dumps(body, separators=(",", ":")).encode(), chunked=chunked)

    options = ("--depth", "3", "--reads-percent", "100", "--value-bytes", str(length))
    absent = message(200, b'{"header":{"revision":"7"}}', chunked=chunked)
    data = found(0) + found(0) + absent
    lines = verdicts(program, "http-etcd", data, *options)
    assert [line[:7].rstrip() for line in lines] == ["ok 0", "error 1", "error 2"]
    assert verdicts(program, "http-etcd", absent) == ["ok 0"]


# gRPC


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def field(number: int, data: bytes) -> bytes:
    assert len(data) < 128
    return bytes([number << 3 | 2, len(data)]) + data


def unary(stream: int, body: bytes, status: bytes = b"0") -> bytes:
    """Headers, the message in two frames, and trailers, as a server in Go sends them."""
    prefix = b"\0" + struct.pack(">I", len(body))
    trailers = b"\0\x88" + GRPC_STATUS + bytes([len(status)]) + status
    return (
        frame(1, 4, stream, b"\x88")
        + frame(0, 0, stream, prefix)
        + frame(0, 0, stream, body)
        + frame(1, 5, stream, trailers)
    )


HEADER = field(1, b"\x18\x07")  # of a response: revision 7
OPENING = frame(4, 0, 0, b"") + frame(8, 0, 0, b"\0\0\xff\xff") + frame(6, 0, 0, b"12345678")


def test_writes_over_grpc_end_in_any_order(program: Path) -> None:
    data = OPENING + unary(3, HEADER) + unary(1, HEADER)
    assert verdicts(program, "grpc-etcd", data, "--depth", "2") == ["ok 1", "ok 0"]


def test_reads_over_grpc(program: Path) -> None:
    def found(key: int) -> bytes:
        return HEADER + field(2, field(1, b"k%08d" % key) + field(5, value(key))) + b"\x20\x01"

    data = unary(1, found(0)) + unary(3, found(0)) + unary(5, HEADER)
    options = ("--depth", "3", "--reads-percent", "100")
    assert verdicts(program, "grpc-etcd", data, *options) == [
        "ok 0",
        "error 1 an unexpected message",
        "error 2 an unexpected message",
    ]


def test_errors_over_grpc(program: Path) -> None:
    refused = frame(1, 5, 3, b"\x88\x40\x0bgrpc-status\x028\x20")
    reset = frame(3, 0, 5, b"\0\0\0\x02")
    data = unary(1, HEADER, b"14") + refused + reset
    assert verdicts(program, "grpc-etcd", data, "--depth", "3") == [
        "error 0 grpc-status 14",
        "error 1 grpc-status 8",
        "error 2 stream reset",
    ]
    goaway = frame(7, 0, 0, bytes(8) + b"too many pings")
    assert verdicts(program, "grpc-etcd", goaway) == ["broken too many pings"]


# NATS


def test_writes_to_a_bucket(program: Path) -> None:
    def answer(slot: int, body: bytes) -> bytes:
        return b"MSG _INBOX.c3.%d 1 %d\r\n%s\r\n" % (slot, len(body), body)

    stored, full = b'{"stream":"KV_bench", "seq":1}', b'{"error":{"code":503},"stream":"K"}'
    nobody = b"HMSG _INBOX.c3.2 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"
    data = b"INFO {}\r\nPONG\r\nPING\r\n" + answer(1, stored) + answer(0, full) + nobody
    lines = verdicts(program, "nats-kv", data, "--depth", "3")
    assert [line[:7].rstrip() for line in lines] == ["ok 1", "error 0", "error 2"]
    (line,) = verdicts(program, "nats-kv", b"INFO {}\r\nPONG\r\n-ERR 'no'\r\n")
    assert line == "broken -ERR 'no'"
