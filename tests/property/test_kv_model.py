"""The kv state against a naive oracle, with restarts, replays and other batchings.

Three replicas get the same entries: A one at a time as they are made, B in bursts that
overlap what it has, C everything at the end in one apply. Whatever happens in between,
all three must hold the same bytes, and A must answer as the oracle does. A fourth, S,
gets every command as an entry of its own: it shows where the floor is between the
commands of one entry, which must not depend on how commands are grouped.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from engines.check import check, digest
from engines.command import (
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
    TxnGet,
    TxnOp,
    TxnPut,
    encode,
)
from engines.counters import load_counters
from engines.edits import (
    Aspect,
    DeadlineWhen,
    EditAdd,
    EditAddDecimal,
    EditDeadline,
    EditLook,
    EditOp,
    EditRemove,
    EditSet,
    EditSplice,
    When,
)
from engines.errors import Compacted, InvalidArgument
from engines.interfaces import Change, ChangeId, DueRecord, Limits, Record, Rejected
from engines.kv import KvReader
from engines.retention import SWEEP_BYTES_PER_STEP
from engines.state_machine import StateMachine
from engines.store import Store
from tests.property.kv_oracle import Oracle, after

LIMITS = Limits(
    history_versions_max=3,
    history_bytes_max=600,
    watch_window_changes_max=10,
    request_ids_max=5,
)
P = b"p" * 480
Q = b"q" * 480
KEYS = [
    b"a", b"a\x00", b"a/b", b"b", b"\x00", b"\xff" * 5,
    P[:479], P, P + b"\x00", P + b"\x01", P + b"x", P[:479] + b"q",
    P + P[:479], P + P, P + P + b"\x00", P + Q, P + Q + b"z",
    P * 8, P * 8 + b"y" * 256, P * 8 + b"z" * 256, b"\xff" * 481,
]  # fmt: skip
NAMESPACES = ["n", "n-1", "m"]
SESSIONS = ["s", "s1", "é"]


# Functions, not bound methods: hypothesis prints what a strategy is made of.
def key_of(place: int) -> bytes:
    return KEYS[place]


def prefix_of(place: int) -> bytes:
    return PREFIXES[place]


keys = st.integers(0, len(KEYS) - 1).map(key_of)
PREFIXES = [b"", b"a", P[:10], P, P + b"x", P + P, P * 8, b"z"]
prefixes = st.integers(0, len(PREFIXES) - 1).map(prefix_of)
# Mostly one session, so that it fills; the others show that sessions do not mix.
owners = st.one_of(
    st.just(("n", "s")),
    st.just(("n", "s1")),
    st.tuples(st.sampled_from(NAMESPACES), st.sampled_from(SESSIONS)),
)
values = st.one_of(
    st.sampled_from([b"", b"0", b"false", b"null", b"\x00"]),
    st.integers(1, 400).map(lambda n: b"v" * n),
)
types = st.sampled_from(["", "text/plain"])
ttls = st.one_of(st.none(), st.integers(1, 50))
conditions = st.one_of(st.none(), st.integers(0, 4))
request_ids = st.one_of(st.none(), st.integers(0, 9).map("r{}".format))
compares = st.one_of(
    st.builds(
        Compare,
        keys,
        st.sampled_from([CompareTarget.VERSION, CompareTarget.REVISION]),
        st.sampled_from(CompareOp),
        st.integers(0, 20),
    ),
    st.builds(Compare, keys, st.just(CompareTarget.VALUE), st.sampled_from(CompareOp), values),
    st.builds(
        Compare,
        keys,
        st.just(CompareTarget.EXISTS),
        st.sampled_from([CompareOp.EQ, CompareOp.NE]),
        st.booleans(),
    ),
)


class OpSketch(NamedTuple):
    kind: type[TxnOp]
    key: bytes
    value: bytes
    content_type: str
    ttl: int | None


sketches = st.builds(
    OpSketch, st.sampled_from([TxnPut, TxnDelete, TxnGet]), keys, values, types, ttls
)
branches = st.lists(sketches, max_size=4)


def operations(branch: Sequence[OpSketch], now_ms: int) -> tuple[TxnOp, ...]:
    """The sketched operations, stamped; a second write of a key is left out."""
    made: list[TxnOp] = []
    written: set[bytes] = set()
    for kind, key, value, content_type, ttl in branch:
        if kind is TxnGet:
            made.append(TxnGet(key))
        elif key not in written:
            written.add(key)
            if kind is TxnPut:
                expires_ms = None if ttl is None else now_ms + ttl
                made.append(TxnPut(key, value, content_type, expires_ms))
            else:
                made.append(TxnDelete(key))
    return tuple(made)


# Deadlines count from the edit's own time here; `stamped` makes times of them.
edit_ops = st.one_of(
    st.builds(EditSet, keys, values, types, ttls, st.just(False), st.sampled_from(When),
              st.booleans()),
    st.builds(EditSet, keys, values, types, st.none(), st.just(True)),
    st.builds(EditRemove, keys, st.booleans()),
    st.builds(EditLook, keys, st.sampled_from(Aspect)),
    st.builds(EditAdd, keys, st.sampled_from([1, -1, 7, (1 << 63) - 1, -(1 << 63)])),
    st.builds(EditAddDecimal, keys, st.sampled_from(["0.5", "-3", "10", "0.25"])),
    st.builds(EditSplice, keys, values, st.one_of(st.none(), st.integers(0, 20))),
    st.builds(EditDeadline, keys, st.one_of(st.none(), st.integers(-5, 50)),
              st.sampled_from(DeadlineWhen)),
)  # fmt: skip


def stamped(op: EditOp, now_ms: int) -> EditOp:
    if isinstance(op, EditSet | EditDeadline) and op.expires_ms is not None:
        return replace(op, expires_ms=op.expires_ms + now_ms)
    return op


@dataclass
class Entry:
    index: int
    term: int
    commands: list[bytes]


def as_compared(result: object) -> object:
    """A result without the words of a refusal, which the oracle does not know."""
    return replace(result, message="") if isinstance(result, Rejected) else result


class Replica:
    def __init__(self, path: Path, limits: Limits) -> None:
        self.path = path
        self.limits = limits
        self.heard: list[Change] = []
        self.open()

    def open(self) -> None:
        self.store = Store(self.path, 64 << 20, 8)
        self.state = StateMachine(self.store, self.limits, self.heard.extend)

    def reopen(self) -> None:
        self.state.close()
        self.open()

    def digest(self) -> bytes:
        with self.store.read() as snapshot:
            return digest(snapshot)


class KvMachine(RuleBasedStateMachine):
    @initialize(window_bytes=st.sampled_from([1500, 1 << 20]), filled=st.booleans())
    def start(self, window_bytes: int, filled: bool) -> None:
        limits = replace(LIMITS, watch_window_bytes_max=window_bytes)
        self.folder = Path(tempfile.mkdtemp(prefix="hivemem-kv-"))
        self.oracle = Oracle(limits)
        self.limits = limits
        self.a = Replica(self.folder / "a", limits)
        self.b = Replica(self.folder / "b", limits)
        self.s = Replica(self.folder / "s", limits)
        self.entries: list[Entry] = []
        self.delivered = 0  # entries that B has
        self.now = 1_000
        self.last: list[Command] = []
        if filled:
            self.commit(*(self.put_command(("n", "s"), key, b"0", ttl=30) for key in KEYS))

    def commit(self, *commands: Command, gap: int = 0) -> None:
        """One entry with these commands: into A, and into the log for the others."""
        index = (self.entries[-1].index if self.entries else 0) + 1 + gap
        entry = Entry(index, 1 + index // 10, [encode(command) for command in commands])
        self.entries.append(entry)
        heard = len(self.oracle.log)
        expected = [as_compared(self.execute(command)) for command in commands]
        (results,) = self.a.state.apply([entry])
        assert [as_compared(result) for result in results] == expected
        assert self.a.heard == self.oracle.log[heard:]
        self.a.heard.clear()
        assert self.a.state.revision == self.oracle.revision
        assert self.a.state.applied_index == index
        self.last = [*self.last, *commands][-6:]

    def execute(self, command: Command) -> object:
        """One command in the oracle and in S."""
        expected = self.oracle.execute(command)
        index = self.s.state.applied_index + 1
        ((result,),) = self.s.state.apply([Entry(index, 1, [encode(command)])])
        assert as_compared(result) == as_compared(expected)
        with self.s.store.read() as snapshot:
            floor = load_counters(snapshot.txn, snapshot.databases).floor
        if floor != self.oracle.floor and self.limits.watch_window_bytes_max >= 1 << 20:
            # Nothing leaves a window that is not over its limit.
            inside = sum(change.id > floor for change in self.oracle.log)
            assert inside >= self.oracle.limits.watch_window_changes_max
        self.oracle.floor_moved(floor)
        return result

    # -- writes ------------------------------------------------------------------------

    def put_command(
        self,
        owner: tuple[str, str],
        key: bytes,
        value: bytes,
        content_type: str = "",
        ttl: int | None = None,
        if_version: int | None = None,
        request_id: str | None = None,
    ) -> Put:
        expires = None if ttl is None else self.now + ttl
        return Put(*owner, key, value, content_type, self.now, expires, if_version, request_id)

    @rule(
        owner=owners, key=keys, value=values, content_type=types, ttl=ttls,
        if_version=conditions, request_id=request_ids, gap=st.integers(0, 1),
    )  # fmt: skip
    def put(
        self,
        owner: tuple[str, str],
        key: bytes,
        value: bytes,
        content_type: str,
        ttl: int | None,
        if_version: int | None,
        request_id: str | None,
        gap: int,
    ) -> None:
        command = self.put_command(owner, key, value, content_type, ttl, if_version, request_id)
        self.commit(command, gap=gap)

    @rule(owner=owners, key=keys, value=values, times=st.integers(2, 6))
    def overwrite(self, owner: tuple[str, str], key: bytes, value: bytes, times: int) -> None:
        for round_ in range(times):
            self.commit(self.put_command(owner, key, value + b"%d" % round_))

    @rule(owner=owners, key=keys, if_version=conditions, request_id=request_ids)
    def delete(
        self, owner: tuple[str, str], key: bytes, if_version: int | None, request_id: str | None
    ) -> None:
        self.commit(Delete(*owner, key, self.now, if_version, request_id))

    @precondition(lambda self: self.oracle.live)
    @rule(data=st.data())
    def delete_live(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.oracle.live)))
        self.commit(Delete(*name, self.now))

    @rule(
        owner=owners, compare=st.lists(compares, max_size=2), then=branches, otherwise=branches,
        request_id=request_ids,
    )  # fmt: skip
    def txn(
        self,
        owner: tuple[str, str],
        compare: list[Compare],
        then: list[OpSketch],
        otherwise: list[OpSketch],
        request_id: str | None,
    ) -> None:
        self.commit(
            Txn(
                *owner, tuple(compare), operations(then, self.now),
                operations(otherwise, self.now), self.now, request_id,
            )
        )  # fmt: skip

    @rule(
        owner=owners, compare=st.lists(compares, max_size=1),
        ops=st.lists(edit_ops, min_size=1, max_size=6), request_id=request_ids,
    )  # fmt: skip
    def edit(
        self,
        owner: tuple[str, str],
        compare: list[Compare],
        ops: list[EditOp],
        request_id: str | None,
    ) -> None:
        edits = tuple(stamped(op, self.now) for op in ops)
        self.commit(Edit(*owner, tuple(compare), edits, self.now, request_id))

    @rule(
        writes=st.lists(
            st.tuples(owners, keys, st.one_of(st.none(), values), request_ids),
            min_size=2,
            max_size=15,
        )
    )
    def entry_of_many(
        self, writes: list[tuple[tuple[str, str], bytes, bytes | None, str | None]]
    ) -> None:
        self.commit(
            *(
                Delete(*owner, key, self.now, None, request_id)
                if value is None
                else self.put_command(owner, key, value, request_id=request_id)
                for owner, key, value, request_id in writes
            )
        )

    @precondition(lambda self: self.last)
    @rule(data=st.data(), late=st.integers(0, 30))
    def retry(self, data: st.DataObject, late: int) -> None:
        """The same request again, stamped at another time."""
        self.now += late
        command = data.draw(st.sampled_from(self.last))
        match command:
            case Put():
                moved = self.now - command.now_ms
                expires = command.expires_ms and command.expires_ms + moved
                self.commit(command._replace(now_ms=self.now, expires_ms=expires))
            case Delete():
                self.commit(replace(command, now_ms=self.now))
            case Txn():
                moved = self.now - command.now_ms
                then, otherwise = (
                    tuple(
                        replace(op, expires_ms=op.expires_ms + moved)
                        if isinstance(op, TxnPut) and op.expires_ms
                        else op
                        for op in branch
                    )
                    for branch in (command.then, command.otherwise)
                )
                self.commit(replace(command, now_ms=self.now, then=then, otherwise=otherwise))
            case Edit():
                moved = self.now - command.now_ms
                ops = tuple(stamped(op, moved) for op in command.ops)
                self.commit(replace(command, now_ms=self.now, ops=ops))
            case _:
                self.commit(command)

    @rule(passed=st.integers(0, 60), stale=st.booleans())
    def expire(self, passed: int, stale: bool) -> None:
        """The leader's expiry; `stale`: again with what was due earlier, too."""
        self.now += passed
        with self.a.store.read() as snapshot:
            reader = KvReader(snapshot)
            due = reader.due(self.now, 100)
            deadlines = [r.expires_ms for r in self.oracle.live.values() if r.expires_ms]
            assert reader.next_due_ms() == min(deadlines, default=None)
        assert sorted(due, key=_due_name) == sorted(self.oracle.due(self.now), key=_due_name)
        # Every deadline of the past, whatever has become of the record since.
        was_due = [
            DueRecord(change.namespace, change.session, change.key, change.id.revision)
            for change in self.oracle.log
            if stale and change.expires_ms
        ]
        self.commit(Expire((*due, *was_due), self.now))

    @rule(
        versions=st.integers(1, 4), window=st.sampled_from([5, 10, 15]),
        request_ids_max=st.integers(3, 6),
    )  # fmt: skip
    def configure(self, versions: int, window: int, request_ids_max: int) -> None:
        self.commit(
            Configure(
                replace(
                    self.limits,
                    history_versions_max=versions,
                    watch_window_changes_max=window,
                    request_ids_max=request_ids_max,
                )
            )
        )

    # -- restarts and replays ----------------------------------------------------------

    @rule()
    def reopen_a(self) -> None:
        self.a.reopen()

    @rule(back=st.integers(0, 3))
    def replay_a(self, back: int) -> None:
        before = self.a.digest()
        again = self.entries[len(self.entries) - back :]
        results = self.a.state.apply(again)
        assert results == [[None] * len(entry.commands) for entry in again]
        assert self.a.digest() == before
        assert not self.a.heard

    @rule(back=st.integers(0, 3), burst=st.integers(1, 30), reopen=st.booleans())
    def deliver_b(self, back: int, burst: int, reopen: bool) -> None:
        start = max(0, self.delivered - back)
        end = min(len(self.entries), self.delivered + burst)
        self.b.state.apply(self.entries[start:end])
        self.delivered = end
        if reopen:
            self.b.reopen()
        if self.delivered == len(self.entries):
            assert self.b.digest() == self.a.digest()

    # -- reads -------------------------------------------------------------------------

    @rule(owner=owners, key=keys, wanted=st.booleans())
    def get(self, owner: tuple[str, str], key: bytes, wanted: bool) -> None:
        expected = self.oracle.live.get((*owner, key))
        if expected is not None and not wanted:
            expected = replace(expected, value=None)
        with self.a.store.read() as snapshot:
            assert KvReader(snapshot).get(*owner, key, values=wanted) == expected

    @rule(
        owner=owners, prefix=prefixes,
        cursor=st.one_of(st.none(), keys), limit=st.integers(1, 6),
        bytes_max=st.sampled_from([1, 500, 1 << 20]), wanted=st.booleans(),
    )  # fmt: skip
    def scan(
        self,
        owner: tuple[str, str],
        prefix: bytes,
        cursor: bytes | None,
        limit: int,
        bytes_max: int,
        wanted: bool,
    ) -> None:
        expected = [
            record
            for name, record in sorted(self.oracle.live.items())
            if name[:2] == owner
            and record.key.startswith(prefix)
            and (cursor is None or record.key > cursor)
        ]
        seen: list[Record] = []
        with self.a.store.read() as snapshot:
            reader = KvReader(snapshot)
            while True:
                page = reader.scan(*owner, prefix, cursor, limit, bytes_max, wanted)
                assert len(page.records) <= limit
                weights = [len(r.key) + (r.size if wanted else 0) for r in page.records]
                assert sum(weights[:-1]) < bytes_max
                seen.extend(page.records)
                if not page.more:
                    break
                cursor = page.records[-1].key
        if not wanted:
            expected = [replace(record, value=None) for record in expected]
        assert seen == expected

    @precondition(lambda self: self.oracle.log)
    @rule(data=st.data(), limit=st.integers(1, 3), wanted=st.booleans())
    def history(self, data: st.DataObject, limit: int, wanted: bool) -> None:
        name = self.a_name(data)
        expected = self.oracle.kept.get(name, [])[::-1]
        if not wanted:
            expected = [replace(change, value=None) for change in expected]
        seen: list[Change] = []
        with self.a.store.read() as snapshot:
            reader = KvReader(snapshot)
            while True:
                before = seen[-1].id if seen else None
                page = reader.history(*name, before, limit, 1 << 20, wanted)
                assert page.compacted == (name in self.oracle.cut)
                seen.extend(page.changes)
                if not page.more:
                    break
        assert seen == expected

    @precondition(lambda self: self.oracle.log)
    @rule(data=st.data())
    def the_past(self, data: st.DataObject) -> None:
        name = self.a_name(data)
        revision = data.draw(st.integers(0, self.oracle.revision + 1))
        with self.a.store.read() as snapshot:
            reader = KvReader(snapshot)
            if revision > self.oracle.revision:
                with pytest.raises(InvalidArgument):
                    reader.get_at(*name, revision)
            elif self.oracle.knows(name, revision):
                assert reader.get_at(*name, revision) == self.oracle.at(name, revision)
            else:
                with pytest.raises(Compacted):
                    reader.get_at(*name, revision)

    @rule(data=st.data(), limit=st.integers(1, 5), wanted=st.booleans())
    def resume(self, data: st.DataObject, limit: int, wanted: bool) -> None:
        floor = self.oracle.floor
        revisions = st.integers(0, self.oracle.revision)
        revision = data.draw(st.one_of(st.just(floor.revision), revisions))
        since = ChangeId(revision, data.draw(st.integers(0, 4)))
        with self.a.store.read() as snapshot:
            reader = KvReader(snapshot)
            assert reader.compacted_revision == floor.revision
            if since < floor:
                with pytest.raises(Compacted):
                    reader.changes(since, limit, 1 << 20, wanted)
                since = after(floor.revision)
            expected = [change for change in self.oracle.log if change.id > since]
            if not wanted:
                expected = [replace(change, value=None) for change in expected]
            seen: list[Change] = []
            while page := reader.changes(since, limit, 1 << 20, wanted):
                assert len(page) <= limit
                seen.extend(page)
                since = page[-1].id
            assert seen == expected
            for change in seen:
                assert reader.change(change.id, wanted) == change

    def a_name(self, data: st.DataObject) -> tuple[str, str, bytes]:
        names = sorted({(c.namespace, c.session, c.key) for c in self.oracle.log})
        return data.draw(st.sampled_from([*names, ("n", "s", b"never")]))

    # -- what always holds -------------------------------------------------------------

    @invariant()
    def consistent(self) -> None:
        if not hasattr(self, "a"):
            return
        live = self.oracle.live
        with self.a.store.read() as snapshot:
            assert check(snapshot) == []
            reader = KvReader(snapshot)
            namespaces = sorted({name[0] for name in live})
            assert reader.namespaces(None, 100) == namespaces
            assert reader.namespaces("m", 1) == [n for n in namespaces if n > "m"][:1]
            for namespace in NAMESPACES:
                sessions = sorted({name[1] for name in live if name[0] == namespace})
                assert reader.sessions(namespace, None, 100) == sessions
                assert reader.sessions(namespace, "s", 1) == [s for s in sessions if s > "s"][:1]
            stats = reader.stats()
            counters = load_counters(snapshot.txn, snapshot.databases)
        assert stats.keys == len(live)
        assert stats.value_bytes == sum(record.size for record in live.values())
        assert stats.request_ids == len(self.oracle.requests)
        # The window keeps all it may; by bytes it may lag, within the bound that is stated.
        limits = self.oracle.limits
        inside = sum(change.id > counters.floor for change in self.oracle.log)
        assert counters.window_changes == inside
        slack = 15 * SWEEP_BYTES_PER_STEP
        assert counters.window_bytes <= limits.watch_window_bytes_max + slack

    def teardown(self) -> None:
        if not hasattr(self, "a"):
            return
        c = Replica(self.folder / "c", self.limits)
        try:
            self.b.state.apply(self.entries[self.delivered :])
            c.state.apply(self.entries)
            assert self.a.digest() == self.b.digest() == c.digest()
            assert c.heard == self.oracle.log
            assert c.state.limits == self.oracle.limits
        finally:
            for replica in (self.a, self.b, self.s, c):
                replica.state.close()
            shutil.rmtree(self.folder)


def _due_name(due: DueRecord) -> tuple[str, str, bytes]:
    return due.namespace, due.session, due.key


def test_kv_state_answers_as_the_oracle() -> None:
    run_state_machine_as_test(
        KvMachine,
        settings=settings(
            max_examples=100,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
