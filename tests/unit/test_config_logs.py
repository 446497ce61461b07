"""A daemon's log file is bounded, and holds what the interpreter itself prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from node.logs import rotate, tail

ROOT = Path(__file__).parents[2]
CODE = """
import logging, sys
from pathlib import Path
from node.config_schema import NodeSection
from node.logs import configure_logging
path, bytes_max, lines = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
configure_logging(NodeSection("id", "name", path.parent, path, bytes_max))
for i in range(lines):
    logging.getLogger("test").info("line %d", i)
logging.getLogger("test").debug("hidden")
raise RuntimeError("the interpreter's own words")
"""


def run_logging(path: Path, bytes_max: int, lines: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(path), str(bytes_max), str(lines)],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == b""


def test_records_and_tracebacks_share_the_file(tmp_path: Path) -> None:
    path = tmp_path / "daemon.log"
    path.write_text("before\n")
    run_logging(path, 1 << 20, 2)
    text = path.read_text()
    assert text.startswith("before\n")
    assert "INFO test: line 1" in text
    assert "hidden" not in text
    assert text.endswith("RuntimeError: the interpreter's own words\n")


def test_the_file_and_its_predecessor_stay_within_their_bound(tmp_path: Path) -> None:
    path = tmp_path / "daemon.log"
    run_logging(path, 2_000, 500)
    assert path.with_name("daemon.log.1").stat().st_size <= 2_000
    assert path.stat().st_size <= 2_000 + 500  # the traceback comes from outside
    assert "line 499" in path.read_text()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["daemon.log", "daemon.log.1"]


def test_the_tail_is_bounded_and_absent_files_have_none(tmp_path: Path) -> None:
    path = tmp_path / "daemon.log"
    assert tail(path, 5) == []
    rotate(path)
    path.write_bytes(b"".join(b"%d\n" % i for i in range(100_000)) + b"\xff")
    assert tail(path, 2) == ["99999", "�"]
