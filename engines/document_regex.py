"""Regular expressions whose time is linear in the text: the only importer of re2.

Python's own `re` backtracks: a pattern of a caller could occupy a node for ever. RE2 compiles
to an automaton, has no back references and no look-around, and lets other threads run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

import re2  # type: ignore[import-untyped]

from engines.errors import InvalidArgument

PATTERN_BYTES_MAX: Final = 1_024
# Instructions. Time is at worst this times the text: some 20 ns for each (measured).
PROGRAM_MAX: Final = 256
_MEMORY_BYTES_MAX: Final = 1 << 20
_KNOWN: Final = frozenset("ims")


def compile_regex(pattern: object, options: object, field: str) -> Callable[[str], bool]:
    """A search for `pattern` anywhere in a text. `options`: of "i", "m", "s".

    Raises InvalidArgument.
    """
    if type(pattern) is not str or len(pattern.encode(errors="replace")) > PATTERN_BYTES_MAX:
        raise InvalidArgument(field, f"must be text of at most {PATTERN_BYTES_MAX} bytes")
    if type(options) is not str or not _KNOWN.issuperset(options):
        raise InvalidArgument(f"{field.rpartition('.')[0]}.$options", "may hold i, m and s")
    try:
        return _compiled(pattern, "".join(sorted(set(options))))
    except re2.error as error:
        reason = error.args[0] if error.args else error
        shown = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise InvalidArgument(field, f"is not a pattern that RE2 takes: {shown}") from None
    except OverflowError as error:
        raise InvalidArgument(field, str(error)) from None


@lru_cache(64)
def _compiled(pattern: str, options: str) -> Callable[[str], bool]:
    settings = re2.Options()
    settings.max_mem = _MEMORY_BYTES_MAX
    settings.log_errors = False
    settings.never_capture = True
    flags = f"(?{options})" if options else ""
    found = re2.compile(flags + pattern, settings)
    if found.programsize > PROGRAM_MAX:
        raise OverflowError(
            f"is {found.programsize} steps of RE2; at most {PROGRAM_MAX}: repeat less"
        )
    search = found.search
    return lambda text: search(text) is not None
