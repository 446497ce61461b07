"""A disk with folders that remembers every call, so that power can be cut after any of them.

Stands in for `cluster.log_files` and `cluster.snapshot_files`. The calls reach the real files
too; `image` then builds what a disk may hold after power loss at a given call: of each file
what was fsynced and some of the rest, sector by sector; of each folder the entries that were
fsynced and some of the later creations, renames and removals, each of them whole or not at
all.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest

from cluster import log_files, snapshot_files

SECTOR_BYTES = 512
ROOT = 0

Tree = dict[str, "bytes | Tree"]


class Call(NamedTuple):
    kind: str  # file | folder | write | move | delete | sync | sync_directory
    node: int  # the folder for entries, else the file
    name: str = ""
    other: str = ""  # the new name
    made: int = 0  # the node made
    offset: int = 0
    data: bytes = b""


class File:
    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.pending: list[Call] = []


class Folder:
    def __init__(self) -> None:
        self.entries: dict[str, int] = {}
        self.pending: list[Call] = []


class RecordingTree:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[Call] = []
        self._lock = threading.Lock()
        self._real: dict[str, Callable[..., Any]] = {}
        for module, names in (
            (log_files, ("create", "open_existing", "write_all", "sync_file")),
            (log_files, ("sync_directory", "remove")),
            (snapshot_files, ("make_folder", "rename", "remove_folder", "copy_range")),
        ):
            for name in names:
                self._real[name] = getattr(module, name)
                monkeypatch.setattr(module, name, getattr(self, name))

    def start(self, directory: Path) -> None:
        """Record what happens in `directory`; all that is there is durable."""
        self.calls = []
        self._directory = directory
        self._nodes: dict[int, File | Folder] = {ROOT: Folder()}
        self._paths = {directory: ROOT}
        self._descriptors: dict[int, int] = {}
        self._scan(directory)
        self._begin = copy.deepcopy(self._nodes)

    def _scan(self, directory: Path) -> None:
        for path in directory.iterdir():
            node = self._new(path)
            self._nodes[node] = Folder() if path.is_dir() else File(path.read_bytes())
            folder = self._nodes[self._paths[directory]]
            assert isinstance(folder, Folder)
            folder.entries[path.name] = node
            if path.is_dir():
                self._scan(path)

    def _new(self, path: Path) -> int:
        node = len(self._nodes)
        self._nodes[node] = File()
        self._paths[path] = node
        return node

    # --- The calls -------------------------------------------------------------------

    def create(self, path: Path) -> int:
        with self._lock:
            fd: int = self._real["create"](path)
            self._descriptors[fd] = self._new(path)
            self._note(Call("file", self._folder(path), path.name, made=self._descriptors[fd]))
            return fd

    def open_existing(self, path: Path, *, write: bool) -> int:
        with self._lock:
            fd: int = self._real["open_existing"](path, write=write)
            self._descriptors[fd] = self._paths[path]
            return fd

    def write_all(self, fd: int, buffers: Sequence[bytes | bytearray], offset: int) -> None:
        with self._lock:
            data = b"".join(buffers)
            self._note(Call("write", self._descriptors[fd], offset=offset, data=data))
            self._real["write_all"](fd, [data], offset)

    def copy_range(self, source: int, target: int, offset: int, size: int) -> int:
        data = snapshot_files.read_at(source, offset, size)
        if data:
            self.write_all(target, [data], offset)
        return len(data)

    def sync_file(self, fd: int) -> None:
        # Nothing is really fsynced: this disk decides what survives.
        with self._lock:
            self._note(Call("sync", self._descriptors[fd]))

    def sync_directory(self, path: Path) -> None:
        with self._lock:
            if path in self._paths:
                self._note(Call("sync_directory", self._paths[path]))

    def make_folder(self, path: Path) -> None:
        with self._lock:
            self._real["make_folder"](path)
            self._note(Call("folder", self._folder(path), path.name, made=self._new(path)))

    def rename(self, source: Path, target: Path) -> None:
        with self._lock:
            assert source.parent == target.parent, "modelled within a folder only"
            self._real["rename"](source, target)
            self._note(Call("move", self._folder(source), source.name, target.name))
            moved = {p: n for p, n in self._paths.items() if p == source or source in p.parents}
            for path, node in moved.items():
                del self._paths[path]
                self._paths[target / path.relative_to(source)] = node

    def remove(self, path: Path) -> None:
        self._delete("remove", path)

    def remove_folder(self, path: Path) -> None:
        self._delete("remove_folder", path)

    def _delete(self, name: str, path: Path) -> None:
        with self._lock:
            self._real[name](path)
            self._note(Call("delete", self._folder(path), path.name))
            del self._paths[path]

    def _folder(self, path: Path) -> int:
        return self._paths[path.parent]

    def _note(self, call: Call) -> None:
        self.calls.append(call)

    # --- Power loss ------------------------------------------------------------------

    def image(self, cut: int, rng: Random) -> Tree:
        """What may be there after power is lost when `cut` calls have returned."""
        nodes = copy.deepcopy(self._begin)
        for call in self.calls[:cut]:
            if call.kind in ("file", "folder"):
                nodes[call.made] = File() if call.kind == "file" else Folder()
            node = nodes[call.node]
            if call.kind in ("sync", "sync_directory"):
                _settle(node, [1.0], rng)
            else:
                node.pending.append(call)
        kept = [0.0, 0.3, 0.7, 0.95, 1.0]
        for node in nodes.values():
            _settle(node, kept, rng)
        return _tree(nodes, ROOT)


def _settle(node: File | Folder, kept: Sequence[float], rng: Random) -> None:
    """Make an arbitrary share of what is pending durable."""
    share = rng.choice(kept)
    for call in node.pending:
        if isinstance(node, File):
            _write(node.data, call, share, rng)
        elif rng.random() < share:
            _enter(node.entries, call)
    node.pending = []


def _write(data: bytearray, call: Call, share: float, rng: Random) -> None:
    at = call.offset
    end = call.offset + len(call.data)
    while at < end:
        stop = min(at - at % SECTOR_BYTES + SECTOR_BYTES, end)
        if rng.random() < share:
            if len(data) < stop:
                data.extend(bytes(stop - len(data)))
            data[at:stop] = call.data[at - call.offset : stop - call.offset]
        at = stop


def _enter(entries: dict[str, int], call: Call) -> None:
    if call.kind == "move":
        if call.name in entries:
            entries[call.other] = entries.pop(call.name)
    elif call.kind == "delete":
        entries.pop(call.name, None)
    else:
        entries[call.name] = call.made


def _tree(nodes: dict[int, File | Folder], number: int) -> Tree:
    folder = nodes[number]
    assert isinstance(folder, Folder)
    tree: Tree = {}
    for name, each in folder.entries.items():
        node = nodes[each]
        tree[name] = bytes(node.data) if isinstance(node, File) else _tree(nodes, each)
    return tree


def write_tree(directory: Path, tree: Tree) -> None:
    directory.mkdir()
    for name, content in tree.items():
        if isinstance(content, bytes):
            (directory / name).write_bytes(content)
        else:
            write_tree(directory / name, content)
