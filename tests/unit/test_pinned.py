"""Only the audited PySyncObj runs."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from cluster import pinned


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    spec = importlib.util.find_spec("pysyncobj")
    return Path(shutil.copytree(Path(spec.origin).parent, tmp_path / "pysyncobj"))


def test_the_installed_files_are_the_audited_ones():
    pinned.verify()


@pytest.mark.parametrize("name", sorted(pinned.SHA256))
def test_a_changed_file_is_refused_by_name(copy, name):
    pinned.verify(copy)
    with (copy / name).open("ab") as file:
        file.write(b"\n")
    with pytest.raises(pinned.UnauditedConsensus, match=name):
        pinned.verify(copy)


def test_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(pinned, "VERSION", "0.3.16")
    with pytest.raises(pinned.UnauditedConsensus, match=r"0\.3\.16 is required"):
        pinned.verify()
