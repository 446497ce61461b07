"""Checks of what callers give: settings and parameters, each by type and once.

Every method raises InvalidArgument, naming the field by its path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engines.errors import InvalidArgument
from engines.interfaces import INTEGER_MAX


class Given:
    """One object that a caller gave. A member that is not known is refused."""

    def __init__(self, fields: Mapping[str, Any], path: str, known: Sequence[str]) -> None:
        self._fields = fields
        self._path = path
        for name in fields:
            if name not in known:
                allowed = ", ".join(known) or "none"
                raise InvalidArgument(self._at(name), f"is not known here; known: {allowed}")

    def text(self, name: str) -> str:
        value = self._fields.get(name)
        if not isinstance(value, str) or not value:
            raise InvalidArgument(self._at(name), "must be text that is not empty")
        return value

    def optional_text(self, name: str) -> str | None:
        return None if self._fields.get(name) is None else self.text(name)

    def choice(self, name: str, choices: Sequence[str], default: str) -> str:
        value = self._fields.get(name, default)
        if value not in choices:
            raise InvalidArgument(self._at(name), f"must be one of {', '.join(choices)}")
        return str(value)

    def flag(self, name: str) -> bool:
        value = self._fields.get(name, False)
        if type(value) is not bool:
            raise InvalidArgument(self._at(name), "must be true or false")
        return value

    def integer(self, name: str, low: int, high: int, default: int) -> int:
        value = self._fields.get(name, default)
        if type(value) is not int or not low <= value <= high:
            raise InvalidArgument(self._at(name), f"must be a whole number from {low} to {high}")
        return value

    def optional_integer(self, name: str) -> int | None:
        if self._fields.get(name) is None:
            return None
        return self.integer(name, 0, INTEGER_MAX, 0)

    def members(self, name: str) -> dict[str, Any]:
        value = self._fields.get(name, {})
        if not isinstance(value, dict):
            raise InvalidArgument(self._at(name), "must be an object")
        return value

    def numbers(self, name: str, low: float, high: float) -> dict[str, float] | None:
        """An object of numbers; None if it is not there."""
        if name not in self._fields:
            return None
        found: dict[str, float] = {}
        for member, value in self.members(name).items():
            if type(value) not in (int, float) or not low <= value <= high:
                raise InvalidArgument(
                    f"{self._at(name)}.{member}", f"must be a number from {low:g} to {high:g}"
                )
            found[member] = float(value)
        return found

    def texts(
        self, name: str, count_max: int, bytes_max: int, *, optional: bool = False
    ) -> list[str]:
        """An array of texts, each of 1 to `bytes_max` bytes."""
        value = self._fields.get(name, [] if optional else None)
        if not isinstance(value, list) or not (optional or value) or len(value) > count_max:
            raise InvalidArgument(self._at(name), f"must be an array of 1 to {count_max} texts")
        for place, each in enumerate(value):
            if not isinstance(each, str) or not 0 < len(each.encode()) <= bytes_max:
                raise InvalidArgument(
                    f"{self._at(name)}[{place}]", f"must be text of 1 to {bytes_max} bytes"
                )
        return value

    def objects(self, name: str, count_max: int) -> list[Mapping[str, Any]]:
        value = self._fields.get(name)
        if not isinstance(value, list) or not 0 < len(value) <= count_max:
            raise InvalidArgument(self._at(name), f"must be an array of 1 to {count_max} objects")
        for place, each in enumerate(value):
            if not isinstance(each, dict):
                raise InvalidArgument(f"{self._at(name)}[{place}]", "must be an object")
        return value

    def _at(self, name: str) -> str:
        return f"{self._path}.{name}"


def document_of(value: Mapping[str, Any], path: str, id_bytes_max: int) -> dict[str, Any]:
    """A document of the text engine as it travels in the log."""
    given = Given(value, path, ("id", "text", "fields", "metadata", "session", "time_ms"))
    fields = given.members("fields")
    if "text" in value:
        if fields:
            raise InvalidArgument(f"{path}.text", "cannot be given beside fields")
        fields = {"text": given.text("text")}
    if not fields:
        raise InvalidArgument(f"{path}.fields", "must hold a text")
    for name, text in fields.items():
        if not isinstance(text, str):
            raise InvalidArgument(f"{path}.fields.{name}", "must be text")
    identity = given.optional_text("id")
    if identity is not None and len(identity.encode()) > id_bytes_max:
        raise InvalidArgument(f"{path}.id", f"must be 1 to {id_bytes_max} bytes")
    return {
        "id": identity,
        "fields": fields,
        "metadata": given.members("metadata"),
        "session": given.optional_text("session"),
        "time_ms": given.optional_integer("time_ms"),
    }
