"""Decoding of JSON bodies: strict, and an error names the field as a path (`then[2].value`).

JSON itself is stricter here than in Python's parser: UTF-8 only, one object, no repeated
names, no NaN or Infinity, a bounded number of values. Then every field has exactly one
type; a field that is not known is refused, and so is null where a value is expected,
because a client that sends null for `if_version` meant to check something.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from typing import NoReturn

from engines.interfaces import INTEGER_MAX
from node.http_errors import bad_request
from node.http_limits import JSON_VALUES_MAX, TIMEOUT_MS_DEFAULT, TIMEOUT_MS_MAX
from node.http_params import shown, ttl_ms
from node.json_codec import Refused, loads

TEXT_TYPE = "text/plain; charset=utf-8"
BYTES_TYPE = "application/octet-stream"

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)


def parse_object(body: bytes, values_max: int = JSON_VALUES_MAX) -> dict[str, object]:
    """The one object in a JSON body. Raises: BadRequest MALFORMED_JSON."""
    # A value costs far more memory than the bytes it is written with, so their number is
    # bounded before any is made. Every value but the first of its container follows a
    # comma; commas inside strings are only told apart when there are many.
    if body.count(b",") > values_max and _STRING.sub(b"", body).count(b",") > values_max:
        _malformed(f"holds more than {values_max} values")
    try:
        parsed = loads(body)
    except UnicodeDecodeError:
        _malformed("is not valid UTF-8")
    except RecursionError:
        _malformed("is nested too deep")
    except json.JSONDecodeError as error:
        _malformed(f"is not JSON: {error.msg} at character {error.pos}")
    except Refused as error:
        _malformed(str(error))
    except ValueError:
        _malformed("holds a number too long")
    if not isinstance(parsed, dict):
        _malformed("must be a JSON object")
    return parsed


def _malformed(message: str) -> NoReturn:
    raise bad_request("body", message, "MALFORMED_JSON")


class Fields:
    """One JSON object being read, each field once and by type; remembers where it lies.

    Every getter raises BadRequest INVALID_ARGUMENT, naming the field by its path.
    """

    __slots__ = ("_fields", "_path")

    def __init__(self, value: object, path: str, known: frozenset[str]) -> None:
        if not isinstance(value, dict):
            raise bad_request(path, "must be an object")
        self._fields: dict[str, object] = value
        self._path = path
        for name in value:
            if name not in known:
                field = self.path(shown(name))
                allowed = ", ".join(sorted(known))
                raise bad_request(field, f"is not known here; known: {allowed}")

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def path(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name

    def refuse(self, name: str, message: str) -> NoReturn:
        raise bad_request(self.path(name), message)

    def _required(self, name: str) -> object:
        if name not in self._fields:
            self.refuse(name, "is missing")
        return self._fields[name]

    def text(self, name: str) -> str:
        value = self._required(name)
        if not isinstance(value, str):
            self.refuse(name, "must be a string")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            self.refuse(name, "holds half of a surrogate pair, which is not Unicode text")
        return value

    def optional_text(self, name: str) -> str | None:
        return self.text(name) if name in self._fields else None

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        value = self.text(name)
        if value not in choices:
            self.refuse(name, f"must be one of {', '.join(choices)}")
        return value

    def members(self, name: str) -> dict[str, object]:
        """An object whose members are somebody else's; an empty one if it is not there."""
        value = self._fields.get(name, {})
        if not isinstance(value, dict):
            self.refuse(name, "must be an object")
        return value

    def boolean(self, name: str) -> bool:
        value = self._required(name)
        if not isinstance(value, bool):
            self.refuse(name, "must be true or false")
        return value

    def integer(self, name: str, low: int, high: int = INTEGER_MAX) -> int:
        value = self._required(name)
        # bool is an int to Python, but not to a caller.
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.refuse(name, f"must be a whole number from {low} to {high}")
        return value

    def optional_integer(self, name: str, low: int, high: int = INTEGER_MAX) -> int | None:
        return self.integer(name, low, high) if name in self._fields else None

    def array(self, name: str, count_max: int) -> list[object]:
        """An array of at most `count_max` elements; empty if absent."""
        value = self._fields.get(name, [])
        if not isinstance(value, list):
            self.refuse(name, "must be an array")
        if len(value) > count_max:
            self.refuse(name, f"may hold at most {count_max} elements, not {len(value)}")
        return value

    def key(self) -> bytes:
        """Sizes of keys and values are for `engines.command.validate` to check."""
        return self.text("key").encode("utf-8")

    def data(self) -> bytes:
        """The bytes that `value` and `encoding` stand for."""
        text = self.text("value")
        if self._encoding() == "utf-8":
            return text.encode("utf-8")
        try:
            return base64.b64decode(text.encode("ascii"), validate=True)
        except (UnicodeEncodeError, binascii.Error):
            self.refuse("value", "is not base64 (RFC 4648, with padding)")

    def _encoding(self) -> str:
        if "encoding" not in self._fields:
            return "utf-8"
        return self.choice("encoding", ("utf-8", "base64"))

    def content_type(self) -> str:
        """As given; else text for text, and bytes for base64."""
        given = self.optional_text("content_type")
        if given is None:
            return TEXT_TYPE if self._encoding() == "utf-8" else BYTES_TYPE
        return given

    def ttl_ms(self) -> int | None:
        if "ttl_seconds" not in self._fields:
            return None
        value = self._fields["ttl_seconds"]
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse("ttl_seconds", "must be a number of seconds")
        # A huge integer does not even fit a float.
        seconds = float(value) if isinstance(value, float) or abs(value) < 2**53 else math.inf
        return ttl_ms(seconds, self.path("ttl_seconds"))

    def timeout_ms(self) -> int:
        found = self.optional_integer("timeout_ms", 1, TIMEOUT_MS_MAX)
        return TIMEOUT_MS_DEFAULT if found is None else found
