"""How values cross between JSON, as agents speak it, and bytes, as hivemem stores them.

A string is stored as text/plain; charset=utf-8, every other JSON value as application/json,
so `0`, `false`, `""` and `null` come back with the type they had. Bytes that others stored
are shown as JSON only if Python's reading of them loses nothing, else as text, else as base64.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"

# What one answer may carry: about 64 thousand tokens of text. `get` pages through larger values.
VALUE_BYTES_MAX = 256 * 1024
# Parsers on both sides of MCP recurse; deeper documents are shown as text and refused on put.
JSON_DEPTH_MAX = 64


class ValueRefused(ValueError):
    """An argument cannot be stored as JSON; the message names it and says why."""


class _Inexact(ValueError):
    """Parsing this JSON would lose something; it must be shown as text."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A stored value, as an answer carries it. `size` and `next_offset` count stored bytes."""

    value: object
    encoding: str  # json | utf-8 | base64
    size: int
    next_offset: int | None  # where to go on reading; None: this is the end


def to_bytes(value: object, name: str = "value") -> tuple[bytes, str]:
    """Return (bytes, content type) to store for a JSON value. Raises: ValueRefused for `name`."""
    if _too_deep(value, JSON_DEPTH_MAX):
        raise ValueRefused(f"{name}: nested deeper than {JSON_DEPTH_MAX} levels")
    try:
        if isinstance(value, str):
            return value.encode(), TEXT
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode(), JSON
    except UnicodeEncodeError:
        raise ValueRefused(f"{name}: holds half of a surrogate pair, which is no text") from None
    except ValueError:
        raise ValueRefused(f"{name}: NaN, infinity and endless numbers are not JSON") from None


def show(data: bytes, content_type: str, bytes_max: int, offset: int = 0) -> Shown:
    """Return `data` from `offset` as JSON, text or base64, at most `bytes_max` stored bytes of it.

    Only a value shown whole is parsed as JSON: a part of it comes as text. Text is cut
    between characters. Requires bytes_max >= 4, the longest character.
    """
    size = len(data)
    if offset == 0 and size <= bytes_max and _is_json(content_type):
        try:
            return Shown(_parse_exactly(data), "json", size, None)
        except (ValueError, ArithmeticError, RecursionError):
            pass  # Not JSON after all, or more exact than a float: the text is the answer.
    end = min(size, offset + bytes_max)
    text_end, text = _decode_prefix(data[offset:end], whole=end == size)
    if text is not None:
        end = offset + text_end
    next_offset = end if end < size else None
    if text is not None:
        return Shown(text, "utf-8", size, next_offset)
    return Shown(base64.b64encode(data[offset:end]).decode("ascii"), "base64", size, next_offset)


def fitting(sizes: Sequence[int], bytes_max: int) -> int:
    """How many leading items fit into `bytes_max`; at least one, so that paging advances."""
    total = 0
    for count, size in enumerate(sizes):
        total += size
        if total > bytes_max:
            return max(1, count)
    return len(sizes)


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == JSON or kind.endswith("+json")


def _parse_exactly(data: bytes) -> object:
    """Parse JSON, raising ValueError where the parsed value would say less than the bytes do."""
    value: object = json.loads(
        data.decode(),
        parse_float=_exact_float,
        parse_constant=_refuse_constant,
        object_pairs_hook=_unique_object,
    )
    if _too_deep(value, JSON_DEPTH_MAX):
        raise _Inexact("nested too deep")
    json.dumps(value, ensure_ascii=False).encode()  # A lone surrogate cannot be sent as UTF-8.
    return value


def _exact_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number) or Decimal(digits) != Decimal(repr(number)):
        raise _Inexact(digits)
    return number


def _refuse_constant(name: str) -> object:
    raise _Inexact(name)


def _unique_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise _Inexact("a name occurs twice")
    return result


def _too_deep(value: object, depth_left: int) -> bool:
    """Whether lists and objects nest deeper than `depth_left`; recurses at most that far."""
    if not isinstance(value, dict | list):
        return False
    if depth_left == 0:
        return True
    inner = value.values() if isinstance(value, dict) else value
    return any(_too_deep(item, depth_left - 1) for item in inner)


def _decode_prefix(chunk: bytes, *, whole: bool) -> tuple[int, str | None]:
    """Return (bytes used, text) of the longest prefix that ends between characters.

    The text is None if the chunk is not UTF-8; a cut in the last character is allowed
    unless the chunk is the `whole` rest of the value.
    """
    try:
        return len(chunk), chunk.decode()
    except UnicodeDecodeError as error:
        cut_short = error.reason == "unexpected end of data" and not whole and error.start > 0
        if cut_short:
            return error.start, chunk[: error.start].decode()
        return len(chunk), None
