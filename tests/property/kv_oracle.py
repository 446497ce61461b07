"""A naive key-value state: dicts and lists, every change kept for ever.

It says what each command must answer. What the real state still *keeps* is naive too:
the oracle is told how far the real floor has moved and drops what must be gone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from engines.command import (
    Checkpoint,
    Command,
    Compare,
    CompareOp,
    CompareTarget,
    Configure,
    Delete,
    Edit,
    Expire,
    Put,
    Txn,
    TxnDelete,
    TxnPut,
)
from engines.edits import Answer, EditDeadline, EditResult, EditSet
from engines.interfaces import (
    SUB_MAX,
    Change,
    ChangeId,
    ChangeKind,
    ConfigureResult,
    DeleteResult,
    DueRecord,
    ExpireResult,
    GetResult,
    Limits,
    PutResult,
    Record,
    RejectCode,
    Rejected,
    Result,
    TxnResult,
)
from tests.property.edit_oracle import Held, run

Name = tuple[str, str, bytes]


@dataclass
class Oracle:
    limits: Limits
    revision: int = 0
    live: dict[Name, Record] = field(default_factory=dict)
    log: list[Change] = field(default_factory=list)
    states: dict[tuple[Name, ChangeId], Record | None] = field(default_factory=dict)
    kept: dict[Name, list[Change]] = field(default_factory=dict)  # history, oldest first
    cut: set[Name] = field(default_factory=set)  # names whose history lost something
    requests: dict[tuple[str, str], tuple[object, Result]] = field(default_factory=dict)
    floor: ChangeId = field(default_factory=lambda: ChangeId(0, 0))

    def execute(self, command: Command) -> Result:
        match command:
            case Configure(limits):
                changed = limits != self.limits
                self.limits = limits
                return ConfigureResult(changed)
            case Checkpoint():
                raise AssertionError("its result is the log's business")
            case Expire():
                return self._expire(command)
            case Put() | Delete() | Txn() | Edit():
                return self._once(command)

    def _once(self, command: Put | Delete | Txn | Edit) -> Result:
        if command.request_id is None:
            return self._write(command)
        name = (command.namespace, command.request_id)
        asked = _asked(command)
        if name in self.requests:
            first, result = self.requests[name]
            if first != asked:
                return Rejected(RejectCode.REQUEST_ID_REUSED, "")
            return result
        result = self._write(command)
        self.requests[name] = (asked, result)
        while len(self.requests) > self.limits.request_ids_max:
            del self.requests[next(iter(self.requests))]
        return result

    def floor_moved(self, floor: ChangeId) -> None:
        """The window now begins after `floor`: forget keys whose deletion has left it."""
        assert floor >= self.floor
        self.floor = floor
        for name, history in list(self.kept.items()):
            if history[-1].kind is not ChangeKind.PUT and history[-1].id <= floor:
                del self.kept[name]
                self.cut.discard(name)

    def due(self, now_ms: int) -> list[DueRecord]:
        records = [r for r in self.live.values() if r.expires_ms and r.expires_ms <= now_ms]
        return [DueRecord(r.namespace, r.session, r.key, r.revision) for r in records]

    def at(self, name: Name, revision: int) -> Record | None:
        """The truth about the past, whether or not it is still kept."""
        found = None
        for change in self.log:
            if change.id.revision <= revision and _name(change) == name:
                found = self.states[name, change.id]
        return found

    def knows(self, name: Name, revision: int) -> bool:
        """Whether the state must still be able to tell what `name` was at `revision`."""
        history = self.kept.get(name, [])
        if history and history[0].id.revision <= revision:
            return True
        return name not in self.cut and revision >= self.floor.revision

    def _write(self, command: Put | Delete | Txn | Edit) -> Result:
        revision = self.revision + 1
        if isinstance(command, Txn):
            return self._txn(command, revision)
        if isinstance(command, Edit):
            return self._edit(command, revision)
        name = (command.namespace, command.session, command.key)
        old = self.live.get(name)
        version = old.version if old else 0
        if command.if_version is not None and command.if_version != version:
            return Rejected(RejectCode.VERSION_CONFLICT, "", version)
        if isinstance(command, Put):
            self._put(
                name, ChangeId(revision, 0), command.value, command.content_type,
                command.now_ms, command.expires_ms,
            )  # fmt: skip
            self.revision = revision
            return PutResult(version + 1, revision)
        if old is None:
            return DeleteResult(False, None, self.revision)
        self._remove(name, ChangeId(revision, 0), ChangeKind.DELETE, command.now_ms)
        self.revision = revision
        return DeleteResult(True, version, revision)

    def _txn(self, txn: Txn, revision: int) -> TxnResult:
        succeeded = all(self._holds(txn, compare) for compare in txn.compare)
        results: list[PutResult | DeleteResult | GetResult] = []
        sub = 0
        for op in txn.then if succeeded else txn.otherwise:
            name = (txn.namespace, txn.session, op.key)
            old = self.live.get(name)
            change = ChangeId(revision, sub)
            if isinstance(op, TxnPut):
                self._put(name, change, op.value, op.content_type, txn.now_ms, op.expires_ms)
                results.append(PutResult(self.live[name].version, revision))
                sub += 1
            elif isinstance(op, TxnDelete) and old is None:
                results.append(DeleteResult(False, None, self.revision))
            elif isinstance(op, TxnDelete) and old is not None:
                self._remove(name, change, ChangeKind.DELETE, txn.now_ms)
                results.append(DeleteResult(True, old.version, revision))
                sub += 1
            else:
                results.append(GetResult(old))
        if sub:
            self.revision = revision
        return TxnResult(succeeded, self.revision, tuple(results))

    def _edit(self, edit: Edit, revision: int) -> EditResult:
        if not all(self._holds(edit, compare) for compare in edit.compare):
            return EditResult(False, self.revision, ())
        held: dict[bytes, Held | None] = {}
        written: set[bytes] = set()
        answers: list[Answer] = []
        for op in edit.ops:
            record = self.live.get((edit.namespace, edit.session, op.key))
            gone = record is None or 0 < (record.expires_ms or 0) <= edit.now_ms
            if op.key not in held:
                held[op.key] = None
                if record is not None and not gone:
                    assert record.value is not None
                    held[op.key] = (record.value, record.content_type, record.expires_ms)
            answer, held[op.key], wrote = run(
                op, held[op.key], edit.now_ms, self.limits.value_bytes_max
            )
            answers.append(answer)
            written |= {op.key} if wrote else set()
        sub = 0
        for key in (key for key in held if key in written):
            name, found = (edit.namespace, edit.session, key), held[key]
            change = ChangeId(revision, sub)
            if found is not None:
                value, content_type, expires_ms = found
                self._put(name, change, value, content_type, edit.now_ms, expires_ms)
            elif name in self.live:
                self._remove(name, change, ChangeKind.DELETE, edit.now_ms)
            else:
                continue
            sub += 1
        if sub:
            self.revision = revision
        return EditResult(True, self.revision, tuple(answers))

    def _holds(self, txn: Txn | Edit, compare: Compare) -> bool:
        record = self.live.get((txn.namespace, txn.session, compare.key))
        actual: int | bytes | None
        match compare.target:
            case CompareTarget.VERSION:
                actual = record.version if record else 0
            case CompareTarget.REVISION:
                actual = record.revision if record else 0
            case CompareTarget.EXISTS:
                actual = record is not None
            case CompareTarget.VALUE:
                actual = record.value if record else None
        if actual is None:
            return False
        given: int | bytes = compare.value
        match compare.op:
            case CompareOp.EQ:
                return actual == given
            case CompareOp.NE:
                return actual != given
            case CompareOp.LT:
                return actual < given  # type: ignore[operator]
            case CompareOp.LE:
                return actual <= given  # type: ignore[operator]
            case CompareOp.GT:
                return actual > given  # type: ignore[operator]
            case CompareOp.GE:
                return actual >= given  # type: ignore[operator]

    def _expire(self, expire: Expire) -> ExpireResult:
        revision, expired = self.revision + 1, 0
        for due in expire.due:
            name = (due.namespace, due.session, due.key)
            record = self.live.get(name)
            if record is None or record.revision != due.revision or record.expires_ms is None:
                continue
            if record.expires_ms <= expire.now_ms:
                change = ChangeId(revision, expired)
                self._remove(name, change, ChangeKind.EXPIRE, expire.now_ms)
                expired += 1
        if expired:
            self.revision = revision
        return ExpireResult(expired)

    def _put(
        self,
        name: Name,
        change: ChangeId,
        value: bytes,
        content_type: str,
        now_ms: int,
        expires_ms: int | None,
    ) -> None:
        old = self.live.get(name)
        version = old.version + 1 if old else 1
        self.live[name] = Record(
            *name, value, len(value), content_type, version, change.revision,
            old.created_revision if old else change.revision,
            old.created_ms if old else now_ms, now_ms, expires_ms,
        )  # fmt: skip
        self._keep(
            Change(
                change, ChangeKind.PUT, *name, value, len(value), content_type, version,
                now_ms, expires_ms,
            )
        )  # fmt: skip

    def _remove(self, name: Name, change: ChangeId, kind: ChangeKind, now_ms: int) -> None:
        version = self.live.pop(name).version
        self._keep(Change(change, kind, *name, None, 0, "", version, now_ms, None))

    def _keep(self, change: Change) -> None:
        name = _name(change)
        self.log.append(change)
        self.states[name, change.id] = self.live.get(name)
        history = self.kept.setdefault(name, [])
        history.append(change)
        while len(history) > 1 and (
            len(history) > self.limits.history_versions_max
            or sum(c.size for c in history) > self.limits.history_bytes_max
        ):
            del history[0]
            self.cut.add(name)


def after(revision: int) -> ChangeId:
    return ChangeId(revision, SUB_MAX)


def _name(change: Change) -> Name:
    return change.namespace, change.session, change.key


def _asked(command: Put | Delete | Txn | Edit) -> object:
    """What the caller said: without the proposer's stamps."""
    now = command.now_ms
    match command:
        case Put(ns, session, key, value, content_type, _, expires, if_version, _):
            ttl = None if expires is None else expires - now
            return ("put", ns, session, key, value, content_type, ttl, if_version)
        case Delete(ns, session, key, _, if_version, _):
            return ("delete", ns, session, key, if_version)
        case Txn(ns, session, compare, then, otherwise, _, _):
            branches = [
                [
                    (op.key, op.value, op.content_type, op.expires_ms and op.expires_ms - now)
                    if isinstance(op, TxnPut)
                    else op
                    for op in branch
                ]
                for branch in (then, otherwise)
            ]
            return ("txn", ns, session, compare, branches)
        case Edit(ns, session, compare, ops, _, _):
            asked = [
                (op, op.expires_ms - now)
                if isinstance(op, EditSet | EditDeadline) and op.expires_ms is not None
                else op
                for op in ops
            ]
            plain = [
                (replace(op[0], expires_ms=None), op[1]) if isinstance(op, tuple) else op
                for op in asked
            ]
            return ("edit", ns, session, compare, plain)
