"""SCAN and DBSIZE: walks over the names of a namespace, one partition after the other.

Redis's cursors are numbers, and a place here is a session and a key; so this node remembers
which place a number stands for. A session stays in its partition. As in Redis, what is there
during the whole walk is shown at least once, and what comes or goes meanwhile may be shown.
Unlike there, nothing twice.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from random import Random  # noqa: TID251 - the caller seeds it
from typing import NamedTuple

from engines.read_requests import ListedPage, WalkNamespace
from node.resp_names import join

STEP_RECORDS_MAX = 1_000  # looked at in one step, whatever COUNT says


class Place(NamedTuple):
    """Where a walk goes on: in this group, after this session and key; None: at its start."""

    namespace: str
    group: int
    after: tuple[str, bytes] | None = None


class Cursors:
    """Numbers → places, the `cursors_max` used last."""

    def __init__(self, cursors_max: int, rng: Random) -> None:
        self._cursors_max = cursors_max
        self._rng = rng
        self._places: OrderedDict[int, Place] = OrderedDict()

    def put(self, place: Place) -> int:
        number = self._rng.getrandbits(48) + 1
        self._places[number] = place
        while len(self._places) > self._cursors_max:
            self._places.popitem(last=False)
        return number

    def get(self, number: int) -> Place | None:
        place = self._places.get(number)
        if place is not None:
            self._places.move_to_end(number)
        return place


class Names(NamedTuple):
    """`place` None: the walk is over."""

    names: list[bytes]
    place: Place | None


def walk(place: Place, count: int) -> WalkNamespace:
    """What to read for `count` records."""
    return WalkNamespace(place.namespace, place.after, count)


def names_of(page: ListedPage, place: Place, now_ms: int) -> Names:
    """The names of a page, without those that have expired or have no name here, and where
    the walk over the group goes on."""
    names = [
        name
        for session, key, expires_ms in page.records
        if (name := join(session, key)) is not None and not 0 < expires_ms <= now_ms
    ]
    return Names(names, place._replace(after=page.records[-1][:2]) if page.more else None)


def pattern(glob: bytes) -> re.Pattern[bytes]:
    """Redis's glob (`*`, `?`, `[a-c]`, `[^a]`, backslash) as a regular expression."""
    parts: list[bytes] = []
    at = 0
    while at < len(glob):
        letter = glob[at : at + 1]
        at += 1
        if letter == b"*":
            if not parts or parts[-1] != b".*":
                parts.append(b".*")
        elif letter == b"?":
            parts.append(b".")
        elif letter == b"[":
            text, at = _letters(glob, at)
            parts.append(text)
        else:
            if letter == b"\\" and at < len(glob):
                letter = glob[at : at + 1]
                at += 1
            parts.append(re.escape(letter))
    return re.compile(b"".join(parts), re.DOTALL)


def _letters(glob: bytes, at: int) -> tuple[bytes, int]:
    """A class of letters that begins at `at`, and where the glob goes on."""
    end = glob.find(b"]", at + 1)
    if end < 0:
        return re.escape(b"["), at
    inner = glob[at:end]
    negated = inner[:1] == b"^"
    ranges = re.escape(inner[negated:]).replace(b"\\-", b"-")
    try:
        re.compile(b"[" + ranges + b"]")
    except re.error:
        return re.escape(glob[at - 1 : end + 1]), end + 1
    return (b"[^" if negated else b"[") + ranges + b"]", end + 1
