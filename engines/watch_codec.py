"""Bytes of a watch that goes on at another node: what is asked for, and a page of changes.

Both begin with one byte of codec version. What does not hold is UnknownRead, also a page
that would break the order of a watch or show what was not asked for.
"""

from __future__ import annotations

from typing import NamedTuple

from engines.codec import Malformed, array, boolean, data, integer, optional, pack, text, unpack
from engines.errors import UnknownRead
from engines.interfaces import INTEGER_MAX, SUB_MAX, Change, ChangeId, ChangeKind

VERSION = 1
WAIT_MS_MAX = 60_000  # that a page may be waited for
PAGE_BYTES_MAX = 1 << 20  # value bytes of a page; the first change always fits
PAGE_CHANGES_MAX = 100
_VERSION_BYTE = bytes([VERSION])


class WatchAsk(NamedTuple):
    """Which changes of one group are wanted, and how long the first may be waited for."""

    namespace: str
    session: str | None  # None: every session of the namespace
    prefix: bytes
    since: ChangeId | None  # None: what follows now
    values: bool
    wait_ms: int
    bytes_max: int  # value bytes of the page; the first change always fits


class WatchPage(NamedTuple):
    """What followed. Invariant: ids grow, above the `since` that was asked for."""

    changes: tuple[Change, ...]
    position: ChangeId  # every change up to here is in this page or an earlier one
    revision: int  # of the state when the page was asked for


def encode_ask(ask: WatchAsk) -> bytes:
    return _VERSION_BYTE + pack(tuple(ask))


def decode_ask(packed: bytes) -> WatchAsk:
    """The ask that `encode_ask` wrote. Raises UnknownRead."""
    try:
        namespace, session, prefix, since, values, wait_ms, bytes_max = _array(packed)
        return WatchAsk(
            text(namespace),
            optional(text)(session),
            data(prefix),
            optional(_change_id)(since),
            boolean(values),
            _bounded(wait_ms, WAIT_MS_MAX),
            _bounded(bytes_max, PAGE_BYTES_MAX),
        )
    except ValueError as error:
        raise UnknownRead(f"malformed watch: {error}") from error


def encode_page(page: WatchPage) -> bytes:
    changes = [
        (
            change.id, change.kind.value, change.namespace, change.session, change.key,
            change.value, change.size, change.content_type, change.version, change.time_ms,
            change.expires_ms,
        )
        for change in page.changes
    ]  # fmt: skip
    return _VERSION_BYTE + pack((page.position, page.revision, changes))


def decode_page(ask: WatchAsk, packed: bytes | memoryview) -> WatchPage:
    """The answer to `ask` that `encode_page` wrote. Raises UnknownRead."""
    try:
        position, revision, rows = _array(packed)
        page = WatchPage(
            tuple(map(_change, array(rows))), _change_id(position), _bounded(revision, INTEGER_MAX)
        )
        _check(ask, page)
    except ValueError as error:
        raise UnknownRead(f"malformed page of a watch: {error}") from error
    return page


def _check(ask: WatchAsk, page: WatchPage) -> None:
    if len(page.changes) > PAGE_CHANGES_MAX:
        raise Malformed(f"a page of {len(page.changes)} changes")
    last = ask.since or ChangeId(0, 0)
    for change in page.changes:
        if change.id <= last:
            raise Malformed("changes out of order")
        last = change.id
        if (
            change.namespace != ask.namespace
            or ask.session not in (None, change.session)
            or not change.key.startswith(ask.prefix)
        ):
            raise Malformed("a change that was not asked for")
        has_value = change.kind is ChangeKind.PUT and ask.values
        if (change.value is not None) != has_value:
            raise Malformed("a value that was not asked for, or none")
    if page.position < last:
        raise Malformed("a position before its last change")


def _array(packed: bytes | memoryview) -> tuple[object, ...]:
    if bytes(packed[:1]) != _VERSION_BYTE:
        raise Malformed(f"not of codec version {VERSION}")
    return array(unpack(memoryview(packed)[1:]))


def _bounded(value: object, most: int) -> int:
    number = integer(value)
    if not 0 <= number <= most:
        raise Malformed(f"not a number of 0..{most}")
    return number


def _change_id(value: object) -> ChangeId:
    revision, sub = array(value)
    return ChangeId(_bounded(revision, INTEGER_MAX), _bounded(sub, SUB_MAX))


def _change(row: object) -> Change:
    (
        identity, kind, namespace, session, key, value, size, content_type, version, time_ms,
        expires_ms,
    ) = array(row)  # fmt: skip
    return Change(
        _change_id(identity),
        ChangeKind(integer(kind)),
        text(namespace),
        text(session),
        data(key),
        optional(data)(value),
        _bounded(size, INTEGER_MAX),
        text(content_type),
        _bounded(version, INTEGER_MAX),
        _bounded(time_ms, INTEGER_MAX),
        None if expires_ms is None else _bounded(expires_ms, INTEGER_MAX),
    )
