"""What `scripts/compile` made of the source is good for this source only."""

from __future__ import annotations

from pathlib import Path
from typing import Final

PACKAGES: Final = ("cluster", "engines", "node")


def outdated(root: Path) -> Path | None:
    """A module under `root` that is newer than the machine code there; None: there is none such,
    or no machine code. Any module counts, since constants of others are built in."""
    folders = [root / package for package in PACKAGES]
    made = [path.stat().st_mtime_ns for folder in folders for path in folder.glob("*.so")]
    if not made:
        return None
    sources = (path for folder in folders for path in folder.rglob("*.py"))
    return next((path for path in sources if path.stat().st_mtime_ns > min(made)), None)
