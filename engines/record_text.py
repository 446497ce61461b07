"""What of a key-value record is searched: the words of its key, and the text of its value.

A value has text if its content type says so (text/*, JSON), or if it reads as text: UTF-8
without control characters. Of JSON the strings and numbers are text, in their order; names of
members, true, false and null are not, since they are in nearly every record of a kind. Pure.
"""

from __future__ import annotations

import codecs
import json
import re
from typing import Any, Final

TEXT_BYTES_MAX: Final = 64 << 10  # UTF-8, of one value
JSON_BYTES_MAX: Final = 1 << 20  # a longer one is text as it is written: parsing takes long
_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")


def key_text(key: bytes) -> str:
    """The key's words are runs of letters and digits in this."""
    return _plain(key.decode("utf-8", "replace"))


def value_text(value: bytes, content_type: str) -> str:
    """Empty for what is no text: at most TEXT_BYTES_MAX bytes of UTF-8."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        found = _json_text(value)
        if found is not None:
            return found
    elif kind.startswith("text/"):
        return _plain(_beginning(value, "replace"))
    try:
        text = _beginning(value, "strict")
    except UnicodeDecodeError:
        return ""
    return "" if _CONTROL.search(text) else text


def _beginning(value: bytes, errors: str) -> str:
    """Its first TEXT_BYTES_MAX bytes; a character that they cut in two is left out."""
    whole = len(value) <= TEXT_BYTES_MAX
    return codecs.getincrementaldecoder("utf-8")(errors).decode(value[:TEXT_BYTES_MAX], whole)


def _plain(text: str) -> str:
    # What C takes for the end of a text is none.
    return text.replace("\x00", " ")


def _json_text(value: bytes) -> str | None:
    """None: it is no JSON, or too long."""
    if len(value) > JSON_BYTES_MAX:
        return None
    try:
        # Numbers as they are written, objects as their members' values, repeated ones too.
        parsed = json.loads(
            value.decode(),
            parse_int=str,
            parse_float=str,
            object_pairs_hook=lambda pairs: [member for _, member in pairs],
        )
    except (ValueError, RecursionError):
        return None
    leaves: list[str] = []
    size = 0
    waiting: list[Any] = [parsed]
    while waiting and size < TEXT_BYTES_MAX:
        each = waiting.pop()
        if isinstance(each, list):
            waiting.extend(reversed(each))
        elif isinstance(each, str):
            leaves.append(each)
            size += len(each) + 1
    # Half of a surrogate pair, which JSON can write and UTF-8 cannot, becomes a question mark.
    data = "\n".join(leaves).encode("utf-8", "replace")[:TEXT_BYTES_MAX]
    return _plain(data.decode("utf-8", "ignore"))
