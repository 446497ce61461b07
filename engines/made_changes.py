"""The changes that one apply made, for whoever listens.

Most of the time nobody looks at more than the last one, so that a `Change` is made when it
is asked for, out of a tuple of its parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from engines.interfaces import Change, ChangeId, ChangeKind


@dataclass(slots=True)
class Scope:
    """A session as seen within one apply. `root` is None while it holds no live key."""

    namespace: str
    session: str
    key: bytes  # its key in `sessions`
    root: bytes | None


# revision, sub, kind, scope, key, value, content type, version, time_ms, expires_ms (0: none)
Parts = tuple[int, int, ChangeKind, Scope, bytes, bytes | None, bytes, int, int, int]


class MadeChanges(Sequence[Change]):
    """Changes, oldest first. `parts` is where apply appends to."""

    __slots__ = ("parts",)

    def __init__(self) -> None:
        self.parts: list[Parts] = []

    def __len__(self) -> int:
        return len(self.parts)

    @overload
    def __getitem__(self, place: int) -> Change: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Change]: ...

    def __getitem__(self, place: int | slice) -> Change | Sequence[Change]:
        if isinstance(place, slice):
            return [_change(parts) for parts in self.parts[place]]
        return _change(self.parts[place])


def _change(parts: Parts) -> Change:
    revision, sub, kind, scope, key, value, content_type, version, time_ms, expires_ms = parts
    return Change(
        ChangeId(revision, sub), kind, scope.namespace, scope.session, key, value,
        len(value or b""), content_type.decode(), version, time_ms, expires_ms or None,
    )  # fmt: skip
