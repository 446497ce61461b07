"""Which PySyncObj this build was audited against, and the check that it runs with it.

The safe adapter overrides private methods of upstream, so any other version may be
unsafe in ways that no test here has seen. The hashes are of the released 0.3.17.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from pathlib import Path

VERSION = "0.3.17"
SHA256 = {
    "syncobj.py": "e8bdf06797085d734df86e24ab4802fe87893dff77268565ec036f7ad4a1cfe4",
    "transport.py": "0c9d89f9c4781ec9772df8011d7975a1a4a1a5f541357e12eae85a813e92b50b",
    "journal.py": "9cf1eaf6acc704581a4cf7d3de330a404403913107adc91c929778b7e3f35edf",
    "serializer.py": "4d39fde2f15000ad8f507ec229ebd4f6a86371b6f84d4dc1439a9cccd52857ee",
    "node.py": "e4a3f027cd8291f558334bb9c977e952f6b6989e7e1fa1588d3005ef0b990e2c",
    "config.py": "fbbc7ff9f18e4d15a7fd563376e42f5bd192956879d4b810b056d5248b955698",
    "fast_queue.py": "8477fe5fdf36d9766df933310d3d66ee953d1afc195b1e6482b3a1498fc517bd",
}


class UnauditedConsensus(Exception):
    """The installed PySyncObj is not the audited one; the node refuses to start."""


def verify(folder: Path | None = None) -> None:
    """Check version and file hashes of the installed PySyncObj. Raises UnauditedConsensus."""
    if folder is None:
        version = importlib.metadata.version("pysyncobj")
        if version != VERSION:
            raise UnauditedConsensus(f"pysyncobj {version} is installed; {VERSION} is required")
        spec = importlib.util.find_spec("pysyncobj")
        if spec is None or spec.origin is None:
            raise UnauditedConsensus("pysyncobj has no files to verify")
        folder = Path(spec.origin).parent
    for name, expected in SHA256.items():
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if found != expected:
            raise UnauditedConsensus(
                f"{name} of pysyncobj differs from the audited {VERSION}: sha256 {found}"
            )
