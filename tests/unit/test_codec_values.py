"""What callers may store: what is refused, and where in it."""

from __future__ import annotations

from typing import Any

import pytest

from engines.codec import VALUE_DEPTH_MAX, check_value, pack_value, unpack_value
from engines.errors import InvalidArgument


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -(1 << 63), (1 << 64) - 1, 1.5, "ä\0", b"\xff", [], {}, {"": [1, {"a": None}]},
     nested(VALUE_DEPTH_MAX), [1.5] * 100, [1e308] * 100, [0.5] * 50 + [1, None]],
)  # fmt: skip
def test_what_can_be_stored_comes_back(value: Any) -> None:
    check_value(value, "v")
    assert unpack_value(pack_value(value)) == value


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (float("nan"), "v"),
        (float("inf"), "v"),
        (1 << 64, "v"),
        (-(1 << 63) - 1, "v"),
        ("\ud800", "v"),
        ({1: 2}, "v"),
        ({"\ud800": 1}, "v"),
        (object(), "v"),
        ({"a": [0, {"b": [1, float("inf")]}]}, "v.a[1].b[1]"),
        ([0.5] * 20 + [float("nan")] + [0.5] * 20, "v[20]"),
        ([0.5] * 20 + [float("inf"), -float("inf")], "v[20]"),
        ([[], [{"x": {"\ud800": 1}}]], "v[1][0].x"),
    ],
)
def test_what_cannot_is_named_by_its_place(value: Any, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_value(value, "v")
    assert refused.value.field == field


def test_nesting_is_bounded() -> None:
    with pytest.raises(InvalidArgument, match="nested deeper"):
        check_value(nested(VALUE_DEPTH_MAX + 1), "v")
