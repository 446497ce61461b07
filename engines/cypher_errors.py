"""What is wrong with a statement of Cypher, before it is known which parameter it came in."""

from __future__ import annotations

from typing import Final

from engines.cypher_tree import Place
from engines.interfaces import RejectCode

PATTERN_HINT: Final = "a pattern is no expression; as a condition it stands in EXISTS { }"


class CypherError(Exception):
    """`place`: where in the text, as far as it is known."""

    def __init__(self, message: str, place: Place = None) -> None:
        where = "" if place is None else f"line {place[0]}, column {place[1]}: "
        super().__init__(f"{where}{message}")


class CypherLimit(CypherError):
    """More than one statement may do; refused whole."""


class CypherConflict(CypherError):
    """The state does not allow it: what is to be made exists, or what is named does not."""

    def __init__(self, code: RejectCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class MissingParameter(CypherError):
    """A parameter that the statement names and the caller did not give."""

    def __init__(self, name: str) -> None:
        super().__init__("is missing")
        self.name = name
