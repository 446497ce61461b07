"""What a node remembers about a state in which it met damage."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from engines.errors import CorruptRecord
from node import daemon
from node.clock import SystemClock
from node.datadir import DataDir

BOOT = "this-boot"


def opened(root: Path) -> DataDir:
    found = DataDir.open(root, node_id="n", cluster_id="c", name="node", clock=SystemClock())
    found.prepare_live(BOOT)
    return found


def node() -> SimpleNamespace:
    storage = SimpleNamespace(map_bytes=16 << 20)
    return SimpleNamespace(config=SimpleNamespace(storage=storage), failure=None)


def test_damage_met_while_starting_makes_the_next_start_rebuild_the_state(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    with pytest.raises(CorruptRecord), daemon._store(node(), folder):
        raise CorruptRecord("meta", b"counters", "does not verify")
    assert not folder.live_is_trustworthy(BOOT)
    assert folder.prepare_live(BOOT), "the damaged state is discarded"
    folder.close()


def test_another_failure_while_starting_leaves_the_state_as_it_is(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    with pytest.raises(RuntimeError), daemon._store(node(), folder):
        raise RuntimeError("the port is taken")
    assert folder.live_is_trustworthy(BOOT)
    folder.close()


def test_damage_met_while_running_makes_the_next_start_rebuild_the_state(tmp_path: Path) -> None:
    folder, running = opened(tmp_path), node()
    with daemon._store(running, folder):
        running.failure = CorruptRecord("leaves", b"k", "does not verify")
    assert not folder.live_is_trustworthy(BOOT)
    folder.close()
