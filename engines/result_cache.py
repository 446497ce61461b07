"""Answers of queries, kept until what they were computed from changes.

The key holds everything that an answer depends on: the collection, the log index of its last
change, as the snapshot that is read has it, and the request, byte for byte. A write makes every
older answer unreachable; so a kept answer is never stale, whatever the read demands: freshness
was decided when the snapshot was opened.

Least recently used first out, within `bytes_max`. Large answers are not kept: one would push
out many.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final, NamedTuple

BYTES_MAX: Final = 32 << 20  # of keys and answers, of one group
ANSWER_BYTES_MAX: Final = 1 << 20
_OVERHEAD_BYTES: Final = 256  # of one entry, about


class Request(NamedTuple):
    """What an answer depends on."""

    collection: bytes  # its id
    written_index: int
    operation: str
    parameters: bytes  # packed


class Kept(NamedTuple):
    """An answer, packed, and what whoever computed it wants to know of it again."""

    answer: bytes
    note: object = None


class CacheFigures(NamedTuple):
    hits: int
    misses: int
    evictions: int  # answers that gave way to newer ones
    entries: int
    size: int  # bytes
    size_max: int


class ResultCache:
    """Any thread."""

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._answers: OrderedDict[Request, Kept] = OrderedDict()
        self._size = 0
        self._hits = 0
        self._misses = 0
        self._evictions = 0

    def get(self, request: Request) -> Kept | None:
        with self._lock:
            answer = self._answers.get(request)
            if answer is None:
                self._misses += 1
            else:
                self._hits += 1
                self._answers.move_to_end(request)
            return answer

    def holds(self, request: Request) -> bool:
        """Would it be answered? It counts neither as hit nor as miss."""
        with self._lock:
            return request in self._answers

    def resize(self, bytes_max: int) -> None:
        """Another bound; 0: nothing is kept."""
        with self._lock:
            self._bytes_max = bytes_max
            self._shrink()

    def put(self, request: Request, kept: Kept) -> None:
        """Keep it, if it is not too large."""
        size = _bytes(request, kept)
        if len(kept.answer) > ANSWER_BYTES_MAX or size > self._bytes_max:
            return
        with self._lock:
            if request in self._answers:
                return
            self._answers[request] = kept
            self._size += size
            self._shrink()

    def _shrink(self) -> None:
        while self._size > self._bytes_max:
            oldest, dropped = self._answers.popitem(last=False)
            self._size -= _bytes(oldest, dropped)
            self._evictions += 1

    def clear(self) -> None:
        with self._lock:
            self._answers.clear()
            self._size = 0

    def figures(self) -> CacheFigures:
        with self._lock:
            return CacheFigures(
                self._hits, self._misses, self._evictions, len(self._answers), self._size,
                self._bytes_max,
            )  # fmt: skip


def _bytes(request: Request, kept: Kept) -> int:
    return len(kept.answer) + len(request.parameters) + _OVERHEAD_BYTES
