"""Cursors of queries: good for their query alone, and never an error of the node."""

from __future__ import annotations

from typing import Any

import pytest

from engines.codec import Value
from engines.cursors import decode_cursor, encode_cursor, scope_of
from engines.errors import InvalidArgument

SCOPE: Value = ["find", {"a": [{"x": 1, "y": 2}], "b": 2}]


@pytest.mark.parametrize("position", [0, 7, "text", b"bytes", ["a", 1, b"c"]])
def test_a_position_comes_back(position: Any) -> None:
    assert decode_cursor(encode_cursor(SCOPE, position), SCOPE, type(position)) == position
    assert decode_cursor(None, SCOPE, list) is None


def test_the_order_of_members_is_no_part_of_a_query_and_neither_is_the_page() -> None:
    cursor = encode_cursor(SCOPE, 5)
    assert decode_cursor(cursor, ["find", {"b": 2, "a": [{"y": 2, "x": 1}]}], int) == 5
    first = scope_of("op", {"filter": 1, "limit": 5})
    assert first == scope_of("op", {"filter": 1, "limit": 9, "cursor": cursor})
    assert first != scope_of("op", {"filter": 2})


@pytest.mark.parametrize(
    ("cursor", "scope", "kind"),
    [
        (5, SCOPE, int),
        ("", SCOPE, int),
        ("?", SCOPE, int),
        ("é", SCOPE, int),
        ("AAAA", SCOPE, int),
        (encode_cursor(SCOPE, 5)[:-2], SCOPE, int),
        ("A" + encode_cursor(SCOPE, 5)[1:], SCOPE, int),
        (encode_cursor(SCOPE, 5), ["other"], int),
        (encode_cursor(SCOPE, 5), SCOPE, list),
        (encode_cursor(SCOPE, True), SCOPE, int),
    ],
)
def test_what_is_no_cursor_of_this_query(cursor: object, scope: Value, kind: type) -> None:
    with pytest.raises(InvalidArgument) as refused:
        decode_cursor(cursor, scope, kind)
    assert (refused.value.field, refused.value.code) == ("parameters.cursor", "INVALID_CURSOR")
