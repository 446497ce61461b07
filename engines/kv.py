"""The key-value engine, apply side: what each command does to the records.

One command, one revision: every change it makes shares the revision and is numbered
within it; a command that changes nothing takes none. Refusals are values. Whether a
record is there is decided by the state alone: a record whose deadline has passed stays
until an Expire command removes it, so that all replicas agree at every entry.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from engines.counters import Counters
from engines.edits import Edit, EditResult
from engines.interfaces import (
    ChangeId,
    ChangeKind,
    DeleteResult,
    ExpireResult,
    GetResult,
    Limits,
    PutResult,
    Record,
    RejectCode,
    Rejected,
    TxnResult,
)
from engines.kv_edit import EditRun
from engines.kv_reader import KvReader
from engines.layout import Leaf
from engines.made_changes import MadeChanges, Scope
from engines.mutations import (
    Compare,
    CompareOp,
    CompareTarget,
    Delete,
    Expire,
    Put,
    Txn,
    TxnDelete,
    TxnGet,
    TxnOp,
    TxnPut,
)
from engines.overlay import Overlay
from engines.records import Records
from engines.retention import sweep

__all__ = ["KvEngine", "KvReader"]

_COMPARISONS: dict[CompareOp, Callable[[Any, Any], bool]] = {
    CompareOp.EQ: operator.eq,
    CompareOp.NE: operator.ne,
    CompareOp.LT: operator.lt,
    CompareOp.LE: operator.le,
    CompareOp.GT: operator.gt,
    CompareOp.GE: operator.ge,
}


class KvEngine:
    """Runs commands inside one apply's write transaction. Commands have been validated."""

    def __init__(self, overlay: Overlay, counters: Counters, made: MadeChanges | None) -> None:
        """`made`: where to append every change made, with its value; None: nowhere."""
        self._records = Records(overlay, counters, made)
        self._counters = counters

    def put(self, command: Put, limits: Limits) -> PutResult | Rejected:
        namespace, session, key, value, content_type, now_ms, expires_ms, expected, _ = command
        records, counters = self._records, self._counters
        scope = records.scope(namespace, session)
        leaf = records.find(scope, key)
        if expected is not None and expected != _version(leaf):
            return _conflict(expected, leaf)
        revision, window_bytes = counters.revision + 1, counters.window_bytes
        version = records.put(
            scope, key, leaf, revision, 0, value, content_type, now_ms, expires_ms, limits
        )
        self._finish(revision, 1, window_bytes, limits)
        return PutResult(version, revision)

    def delete(self, command: Delete, limits: Limits) -> DeleteResult | Rejected:
        scope = self._records.scope(command.namespace, command.session)
        leaf = self._records.find(scope, command.key)
        if command.if_version is not None and command.if_version != _version(leaf):
            return _conflict(command.if_version, leaf)
        if leaf is None:
            return DeleteResult(False, None, self._counters.revision)
        revision, window_bytes = self._counters.revision + 1, self._counters.window_bytes
        change = ChangeId(revision, 0)
        self._records.bury(
            scope, command.key, leaf, change, ChangeKind.DELETE, command.now_ms, limits
        )
        self._finish(revision, 1, window_bytes, limits)
        return DeleteResult(True, leaf.version, revision)

    def expire(self, command: Expire, limits: Limits) -> ExpireResult:
        revision, window_bytes = self._counters.revision + 1, self._counters.window_bytes
        expired = 0
        for due in command.due:
            scope = self._records.scope(due.namespace, due.session)
            leaf = self._records.find(scope, due.key)
            if leaf is None or leaf.revision != due.revision:
                continue  # It was overwritten or deleted after the leader saw it.
            if not 0 < leaf.expires_ms <= command.now_ms:
                continue
            change = ChangeId(revision, expired)
            self._records.bury(
                scope, due.key, leaf, change, ChangeKind.EXPIRE, command.now_ms, limits
            )
            expired += 1
        self._finish(revision, expired, window_bytes, limits)
        return ExpireResult(expired)

    def txn(self, command: Txn, limits: Limits) -> TxnResult | Rejected:
        scope = self._records.scope(command.namespace, command.session)
        succeeded = all(self._holds(scope, compare) for compare in command.compare)
        branch = command.then if succeeded else command.otherwise
        size = self._result_bytes(scope, branch)
        if size > limits.txn_bytes_max:
            return Rejected(
                RejectCode.LIMIT_EXCEEDED,
                f"the transaction's gets return {size} bytes; "
                f"txn_bytes_max is {limits.txn_bytes_max}",
            )
        revision, window_bytes = self._counters.revision + 1, self._counters.window_bytes
        sub = 0
        results: list[PutResult | DeleteResult | GetResult] = []
        for op in branch:
            result = self._operate(scope, op, ChangeId(revision, sub), command.now_ms, limits)
            results.append(result)
            sub += not isinstance(result, GetResult) and result.revision == revision
        self._finish(revision, sub, window_bytes, limits)
        return TxnResult(succeeded, self._counters.revision, tuple(results))

    def edit(self, command: Edit, limits: Limits) -> EditResult | Rejected:
        scope = self._records.scope(command.namespace, command.session)
        if not all(self._holds(scope, compare) for compare in command.compare):
            return EditResult(False, self._counters.revision, ())
        run = EditRun(self._records, scope, command.now_ms, limits)
        answers = tuple(run.answer(op) for op in command.ops)
        if run.size > limits.txn_bytes_max:
            return Rejected(
                RejectCode.LIMIT_EXCEEDED,
                f"the answers hold {run.size} bytes; txn_bytes_max is {limits.txn_bytes_max}",
            )
        revision, window_bytes = self._counters.revision + 1, self._counters.window_bytes
        changes = run.write(revision)
        self._finish(revision, changes, window_bytes, limits)
        return EditResult(True, self._counters.revision, answers)

    def _finish(self, revision: int, changes: int, window_bytes: int, limits: Limits) -> None:
        """End a command that made `changes` changes; `window_bytes` is from before it."""
        if changes == 0:
            return
        counters = self._counters
        counters.revision = revision
        if (
            counters.window_changes > limits.watch_window_changes_max
            or counters.window_bytes > limits.watch_window_bytes_max
        ):
            sweep(self._records, limits, changes, counters.window_bytes - window_bytes)

    def _holds(self, scope: Scope, compare: Compare) -> bool:
        leaf = self._records.find(scope, compare.key)
        actual: int | bytes
        match compare.target:
            case CompareTarget.VERSION:
                actual = _version(leaf)
            case CompareTarget.REVISION:
                actual = leaf.revision if leaf else 0
            case CompareTarget.EXISTS:
                actual = leaf is not None
            case CompareTarget.VALUE:
                if leaf is None:
                    return False
                actual = self._records.value(leaf)
        return _COMPARISONS[compare.op](actual, compare.value)

    def _result_bytes(self, scope: Scope, branch: Sequence[TxnOp]) -> int:
        """Bytes of the values that the branch's gets will return, before anything is changed."""
        size = 0
        pending: dict[bytes, int] = {}  # sizes of records as the branch leaves them
        for op in branch:
            match op:
                case TxnPut(key, value):
                    pending[key] = len(value)
                case TxnDelete(key):
                    pending[key] = 0
                case TxnGet(key):
                    if key not in pending:
                        leaf = self._records.find(scope, key)
                        pending[key] = leaf.size if leaf else 0
                    size += pending[key]
        return size

    def _operate(
        self, scope: Scope, op: TxnOp, change: ChangeId, now_ms: int, limits: Limits
    ) -> PutResult | DeleteResult | GetResult:
        leaf = self._records.find(scope, op.key)
        match op:
            case TxnPut(key, value, content_type, expires_ms):
                version = self._records.put(
                    scope, key, leaf, *change, value, content_type, now_ms, expires_ms, limits
                )
                return PutResult(version, change.revision)
            case TxnDelete(key):
                if leaf is None:
                    return DeleteResult(False, None, self._counters.revision)
                self._records.bury(scope, key, leaf, change, ChangeKind.DELETE, now_ms, limits)
                return DeleteResult(True, leaf.version, change.revision)
            case TxnGet(key):
                return GetResult(None if leaf is None else self._record(scope, key, leaf))

    def _record(self, scope: Scope, key: bytes, leaf: Leaf) -> Record:
        return Record(
            scope.namespace, scope.session, key, self._records.value(leaf), leaf.size,
            leaf.content_type, leaf.version, leaf.revision, leaf.created_revision,
            leaf.created_ms, leaf.updated_ms, leaf.expires_ms or None,
        )  # fmt: skip


def _version(leaf: Leaf | None) -> int:
    return leaf.version if leaf else 0


def _conflict(expected: int, leaf: Leaf | None) -> Rejected:
    version = _version(leaf)
    return Rejected(
        RejectCode.VERSION_CONFLICT,
        f"the record's version is {version}, not {expected}"
        if leaf
        else f"the record does not exist; if_version was {expected}",
        version,
    )
