"""Checks of what callers give: settings and parameters, each by type and once.

Every method raises InvalidArgument, naming the field by its path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engines.errors import InvalidArgument
from engines.interfaces import INTEGER_MAX
from engines.parameters import array, boolean, choice, closed, integer, members, text


class Given:
    """One object that a caller gave. A member that is not known is refused."""

    def __init__(self, fields: Mapping[str, Any], path: str, known: Sequence[str]) -> None:
        self._fields = fields
        self._path = path
        closed(fields, known, f"{path}.")

    def text(self, name: str) -> str:
        value = self._fields.get(name)
        if not isinstance(value, str) or not value:
            raise InvalidArgument(self._at(name), "must be text that is not empty")
        return value

    def optional_text(self, name: str) -> str | None:
        return None if self._fields.get(name) is None else self.text(name)

    def choice(self, name: str, choices: Sequence[str], default: str) -> str:
        return choice(self._fields.get(name, default), self._at(name), choices)

    def flag(self, name: str) -> bool:
        return boolean(self._fields.get(name, False), self._at(name))

    def integer(self, name: str, low: int, high: int, default: int) -> int:
        return integer(self._fields.get(name, default), self._at(name), low, high)

    def optional_integer(self, name: str) -> int | None:
        if self._fields.get(name) is None:
            return None
        return self.integer(name, 0, INTEGER_MAX, 0)

    def members(self, name: str) -> Mapping[str, Any]:
        """An object; an empty one if it is not there."""
        return members(self._fields.get(name, {}), self._at(name))

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
        if optional and not self._fields.get(name):
            return []
        given = array(self._fields.get(name), self._at(name), count_max)
        return [
            text(each, f"{self._at(name)}[{place}]", bytes_max, 1)
            for place, each in enumerate(given)
        ]

    def objects(self, name: str, count_max: int) -> list[Mapping[str, Any]]:
        given = array(self._fields.get(name), self._at(name), count_max)
        return [members(each, f"{self._at(name)}[{place}]") for place, each in enumerate(given)]

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
    for name, value_of in fields.items():
        if not isinstance(value_of, str):
            raise InvalidArgument(f"{path}.fields.{name}", "must be text")
    identity = given.optional_text("id")
    if identity is not None:
        text(identity, f"{path}.id", id_bytes_max, 1)
    return {
        "id": identity,
        "fields": fields,
        "metadata": given.members("metadata"),
        "session": given.optional_text("session"),
        "time_ms": given.optional_integer("time_ms"),
    }
