"""A disk that remembers every call, so that power can be cut after any of them.

Stands in for `cluster.log_files`. The calls reach the real files too; `images` then builds
what a disk may hold after power loss at a given call: everything that was fsynced, and of
the rest an arbitrary choice, sector by sector, with at most one sector torn inside.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest

from cluster import log_files

SECTOR_BYTES = 512


class Call(NamedTuple):
    kind: str  # create | write | truncate | sync | sync_directory | remove
    name: str  # of the file
    offset: int = 0
    data: bytes = b""


class RecordingDisk:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[Call] = []
        self._names: dict[int, str] = {}
        self._lock = threading.Lock()
        self._real = {name: getattr(log_files, name) for name in _PATCHED}
        for name in _PATCHED:
            monkeypatch.setattr(log_files, name, getattr(self, name))

    def create(self, path: Path) -> int:
        fd: int = self._real["create"](path)
        self._names[fd] = path.name
        self._note(Call("create", path.name))
        return fd

    def open_existing(self, path: Path, *, write: bool) -> int:
        fd: int = self._real["open_existing"](path, write=write)
        if write:
            self._names[fd] = path.name
        return fd

    def write_all(self, fd: int, buffers: Sequence[bytes | bytearray], offset: int) -> None:
        data = b"".join(buffers)
        self._note(Call("write", self._names[fd], offset, data))
        self._real["write_all"](fd, [data], offset)

    def truncate(self, fd: int, size: int) -> None:
        self._note(Call("truncate", self._names[fd], size))
        self._real["truncate"](fd, size)

    def sync_file(self, fd: int) -> None:
        # Nothing is really fsynced: this disk decides what survives.
        self._note(Call("sync", self._names[fd]))

    def sync_directory(self, path: Path) -> None:
        self._note(Call("sync_directory", path.name))

    def remove(self, path: Path) -> None:
        self._note(Call("remove", path.name))
        self._real["remove"](path)

    def _note(self, call: Call) -> None:
        with self._lock:
            self.calls.append(call)


_PATCHED = (
    "create",
    "open_existing",
    "write_all",
    "truncate",
    "sync_file",
    "sync_directory",
    "remove",
)


def after_power_loss(
    before: dict[str, bytes], calls: Sequence[Call], rng: Random
) -> dict[str, bytes]:
    """File name → content, given the files before `calls` and power lost after the last."""
    files = {name: bytearray(content) for name, content in before.items()}
    entries = set(before)  # durable directory entries
    unsynced: dict[str, list[Call]] = {}
    renamed: list[Call] = []  # creations and removals that the directory does not hold yet
    for call in calls:
        if call.kind == "create":
            files[call.name] = bytearray()
            renamed.append(call)
        elif call.kind == "remove":
            renamed.append(call)
        elif call.kind == "sync_directory":
            _apply_entries(entries, renamed)
            renamed = []
        elif call.kind == "sync":
            for pending in unsynced.pop(call.name, []):
                _apply(files[call.name], pending)
        else:
            unsynced.setdefault(call.name, []).append(call)
    _apply_entries(entries, [call for call in renamed if rng.random() < 0.5])
    for name, pending_calls in unsynced.items():
        _lose_some(files[name], pending_calls, rng)
    return {name: bytes(files[name]) for name in entries}


def _apply_entries(entries: set[str], calls: Sequence[Call]) -> None:
    for call in calls:
        if call.kind == "create":
            entries.add(call.name)
        else:
            entries.discard(call.name)


def _apply(content: bytearray, call: Call) -> None:
    if call.kind == "truncate":
        del content[call.offset :]
        return
    end = call.offset + len(call.data)
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    content[call.offset : end] = call.data


def _lose_some(content: bytearray, calls: Sequence[Call], rng: Random) -> None:
    """Apply an arbitrary part of writes that no fsync covers."""
    kept = rng.choice([0.0, 0.3, 0.7, 0.95, 1.0])
    pieces: list[Call] = []
    for call in calls:
        if call.kind == "truncate":
            if rng.random() < kept:
                _apply(content, call)
            continue
        at = call.offset
        while at < call.offset + len(call.data):
            end = min(at - at % SECTOR_BYTES + SECTOR_BYTES, call.offset + len(call.data))
            sector = call.data[at - call.offset : end - call.offset]
            if rng.random() < kept:
                pieces.append(Call("write", call.name, at, sector))
            at = end
    if pieces and rng.random() < 0.5:
        torn = rng.randrange(len(pieces))
        whole = pieces[torn]
        pieces[torn] = whole._replace(data=whole.data[: rng.randrange(len(whole.data) + 1)])
    for piece in pieces:
        _apply(content, piece)


def write_image(directory: Path, files: dict[str, bytes]) -> None:
    os.makedirs(directory)
    for name, content in files.items():
        (directory / name).write_bytes(content)
