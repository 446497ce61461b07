"""What callers search for, as an FTS5 expression. Pure.

A query is words, "phrases in quotes", prefix* and -words that must not be there. Everything
goes into the expression as a quoted string, so that no operator of FTS5 can be spelled.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from engines.errors import InvalidArgument

QUERY_CHARACTERS_MAX = 4_096
TERMS_MAX = 64
MODES = ("any", "all", "phrase")
_COMMON = """
a an and are as at be been but by can could did do does for from had has have he her his how i if
in is it its me my of on or our she so that the their them they this to was we were what when where
which who whom whose why will with would you your
"""
# Left out of a search for any of several words: they are in nearly every English text, so that
# they decide nothing and cost most.
STOP_WORDS = frozenset(_COMMON.split())

_PART = re.compile(r'(-?)"([^"]*)"|(-?)([\w\'’]+)(\*?)')
_WORD = re.compile(r"\w+")


class Term(NamedTuple):
    """`words` next to each other; `prefix`: the last one may go on."""

    words: tuple[str, ...]
    prefix: bool


def match_expression(query: str, mode: str, field: str = "parameters.query") -> str:
    """`mode` any: a text with one of the terms; all: with each; phrase: the words in a row.

    Raises InvalidArgument, naming `field`.
    """
    if len(query) > QUERY_CHARACTERS_MAX:
        raise InvalidArgument(field, f"is over {QUERY_CHARACTERS_MAX} characters")
    if mode == "phrase":
        words = tuple(_WORD.findall(query))
        wanted, unwanted = ([Term(words, False)] if words else []), list[Term]()
    else:
        wanted, unwanted = _terms(query)
    if not wanted:
        raise InvalidArgument(field, "holds no word to search for")
    if len(wanted) + len(unwanted) > TERMS_MAX:
        raise InvalidArgument(field, f"holds more than {TERMS_MAX} terms")
    if mode == "any":
        telling = [term for term in wanted if not _is_stop_word(term)]
        expression = " OR ".join(map(_quoted, telling or wanted))
    else:
        expression = " AND ".join(map(_quoted, wanted))
    if unwanted:
        expression = f"({expression}) NOT ({' OR '.join(map(_quoted, unwanted))})"
    return expression


def _terms(query: str) -> tuple[list[Term], list[Term]]:
    """Each once, in the order given: those wanted, and those not."""
    wanted: dict[Term, None] = {}
    unwanted: dict[Term, None] = {}
    for match in _PART.finditer(query):
        minus = match[1] or match[3]
        words = tuple(_WORD.findall(match[2] if match[2] is not None else match[4]))
        if not words:
            continue
        # A minus within a word is a hyphen.
        excluded = bool(minus) and (match.start() == 0 or query[match.start() - 1].isspace())
        (unwanted if excluded else wanted)[Term(words, bool(match[5]))] = None
    return list(wanted), list(unwanted)


def _is_stop_word(term: Term) -> bool:
    return len(term.words) == 1 and not term.prefix and term.words[0].lower() in STOP_WORDS


def _quoted(term: Term) -> str:
    return f'"{_joined(term.words)}"' + ("*" if term.prefix else "")


def _joined(words: Iterable[str]) -> str:
    return " ".join(words)
