"""The document engine through the log: writes, refusals, versions, plans, limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engines import document_edit, document_find, document_writes
from engines.document_parameters import DOCUMENT_BYTES_MAX
from engines.errors import InvalidArgument
from engines.interfaces import RejectCode, Rejected
from tests.unit.document_state import ENGINE, Collection, documents


def refused(collection: Collection, code: RejectCode, operation: str, **parameters: Any) -> Any:
    """The refusal, after which nothing is stored that was not."""
    before = collection.read("document_find", limit=1_000), collection.read("document_indexes")
    answer = collection.write(operation, **parameters)
    assert isinstance(answer, Rejected)
    assert answer.code is code, answer
    assert before == (
        collection.read("document_find", limit=1_000),
        collection.read("document_indexes"),
    )
    return answer


def test_insert_get_and_ids_that_are_made(tmp_path: Path) -> None:
    with documents(tmp_path) as docs:
        answer = docs.insert({"v": 0}, {"_id": "x", "v": None, "deep": {"": [False, ""]}})
        made, given = answer["ids"]
        assert answer["inserted"] == 2
        assert given == "x"
        assert len(made) == 32
        assert docs.one("x") == {
            "id": "x", "version": 1, "created_ms": 1_000, "updated_ms": 1_000,
            "document": {"_id": "x", "v": None, "deep": {"": [False, ""]}},
        }  # fmt: skip
        got = docs.read("document_get", ids=["none", "x", made])["items"]
        assert [item and item["id"] for item in got] == [None, "x", made]
        assert docs.read("document_count") == {"count": 2}
        docs.state.now += 1
        (later,) = docs.write("document_insert", document={})["ids"]
        assert later > made


def test_ids_that_exist_refuse_the_whole_insert(tmp_path: Path) -> None:
    with documents(tmp_path, {"fields": ["a"]}) as docs:
        docs.insert({"_id": "x", "a": 1})
        for given in ([{"_id": "y"}, {"_id": "x"}], [{"_id": "y"}, {"_id": "y"}]):
            answer = refused(docs, RejectCode.ITEM_EXISTS, "document_insert", documents=given)
            assert answer.field == "parameters.documents[1]._id"


def test_upsert_replaces_whole_documents(tmp_path: Path) -> None:
    with documents(tmp_path) as docs:
        docs.insert({"_id": "x", "a": 1, "b": 2})
        docs.state.now = 2_000
        answer = docs.write("document_upsert", documents=[{"_id": "x", "a": 3}, {"_id": "y"}])
        assert answer == {"inserted": 1, "replaced": 1, "ids": ["x", "y"], "versions": [2, 1]}
        assert docs.one("x") == {
            "id": "x", "version": 2, "created_ms": 1_000, "updated_ms": 2_000,
            "document": {"_id": "x", "a": 3},
        }  # fmt: skip
        answer = docs.write("document_upsert", document={"_id": "x", "a": 3})
        assert (answer["replaced"], answer["versions"]) == (0, [2])
        for version in (0, 1, 3):
            answer = refused(
                docs, RejectCode.VERSION_CONFLICT, "document_upsert",
                document={"_id": "x"}, if_version=version,
            )  # fmt: skip
            assert answer.version == 2
        docs.write("document_upsert", document={"_id": "z"}, if_version=0)
        assert docs.one("z")["version"] == 1


UPDATES: list[tuple[Any, Any, Any]] = [
    ({"$set": {"a.b": 1}}, {}, {"a": {"b": 1}}),
    ({"$set": {"a.1": "x"}}, {"a": [1, 2]}, {"a": [1, "x"]}),
    ({"$set": {"a.2": "x"}}, {"a": [1, 2]}, {"a": [1, 2, "x"]}),
    ({"$set": {"a.0.b": "x"}}, {"a": [{}]}, {"a": [{"b": "x"}]}),
    ({"$unset": {"a.b": ""}}, {"a": {"b": 1, "c": 2}}, {"a": {"c": 2}}),
    ({"$unset": {"a.0": ""}}, {"a": [1, 2]}, {"a": [None, 2]}),
    ({"$unset": {"a.b": ""}}, {"a": 1}, {"a": 1}),
    ({"$inc": {"a": 2, "b": -1}}, {"a": 1}, {"a": 3, "b": -1}),
    ({"$inc": {"a": 0.5}}, {"a": 1}, {"a": 1.5}),
    ({"$mul": {"a": 3, "b": 3}}, {"a": 2}, {"a": 6, "b": 0}),
    ({"$min": {"a": 2, "b": 2, "c": 2}}, {"a": 1, "b": 3}, {"a": 1, "b": 2, "c": 2}),
    ({"$max": {"a": 2, "b": "x"}}, {"a": 1, "b": 3}, {"a": 2, "b": "x"}),
    ({"$push": {"a": 1}}, {}, {"a": [1]}),
    ({"$push": {"a": {"$each": [3, 4], "$slice": -3}}}, {"a": [1, 2]}, {"a": [2, 3, 4]}),
    ({"$push": {"a": {"$each": [3], "$slice": 0}}}, {"a": [1]}, {"a": []}),
    ({"$pull": {"a": 1}}, {"a": [1, 2, 1.0]}, {"a": [2]}),
    ({"$pull": {"a": {"$gte": 2}}}, {"a": [1, 2, 3]}, {"a": [1]}),
    ({"$pull": {"a": {"k": 1}}}, {"a": [{"k": 1, "v": 2}, {"k": 2}, 1]}, {"a": [{"k": 2}, 1]}),
    ({"$pull": {"a": 1}}, {}, {}),
    ({"$addToSet": {"a": {"$each": [1.0, 2, 2]}}}, {"a": [1]}, {"a": [1, 2]}),
    ({"$rename": {"a": "b.c"}}, {"a": 1}, {"b": {"c": 1}}),
    ({"$rename": {"a": "b"}}, {"c": 1}, {"c": 1}),
    ({"$set": {"a": 1}, "$inc": {"b": 1}}, {}, {"a": 1, "b": 1}),
]


@pytest.mark.parametrize(("update", "before", "after"), UPDATES, ids=repr)
def test_update(tmp_path: Path, update: Any, before: Any, after: Any) -> None:
    with documents(tmp_path, {"fields": ["a"]}, {"fields": ["b", "a.b"]}) as docs:
        docs.insert({"_id": "x", **before})
        answer = docs.update(id="x", update=update)
        changed = before != after
        assert answer == {
            "matched": 1, "modified": int(changed), "upserted_id": None, "version": 1 + changed,
        }  # fmt: skip
        assert docs.body("x") == after


@pytest.mark.parametrize(
    ("update", "field"),
    [
        ({"$inc": {"t": 1}}, "parameters.update.$inc.t"),
        ({"$push": {"t": 1}}, "parameters.update.$push.t"),
        ({"$pull": {"t": 1}}, "parameters.update.$pull.t"),
        ({"$set": {"t.a": 1}}, "parameters.update.$set.t.a"),
        ({"$set": {"l.x": 1}}, "parameters.update.$set.l.x"),
        ({"$set": {"l.9": 1}}, "parameters.update.$set.l.9"),
        ({"$rename": {"l.0": "z"}}, "parameters.update.$rename.l.0"),
        ({"$inc": {"n": 2**63}}, "document.n"),
        ({"$mul": {"n": 1e308}}, "document.n"),
    ],
    ids=repr,
)
def test_update_that_a_document_makes_impossible(tmp_path: Path, update: Any, field: str) -> None:
    with documents(tmp_path) as docs:
        docs.insert({"_id": "x", "t": "text", "l": [1], "n": 2**63})
        answer = refused(
            docs, RejectCode.INVALID_ARGUMENT, "document_update", id="x", update=update
        )
        assert answer.field == field


def test_merge_patch(tmp_path: Path) -> None:
    # The example of RFC 7396, section 3.
    with documents(tmp_path) as docs:
        docs.insert(
            {"_id": "x", "title": "Goodbye!", "author": {"givenName": "John", "familyName": "Doe"},
             "tags": ["example", "sample"], "content": "This will be unchanged"}
        )  # fmt: skip
        docs.update(
            id="x",
            merge={"title": "Hello!", "phoneNumber": "+01-123-456-7890",
                   "author": {"familyName": None}, "tags": ["example"], "new": {"a": None}},
        )  # fmt: skip
        assert docs.body("x") == {
            "title": "Hello!", "author": {"givenName": "John"}, "tags": ["example"],
            "content": "This will be unchanged", "phoneNumber": "+01-123-456-7890", "new": {},
        }  # fmt: skip


def test_update_with_upsert(tmp_path: Path) -> None:
    with documents(tmp_path) as docs:
        answer = docs.update(id="x", update={"$inc": {"n": 1}}, upsert=True)
        assert answer == {"matched": 0, "modified": 0, "upserted_id": "x", "version": 1}
        answer = docs.update(id="x", update={"$inc": {"n": 1}}, upsert=True)
        assert answer == {"matched": 1, "modified": 1, "upserted_id": None, "version": 2}
        wanted = {"a.b": 1, "n": {"$gt": 5}, "c": {"$eq": [1]}}
        answer = docs.update(filter=wanted, update={"$set": {"d": 1}}, upsert=True)
        assert docs.body(answer["upserted_id"]) == {"a": {"b": 1}, "c": [1], "d": 1}
        answer = docs.update(filter={"_id": "y"}, merge={"e": 1}, upsert=True)
        assert answer["upserted_id"] == "y"
        assert docs.update(id="none", merge={"e": 1})["matched"] == 0


def test_versions_guard_updates_and_deletes(tmp_path: Path) -> None:
    with documents(tmp_path) as docs:
        docs.insert({"_id": "x"})
        for identity, version, there in (("x", 2, 1), ("x", 0, 1), ("none", 1, 0)):
            for operation, more in (
                ("document_update", {"merge": {"a": 1}}),
                ("document_delete", {}),
            ):
                answer = refused(
                    docs, RejectCode.VERSION_CONFLICT, operation,
                    id=identity, if_version=version, **more,
                )  # fmt: skip
                assert answer.version == there
        assert docs.update(id="x", merge={"a": 1}, if_version=1)["version"] == 2
        assert docs.write("document_delete", id="x", if_version=2) == {"deleted": 1}
        assert docs.write("document_delete", id="x") == {"deleted": 0}


def test_writes_by_filter_go_on_where_they_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document_edit, "EXAMINED_MAX", 7)
    with documents(tmp_path, {"fields": ["n"]}) as docs:
        docs.insert(*({"_id": f"{n:02}", "n": n % 5} for n in range(40)))
        # Every document moves within the index that finds it, and none is changed twice.
        cursor, steps, modified = None, 0, 0
        while True:
            answer = docs.update(
                filter={"n": {"$gte": 0}}, update={"$inc": {"n": 1}}, cursor=cursor
            )
            steps += 1
            modified += answer["modified"]
            cursor = answer["next_cursor"]
            assert answer["more"] == (cursor is not None)
            if cursor is None:
                break
        assert (modified, steps) == (40, 6)
        found = docs.pages("document_find", limit=9)
        assert all(item["version"] == 2 for item in found)
        assert [item["document"]["n"] for item in found] == [n % 5 + 1 for n in range(40)]
        # An upsert must not insert while it has not looked at everything.
        answer = refused(
            docs, RejectCode.LIMIT_EXCEEDED, "document_update",
            filter={"z": 1}, merge={}, upsert=True,
        )  # fmt: skip
        assert answer.field == "parameters.upsert"
        answer = docs.write("document_delete", filter={"n": 1}, limit=2)
        assert (answer["deleted"], answer["more"]) == (2, True)


def test_costly_filters_and_updates_shorten_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document_edit, "EXAMINED_MAX", 100)
    monkeypatch.setattr(document_edit, "UPDATE_WORK_BYTES_MAX", 100)
    with documents(tmp_path) as docs:
        docs.insert(*({"_id": f"{n:02}"} for n in range(60)))
        costly = {"$or": [{"a": n} for n in range(40)] + [{"_id": {"$gt": ""}}]}
        answer = docs.write("document_delete", filter=costly)
        assert (answer["deleted"], answer["more"]) == (10, True)
        answer = docs.update(filter={}, update={"$set": {"a": "x" * 40}})
        assert (answer["modified"], answer["more"]) == (2, True)


def test_bytes_and_entries_end_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_edit, "CHANGED_BYTES_MAX", 100)
    with documents(tmp_path) as docs:
        docs.insert(*({"_id": str(n)} for n in range(5)))
        answer = docs.update(filter={}, merge={"t": "x" * 60})
        assert (answer["matched"], answer["more"]) == (2, True)
        answer = docs.update(filter={}, merge={"t": "x" * 60}, cursor=answer["next_cursor"])
        assert (answer["matched"], answer["more"]) == (2, True)
    monkeypatch.setattr(document_edit, "INSERTED_ENTRIES_MAX", 10)
    with documents(tmp_path / "other", {"fields": ["a"]}) as docs:
        refused(docs, RejectCode.LIMIT_EXCEEDED, "document_insert", document={"a": [*range(11)]})


def test_a_document_has_at_most_a_mebibyte(tmp_path: Path) -> None:
    with documents(tmp_path) as docs:
        with pytest.raises(InvalidArgument) as large:
            docs.insert({"a": 1}, {"t": "x" * DOCUMENT_BYTES_MAX})
        assert large.value.field == "parameters.documents[1]"
        assert large.value.code == "VALUE_TOO_LARGE"
        docs.insert({"_id": "x", "t": "x" * (DOCUMENT_BYTES_MAX - 100)})
        answer = docs.update(id="x", update={"$set": {"u": "x" * 100}})
        assert answer.code is RejectCode.LIMIT_EXCEEDED


@pytest.mark.parametrize(
    ("operation", "parameters", "field"),
    [
        ("document_insert", {}, "document"),
        ("document_insert", {"document": {}, "documents": [{}]}, "document"),
        ("document_insert", {"document": []}, "document"),
        ("document_insert", {"documents": []}, "documents"),
        ("document_insert", {"documents": [1]}, "documents[0]"),
        ("document_insert", {"document": {"_id": 7}}, "document._id"),
        ("document_insert", {"documents": [{"_id": ""}]}, "documents[0]._id"),
        ("document_insert", {"document": {"_id": "é" * 129}}, "document._id"),
        ("document_insert", {"document": {}, "upsert": True}, "upsert"),
        ("document_upsert", {"documents": [{}], "if_version": 1}, "if_version"),
        ("document_upsert", {"document": {}, "if_version": -1}, "if_version"),
        ("document_update", {"id": "x"}, "update"),
        ("document_update", {"id": "x", "update": {}, "merge": {}}, "update"),
        ("document_update", {"update": {"$set": {"a": 1}}}, "id"),
        ("document_update", {"id": "x", "update": {"a": 1}}, "update.a"),
        ("document_update", {"id": "x", "update": {"$set": 1}}, "update.$set"),
        ("document_update", {"id": "x", "update": {"$set": {"_id": "y"}}}, "update.$set._id"),
        ("document_update", {"id": "x", "merge": {"_id": "y"}}, "merge._id"),
        ("document_update", {"id": "x", "merge": [1]}, "merge"),
        ("document_update", {"id": "x", "update": {"$inc": {"a": "1"}}}, "update.$inc.a"),
        ("document_update", {"id": "x", "update": {"$inc": {"a": True}}}, "update.$inc.a"),
        (
            "document_update",
            {"id": "x", "update": {"$set": {"a": 1}, "$unset": {"a.b": 1}}},
            "update.$unset.a.b",
        ),
        (
            "document_update",
            {"id": "x", "update": {"$rename": {"a": "a.b"}}},
            "update.$rename.a",
        ),
        (
            "document_update",
            {"id": "x", "update": {"$push": {"a": {"$each": 1}}}},
            "update.$push.a.$each",
        ),
        (
            "document_update",
            {"id": "x", "update": {"$push": {"a": {"$each": [], "$sort": 1}}}},
            "update.$push.a.$sort",
        ),
        ("document_update", {"filter": {}, "merge": {}, "if_version": 1}, "if_version"),
        ("document_update", {"id": "x", "merge": {}, "limit": 1}, "limit"),
        ("document_update", {"filter": {}, "merge": {}, "limit": 0}, "limit"),
        ("document_update", {"filter": {"a": {"$regex": "x"}}, "merge": {}}, "filter"),
        ("document_delete", {}, "id"),
        ("document_delete", {"filter": {"$x": 1}}, "filter.$x"),
        ("document_delete", {"filter": {}, "cursor": "?"}, "cursor"),
        ("document_index_build", {"limit": 1_001}, "limit"),
    ],
    ids=repr,
)  # fmt: skip
def test_writes_refused_where_they_are_asked_for(
    operation: str, parameters: Any, field: str
) -> None:
    with pytest.raises(InvalidArgument) as error:
        ENGINE.prepare(operation, parameters)
    assert error.value.field == f"parameters.{field}"


@pytest.mark.parametrize(
    ("operation", "parameters", "field"),
    [
        ("document_find", {"filters": {}}, "filters"),
        ("document_find", {"filter": []}, "filter"),
        ("document_find", {"limit": 1_001}, "limit"),
        ("document_find", {"limit": "1"}, "limit"),
        ("document_find", {"sort": {}}, "sort"),
        ("document_find", {"sort": {"a": "asc"}}, "sort.a"),
        ("document_find", {"projection": {"a": 3}}, "projection.a"),
        ("document_find", {"cursor": "AAAA"}, "cursor"),
        ("document_find", {"explain": 1}, "explain"),
        ("document_get", {}, "id"),
        ("document_get", {"id": 1}, "id"),
        ("document_get", {"ids": ["x"] * 1_001}, "ids"),
        ("document_count", {"limit": 1}, "limit"),
        ("document_distinct", {}, "field"),
        ("document_aggregate", {}, "pipeline"),
        ("document_aggregate", {"pipeline": [{"$out": "x"}]}, "pipeline[0].$out"),
        ("document_aggregate", {"pipeline": [{"$match": {}, "$limit": 1}]}, "pipeline[0]"),
        ("document_aggregate", {"pipeline": [{"$limit": 0}]}, "pipeline[0].$limit"),
        ("document_aggregate", {"pipeline": [{"$group": {}}]}, "pipeline[0].$group"),
        (
            "document_aggregate",
            {"pipeline": [{"$match": {}}, {"$group": {"_id": None, "a": {"$median": 1}}}]},
            "pipeline[1].$group.a",
        ),
        ("document_indexes", {"x": 1}, "x"),
    ],
    ids=repr,
)
def test_reads_refused(tmp_path: Path, operation: str, parameters: Any, field: str) -> None:
    with documents(tmp_path) as docs, pytest.raises(InvalidArgument) as error:
        docs.read(operation, **parameters)
    assert error.value.field == f"parameters.{field}"
    assert error.value.code == ("INVALID_CURSOR" if field == "cursor" else "INVALID_ARGUMENT")


def test_find_pages_projections_and_cursors(tmp_path: Path) -> None:
    with documents(tmp_path, {"fields": ["n"]}) as docs:
        docs.insert(*({"_id": f"{n:02}", "n": n % 7, "t": "x"} for n in range(30)))
        for sort in (None, {"n": 1}, {"n": -1}, {"t": 1, "n": -1}, {"_id": -1}, {"n": 1, "_id": 1}):
            found = docs.pages("document_find", sort=sort, limit=4, projection={"n": 1})
            assert len({item["id"] for item in found}) == 30
            assert all(set(item["document"]) == {"_id", "n"} for item in found)
        first = docs.read("document_find", filter={"n": 1}, limit=1)
        with pytest.raises(InvalidArgument, match="of this query"):
            docs.read("document_find", filter={"n": 2}, cursor=first["next_cursor"])


def test_an_answer_is_bounded_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_find, "ANSWER_BYTES_MAX", 250)
    monkeypatch.setattr(document_find, "HELD_BYTES_MAX", 250)
    with documents(tmp_path) as docs:
        docs.insert(*({"_id": str(n), "t": f"{n}" * 100} for n in range(9)))
        ids = [str(n) for n in range(9)]
        assert len(docs.read("document_find")["items"]) == 2
        for sort in (None, {"t": 1}):
            assert [item["id"] for item in docs.pages("document_find", sort=sort)] == ids
        assert [item["id"] for item in docs.pages("document_get", ids=ids)] == ids
        assert docs.pages("document_distinct", field="t") == [f"{n}" * 100 for n in range(9)]


def test_distinct(tmp_path: Path) -> None:
    with documents(tmp_path) as docs:
        docs.insert({"a": 1}, {"a": 1.0}, {"a": ["x", None]}, {"a": []}, {}, {"a": {"b": 1}})
        answer = docs.read("document_distinct", field="a")
        assert answer == {"values": [None, 1, "x", {"b": 1}], "next_cursor": None}
        assert docs.pages("document_distinct", field="a", limit=1) == [None, 1, "x", {"b": 1}]
        assert docs.read("document_distinct", field="a", filter={"a": 1})["values"] == [1]


def test_the_planner_and_what_it_looks_at(tmp_path: Path) -> None:
    indexes = [{"fields": ["k", "n"]}, {"fields": ["n"], "name": "by_n"}]
    with documents(tmp_path, *indexes) as docs:
        docs.insert(*({"_id": f"{n:03}", "k": n % 4, "n": n} for n in range(100)))
        for filter, sort, plan, index, examined in (
            ({}, None, "all_documents", None, 100),
            ({"_id": "007"}, None, "ids", "_id", 1),
            ({"_id": {"$in": ["001", "002", "x"]}}, None, "ids", "_id", 2),
            ({"_id": {"$gte": "090"}}, None, "ids", "_id", 10),
            ({"k": 1}, None, "index", "k,n", 25),
            ({"k": 1, "n": {"$gte": 50, "$lt": 60}}, None, "index", "k,n", 2),
            ({"k": {"$in": [1, 2]}, "n": {"$lt": 10}}, None, "index", "k,n", 5),
            ({"n": 5}, None, "index", "by_n", 1),
            ({"n": {"$gt": 90}}, None, "index", "by_n", 9),
            ({"$and": [{"n": {"$gt": 90}}, {"n": {"$lte": 95}}]}, None, "index", "by_n", 5),
            ({"n": {"$ne": 5}}, None, "all_documents", None, 100),
            ({"$or": [{"n": 5}, {"k": 1}]}, None, "all_documents", None, 100),
            ({"n": {"$gt": "a"}}, None, "index", "by_n", 0),
            ({"n": "x" * 2_000}, None, "index", "by_n", 0),
            ({"n": {"$gt": "x" * 2_000}}, None, "index", "by_n", 0),
            ({}, {"n": -1}, "index", "by_n", 100),
            ({"k": 1}, {"n": -1}, "index", "k,n", 25),
        ):
            answer = docs.read("document_find", filter=filter, sort=sort, explain=True)
            explain = answer["explain"]
            assert (explain["plan"], explain["index"]) == (plan, index), filter
            assert explain["examined_documents"] == examined, filter
            assert explain["sorted_by_plan"] is True
        answer = docs.read("document_find", filter={"k": 1}, sort={"k": 1, "x": 1}, explain=True)
        assert answer["explain"]["sorted_by_plan"] is False


def test_both_ends_of_a_range_with_arrays(tmp_path: Path) -> None:
    """Different items may fulfil them: a walk between both would miss the document."""
    with documents(tmp_path, {"fields": ["a"]}) as docs:
        docs.insert({"_id": "x", "a": [0, 10]}, {"_id": "y", "a": 3}, {"_id": "z", "a": 7})
        assert sorted(docs.find({"a": {"$gt": 1, "$lt": 5}})) == ["x", "y"]
        docs.write("document_delete", id="x")
        answer = docs.read("document_find", filter={"a": {"$gt": 1, "$lt": 5}}, explain=True)
        assert answer["explain"]["examined_documents"] == 1


def test_a_sort_of_arrays_is_by_all_their_items(tmp_path: Path) -> None:
    """Within a range of the index, the item that decides the order may be outside."""
    with documents(tmp_path, {"fields": ["a"]}) as docs:
        docs.insert({"_id": "x", "a": [0, 3]}, {"_id": "y", "a": 2}, {"_id": "z", "a": [1, 9]})
        assert docs.find({"a": {"$gt": 1}}, sort={"a": 1}) == ["x", "z", "y"]
        assert docs.find({"a": {"$lt": 3}}, sort={"a": -1}) == ["z", "x", "y"]


def test_unique_indexes(tmp_path: Path) -> None:
    unique = {"fields": ["mail"], "unique": True}
    with documents(tmp_path, unique) as docs:
        docs.insert(
            {"_id": "a", "mail": "x"}, {"_id": "b"}, {"_id": "c"}, {"_id": "d", "mail": None}
        )
        for given in ({"mail": "x"}, {"mail": ["y", "x"]}, {"mail": None}):
            answer = refused(docs, RejectCode.ITEM_EXISTS, "document_insert", document=given)
            assert "mail" in answer.message
        refused(docs, RejectCode.ITEM_EXISTS, "document_update", filter={}, merge={"mail": "z"})
        docs.update(id="a", merge={"mail": "y"})
        docs.insert({"mail": "x"})


def test_what_does_not_fit_an_index_is_refused(tmp_path: Path) -> None:
    with documents(tmp_path, {"fields": ["a"]}, {"fields": ["b", "c"]}) as docs:
        for document in (
            {"a": "x" * 600},
            {"a": list(range(1_001))},
            {"b": list(range(40)), "c": list(range(40))},
        ):
            refused(docs, RejectCode.LIMIT_EXCEEDED, "document_insert", document=document)


def test_indexes_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.document.BUILD_DOCUMENTS_MAX", 10)
    monkeypatch.setattr(document_writes, "CLEAR_ITEMS_MAX", 10)
    with documents(tmp_path, {"fields": ["a"]}) as docs:
        docs.insert(*({"_id": f"{n:02}", "a": n, "b": n} for n in range(50)))
        settings = {"indexes": [{"fields": ["b"], "unique": True}]}
        answer = docs.catalog("collection_alter", {"settings": settings})
        assert answer["settings"]["indexes"] == [{"name": "b", "fields": ["b"], "unique": True}]
        (index,) = docs.read("document_indexes")["items"]
        assert index["ready"] is False
        query = {"filter": {"b": 30}, "explain": True}
        assert docs.read("document_find", **query)["explain"]["plan"] == "all_documents"
        docs.update(id="05", merge={"b": 100})
        docs.insert({"_id": "04x", "b": -1}, {"_id": "zz", "b": -2})
        answer = docs.write("document_index_build", limit=25)
        assert answer == {"indexed": 25, "ready": False, "cleared": True}
        while not (answer := docs.write("document_index_build"))["ready"]:
            pass
        assert docs.read("document_find", **query)["explain"]["examined_documents"] == 1
        assert docs.find({"b": {"$lt": 0}}) == ["zz", "04x"]
        docs.insert({"_id": "n", "b": 200})


def test_a_unique_index_is_not_built_over_equal_values(tmp_path: Path) -> None:
    with documents(tmp_path) as docs:
        docs.insert({"_id": "a", "x": 1}, {"_id": "b", "x": 1})
        answer = docs.catalog(
            "collection_alter", {"settings": {"indexes": [{"fields": ["x"], "unique": True}]}}
        )
        assert answer.code is RejectCode.ITEM_EXISTS
        assert docs.read("document_indexes")["items"] == []


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"index": []}, "index"),
        ({"indexes": {}}, "indexes"),
        ({"indexes": [{"fields": ["a"]}] * 17}, "indexes"),
        ({"indexes": [1]}, "indexes[0]"),
        ({"indexes": [{"fields": []}]}, "indexes[0].fields"),
        ({"indexes": [{"fields": ["a", "a"]}]}, "indexes[0].fields[1]"),
        ({"indexes": [{"fields": ["_id"]}]}, "indexes[0].fields[0]"),
        ({"indexes": [{"fields": ["a.."]}]}, "indexes[0].fields[0]"),
        ({"indexes": [{"fields": ["a"], "unique": 1}]}, "indexes[0].unique"),
        ({"indexes": [{"fields": ["a"], "sparse": True}]}, "indexes[0].sparse"),
        ({"indexes": [{"fields": ["a"]}, {"fields": ["a"]}]}, "indexes[1]"),
    ],
    ids=repr,
)
def test_settings_refused(settings: Any, field: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        ENGINE.settings(settings, None)
    assert error.value.field == f"settings.{field}"
