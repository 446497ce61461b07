"""Ways to the same documents that a node may choose between; see `engines/document_detour.py`.

That they answer the same whatever is stored is for `tests/property/test_document_model.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from engines.kv import KvReader
from engines.tuning import Tuning
from tests.unit.document_state import NAME, NAMESPACE, Collection, documents


class Chooses(Tuning):
    """Takes the way of this name."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(explain=True)
        self.name = name
        self.offered: list[tuple[str, str, tuple[str, ...]]] = []

    def choose(self, point: str, control: str, others: Sequence[str]) -> str:
        self.offered.append((point, control, tuple(others)))
        return self.name or control


def ask(
    collection: Collection, operation: str, name: str | None = None, **parameters: Any
) -> tuple[Any, Chooses]:
    tuning = Chooses(name)
    with collection.state.store.read() as snapshot:
        machine = collection.state.machine
        reader = KvReader(snapshot, machine.registry, machine.indexes)
        reader.tuning = tuning
        return reader.collections.query(NAMESPACE, NAME, operation, parameters)[0], tuning


@pytest.fixture
def people(tmp_path: Path) -> Iterator[Collection]:
    """400 documents: half of them in each of two towns, four of each name, a time of each."""
    with documents(
        tmp_path, {"fields": ["town"]}, {"fields": ["name"]}, {"fields": ["time"]}
    ) as found:
        found.insert(
            *(
                {"_id": f"p{n:03}", "town": n % 2, "name": f"n{n % 100}", "time": 1000 - n}
                for n in range(400)
            )
        )
        yield found


def test_the_rules_are_the_control_and_name_the_others(people: Collection) -> None:
    wanted = {"town": 1, "name": "n7"}
    answer, tuning = ask(people, "document_find", filter=wanted)
    assert tuning.offered == [("index", "index town", ("index name",))]
    assert tuning.work.plan is not None
    assert (tuning.work.plan["index"], tuning.work.examined) == ("town", 200)
    other, chosen = ask(people, "document_find", "index name", filter=wanted)
    assert other == answer
    assert (chosen.work.index, chosen.work.examined, chosen.work.returned) == ("name", 4, 4)


def test_no_choice_where_there_is_one_way(people: Collection) -> None:
    for parameters in (
        {"filter": {"town": 1}}, {"filter": {}}, {"filter": {"_id": "p001", "town": 1}},
        {"filter": {"other": 1}},
    ):  # fmt: skip
        assert ask(people, "document_find", **parameters)[1].offered == []


def test_what_is_too_much_for_a_detour_is_walked_as_the_rules_say(
    people: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"name": {"$gte": "n"}, "town": 1}
    control, tuning = ask(people, "document_find", filter=wanted, limit=50)
    assert tuning.offered == [("index", "index town", ("index name",))]
    for bound, value in (
        ("document_find.LOOKS_MAX", 300), ("document_detour.KEPT_MAX", 199),
        ("document_detour.KEPT_BYTES_MAX", 1_000),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(f"engines.{bound}", value)
            other, chosen = ask(people, "document_find", "index name", filter=wanted, limit=50)
            assert other == control
            assert chosen.work.examined is not None
            assert chosen.work.examined > 51  # of both
            assert chosen.work.plan is not None
            assert chosen.work.plan["given_up"] is True


@pytest.mark.parametrize(
    ("operation", "given"),
    [
        ("document_count", {"filter": {"town": 1, "name": {"$gte": "n"}}}),
        ("document_find", {"filter": {"town": 1}, "sort": {"time": 1}, "limit": 90}),
    ],
)
def test_a_wrong_choice_costs_a_bounded_time(
    people: Collection, monkeypatch: pytest.MonkeyPatch, operation: str, given: dict[str, Any]
) -> None:
    control, tuning = ask(people, operation, **given)
    monkeypatch.setattr("engines.document_find.LOOKS_MAX", 50)
    other, chosen = ask(people, operation, tuning.offered[0][2][0], **given)
    assert other == control
    assert chosen.work.plan is not None
    assert chosen.work.plan["given_up"] is True
    assert chosen.work.examined == 200 + 50


def test_a_page_of_a_detour_goes_on_where_the_control_would(people: Collection) -> None:
    wanted = {"town": 1, "name": {"$gt": "n5"}}
    for sort in (None, {"time": 1}, {"time": -1}, {"name": -1}):
        cursor = None
        for _ in range(4):
            given = {"filter": wanted, "limit": 20, "sort": sort, "cursor": cursor}
            control, tuning = ask(people, "document_find", **given)
            assert tuning.offered
            for name in tuning.offered[0][2]:
                assert ask(people, "document_find", name, **given)[0] == control
            cursor = control["next_cursor"]


def test_an_index_in_the_order_of_a_sort_stops_after_the_page(people: Collection) -> None:
    given = {"filter": {"town": 1}, "sort": {"time": 1}, "limit": 5}
    control, tuning = ask(people, "document_find", **given)
    assert tuning.offered == [("index", "index town", ("index time",))]
    assert tuning.work.examined == 200
    other, chosen = ask(people, "document_find", "index time", **given)
    assert other == control
    assert chosen.work.examined is not None
    assert chosen.work.examined < 20


def test_what_nothing_serves_names_the_fields_that_an_index_would_need(people: Collection) -> None:
    _, tuning = ask(people, "document_find", filter={"age": {"$gt": 3}, "job.name": "smith"})
    assert (tuning.work.index, tuning.work.fields) == (None, ("job.name", "age"))


def test_a_page_that_its_sort_keys_fill_leaves_nothing_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long key is dropped for want of room; shorter ones behind it must not take its place."""
    monkeypatch.setattr("engines.document_find.HELD_BYTES_MAX", 300)
    with documents(tmp_path) as found:
        found.insert(
            *(
                {"_id": f"d{n}", "text": text}
                for n, text in enumerate(["a", "b" * 250, "c" * 200, "d", "e" * 120, "f", "g"])
            )
        )
        ids: list[str] = []
        cursor = None
        while True:
            page = found.read("document_find", sort={"text": 1}, limit=5, cursor=cursor)
            ids += [item["id"] for item in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert ids == [f"d{n}" for n in range(7)]
