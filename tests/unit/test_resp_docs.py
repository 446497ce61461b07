"""docs/redis.md names every command, every limit with its value, and every error code."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from node.resp_commands import COMMANDS
from node.resp_controls import CONNECTION_COMMANDS
from node.resp_errors import _CODES
from node.resp_limits import RespLimits

TEXT = (Path(__file__).parents[2] / "docs" / "redis.md").read_text("utf-8")


def test_commands() -> None:
    written = set(re.findall(r"`([A-Z]+)(?: GET)?`", TEXT))
    for name in {**COMMANDS, **CONNECTION_COMMANDS}:
        assert name.upper() in written, name


def test_limits() -> None:
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| ([^|]+) \|", TEXT, re.MULTILINE))
    assert set(rows) == {field.name for field in fields(RespLimits)}
    for name, (value, unit) in RespLimits().figures().items():
        number, word = rows[name.removeprefix("redis.")].split()[:2]
        scale = {"MiB": 1 << 20, "KiB": 1 << 10}.get(word, 1)
        assert int(number) * scale == value, (name, value, unit)


def test_error_codes() -> None:
    for code in {*_CODES.values(), "OUTCOMEUNKNOWN"} - {"STALE"}:
        assert f"`{code}`" in TEXT
