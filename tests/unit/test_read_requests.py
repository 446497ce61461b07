"""What a read may ask for: bounds are checked as it is made, whoever makes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

from engines.codec import pack
from engines.errors import InvalidArgument, UnknownRead
from engines.interfaces import ChangeId
from engines.read_codec import decode_read, encode_read
from engines.read_requests import (
    KEY_BYTES_MAX,
    MANY_ITEMS_MAX,
    PAGE_BYTES_MAX,
    PAGE_ITEMS_MAX,
    WALK_BYTES_MAX,
    WALK_ITEMS_MAX,
    GetHeld,
    GetMany,
    GetRecord,
    GetRecordAt,
    ListHistory,
    ListNamespaces,
    ListSessions,
    ReadRequest,
    ScanSession,
    WalkNamespace,
    Wanted,
    WantedHeld,
)
from engines.session_search import HITS_MAX, SearchSession
from engines.text_match import QUERY_CHARACTERS_MAX, TERMS_MAX

LONG = b"k" * (KEY_BYTES_MAX + 1)
ONE, HELD = Wanted("n", "s", b"k"), WantedHeld("n", "s", b"k", True)


def _search(**given: Any) -> tuple[Any, ...]:
    """Fields of a SearchSession, in their order."""
    fields = {
        "namespace": "n", "session": "s", "query": "bees", "mode": "any", "prefix": b"",
        "limit": 1, "values": True, "snippets": True, "key_weight": 1.0, "value_weight": 2.0,
        "bytes_max": 1,
    }  # fmt: skip
    return tuple({**fields, **given}.values())


BEYOND: list[tuple[str, Callable[..., Any], tuple[Any, ...]]] = [
    ("namespace", GetRecord, ("", "s", b"k", True)),
    ("namespace", GetRecord, ("n\x00s", "s", b"k", True)),
    ("namespace", ListSessions, ("n\x01", None, 1)),
    ("namespace", GetMany, ((ONE, Wanted("\x00", "s", b"k")), 1)),
    ("namespace", GetHeld, ((HELD, WantedHeld("", "s", b"k", True)), 1)),
    ("key", GetRecord, ("n", "s", b"", True)),
    ("key", GetRecordAt, ("n", "s", LONG, 1)),
    ("key", ListHistory, ("n", "s", LONG, None, 1, True, 1)),
    ("at_revision", GetRecordAt, ("n", "s", b"k", -1)),
    ("at_revision", GetRecordAt, ("n", "s", b"k", 1 << 63)),
    ("wanted", GetMany, ((), 1)),
    ("wanted", GetMany, ((ONE,) * (MANY_ITEMS_MAX + 1), 1)),
    ("wanted", GetHeld, ((HELD,) * (MANY_ITEMS_MAX + 1), 1)),
    ("bytes_max", GetMany, ((ONE,), PAGE_BYTES_MAX + 1)),
    ("bytes_max", GetHeld, ((HELD,), 0)),
    ("bytes_max", ScanSession, ("n", "s", b"", None, 1, True, PAGE_BYTES_MAX + 1)),
    ("bytes_max", WalkNamespace, ("n", None, 1, WALK_BYTES_MAX + 1)),
    ("limit", ScanSession, ("n", "s", b"", None, 0, True, 1)),
    ("limit", ScanSession, ("n", "s", b"", None, PAGE_ITEMS_MAX + 1, True, 1)),
    ("limit", ListSessions, ("n", None, PAGE_ITEMS_MAX + 1)),
    ("limit", ListNamespaces, (None, 0)),
    ("limit", ListHistory, ("n", "s", b"k", None, PAGE_ITEMS_MAX + 1, True, 1)),
    ("limit", WalkNamespace, ("n", None, WALK_ITEMS_MAX + 1, 1)),
    ("prefix", ScanSession, ("n", "s", LONG, None, 1, True, 1)),
    ("after", ScanSession, ("n", "s", b"", LONG, 1, True, 1)),
    ("after", WalkNamespace, ("n", ("s", LONG), 1, 1)),
    ("before", ListHistory, ("n", "s", b"k", ChangeId(-1, 0), 1, True, 1)),
    ("namespace", SearchSession, _search(namespace="n\x00")),
    ("query", SearchSession, _search(query="")),
    ("query", SearchSession, _search(query="-bee")),
    ("query", SearchSession, _search(query="...", mode="phrase")),
    ("query", SearchSession, _search(query="b" * (QUERY_CHARACTERS_MAX + 1))),
    ("query", SearchSession, _search(query=" ".join(f"b{n}" for n in range(TERMS_MAX + 1)))),
    ("mode", SearchSession, _search(mode="some")),
    ("prefix", SearchSession, _search(prefix=LONG)),
    ("limit", SearchSession, _search(limit=0)),
    ("limit", SearchSession, _search(limit=HITS_MAX + 1)),
    ("key_weight", SearchSession, _search(key_weight=-0.1)),
    ("value_weight", SearchSession, _search(value_weight=1000.1)),
    ("bytes_max", SearchSession, _search(bytes_max=0)),
    ("bytes_max", SearchSession, _search(bytes_max=PAGE_BYTES_MAX + 1)),
]
VALID: dict[Any, ReadRequest[Any]] = {
    GetRecord: GetRecord("n", "s", b"k"),
    GetRecordAt: GetRecordAt("n", "s", b"k", 1),
    GetMany: GetMany((ONE,)),
    GetHeld: GetHeld((HELD,)),
    ScanSession: ScanSession("n", "s", b"", None, 1, values=True),
    ListHistory: ListHistory("n", "s", b"k", ChangeId((1 << 64) - 1, 0), 1, values=True),
    ListSessions: ListSessions("n", None, 1),
    ListNamespaces: ListNamespaces(None, 1),
    WalkNamespace: WalkNamespace("n", None, 1),
    SearchSession: SearchSession(*_search()),
}


@pytest.mark.parametrize(("field", "kind", "values"), BEYOND)
def test_a_read_beyond_its_bounds_is_never_made(
    field: str, kind: Callable[..., Any], values: tuple[Any, ...]
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        kind(*values)
    assert caught.value.field == field
    packed = encode_read(VALID[kind])
    number = packed[2]  # after the version and the array's head
    with pytest.raises(UnknownRead):
        decode_read(packed[:1] + pack((number, *values)))


@pytest.mark.parametrize("request_", VALID.values(), ids=lambda one: type(one).__name__)
def test_types_are_compared_exactly(request_: ReadRequest[Any]) -> None:
    packed = encode_read(request_)
    assert decode_read(packed) == request_
    values = [getattr(request_, field.name) for field in fields(request_)]
    for place in range(len(values)):
        odd = 1 if type(values[place]) is float else 1.5
        wrong = [*values[:place], odd, *values[place + 1 :]]
        with pytest.raises(UnknownRead):
            decode_read(packed[:1] + pack((packed[2], *wrong)))
    for more in ([*values, 0], values[:-1], []):
        with pytest.raises(UnknownRead):
            decode_read(packed[:1] + pack((packed[2], *more)))


@pytest.mark.parametrize(
    "packed", [b"", b"\x00", b"\x02\x90", b"\x01", b"\x01\x90", b"\x01\x91\x63"]
)
def test_other_versions_and_kinds_are_refused(packed: bytes) -> None:
    with pytest.raises(UnknownRead):
        decode_read(packed)
