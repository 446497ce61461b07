"""Errors of the engines package, each defined once.

EngineError
├── InvalidArgument      names the field; nothing stored
├── Compacted            the revision asked for is no longer kept
├── UnknownCommand       fail-stop: this build is too old for the log
└── CorruptRecord        fail-stop: a record's checksum does not verify
"""

from __future__ import annotations


class EngineError(Exception):
    """Base."""


class InvalidArgument(EngineError):
    """Bad input, refused whole."""

    def __init__(self, field: str, message: str, code: str = "INVALID_ARGUMENT") -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.code = code  # INVALID_ARGUMENT | KEY_TOO_LARGE | VALUE_TOO_LARGE


class Compacted(EngineError):
    """The revision asked for lies before what is retained."""

    def __init__(self, compacted_revision: int) -> None:
        super().__init__(f"revisions before {compacted_revision} are no longer kept")
        self.compacted_revision = compacted_revision


class UnknownCommand(EngineError):
    """A command of a version or kind that this build does not know: stop, never skip."""


class CorruptRecord(EngineError):
    """A stored record's checksum does not verify."""
