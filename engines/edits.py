"""Edits: short programs over the records of one session, as the Redis protocol needs them.

A `Txn` is decided by its comparisons and then writes what it holds. An `Edit` computes:
it adds to numbers, appends, keeps deadlines, answers with what was there before. Its
operations run in order, each on what the ones before it left; one that cannot be done
answers `EditError` and the others still run, as in Redis. A record changes once per edit,
to what it is at the end.

A record whose deadline is at or before `now_ms` is absent to an edit, though no Expire
has removed it yet: the stamp is in the command, so every replica sees the same.

Answers are bytes, whole numbers, booleans, None and `EditError`; each operation says which.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from engines.codec import Malformed, Packable
from engines.errors import UnknownCommand

if TYPE_CHECKING:
    from engines.mutations import Compare

NUMBER_MIN, NUMBER_MAX = -(1 << 63), (1 << 63) - 1  # of EditAdd


class When(enum.IntEnum):
    """On which records an operation acts. Numbers are in the log: never reuse one."""

    ALWAYS = 0
    ABSENT = 1
    PRESENT = 2


class DeadlineWhen(enum.IntEnum):
    """On which deadlines an EditDeadline acts; no deadline counts as the latest of all."""

    ALWAYS = 0
    NONE = 1
    SOME = 2
    LATER = 3  # only if the new one is later
    EARLIER = 4


class Aspect(enum.IntEnum):
    """What an EditLook answers."""

    VALUE = 0  # bytes, None
    EXISTS = 1  # bool
    LENGTH = 2  # bytes of the value, 0 if absent
    DEADLINE = 3  # ms since 1970; 0: has none; None: absent


@dataclass(frozen=True, slots=True)
class EditSet:
    """Store a value. Answers whether it did; with `get` what was there before, or None.

    `keep_deadline`: the record keeps the one it has, and `expires_ms` is None.
    """

    key: bytes
    value: bytes
    content_type: str
    expires_ms: int | None = None
    keep_deadline: bool = False
    when: When = When.ALWAYS
    get: bool = False


@dataclass(frozen=True, slots=True)
class EditRemove:
    """Answers whether something was there; with `get` its value, or None."""

    key: bytes
    get: bool = False


@dataclass(frozen=True, slots=True)
class EditLook:
    key: bytes
    aspect: Aspect = Aspect.VALUE


@dataclass(frozen=True, slots=True)
class EditAdd:
    """Add to a decimal number of 64 bits; absent is 0. Answers the sum."""

    key: bytes
    amount: int


@dataclass(frozen=True, slots=True)
class EditAddDecimal:
    """Add to a decimal fraction; absent is 0. Answers the sum as it is stored."""

    key: bytes
    amount: str


@dataclass(frozen=True, slots=True)
class EditSplice:
    """Write `value` at `offset` (None: at the end), zero bytes before it if needed.

    Answers the length that the record then has.
    """

    key: bytes
    value: bytes
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class EditDeadline:
    """Set, or with None remove, a record's deadline. Answers whether it did.

    One that has passed removes the record.
    """

    key: bytes
    expires_ms: int | None
    when: DeadlineWhen = DeadlineWhen.ALWAYS


EditOp = EditSet | EditRemove | EditLook | EditAdd | EditAddDecimal | EditSplice | EditDeadline


@dataclass(frozen=True, slots=True)
class Edit:
    """If all comparisons hold, run the operations; otherwise change nothing."""

    namespace: str
    session: str
    compare: tuple[Compare, ...]
    ops: tuple[EditOp, ...]
    now_ms: int
    request_id: str | None = None


class EditErrorCode(enum.StrEnum):
    NOT_AN_INTEGER = "NOT_AN_INTEGER"
    NOT_A_NUMBER = "NOT_A_NUMBER"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    VALUE_TOO_LARGE = "VALUE_TOO_LARGE"


class EditError(NamedTuple):
    """Why one operation did nothing."""

    code: EditErrorCode


Answer = bytes | int | bool | None | EditError


@dataclass(frozen=True, slots=True)
class EditResult:
    """`answers`: one for each operation; empty if a comparison did not hold."""

    succeeded: bool
    revision: int
    answers: tuple[Answer, ...]


# --- Bytes ---------------------------------------------------------------------------------

# Numbers in the log are forever: never reuse one.
_SET, _REMOVE, _LOOK, _ADD, _ADD_DECIMAL, _SPLICE, _DEADLINE = 1, 2, 3, 4, 5, 6, 7


def op_parts(op: EditOp, epoch: int) -> Packable:
    """The array to pack; deadlines count from `epoch` (ms), 0 for those of the log."""
    match op:
        case EditSet(key, value, content_type, expires, keep, when, get):
            expires = None if expires is None else expires - epoch
            return (_SET, key, value, content_type, expires, keep, int(when), get)
        case EditRemove(key, get):
            return (_REMOVE, key, get)
        case EditLook(key, aspect):
            return (_LOOK, key, int(aspect))
        case EditAdd(key, amount):
            return (_ADD, key, amount)
        case EditAddDecimal(key, amount):
            return (_ADD_DECIMAL, key, amount)
        case EditSplice(key, value, offset):
            return (_SPLICE, key, value, offset)
        case EditDeadline(key, expires, when):
            return (_DEADLINE, key, None if expires is None else expires - epoch, int(when))


def build_op(parts: object) -> EditOp:
    """The operation that `op_parts` packed. Raises Malformed, UnknownCommand."""
    if type(parts) is not tuple or not parts or type(parts[0]) is not int:
        raise Malformed("an edit's operation is not an array that begins with its kind")
    shape = _SHAPES.get(parts[0])
    if shape is None:
        raise UnknownCommand(f"edit operation {parts[0]} is not known to this build")
    types, build = shape
    fields: tuple[Any, ...] = parts[1:]
    if len(fields) != len(types) or any(
        type(field) not in allowed for field, allowed in zip(fields, types, strict=True)
    ):
        raise Malformed(f"edit operation {parts[0]} has fields of the wrong number or type")
    try:
        return build(*fields)
    except ValueError as error:
        raise UnknownCommand(f"edit operation {parts[0]}: {error}") from error


def answer_parts(answer: Answer) -> Packable:
    return (answer.code.value,) if isinstance(answer, EditError) else answer


def build_answer(part: object) -> Answer:
    """The answer that `answer_parts` packed. Raises Malformed, ValueError."""
    match part:
        case None | bool() | int() | bytes():
            return part
        case (str() as code,):
            return EditError(EditErrorCode(code))
        case _:
            raise Malformed("not the answer of an edit's operation")


def _set(
    key: bytes,
    value: bytes,
    content_type: str,
    expires_ms: int | None,
    keep_deadline: bool,
    when: int,
    get: bool,
) -> EditSet:
    return EditSet(key, value, content_type, expires_ms, keep_deadline, When(when), get)


_BYTES, _INT, _STR, _BOOL = (bytes,), (int,), (str,), (bool,)
_OPT_INT = (int, type(None))
_SHAPES: dict[int, tuple[tuple[tuple[type, ...], ...], Callable[..., EditOp]]] = {
    _SET: ((_BYTES, _BYTES, _STR, _OPT_INT, _BOOL, _INT, _BOOL), _set),
    _REMOVE: ((_BYTES, _BOOL), EditRemove),
    _LOOK: ((_BYTES, _INT), lambda key, aspect: EditLook(key, Aspect(aspect))),
    _ADD: ((_BYTES, _INT), EditAdd),
    _ADD_DECIMAL: ((_BYTES, _STR), EditAddDecimal),
    _SPLICE: ((_BYTES, _BYTES, _OPT_INT), EditSplice),
    _DEADLINE: (
        (_BYTES, _OPT_INT, _INT),
        lambda key, expires_ms, when: EditDeadline(key, expires_ms, DeadlineWhen(when)),
    ),
}
