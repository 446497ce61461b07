"""What a node sets of its process."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from unittest.mock import MagicMock

import pytest

from node import daemon
from node.environment import one_thread_a_computation, settle_memory


def test_what_there_is_at_the_start_is_not_looked_at_again() -> None:
    kept = [[] for _ in range(1_000)]  # the collector follows lists
    try:
        settle_memory()
        assert gc.get_freeze_count() > len(kept)
        assert not any(each is kept for each in gc.get_objects())
    finally:
        gc.unfreeze()


@pytest.mark.parametrize(("given", "kept"), [(None, "1"), ("4", "4")])
def test_linear_algebra_has_no_threads_of_its_own(
    given: str | None, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", given or "")  # so that it is put back
    if given is None:
        monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    one_thread_a_computation()
    assert os.environ["OPENBLAS_NUM_THREADS"] == kept


def test_numpy_is_imported_after_that() -> None:
    script = "import sys, node.__main__; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_node_does_so_before_it_reads_its_settings() -> None:
    """And before anything could have imported numpy."""
    script = """
import os, sys
os.environ.pop("OPENBLAS_NUM_THREADS", None)
import node.__main__ as entry
assert entry.main(["--config", "/nowhere/node.toml"]) == 1  # there are none
sys.exit(os.environ.get("OPENBLAS_NUM_THREADS") != "1")
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


async def test_a_node_settles_its_memory_once_it_has_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []

    async def start(node: daemon.Node, stack: object) -> None:
        done.append("started")
        node.request_stop()

    monkeypatch.setattr(daemon, "_start", start)
    monkeypatch.setattr(daemon, "settle_memory", lambda: done.append("settled"))
    await daemon.run(MagicMock())
    assert done == ["started", "settled"]
