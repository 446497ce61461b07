"""The HTTP door's JSON: what the fast libraries take is what the strict parser takes, and means."""

from __future__ import annotations

import json
from enum import Enum
from math import isfinite
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engines.codec import may_hold_no_number, pack_value
from node import json_codec
from node.json_codec import Refused, dumps, loads

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
WHOLE = st.integers(-(1 << 63), (1 << 64) - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | WHOLE | FLOATS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
# Bits of JSON, well-formed or not, that parsers are known to differ on.
BITS = st.sampled_from(
    [
        "{", "}", "[", "]", ",", ":", '"a"', '"b"', '"', "-0", "-0.0", "1e999", "0.1e-400",
        "4.9e-324", "01", "1.", ".5", "+1", "1E+2", "NaN", "-Infinity", "null", "true", "tru",
        "9" * 30, "18446744073709551616", '"\\ud800"', '"\\ud83d\\ude00"', '"\\u00e9"', '"\\x41"',
        "\ufeff", "\x00", "\x7f", " ", "\n", "\u00a0", "/**/", "'a'", "\\",
    ]
)  # fmt: skip
TEXTS = st.lists(BITS, max_size=12).map("".join) | VALUES.map(json.dumps)


def strict(body: bytes) -> object:
    return json_codec._DECODER.decode(body.decode("utf-8"))


def outcome(parse: Any, body: bytes) -> tuple[type, str]:
    """What it gives: type and text, which tell 1 from True and 0.0 from -0.0; or what it raises."""
    try:
        found = parse(body)
    except (ValueError, RecursionError) as error:
        return type(error), str(error)
    return type(found), repr(found)


@given(TEXTS)
@example('{"a":1,"a":2}')
@example('{"a":{"b":1,"b":2}}')
@example("[" * 250 + "]" * 250)
@example("[" * 100_000)
@example("1" * 5_000)
@example("1e400")
def test_what_is_read_is_what_the_strict_parser_reads(text: str) -> None:
    body = text.encode("utf-8", "surrogatepass")
    assert outcome(loads, body) == outcome(strict, body)


@given(st.binary(max_size=24))
@example(b'"\xed\xa0\x80"')
@example(b'"\xc0\x80"')
@example(b"\xff")
def test_bytes_that_are_no_text_are_refused_alike(body: bytes) -> None:
    assert outcome(loads, body) == outcome(strict, body)


def test_repeated_names_are_refused_and_shown() -> None:
    with pytest.raises(Refused, match="repeats the name 'a'"):
        loads(b'{"a":1,"b":{"a":2},"a":3}')
    with pytest.raises(Refused, match="holds NaN"):
        loads(b'{"a":NaN}')


@given(VALUES)
def test_what_is_written_reads_as_it_was(value: object) -> None:
    assert repr(strict(dumps(value))) == repr(value)


@given(VALUES, st.sampled_from([float("nan"), float("inf"), float("-inf")]), st.booleans())
def test_what_is_no_number_is_never_written(value: object, bad: float, beside_null: bool) -> None:
    beside = None if beside_null else 1
    with pytest.raises(ValueError, match="JSON compliant"):
        dumps({"a": [value, {"b": bad}], "c": beside})


@given(VALUES, st.sampled_from([float("nan"), float("inf"), float("-inf")]) | FLOATS)
def test_packed_answers_tell_whether_they_may_hold_no_number(value: object, last: float) -> None:
    packed = pack_value({"a": [value, {"b": last}]})
    if not isfinite(last):
        assert may_hold_no_number(packed)
    elif not may_hold_no_number(packed):
        assert dumps({"a": [value, last]}, finite=True) == dumps({"a": [value, last]})


def test_most_packed_answers_are_told_to_hold_numbers() -> None:
    rows = [{"id": str(n), "distance": n / 7, "none": None} for n in range(1_000)]
    assert not may_hold_no_number(pack_value(rows))


def test_an_enum_hides_no_number() -> None:
    class Odd(Enum):
        NOTHING = float("nan")

    with pytest.raises((TypeError, ValueError)):
        dumps({"a": Odd.NOTHING})


def test_large_numbers_are_written_and_bytes_are_not() -> None:
    assert dumps([1 << 70, {"a": None}]) == b'[1180591620717411303424,{"a":null}]'
    with pytest.raises(TypeError):
        dumps({"a": b"bytes"})


@pytest.mark.parametrize("text", ["null", "a null b", '"null"'])
def test_the_word_null_is_only_text(text: str) -> None:
    assert strict(dumps([text, None, 0.5])) == [text, None, 0.5]
