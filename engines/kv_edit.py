"""Running an edit: its records are read once, changed in memory, and written once."""

from __future__ import annotations

import decimal
import re
from dataclasses import dataclass
from functools import singledispatchmethod
from typing import Final

from engines.edits import (
    NUMBER_MAX,
    NUMBER_MIN,
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
from engines.interfaces import ChangeId, ChangeKind, Limits
from engines.layout import Leaf
from engines.made_changes import Scope
from engines.records import Records

_INTEGER: Final = re.compile(rb"0|-?[1-9][0-9]{0,18}").fullmatch  # as Redis reads one
_DECIMAL: Final = re.compile(rb"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?").fullmatch
DECIMAL_BYTES_MAX: Final = 64  # of a number that is added to
DECIMAL_DIGITS: Final = 34  # of a sum (IEEE 754 decimal128)
_CONTEXT: Final = decimal.Context(prec=DECIMAL_DIGITS, Emax=999, Emin=-999, traps=[])
_EXPONENT_MAX: Final = 308  # a sum is written without an exponent; this bounds its length


@dataclass(slots=True)
class _Draft:
    """A record as the operations so far have left it."""

    leaf: Leaf | None  # as it is stored
    live: bool
    value: bytes | None  # None while it lives: not read yet
    size: int
    content_type: str
    expires_ms: int | None
    changed: bool = False


class EditRun:
    """One edit in one apply. `size` counts the bytes of its answers."""

    def __init__(self, records: Records, scope: Scope, now_ms: int, limits: Limits) -> None:
        self._records = records
        self._scope = scope
        self._now_ms = now_ms
        self._limits = limits
        self._drafts: dict[bytes, _Draft] = {}
        self.size = 0

    def answer(self, op: EditOp) -> Answer:
        """Do one operation. Nothing is written before `write`."""
        answer = self._do(op)
        if isinstance(answer, bytes):
            self.size += len(answer)
        return answer

    def write(self, revision: int) -> int:
        """Write what has changed as changes of `revision`; returns how many there are."""
        sub = 0
        for key, draft in self._drafts.items():
            if not draft.changed:
                continue
            if draft.live:
                self._records.put(
                    self._scope,
                    key,
                    draft.leaf,
                    revision,
                    sub,
                    self._value(draft),
                    draft.content_type,
                    self._now_ms,
                    draft.expires_ms,
                    self._limits,
                )
            elif draft.leaf is not None:
                self._records.bury(
                    self._scope, key, draft.leaf, ChangeId(revision, sub), ChangeKind.DELETE,
                    self._now_ms, self._limits,
                )  # fmt: skip
            else:
                continue
            sub += 1
        return sub

    # --- Records -------------------------------------------------------------------

    def _draft(self, key: bytes) -> _Draft:
        draft = self._drafts.get(key)
        if draft is None:
            leaf = self._records.find(self._scope, key)
            if leaf is None or 0 < leaf.expires_ms <= self._now_ms:
                draft = _Draft(leaf, False, b"", 0, "", None)
            else:
                expires_ms = leaf.expires_ms or None
                draft = _Draft(leaf, True, None, leaf.size, leaf.content_type, expires_ms)
            self._drafts[key] = draft
        return draft

    def _value(self, draft: _Draft) -> bytes:
        if draft.value is None:
            assert draft.leaf is not None, "only what is stored is read late"
            draft.value = self._records.value(draft.leaf)
        return draft.value

    def _store(self, draft: _Draft, value: bytes) -> None:
        draft.value, draft.size = value, len(value)
        draft.live = draft.changed = True

    def _remove(self, draft: _Draft) -> None:
        draft.live, draft.changed = False, True
        draft.value, draft.size, draft.content_type, draft.expires_ms = b"", 0, "", None

    # --- Operations ----------------------------------------------------------------

    @singledispatchmethod
    def _do(self, op: EditOp) -> Answer:
        raise AssertionError(f"{type(op)} is not an operation of an edit")

    @_do.register
    def _set(self, op: EditSet) -> Answer:
        draft = self._draft(op.key)
        before = self._value(draft) if op.get and draft.live else None
        if op.when is When.ALWAYS or draft.live == (op.when is When.PRESENT):
            self._store(draft, op.value)
            draft.content_type = op.content_type
            if not op.keep_deadline:
                draft.expires_ms = op.expires_ms
            return before if op.get else True
        return before if op.get else False

    @_do.register
    def _take(self, op: EditRemove) -> Answer:
        draft = self._draft(op.key)
        if not draft.live:
            return None if op.get else False
        before = self._value(draft) if op.get else True
        self._remove(draft)
        return before

    @_do.register
    def _look(self, op: EditLook) -> Answer:
        draft = self._draft(op.key)
        match op.aspect:
            case Aspect.VALUE:
                return self._value(draft) if draft.live else None
            case Aspect.EXISTS:
                return draft.live
            case Aspect.LENGTH:
                return draft.size
            case Aspect.DEADLINE:
                return (draft.expires_ms or 0) if draft.live else None

    @_do.register
    def _add(self, op: EditAdd) -> Answer:
        draft = self._draft(op.key)
        value = self._value(draft) if draft.live else b"0"
        if not _INTEGER(value) or not NUMBER_MIN <= int(value) <= NUMBER_MAX:
            return EditError(EditErrorCode.NOT_AN_INTEGER)
        total = int(value) + op.amount
        if not NUMBER_MIN <= total <= NUMBER_MAX:
            return EditError(EditErrorCode.OUT_OF_RANGE)
        self._store(draft, b"%d" % total)
        return total

    @_do.register
    def _add_decimal(self, op: EditAddDecimal) -> Answer:
        draft = self._draft(op.key)
        value = self._value(draft) if draft.live else b"0"
        amount = op.amount.encode()
        if not all(len(part) <= DECIMAL_BYTES_MAX and _DECIMAL(part) for part in (value, amount)):
            return EditError(EditErrorCode.NOT_A_NUMBER)
        total = _CONTEXT.add(decimal.Decimal(value.decode()), decimal.Decimal(op.amount))
        if not total.is_finite() or abs(total.adjusted()) > _EXPONENT_MAX:
            return EditError(EditErrorCode.OUT_OF_RANGE)
        text = plain(total).encode()
        self._store(draft, text)
        return text

    @_do.register
    def _splice(self, op: EditSplice) -> Answer:
        draft = self._draft(op.key)
        offset = draft.size if op.offset is None else op.offset
        if not op.value and op.offset is not None:
            return draft.size  # as Redis: writing nothing makes nothing
        size = max(draft.size, offset + len(op.value))
        if size > self._limits.value_bytes_max:
            return EditError(EditErrorCode.VALUE_TOO_LARGE)
        value = self._value(draft) if draft.live else b""
        head = value[:offset].ljust(offset, b"\x00")
        self._store(draft, head + op.value + value[offset + len(op.value) :])
        return size

    @_do.register
    def _set_deadline(self, op: EditDeadline) -> Answer:
        draft = self._draft(op.key)
        if not draft.live or not _deadline_fits(op, draft.expires_ms):
            return False
        if op.expires_ms is not None and op.expires_ms <= self._now_ms:
            self._remove(draft)
            return True
        if op.expires_ms is None and draft.expires_ms is None:
            return False
        draft.expires_ms = op.expires_ms
        draft.changed = True
        return True


def _deadline_fits(op: EditDeadline, current: int | None) -> bool:
    match op.when:
        case DeadlineWhen.ALWAYS:
            return True
        case DeadlineWhen.NONE:
            return current is None
        case DeadlineWhen.SOME:
            return current is not None
        case DeadlineWhen.LATER:
            return current is not None and (op.expires_ms is None or op.expires_ms > current)
        case DeadlineWhen.EARLIER:
            return op.expires_ms is not None and (current is None or op.expires_ms < current)


def plain(number: decimal.Decimal) -> str:
    """Digits without an exponent and without zeros at the end."""
    text = f"{number:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("", "-0") else text
