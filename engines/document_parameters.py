"""Parameters of document operations: a closed set for each, checked by name and type."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final, NoReturn

from engines.codec import Malformed, Value, pack_value, unpack_value
from engines.errors import InvalidArgument

LIMIT_DEFAULT: Final = 100  # items of one answer
LIMIT_MAX: Final = 1_000
ID_BYTES_MAX: Final = 256
IDS_MAX: Final = 1_000  # of one request
DOCUMENT_BYTES_MAX: Final = 1 << 20  # packed
DOCUMENTS_MAX: Final = 10_000  # of one request
# Documents of one answer. Below PAGE_BYTES_MAX, which counts what stands around them, too.
ANSWER_BYTES_MAX: Final = 8 << 20
VERSION_MAX: Final = (1 << 63) - 1
_SCOPE_BYTES: Final = 8

ROOT: Final = "parameters"


class Fields:
    """The parameters of one operation. Every method raises InvalidArgument, naming the field."""

    def __init__(self, given: Mapping[str, Any], *known: str) -> None:
        for name in given:
            if name not in known:
                raise InvalidArgument(
                    f"{ROOT}.{name}", f"is not known here; known: {', '.join(known)}"
                )
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
        if value is None:
            return False
        if type(value) is not bool:
            self.refuse(name, "must be true or false")
        return value

    def integer(self, name: str, least: int, most: int, default: int) -> int:
        value = self._given.get(name)
        if value is None:
            return default
        if type(value) is not int or not least <= value <= most:
            self.refuse(name, f"must be a whole number from {least} to {most}")
        return value

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
        value = self._given.get(name)
        if not isinstance(value, list | tuple):
            self.refuse(name, "must be an array")
        if not 1 <= len(value) <= most:
            self.refuse(name, f"holds {len(value)}; must be 1 to {most}")
        return value

    def refuse(self, name: str, message: str) -> NoReturn:
        raise InvalidArgument(f"{ROOT}.{name}", message)


def check_id(value: object, field: str) -> str:
    """Raises InvalidArgument."""
    if type(value) is not str or not 1 <= len(value.encode(errors="replace")) <= ID_BYTES_MAX:
        raise InvalidArgument(field, f"must be text of 1 to {ID_BYTES_MAX} bytes")
    return value


# --- Cursors -----------------------------------------------------------------------------


def encode_cursor(scope: Value, position: Value) -> str:
    """A cursor that only the request with this `scope` accepts."""
    raw = pack_value([_digest(scope), position])
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode_cursor(fields: Fields, scope: Value) -> Any:
    """The position in parameters.cursor; None: from the start. Raises InvalidArgument."""
    if "cursor" not in fields:
        return None
    text = fields.text("cursor")
    try:
        raw = base64.b64decode(
            text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True
        )
        parts = unpack_value(raw)
    except (UnicodeEncodeError, binascii.Error, Malformed):
        parts = None
    if not isinstance(parts, list) or len(parts) != 2 or type(parts[0]) is not bytes:
        refuse_cursor("is not a cursor")
    if parts[0] != _digest(scope):
        refuse_cursor("belongs to another query")
    return parts[1]


def refuse_cursor(message: str) -> NoReturn:
    raise InvalidArgument(f"{ROOT}.cursor", message, "INVALID_CURSOR")


def _digest(scope: Value) -> bytes:
    return blake2b(pack_value(scope), digest_size=_SCOPE_BYTES).digest()
