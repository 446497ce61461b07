"""Results of queries, made to fit into an answer. Pure: no I/O.

What a write answers is cut, visibly: it is done, and must not look like a failure. What a read
answers is asked for again in a shorter page, or refused with advice: cut, its cursor would skip.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mcp_values import VALUE_BYTES_MAX


class AnswerTooLarge(Exception):
    """What was read does not fit into an answer; the message says what to do."""


def size(result: object) -> int:
    """Bytes of the result as JSON."""
    return len(json.dumps(result, ensure_ascii=False, separators=(",", ":")).encode())


def shorter_limit(result: object, parameters: Mapping[str, Any], bytes_max: int) -> int | None:
    """The `limit` with which the page may fit; None if there is none to try.

    Only a result that says where to go on can be had in pages.
    """
    longest = _longest_list(result)
    if longest is None or not isinstance(result, dict) or "next_cursor" not in result:
        return None
    given = parameters.get("limit")
    limit = given if isinstance(given, int) else len(result[longest])
    if limit <= 1:
        return None
    # A little less than would fit on average, as items differ. What a limit counts may be points
    # within items, or more than there were: half of it is less in any case.
    return max(1, min(limit // 2, limit * bytes_max * 9 // (size(result) * 10)))


def too_large(result: object) -> AnswerTooLarge:
    longest = _longest_list(result)
    hint = ""
    if isinstance(result, dict) and longest is not None:
        items = result[longest]
        room = VALUE_BYTES_MAX - (size(result) - size(items))
        fits = _leading(items, room)
        hint = f" ({fits} of {len(items)} {longest} fit)"
    return AnswerTooLarge(
        f"the result has {size(result)} bytes, and an answer holds {VALUE_BYTES_MAX}. Ask for "
        f"less{hint}: a smaller limit, fewer ids, or only some fields (projection, include, SELECT)"
    )


def cut(result: object, bytes_max: int) -> tuple[object, dict[str, int]]:
    """Return the result within `bytes_max`, its longest lists shortened, and for each of them
    how many items are left out. A result without lists that is too long becomes null."""
    if size(result) <= bytes_max:
        return result, {}
    if not isinstance(result, dict):
        return None, {}
    shown = dict(result)
    omitted: dict[str, int] = {}
    while (total := size(shown)) > bytes_max:
        longest = _longest_list(shown)
        if longest is None:
            return None, omitted
        items = shown[longest]
        kept = items[: _leading(items, bytes_max - (total - size(items)))]
        omitted[longest] = omitted.get(longest, 0) + len(items) - len(kept)
        shown[longest] = kept
    return shown, omitted


def _leading(items: list[Any], bytes_max: int) -> int:
    """How many leading items make a list of at most `bytes_max`; fewer than all."""
    total = 2  # the brackets
    for count, item in enumerate(items):
        total += size(item) + 1
        if total > bytes_max:
            return count
    return len(items) - 1


def _longest_list(result: object) -> str | None:
    """The name of the member that is a list, not an empty one, and takes most."""
    if not isinstance(result, dict):
        return None
    lists = [name for name, item in result.items() if isinstance(item, list) and item]
    return max(lists, key=lambda name: size(result[name]), default=None)
