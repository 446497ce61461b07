"""The manifest of a snapshot: JSON with its own checksum, so that people can read it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from cluster import membership
from cluster.interfaces import SnapshotMeta
from cluster.membership import Configuration

FORMAT = 1
MANIFEST_BYTES_MAX = 1 << 20


def encode(group: int, meta: SnapshotMeta) -> bytes:
    fields = {
        "format": FORMAT,
        "group": group,
        "index": meta.index,
        "term": meta.term,
        "size": meta.size,
        "sha256": meta.sha256.hex(),
        "configuration": {
            "index": meta.configuration.index,
            "members": json.loads(membership.encode(meta.configuration.members)),
        },
    }
    return json.dumps({**fields, "checksum": _checksum(fields)}, indent=1).encode() + b"\n"


def decode(data: bytes, group: int) -> SnapshotMeta:
    """The meta of `encode`. Raises ValueError, saying what is wrong."""
    fields = json.loads(data)
    if not isinstance(fields, dict):
        raise ValueError("not an object")
    checksum = fields.pop("checksum", None)
    if fields.get("format") != FORMAT:
        raise ValueError(f"format {fields.get('format')!r}; this build knows {FORMAT}")
    if checksum != _checksum(fields):
        raise ValueError("its checksum does not match")
    if fields.get("group") != group:
        raise ValueError(f"of group {fields.get('group')!r}, not {group}")
    configuration = fields.get("configuration")
    if not isinstance(configuration, dict):
        raise ValueError("configuration is not an object")
    sha256 = fields.get("sha256")
    if not isinstance(sha256, str) or len(sha256) != 64:
        raise ValueError("sha256 is not 64 hexadecimal digits")
    return SnapshotMeta(
        _number(fields, "index", 1),
        _number(fields, "term", 0),
        _number(fields, "size", 0),
        bytes.fromhex(sha256),
        Configuration(
            _number(configuration, "index", 0),
            membership.decode(json.dumps(configuration.get("members")).encode()),
        ),
    )


def _number(fields: dict[str, Any], name: str, least: int) -> int:
    value = fields.get(name)
    if type(value) is not int or value < least:
        raise ValueError(f"{name} is {value!r}, not a number of at least {least}")
    return value


def _checksum(fields: dict[str, Any]) -> str:
    # Of the values, not of the text: somebody may have formatted the file anew.
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
