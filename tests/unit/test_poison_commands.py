"""What once could stop every replica at one entry, make two differ, or break an answer.

`tests/property/test_poison_commands.py` found most of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from engines.codec import Value, check_value, pack_value, unpack_value
from engines.command import CollectionCommand
from engines.cursors import encode_cursor, scope_of
from engines.engine import Kind, Parameters, Settings, Stamp
from engines.errors import CorruptRecord, InvalidArgument, QueryCancelled
from engines.interfaces import CollectionResult, RejectCode, Rejected
from engines.registry import BUILT_IN, Registry
from engines.space import ITEM_KEY_BYTES_MAX, Space, View
from engines.vector_parameters import NORM_MIN
from engines.vector_settings import stored
from tests.unit.engine_state import State, checked_state

ENGINES = {engine.name: engine for engine in BUILT_IN}


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with checked_state(tmp_path / "state") as made:
        yield made


def create(state: State, engine: str, settings: Parameters | None = None) -> None:
    body = {"engine": engine, "settings": settings or {}}
    assert isinstance(state.collection("collection_create", "c", body), CollectionResult)


def write(state: State, operation: str, parameters: Parameters) -> Any:
    """As a caller does it."""
    check_value(parameters, "parameters")
    engine = state.machine.registry.operations[operation].engine
    return state.collection(operation, "c", engine.prepare(operation, parameters))


# --- SQL --------------------------------------------------------------------------------


def sql(state: State, text: str, params: Any = (), **more: Any) -> Any:
    return write(state, "sql_execute", {"sql": text, "params": list(params) or more})


@pytest.fixture
def crm(state: State) -> State:
    create(state, "relational")
    sql(state, "CREATE TABLE t (n INTEGER PRIMARY KEY, v)")
    return state


def test_a_parameter_that_is_missing_is_named(crm: State) -> None:
    refused = sql(crm, "INSERT INTO t VALUES (:n, :v)", v=1)
    assert isinstance(refused, Rejected)
    assert (refused.code, refused.field) == (RejectCode.INVALID_ARGUMENT, "parameters.sql")
    assert "params hold no value for n" in refused.message
    with pytest.raises(InvalidArgument, match="params hold no value for v"):
        crm.query("c", "sql_query", sql="SELECT :v", params={"x": 1})


@pytest.mark.parametrize("size", ["9e999", "-9e999"])
def test_no_end_of_random_bytes_is_refused(crm: State, size: str) -> None:
    refused = sql(crm, f"INSERT INTO t VALUES (1, randomblob({size}))")
    assert isinstance(refused, Rejected)
    assert "1 MiB" in refused.message


def test_a_blob_of_other_letters_is_refused_where_it_is_given(crm: State) -> None:
    with pytest.raises(InvalidArgument) as refused:
        sql(crm, "INSERT INTO t VALUES (1, ?)", [{"base64": "é"}])
    assert refused.value.field == "parameters.params[0]"


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO t VALUES (9223372036854775807, 1)",
        "INSERT INTO t VALUES (9223372036854775807, 1), (NULL, 2)",
        "UPDATE t SET n = 9223372036854775807",
    ],
)
def test_the_last_rowid_is_not_given_away(crm: State, text: str) -> None:
    """Behind it SQLite draws rowids by a generator that no seed reaches."""
    sql(crm, "INSERT INTO t VALUES (1, 1)")
    refused = sql(crm, text)
    assert isinstance(refused, Rejected)
    assert refused.code is RejectCode.LIMIT_EXCEEDED
    assert crm.query("c", "sql_query", sql="SELECT n FROM t")["rows"] == [[1]]
    sql(crm, "INSERT INTO t VALUES (9223372036854775806, 1)")
    assert isinstance(sql(crm, "DELETE FROM t"), CollectionResult)


def test_nothing_of_the_process_can_be_stored(crm: State) -> None:
    refused = sql(crm, "INSERT INTO t SELECT 1, file FROM pragma_database_list")
    assert isinstance(refused, Rejected)
    assert "database_list is not allowed" in refused.message


def test_local_time_is_utc_in_a_daemon(tmp_path: Path) -> None:
    """Where a machine stands must not go into the state."""
    program = (
        "import sys; from pathlib import Path\n"
        "from node.environment import use_utc; use_utc()\n"
        "from tests.unit.test_poison_commands import create, sql\n"
        "from tests.unit.engine_state import State\n"
        "state = State(Path(sys.argv[1])); create(state, 'relational')\n"
        "text = \"SELECT datetime(0, 'unixepoch', 'localtime')\"\n"
        "print(state.query('c', 'sql_query', sql=text)['rows'][0][0])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "state")],
        env={**os.environ, "TZ": "XYZ+5"}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert run.stdout.strip() == "1970-01-01 00:00:00"


# --- Graphs, documents ------------------------------------------------------------------


def test_a_cost_that_no_float_holds_is_no_infinity(state: State) -> None:
    create(state, "graph")
    for name in ("a", "b", "c"):
        write(state, "graph_create_node", {"id": name})
    for one, other in (("a", "b"), ("b", "c")):
        edge = {
            "id": one, "from": one, "to": other, "type": "t", "properties": {"w": 1e308},
        }  # fmt: skip
        write(state, "graph_create_edge", edge)
    path = {"from": "a", "to": "c", "weight": "w"}
    with pytest.raises(InvalidArgument) as refused:
        state.query("c", "graph_shortest_path", **path)
    assert refused.value.field == "parameters.weight"
    assert not state.query("c", "graph_shortest_path", **path, max_cost=1.5e308)["found"]
    edge = {"from": "a", "to": "c", "type": "t", "properties": {"w": 1.5e308}}
    write(state, "graph_create_edge", edge)
    assert state.query("c", "graph_shortest_path", **path)["cost"] == 1.5e308


@pytest.mark.parametrize(
    "stage",
    [
        {"$project": {"a": ["$$ROOT"] * 100}},
        {"$project": {f"a{n}": "$$ROOT" for n in range(100)}},
        {"$project": {"a": {"b": {"c": {"d": ["$$ROOT"]}}}}},
        {"$group": {"_id": {"a": ["$$ROOT"] * 50}}},
        {"$group": {"_id": None, "a": {"$push": ["$$ROOT"] * 50}}},
        {"$group": {"_id": None, **{f"a{n}": {"$last": "$$ROOT"} for n in range(99)}}},
    ],
)
def test_a_pipeline_cannot_make_documents_without_end(state: State, stage: Parameters) -> None:
    create(state, "document")
    write(state, "document_insert", {"document": {"_id": "a"}})
    with pytest.raises(InvalidArgument) as refused:
        state.query("c", "document_aggregate", pipeline=[stage] * 32)
    assert refused.value.field.startswith("parameters.pipeline[")


# --- Vectors ----------------------------------------------------------------------------


def test_whether_a_vector_is_zero_does_not_depend_on_how_a_processor_adds() -> None:
    """numpy's norm may be off by a few units in the last place of f32, and by machine."""
    settings = ENGINES["vector"].settings({"dimensions": 3}, None)
    least = NORM_MIN / 3**0.5
    for factor, refused in ((0.999999, True), (1.000001, False), (0.1, True), (10, False)):
        given = {"documents": [{"id": "a", "vector": [least * factor] * 3}]}
        body = ENGINES["vector"].prepare("vector_insert", given)
        assert zero(settings, body) is refused


def zero(settings: Settings, body: Any) -> bool:
    try:
        stored(settings, body["documents"][0][1], "vector")
    except InvalidArgument:
        return True
    return False


# --- Cursors, which callers can make up: their check is no secret ---------------------------


LONG = "x" * 600


@pytest.mark.parametrize(
    ("engine", "operation", "parameters", "scope", "position"),
    [
        ("document", "document_delete", {"filter": {}}, [{}, None], LONG),
        ("document", "document_update", {"filter": {}, "merge": {"a": 1}}, [{}, {"a": 1}], LONG),
        ("vector", "vector_delete", {"filter": {}}, {}, b"v" + LONG.encode()),
        ("vector", "vector_delete", {"filter": {}}, {}, b"v" + b"\xff" * 600),
        ("timeseries", "series_delete", {"metric": "m"}, None, [b"sm\x00" + b"\xff" * 600]),
        ("timeseries", "series_retain", {}, None, [b"s" + LONG.encode()]),
        ("timeseries", "series_retain", {}, None, [b"\xff" * 600]),
    ],
)
def test_a_place_longer_than_keys_is_one_place_more(
    state: State, engine: str, operation: str, parameters: Parameters, scope: Any, position: Any
) -> None:
    create(state, engine, {"dimensions": 3} if engine == "vector" else None)
    if scope is None:
        scope = scope_of(operation, parameters)
    given = {**parameters, "cursor": encode_cursor(scope, position)}
    assert isinstance(write(state, operation, given), CollectionResult)


# --- Bodies that fit nothing ------------------------------------------------------------


class Shaky:
    """An engine whose writes raise what their body says, after they wrote something."""

    name = "shaky"
    aliases: tuple[str, ...] = ()
    capabilities: frozenset[str] = frozenset()
    operations: Mapping[str, Kind] = {"shake": Kind.WRITE, "look": Kind.READ}

    def settings(self, given: Parameters, current: Settings | None) -> dict[str, Value]:
        return {}

    def prepare(self, operation: str, parameters: Parameters) -> Value:
        return dict(parameters)

    def apply(
        self, space: Space, settings: Settings, operation: str, body: Any, stamp: Stamp
    ) -> Value:
        return self.work(space, body)

    def work(self, space: Space, body: Any) -> Value:
        space.put(b"k", b"half")
        errors: dict[str, Any] = {
            "KeyError": KeyError("k"), "OverflowError": OverflowError(), "TypeError": TypeError(),
            "MemoryError": MemoryError(), "OSError": OSError(28, "no space"),
            "CorruptRecord": CorruptRecord("items", b"k", "is damaged"),
        }  # fmt: skip
        if body in errors:
            raise errors[body]
        return {"far": 1 << 70} if body == "answer" else "done"

    def altered(self, space: Space, old: Settings, new: Settings) -> None: ...

    def query(
        self, view: View, settings: Settings, operation: str, parameters: Parameters
    ) -> Value:
        return view.get(b"k")

    def index(self, settings: Settings) -> None: ...

    def check(self, view: View, settings: Settings) -> Iterator[str]:
        return iter(())


@pytest.fixture
def shaky(tmp_path: Path) -> Iterator[State]:
    made = State(tmp_path / "state", registry=Registry([Shaky()]))
    create(made, "shaky")
    yield made
    made.machine.close()


@pytest.mark.parametrize("end", [b"a" * 600, b"b", b"b" * ITEM_KEY_BYTES_MAX, b"\xff" * 600])
def test_ends_of_ranges_may_be_longer_than_keys(shaky: State, end: bytes) -> None:
    """In the state and within a command."""
    seen: list[Any] = []
    keys = [b"a" * ITEM_KEY_BYTES_MAX, b"b" * ITEM_KEY_BYTES_MAX, b"c"]

    class Ranges(Shaky):
        def work(self, space: Space, body: Any) -> Value:
            for key in keys:
                space.put(key, b"")
            return "done"

        def query(
            self, view: View, settings: Settings, operation: str, parameters: Parameters
        ) -> Value:
            for reverse in (False, True):
                seen.append([key for key, _ in view.range(end, reverse=reverse)])
                seen.append([key for key, _ in view.range(b"", end, reverse=reverse)])
            return view.get(end)

    shaky.machine.registry = Registry([Ranges()])
    shaky.collection("shake", "c", None)
    assert shaky.query("c", "look") == (b"" if end in keys else None)
    above, below = [key for key in keys if key >= end], [key for key in keys if key < end]
    assert seen == [above, below, above[::-1], below[::-1]]


@pytest.mark.parametrize("body", ["KeyError", "OverflowError", "TypeError", "answer"])
def test_what_an_engine_did_not_foresee_is_a_refusal(shaky: State, body: str) -> None:
    heard: list[tuple[str, Exception]] = []
    shaky.machine.on_unforeseen = lambda operation, error: heard.append((operation, error))
    refused = shaky.collection("shake", "c", body)
    message = "the engine cannot do this command"
    assert refused == Rejected(RejectCode.INVALID_ARGUMENT, message, None, "parameters")
    assert shaky.query("c", "look") is None
    assert [operation for operation, _ in heard] == ["shake"]
    assert shaky.collection("shake", "c", "well") == CollectionResult(pack_value("done"), 3)


@pytest.mark.parametrize("body", ["MemoryError", "OSError", "CorruptRecord"])
def test_what_is_of_one_replica_stops_it(shaky: State, body: str) -> None:
    with pytest.raises((MemoryError, OSError, CorruptRecord)):
        shaky.collection("shake", "c", body)
    assert shaky.query("c", "look") is None


@pytest.mark.parametrize(
    "body",
    [
        b"\xc1", b"", b"\x81", b"\xc7\x00\x05", b"\x91" * 400 + b"\x01", b"\x81\x01\x02",
        pack_value(float("nan")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("operation", ["shake", "collection_alter", "collection_create"])
def test_a_body_that_is_no_value_is_a_refusal(shaky: State, operation: str, body: bytes) -> None:
    name = "other" if operation == "collection_create" else "c"
    (refused,) = shaky.apply(CollectionCommand("n", name, operation, body, 1_000, 1))
    assert isinstance(refused, Rejected)
    assert refused.code is RejectCode.INVALID_ARGUMENT
    assert isinstance(shaky.collection("collection_alter", "c", {"settings": {}}), CollectionResult)


VECTOR = bytes(11) + b"@"


def one_vector(identity: str, vector: bytes, metadata: bytes) -> Any:
    return {"model": None, "documents": [[identity, vector, metadata, None]]}


@pytest.mark.parametrize(
    ("engine", "operation", "body"),
    [
        ("text", "text_upsert", [{"id": "a", "fields": {"text": {}}, "metadata": {}}]),
        ("text", "text_upsert", [{"id": "a", "fields": {"text": "a"}, "metadata": [1]}]),
        ("text", "text_upsert", [{"id": "a", "fields": {"text": "a"}, "time_ms": "now"}]),
        ("timeseries", "series_append", [[["m"], {}, b"\x01" + bytes(7), bytes(8)]]),
        ("timeseries", "series_append", [["m\x00", {}, b"\x01" + bytes(7), bytes(8)]]),
        ("timeseries", "series_append", [["m", {}, bytes(9), bytes(8)]]),
        ("vector", "vector_upsert", one_vector("a", VECTOR, b"\x90")),
        ("vector", "vector_upsert", one_vector("a", VECTOR, b"\x81")),
        ("vector", "vector_upsert", one_vector("a", b"\x00\x00\xc0\x7f" * 3, b"\x80")),
        ("vector", "vector_upsert", one_vector("", VECTOR, b"\x80")),
    ],
)
def test_what_would_be_a_damaged_record_is_not_stored(
    state: State, engine: str, operation: str, body: Any
) -> None:
    """`checked_state` looks whether the state holds together afterwards."""
    create(state, engine, {"dimensions": 3} if engine == "vector" else None)
    assert isinstance(state.collection(operation, "c", body), Rejected)


# --- Work that grows with the product of what two callers gave --------------------------------


NUMBERS = [0] * 500_000  # one byte each
CONDITIONS = [{"a": {"$gt": 1}} for _ in range(100)]


@pytest.fixture
def large(state: State) -> State:
    create(state, "document")
    write(state, "document_insert", {"document": {"_id": "a", "a": NUMBERS}})
    return state


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [
        ("document_delete", {"filter": {"$or": CONDITIONS}}),
        ("document_update", {"filter": {"$or": CONDITIONS}, "merge": {"b": 1}}),
        ("document_update", {"id": "a", "update": {"$pull": {"a": 1}}}),
    ],
)
def test_many_conditions_on_a_large_document_are_refused(
    large: State, operation: str, parameters: Parameters
) -> None:
    refused = write(large, operation, parameters)
    if "id" in parameters:  # a value is no harm
        assert isinstance(refused, CollectionResult)
        many = {"$pull": {"a": {"$nor": [{"b": each} for each in CONDITIONS]}}}
        refused = write(large, operation, {"id": "a", "update": many})
    assert isinstance(refused, Rejected)
    assert "conditions, too many" in refused.message
    assert refused.field is not None
    assert refused.field.startswith(("parameters.filter", "parameters.update.$pull.a"))


def test_a_write_by_filter_goes_in_steps_of_work(state: State) -> None:
    """A $pull of 480 conditions took 2.7 s for one document of 30,000 values, and went on."""
    create(state, "document")
    documents: list[Any] = [{"_id": f"{n:02d}", "a": [{}] * 1_000} for n in range(10)]
    write(state, "document_insert", {"documents": documents})
    conditions: list[Any] = [{"x": {"$gt": each}} for each in range(40)]
    pull = {"filter": {}, "update": {"$pull": {"a": {"$or": conditions}}, "$set": {"b": 1}}}
    drop = {"filter": {"a": {"$elemMatch": {"$or": conditions}}}}
    assert _passes(state, "document_update", pull, "matched") == [4, 4, 2]
    assert _passes(state, "document_delete", drop, "deleted") == [0, 0, 0]
    assert state.query("c", "document_count", filter={"b": 1})["count"] == 10


def _passes(state: State, operation: str, parameters: Parameters, member: str) -> list[int]:
    counts: list[int] = []
    cursor: Any = None
    while not counts or cursor is not None:
        more = {} if cursor is None else {"cursor": cursor}
        answer = unpack_value(write(state, operation, {**parameters, **more}).answer)
        assert isinstance(answer, dict)
        counts.append(answer[member])
        cursor = answer["next_cursor"]
    return counts


def test_only_what_a_filter_looks_at_counts(large: State) -> None:
    conditions: list[Any] = [{f"b{n}": 1} for n in range(100)]
    for operation, more in (("document_update", {"merge": {"c": 1}}), ("document_delete", {})):
        done = write(large, operation, {"filter": {"$nor": conditions}, **more})
        assert isinstance(done, CollectionResult)
    assert large.query("c", "document_count")["count"] == 0


def test_pulls_of_one_document_are_bounded_together(state: State) -> None:
    create(state, "document")
    arrays = {f"a{n}": [1] * 1_000 for n in range(20)}
    write(state, "document_insert", {"document": {"_id": "a", **arrays}})
    wanted = {"$nor": [{"b": each} for each in range(20)]}

    def pull(count: int) -> Any:
        update = {"$pull": {f"a{n}": wanted for n in range(count)}}
        return write(state, "document_update", {"id": "a", "update": update})

    assert isinstance(pull(6), CollectionResult)
    assert isinstance(pull(7), Rejected)


def test_a_read_of_many_conditions_looks_whether_it_is_awaited(state: State) -> None:
    create(state, "document")
    write(state, "document_insert", {"document": {"a": [0] * 3_000}})
    with state.reader() as reader:
        reader.stop = lambda: True
        with pytest.raises(QueryCancelled):
            reader.collections.query("n", "c", "document_count", {"filter": {"$or": CONDITIONS}})


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [
        ("document_find", {"filter": {"$or": CONDITIONS}}),
        ("document_find", {"filter": {"$or": CONDITIONS}, "sort": {"a": 1}}),
        ("document_count", {"filter": {"$or": CONDITIONS}}),
        ("document_distinct", {"field": "a", "filter": {"$or": CONDITIONS}}),
        ("document_aggregate", {"pipeline": [{"$match": {"$or": CONDITIONS}}]}),
    ],
)
def test_reads_of_it_are_refused_as_well(
    large: State, operation: str, parameters: Parameters
) -> None:
    with pytest.raises(InvalidArgument, match="conditions, too many"):
        large.query("c", operation, **parameters)


def test_what_a_vectors_filter_wants_is_looked_up_not_searched(state: State) -> None:
    """Five thousand items against a thousand arrays took two seconds for each vector."""
    create(state, "vector", {"dimensions": 1})
    items: list[Any] = [[each] for each in range(5_000)]
    document = {"id": "a", "vector": [1], "metadata": {"a": items, "n": None, "o": {"b": [1.0]}}}
    write(state, "vector_insert", {"documents": [document]})
    wanted: list[Any] = [[-each - 1] for each in range(999)]

    def count(condition: Parameters) -> int:
        found: int = state.query("c", "vector_count", filter=condition)["count"]
        return found

    conditions = [{"a": {"$in": [*wanted, [20_000 + each]]}} for each in range(20)]
    assert count({"$or": conditions}) == 0
    assert count({"a": {"$in": [*wanted, [4_999.0]]}}) == 1
    assert count({"a": {"$in": [items]}}) == 1
    assert count({"o": {"b": [1]}}) == 1
    assert count({"o": {"b": [True]}}) == 0
    assert (
        count({"n": None}) == count({"absent": None}) == count({"absent": {"$in": [None, 1]}}) == 1
    )


def test_a_deletion_by_filter_goes_in_steps_of_work(state: State) -> None:
    create(state, "vector", {"dimensions": 1})
    for start in range(0, 200, 100):
        documents = [
            {"id": f"{each:03}", "vector": [1], "metadata": {"a": "x" * 10_000}}
            for each in range(start, start + 100)
        ]
        write(state, "vector_insert", {"documents": documents})
    condition = {"$or": [{"a": "y"}, {"a": {"$gt": "z"}}, *({"b": each} for each in range(20))]}
    parameters: Parameters = {"filter": condition}
    steps = 0
    while True:
        answer = unpack_value(write(state, "vector_delete", parameters).answer)
        assert answer["deleted"] == 0
        steps += 1
        if answer["next_cursor"] is None:
            break
        parameters = {"filter": condition, "cursor": answer["next_cursor"]}
    assert 4 < steps < 20
