"""Checks that the bytes of reads and of their answers have in common; see `read_codec.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from engines.codec import Malformed, array, integer
from engines.interfaces import Record
from engines.result_codec import build_record

T = TypeVar("T")

Check = Callable[[object], object]


class Page(Protocol):
    """A request for at most so many items."""

    @property
    def limit(self) -> int: ...


def each(checks: tuple[Check, ...], parts: tuple[object, ...]) -> list[object]:
    """Each part as its check has it. All raise Malformed."""
    if len(parts) != len(checks):
        raise Malformed("wrong number of fields")
    return [check(part) for check, part in zip(checks, parts, strict=True)]


def row(build: Callable[..., T], *checks: Check) -> Callable[[object], T]:
    return lambda parts: build(*each(checks, array(parts)))


def rows(of: Callable[[object], T]) -> Callable[[object], tuple[T, ...]]:
    return lambda parts: tuple(map(of, array(parts)))


def natural(value: object) -> int:
    number = integer(value)
    if number < 0:
        raise Malformed("a negative number")
    return number


def record_of(namespace: str, session: str, parts: object) -> Record:
    """Only what the request may see: the boundary between tenants, looked at twice."""
    record = build_record(parts)
    if record.namespace != namespace or record.session != session:
        raise Malformed("a record of another session")
    return record


def items_of(found: object, more: object, request: Page) -> tuple[object, ...]:
    """The items of a page: bounded, and where it goes on is known."""
    items = array(found)
    if len(items) > request.limit or (more and not items):
        raise Malformed(f"a page of {len(items)} items where at most {request.limit} fit")
    return items
