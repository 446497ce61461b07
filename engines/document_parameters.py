"""Parameters of document operations: a closed set for each, checked by name and type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn, TypeVar

from engines.codec import Value
from engines.cursors import decode_cursor
from engines.errors import InvalidArgument
from engines.parameters import PREFIX as ROOT
from engines.parameters import array, boolean, closed, integer, text

T = TypeVar("T")

LIMIT_DEFAULT: Final = 100  # items of one answer
LIMIT_MAX: Final = 1_000
ID_BYTES_MAX: Final = 256
IDS_MAX: Final = 1_000  # of one request
DOCUMENT_BYTES_MAX: Final = 1 << 20  # packed
DOCUMENTS_MAX: Final = 10_000  # of one request
# Documents of one answer. Below PAGE_BYTES_MAX, which counts what stands around them, too.
ANSWER_BYTES_MAX: Final = 8 << 20
VERSION_MAX: Final = (1 << 63) - 1


class Fields:
    """The parameters of one operation. Every method raises InvalidArgument, naming the field."""

    def __init__(self, given: Mapping[str, Any], *known: str) -> None:
        closed(given, known, f"{ROOT}.")
        self._given = given

    def __contains__(self, name: str) -> bool:
        return self._given.get(name) is not None

    def one_of(self, *names: str) -> str:
        """The one that is given of several that exclude each other."""
        given = [name for name in names if name in self]
        if len(given) != 1:
            field = f"{ROOT}.{(given or names)[0]}"
            raise InvalidArgument(field, f"give exactly one of {', '.join(names)}")
        return given[0]

    def boolean(self, name: str) -> bool:
        """False where it is absent."""
        value = self._given.get(name)
        return False if value is None else boolean(value, f"{ROOT}.{name}")

    def integer(self, name: str, least: int, most: int, default: int) -> int:
        value = self._given.get(name)
        return default if value is None else integer(value, f"{ROOT}.{name}", least, most)

    def text(self, name: str) -> str:
        value = self._given.get(name)
        if type(value) is not str:
            self.refuse(name, "must be text")
        return value

    def members(self, name: str) -> dict[str, Any]:
        """An object; absent: an empty one."""
        value = self._given.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.refuse(name, "must be an object")
        return value

    def items(self, name: str, most: int) -> Sequence[Any]:
        return array(self._given.get(name), f"{ROOT}.{name}", most)

    def position(self, scope: Value, kind: type[T]) -> T | None:
        """Where `cursor` goes on; None: from the start."""
        return decode_cursor(self._given.get("cursor"), scope, kind)

    def refuse(self, name: str, message: str) -> NoReturn:
        raise InvalidArgument(f"{ROOT}.{name}", message)


def check_id(value: object, field: str) -> str:
    """Raises InvalidArgument."""
    return text(value, field, ID_BYTES_MAX, 1)
