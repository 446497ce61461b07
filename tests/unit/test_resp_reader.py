"""Commands from bytes: any cut decodes the same, and nothing grows beyond its bound."""

from __future__ import annotations

import itertools
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.resp_reader import ProtocolError, RequestReader

# Values that look like the protocol itself.
TRICKY = [b"", b"*", b"\r\n", b"*100000\r\n", b"\r\n*99999999\r\n$", b"$-1\r\n", b"*3\r\n$3\r\nSET"]
arguments = st.one_of(st.sampled_from(TRICKY), st.binary(max_size=120))
commands = st.lists(st.lists(arguments, min_size=1, max_size=4), min_size=1, max_size=6)


def reader(bytes_max: int = 1 << 20, arguments_max: int = 100) -> RequestReader:
    return RequestReader(bytes_max, arguments_max, inline_bytes_max=1000)


def wire(*commands: list[bytes]) -> bytes:
    return b"".join(
        b"*%d\r\n" % len(command)
        + b"".join(b"$%d\r\n%b\r\n" % (len(each), each) for each in command)
        for command in commands
    )


def feed(found: RequestReader, *pieces: bytes) -> list[list[bytes]]:
    return [command for piece in pieces for command in found.feed(piece)]


@given(commands, st.lists(st.integers(0, 2000), max_size=8))
def test_any_cut_decodes_the_same(commands: list[list[bytes]], cuts: list[int]) -> None:
    data = wire(*commands)
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    found = reader()
    got = []
    for start, end in itertools.pairwise(places):
        got += list(found.feed(data[start:end]))
    assert got == commands


@given(commands)
def test_byte_by_byte(commands: list[list[bytes]]) -> None:
    found = reader()
    got = [each for byte in wire(*commands) for each in found.feed(bytes([byte]))]
    assert got == commands


def test_words_of_a_line_are_a_command() -> None:
    found = reader()
    got = list(found.feed(b'PING\r\nSET k "a b"\r\n\r\n' + wire([b"GET", b"k"])))
    got += list(found.feed(b"EC"))
    got += list(found.feed(b"HO x\n"))
    assert got == [[b"PING"], [b"SET", b"k", b"a b"], [b"GET", b"k"], [b"ECHO", b"x"]]


@pytest.mark.parametrize(
    "data",
    [
        b"*4294967295\r\n",
        wire([b"a"] * 101),
        b"*-5\r\n",
        b"*1\r\n:5\r\n",
        b"*1\r\n*1\r\n$1\r\na\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$99999999999999999999\r\n",
        b"*x\r\n",
        b"a" * 2000,
        b"w " * 400 + b"\r\n",
        wire([b"SET", b"k", b"v" * (1 << 20)]),
        b"*2\r\n$3\r\nGET\r\n$2000000\r\n" + b"x" * ((1 << 20) + 1),
    ],
)
def test_what_is_no_command_ends_the_connection(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(reader().feed(data))


@pytest.mark.parametrize("cut", range(12))
def test_a_header_that_promises_too_much_makes_no_room(cut: int) -> None:
    data = b"*100000000\r\n"
    found = reader()
    assert list(found.feed(wire([b"PING"]))) == [[b"PING"]]
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            feed(found, data[:cut], data[cut:], b"$1\r\na\r\n")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
