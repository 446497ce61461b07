"""Keys of any length and bytes: exact order, and nothing left behind when they go."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from engines.check import check
from engines.keyspace import SEGMENT_BYTES
from tests.unit.engine_state import State

KEY_BYTES_MAX = 4096

# Keys share long beginnings and end near the borders of segments; order must hold for
# the bytes that mark directories, too.
PIECES = [b"p" * SEGMENT_BYTES, b"p" * (SEGMENT_BYTES - 1), b"\x00" * SEGMENT_BYTES, b"q"]
pieces = st.lists(
    st.one_of(
        st.integers(0, len(PIECES) - 1).map(lambda place: PIECES[place]),
        st.sampled_from([b"\x00", b"\x01", b"\x02", b"p", b"\xff"]),
    ),
    min_size=1,
    max_size=10,
)
keys = pieces.map(lambda parts: b"".join(parts)[:KEY_BYTES_MAX])


@given(
    st.lists(keys, unique=True, max_size=25),
    st.lists(keys, max_size=5),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_scans_give_byte_order_and_deletes_leave_nothing(
    stored: list[bytes], cursors: list[bytes], random: object
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        state = State(Path(folder))
        for key in stored:
            state.put(key)

        def scan(prefix: bytes, after: bytes | None) -> list[bytes]:
            with state.reader() as reader:
                page = reader.scan("n", "s", prefix, after, 100, 1 << 20, False)
            assert not page.more
            return [record.key for record in page.records]

        assert scan(b"", None) == sorted(stored)
        for cursor in (*cursors, *stored[:5]):
            assert scan(b"", cursor) == sorted(key for key in stored if key > cursor)
            assert scan(cursor, None) == sorted(key for key in stored if key.startswith(cursor))
            middle = cursor[: len(cursor) // 2]
            assert scan(middle, cursor) == sorted(
                key for key in stored if key.startswith(middle) and key > cursor
            )
            assert (state.get(cursor) is not None) == (cursor in stored)

        left = list(stored)
        random.shuffle(left)  # type: ignore[attr-defined]
        while left:
            state.delete(left.pop())
            assert scan(b"", None) == sorted(left)
            with state.store.read() as snapshot:
                assert check(snapshot) == []
        with state.store.read() as snapshot:
            for database in (snapshot.databases.leaves, snapshot.databases.sessions):
                assert snapshot.txn.stat(database)["entries"] == 0
        state.machine.close()
