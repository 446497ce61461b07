"""What the operations of an edit must answer, said once more in the plainest way."""

from __future__ import annotations

from decimal import Decimal, localcontext

from engines.edits import (
    Answer,
    Aspect,
    DeadlineWhen,
    EditAdd,
    EditAddDecimal,
    EditDeadline,
    EditError,
    EditErrorCode,
    EditLook,
    EditOp,
    EditRemove,
    EditSet,
    EditSplice,
    When,
)

Held = tuple[bytes, str, int | None]  # value, content type, deadline


def run(
    op: EditOp, held: Held | None, now_ms: int, value_bytes_max: int
) -> tuple[Answer, Held | None, bool]:
    """(answer, what is held afterwards, whether it was written)."""
    value, content_type, deadline = held or (b"", "", None)
    match op:
        case EditSet():
            fits = {When.ALWAYS: True, When.ABSENT: held is None, When.PRESENT: held is not None}
            answer: Answer = (value if held else None) if op.get else fits[op.when]
            if not fits[op.when]:
                return answer, held, False
            kept = deadline if op.keep_deadline else op.expires_ms
            return answer, (op.value, op.content_type, kept), True
        case EditRemove():
            if held is None:
                return (None if op.get else False), None, False
            return (value if op.get else True), None, True
        case EditLook():
            answers: dict[Aspect, Answer] = {
                Aspect.VALUE: value if held else None,
                Aspect.EXISTS: held is not None,
                Aspect.LENGTH: len(value),
                Aspect.DEADLINE: (deadline or 0) if held else None,
            }
            return answers[op.aspect], held, False
        case EditAdd():
            return _add(op, held)
        case EditAddDecimal():
            return _add_decimal(op, held)
        case EditSplice():
            if op.offset is not None and op.value == b"":
                return len(value), held, False
            offset = len(value) if op.offset is None else op.offset
            cells = bytearray(value) + bytearray(max(0, offset - len(value)))
            cells[offset : offset + len(op.value)] = op.value
            if len(cells) > value_bytes_max:
                return EditError(EditErrorCode.VALUE_TOO_LARGE), held, False
            return len(cells), (bytes(cells), content_type, deadline), True
        case EditDeadline():
            return _deadline(op, held, now_ms)


def _add(op: EditAdd, held: Held | None) -> tuple[Answer, Held | None, bool]:
    value, content_type, deadline = held or (b"0", "", None)
    try:
        number = int(value)
    except ValueError:
        number = 1 << 70
    if str(number).encode() != value or not -(1 << 63) <= number < 1 << 63:
        return EditError(EditErrorCode.NOT_AN_INTEGER), held, False
    total = number + op.amount
    if not -(1 << 63) <= total < 1 << 63:
        return EditError(EditErrorCode.OUT_OF_RANGE), held, False
    return total, (str(total).encode(), content_type, deadline), True


def _add_decimal(op: EditAddDecimal, held: Held | None) -> tuple[Answer, Held | None, bool]:
    """For the plain numbers that the tests use: short, and without exponents."""
    value, content_type, deadline = held or (b"0", "", None)
    try:
        with localcontext(prec=34):
            total = Decimal(value.decode("ascii")) + Decimal(op.amount)
    except (ArithmeticError, UnicodeDecodeError):
        return EditError(EditErrorCode.NOT_A_NUMBER), held, False
    whole = total.to_integral_value()
    text = str(int(total)) if total == whole else f"{total:f}".rstrip("0")
    return text.encode(), (text.encode(), content_type, deadline), True


def _deadline(op: EditDeadline, held: Held | None, now_ms: int) -> tuple[Answer, Held | None, bool]:
    if held is None:
        return False, None, False
    value, content_type, deadline = held
    far = float("inf")
    old, new = (far if each is None else each for each in (deadline, op.expires_ms))
    fits = {
        DeadlineWhen.ALWAYS: True,
        DeadlineWhen.NONE: deadline is None,
        DeadlineWhen.SOME: deadline is not None,
        DeadlineWhen.LATER: new > old,
        DeadlineWhen.EARLIER: new < old,
    }
    if not fits[op.when]:
        return False, held, False
    if op.expires_ms is not None and op.expires_ms <= now_ms:
        return True, None, True
    if op.expires_ms is None and deadline is None:
        return False, held, False
    return True, (value, content_type, op.expires_ms), True
