"""What SQL may do: no other files, no settings of SQLite, no transactions of its own.

A command is one transaction already, and what it does must be a function of the database and
its stamp. Everything is decided by SQLite's authorizer, which is asked while a statement is
prepared: not by looking at the text.
"""

from __future__ import annotations

from typing import Final

import apsw

# Pragmas that only tell.
_PRAGMAS: Final = frozenset(
    {
        "table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo",
        "foreign_key_list", "foreign_key_check", "integrity_check", "quick_check", "page_count",
        "freelist_count", "function_list", "collation_list", "compile_options",
        "data_version", "page_size",  # which fts5 and rtree ask for
    }
)  # fmt: skip
_VALUELESS: Final = frozenset(
    {"page_count", "freelist_count", "compile_options", "data_version", "page_size"}
)
_MODULES: Final = frozenset({"fts5", "rtree"})  # of virtual tables
_FUNCTIONS: Final = frozenset(
    {"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit", "sqlite_source_id"}
)
# Whose time is in proportion to their arguments, and short: not LIKE, nor what makes large values.
_BRIEF: Final = frozenset(
    {
        "abs", "avg", "coalesce", "count", "ifnull", "iif", "length", "max", "min", "nullif",
        "round", "sum", "total", "typeof",
    }
)  # fmt: skip
_RANDOM: Final = frozenset({"random", "randomblob"})
_DENIED: Final = {
    apsw.SQLITE_ATTACH: "ATTACH is not allowed: a collection is one database",
    apsw.SQLITE_DETACH: "DETACH is not allowed: a collection is one database",
    apsw.SQLITE_TRANSACTION: "a command is one transaction: give its statements together",
    apsw.SQLITE_SAVEPOINT: "a command is one transaction: give its statements together",
    apsw.SQLITE_CREATE_TEMP_TABLE: "temporary tables do not outlive a command",
    apsw.SQLITE_CREATE_TEMP_VIEW: "temporary views do not outlive a command",
    apsw.SQLITE_CREATE_TEMP_TRIGGER: "temporary triggers do not outlive a command",
    apsw.SQLITE_CREATE_TEMP_INDEX: "temporary indexes do not outlive a command",
}


class Rules:
    """An authorizer. `reason` says why the last statement was refused; `random`: does one use
    randomness? `costly`: a function that may take long? With `brief` it is refused for that."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.brief = False
        self.random = False
        self.costly = False

    def __call__(
        self,
        action: int,
        first: str | None,
        second: str | None,
        schema: str | None,
        trigger: str | None,
    ) -> int:
        reason = self._refusal(action, first, second)
        if reason is None:
            return int(apsw.SQLITE_OK)
        self.reason = reason
        return int(apsw.SQLITE_DENY)

    def _refusal(self, action: int, first: str | None, second: str | None) -> str | None:
        if action == apsw.SQLITE_FUNCTION:
            name = (second or "").lower()
            self.random = self.random or name in _RANDOM
            if name not in _BRIEF:
                self.costly = True
                if self.brief:
                    return f"the function {second} may take long"
        if action in _DENIED:
            return _DENIED[action]
        if action == apsw.SQLITE_PRAGMA:
            return _pragma_refusal((first or "").lower(), second)
        if action == apsw.SQLITE_CREATE_VTABLE and (second or "").lower() not in _MODULES:
            return (
                f"virtual tables of {second} are not allowed; known: {', '.join(sorted(_MODULES))}"
            )
        if action == apsw.SQLITE_FUNCTION and (second or "").lower() in _FUNCTIONS:
            return f"the function {second} is not allowed"
        return None


def _pragma_refusal(name: str, value: str | None) -> str | None:
    if name not in _PRAGMAS:
        return f"PRAGMA {name} is not allowed"
    if value is not None and name in _VALUELESS:
        return f"PRAGMA {name} takes no value"
    return None
