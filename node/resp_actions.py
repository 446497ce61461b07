"""What a command on records comes to: looks and operations, and how their answers are told.

Pure. The commands themselves are in resp_commands.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from engines.edits import (
    NUMBER_MAX,
    NUMBER_MIN,
    Answer,
    Aspect,
    EditError,
    EditErrorCode,
    EditLook,
    EditOp,
)
from node.resp_limits import KEYS_MAX
from node.resp_names import InvalidName, Name, split
from node.resp_reply import Failure, Reply

_INTEGER: Final = re.compile(rb"0|-?[1-9][0-9]{0,18}").fullmatch
_ERRORS: Final = {
    EditErrorCode.NOT_AN_INTEGER: "value is not an integer or out of range",
    EditErrorCode.NOT_A_NUMBER: "value is not a valid float",
    EditErrorCode.OUT_OF_RANGE: "increment or decrement would overflow",
    EditErrorCode.VALUE_TOO_LARGE: "string exceeds maximum allowed size (value_bytes_max)",
}

Arguments = list[bytes]


class CommandError(Exception):
    """A command that is refused before anything was done."""

    def __init__(self, message: str, code: str = "ERR") -> None:
        super().__init__(message)
        self.reply = Failure(code, message)


class Look(NamedTuple):
    session: str
    key: bytes
    aspect: Aspect


class Read(NamedTuple):
    looks: tuple[Look, ...]
    reply: Callable[[Sequence[Answer]], Reply]


class Write(NamedTuple):
    """`plain`: it is nothing but a put, which costs the log less than an edit."""

    session: str
    ops: tuple[EditOp, ...]
    reply: Callable[[Sequence[Answer]], Reply]
    plain: bool = False


Action = Read | Write
Parse = Callable[[Arguments, int], Action]  # words, now in ms since 1970; raises CommandError


class Spec(NamedTuple):
    """As COMMAND shows it. `arity`: words, or with a minus sign the fewest of them."""

    parse: Parse
    arity: int
    flags: tuple[str, ...]
    last_key: int = 1
    step: int = 1


def failure(error: EditError) -> Failure:
    return Failure("ERR", _ERRORS[error.code])


def finish(action: Action, answers: Sequence[Answer]) -> Reply:
    """The reply to a command from the answers to its looks or operations."""
    for answer in answers:
        if isinstance(answer, EditError):
            return failure(answer)
    return action.reply(answers)


def as_ops(action: Action) -> tuple[str, tuple[EditOp, ...]]:
    """(session, operations) of an action in a transaction. Raises CommandError CROSSSLOT."""
    if isinstance(action, Write):
        return action.session, action.ops
    session = one_session([look.session for look in action.looks])
    return session, tuple(EditLook(look.key, look.aspect) for look in action.looks)


def one_session(sessions: Sequence[str]) -> str:
    """Raises CommandError CROSSSLOT."""
    if any(session != sessions[0] for session in sessions):
        raise CommandError("Keys in request don't hash to the same slot", "CROSSSLOT")
    return sessions[0]


# --- Words ---------------------------------------------------------------------------------


def named(word: bytes) -> Name:
    try:
        return split(word)
    except InvalidName as error:
        raise CommandError(str(error)) from None


def all_named(words: Sequence[bytes]) -> list[Name]:
    if len(words) > KEYS_MAX:
        raise CommandError(f"at most {KEYS_MAX} keys in one command")
    return [named(word) for word in words]


def integer(word: bytes) -> int:
    if not _INTEGER(word) or not NUMBER_MIN <= (number := int(word)) <= NUMBER_MAX:
        raise CommandError("value is not an integer or out of range")
    return number


def fits(arity: int, words: int) -> bool:
    return words == arity if arity > 0 else words >= -arity
