"""Reads of documents: by id, by filter, counts and distinct values."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, TypeVar

from engines.codec import Value, pack_value
from engines.cursors import encode_cursor, refuse_cursor
from engines.document_detour import LOOKS_MAX, Detour
from engines.document_filter import Filter, before_trying, parse_filter
from engines.document_indexes import FIELDS_MAX, Index, indexes_of
from engines.document_items import IndexState, Record, find_record, read_state
from engines.document_order import order_key
from engines.document_parameters import (
    ANSWER_BYTES_MAX,
    IDS_MAX,
    LIMIT_DEFAULT,
    LIMIT_MAX,
    Fields,
    check_id,
)
from engines.document_paths import parse_path, reached
from engines.document_plan import Plan, Sort, plans
from engines.document_shapes import Projection, parse_projection, parse_sort, sort_key
from engines.document_walk import GivenUp, Walk
from engines.parameters import PREFIX as ROOT
from engines.space import View

T = TypeVar("T")

HELD_BYTES_MAX: Final = 16 << 20  # of sort keys, or of distinct values


class Page:
    """Documents of one answer, up to a number and to `bytes_max` (None: ANSWER_BYTES_MAX)."""

    def __init__(
        self, limit: int, project: Projection | None, bytes_max: int | None = None
    ) -> None:
        self._limit = limit
        self._project = project
        self._bytes_max = ANSWER_BYTES_MAX if bytes_max is None else bytes_max
        self.size = 0  # bytes of the documents, packed
        self.items: list[Value] = []

    def add(self, record: Record, document: Any = None) -> bool:
        """Whether it has found room; the first always does. `document`: if it is at hand."""
        if len(self.items) == self._limit:
            return False
        if self._project is None:
            view, size = record.view(document), len(record.packed)
        else:
            shown = self._project(record.document() if document is None else document)
            view, size = record.view(shown), len(pack_value(shown))
        if self.items and self.size + size > self._bytes_max:
            return False
        self.size += size
        self.items.append(view)
        return True


class Search:
    """A filter and a sort on one collection, with the plan for them."""

    def __init__(self, view: View, settings: Mapping[str, Any], wanted: Filter, sort: Sort) -> None:
        self.view = view
        if wanted.regex:
            view.long()  # one text may take milliseconds
        indexes = indexes_of(settings)
        self.state = read_state(view, len(indexes))
        self._known = list(zip(indexes, self.state.indexes, strict=True))
        self.filter = wanted
        self._given_up = False  # did the chosen plan lead too far, so that the rules' was walked?
        self.plan, *others = plans(wanted.conditions, sort, self._known)
        self.chosen: Plan = self._choose(others) if others else self.plan

    def _choose(self, others: list[Plan]) -> Plan:
        named = {_label(plan): plan for plan in (self.plan, *others)}
        control, *names = named
        return named[self.view.tuning.choose("index", control, names)]

    def walk(self, after: bytes | None = None) -> Walk | Detour:
        """What the plan of the rules leads to, or what matches of it, in its order."""
        if self.chosen is self.plan:
            return self._control(after)
        control = self.plan, self._index(self.plan)
        return Detour(self.view, self.filter, control, self._other(), after)

    def over(self, work: Callable[[Walk], T]) -> tuple[Walk, T]:
        """`work` over a walk in any order, which is done again if the first walk leads too far."""
        looked = 0
        if self.chosen is not self.plan:
            walk = self._other()
            with suppress(GivenUp):
                return walk, work(walk)
            looked = walk.documents
            self._given_up = True
        walk = self._control(None)
        done = work(walk)
        walk.documents += looked
        return walk, done

    def _control(self, after: bytes | None) -> Walk:
        return Walk(self.view, self.plan, self._index(self.plan), after)

    def _other(self) -> Walk:
        """As far as a wrong choice may lead."""
        return Walk(self.view, self.chosen, self._index(self.chosen), looks_max=LOOKS_MAX)

    def index_of(self, plan: Plan) -> Index:
        """`plan`: one of an index."""
        assert plan.place is not None
        return self._known[plan.place][0]

    def _index(self, plan: Plan) -> tuple[Index, IndexState] | None:
        return None if plan.place is None else self._known[plan.place]

    def report(self, walk: Walk | Detour, returned: int) -> None:
        """For whoever tunes."""
        work, plan = self.view.tuning.work, self.chosen
        work.examined, work.returned = walk.documents, returned
        if plan.place is not None:
            work.index = plan.name
        elif not plan.name:
            equal = [each for each in self.filter.conditions if each.operator in ("$eq", "$in")]
            bound = [each for each in self.filter.conditions if each not in equal]
            paths = (".".join(each.path) for each in (*equal, *bound))
            work.scans = bool(self.filter.size)
            work.fields = tuple(dict.fromkeys(paths))[:FIELDS_MAX]
        if self.view.tuning.explain:
            given_up = walk.given_up if isinstance(walk, Detour) else self._given_up
            work.plan = {**self.explanation(walk, returned), "given_up": given_up}

    def explanation(self, walk: Walk | Detour, returned: int) -> dict[str, Value]:
        plan = self.chosen
        return {
            "plan": plan.kind,
            "index": plan.name or None,
            "ranges": len(plan.ranges),
            "equality_fields": plan.equal,
            "range_field": plan.bounded,
            "sorted_by_plan": plan.ordered,
            "examined_entries": walk.entries,
            "examined_documents": walk.documents,
            "returned": returned,
        }


def matches(view: View, wanted: Filter, record: Record, document: Any) -> bool:
    """Raises InvalidArgument: too many conditions for a document that large; QueryCancelled."""
    before_trying(view, wanted, len(record.packed), f"{ROOT}.filter")
    return wanted.matches(document)


def find(view: View, settings: Mapping[str, Any], parameters: Mapping[str, Any]) -> Value:
    """document_find. Raises InvalidArgument, CorruptRecord, QueryCancelled."""
    fields = Fields(parameters, "filter", "projection", "sort", "limit", "cursor", "explain")
    wanted = parse_filter(fields.members("filter"), f"{ROOT}.filter")
    sort = parse_sort(parameters.get("sort"), f"{ROOT}.sort")
    project = parse_projection(parameters.get("projection"), f"{ROOT}.projection")
    limit = fields.integer("limit", 1, LIMIT_MAX, LIMIT_DEFAULT)
    explain = fields.boolean("explain")
    scope = [parameters.get(name) for name in ("filter", "sort", "projection")]
    position = fields.position(["find", *scope], list)
    search = Search(view, settings, wanted, sort)
    page = Page(limit, project)
    if search.plan.ordered:
        walk, following = in_plan_order(search, page, position)
    else:
        walk, following = in_order(view, search, sort, page, limit, position)
    answer: dict[str, Value] = {
        "items": page.items,
        "next_cursor": following and encode_cursor(["find", *scope], following),
    }
    search.report(walk, len(page.items))
    if explain:
        answer["explain"] = search.explanation(walk, len(page.items))
    return answer


def in_plan_order(search: Search, page: Page, position: Any) -> tuple[Walk | Detour, Value]:
    """What matches behind `position`, [name of the plan, place], as the plan leads to it; and the
    position behind the page, None at the end."""
    after = None
    if position is not None:
        if len(position) != 2 or position[0] != search.plan.name or type(position[1]) is not bytes:
            refuse_cursor("is of other indexes than there are now: begin again")
        after = position[1]
    walk = search.walk(after)
    last = b""
    for place, record in walk:
        document = record.document()
        if matches(search.view, search.filter, record, document):
            if not page.add(record, document):
                return walk, [search.plan.name, last]
            last = place
    return walk, None


def in_order(
    view: View, search: Search, sort: Sort, page: Page, limit: int, position: Any
) -> tuple[Walk | Detour, Value]:
    """The first `limit` behind `position`, ["sort", key, id]: only their keys are held while all
    are looked at."""
    after = None
    if position is not None:
        if len(position) != 3 or (type(position[1]), type(position[2])) != (bytes, str):
            refuse_cursor("is of other indexes than there are now: begin again")
        after = position[1], position[2]

    def least(walk: Walk) -> tuple[list[tuple[bytes, str]], bool]:
        """Keys and ids of the page, and whether there are more."""
        ordered = walk.plan.ordered
        kept: list[tuple[bytes, str]] = []
        held = 0
        behind: tuple[bytes, str] | None = None  # the first one that is not on the page
        for _, record in walk:
            document = record.document()
            if not matches(view, search.filter, record, document):
                continue
            place = sort_key(document, sort), record.id
            if (after is not None and place <= after) or (behind is not None and place > behind):
                continue
            if ordered and len(kept) == limit and place[0] > kept[-1][0]:
                return kept, True  # what follows in the order of the sort is behind the page
            insort(kept, place)
            held += len(place[0])
            while len(kept) > limit or (held > HELD_BYTES_MAX and len(kept) > 1):
                # Nothing from there on has a place on this page, even if there is room again.
                behind = kept.pop()
                held -= len(behind[0])
        return kept, behind is not None

    walk, (kept, more) = search.over(least)
    last: tuple[bytes, str] | None = None
    for place in kept:
        found = find_record(view, place[1])
        assert found is not None  # the same snapshot
        if not page.add(found):
            more = True
            break
        last = place
    return walk, ["sort", *last] if more and last else None


def get(view: View, parameters: Mapping[str, Any]) -> Value:
    """document_get: an item, or null, for each id in order. Raises InvalidArgument."""
    fields = Fields(parameters, "id", "ids", "projection", "cursor")
    if fields.one_of("id", "ids") == "id":
        ids = [check_id(parameters["id"], f"{ROOT}.id")]
    else:
        given = fields.items("ids", IDS_MAX)
        ids = [check_id(each, f"{ROOT}.ids[{place}]") for place, each in enumerate(given)]
    project = parse_projection(parameters.get("projection"), f"{ROOT}.projection")
    scope: list[Value] = ["get", list(ids), parameters.get("projection")]
    start = fields.position(scope, int) or 0
    if not 0 <= start <= len(ids):
        refuse_cursor("is not a cursor")
    page = Page(len(ids), project)
    following = None
    for place in range(start, len(ids)):
        record = find_record(view, ids[place])
        if record is None:
            page.items.append(None)
        elif not page.add(record):
            following = encode_cursor(scope, place)
            break
    return {"items": page.items, "next_cursor": following}


def count(view: View, settings: Mapping[str, Any], parameters: Mapping[str, Any]) -> Value:
    """document_count. Raises InvalidArgument, CorruptRecord, QueryCancelled."""
    fields = Fields(parameters, "filter")
    wanted = parse_filter(fields.members("filter"), f"{ROOT}.filter")
    search = Search(view, settings, wanted, ())
    if not fields.members("filter"):
        return {"count": search.state.documents}
    walk, found = search.over(
        lambda walk: sum(matches(view, wanted, record, record.document()) for _, record in walk)
    )
    search.report(walk, found)
    return {"count": found}


def distinct(view: View, settings: Mapping[str, Any], parameters: Mapping[str, Any]) -> Value:
    """document_distinct: the values of a path, items of arrays each, in order.

    Raises InvalidArgument, CorruptRecord, QueryCancelled.
    """
    fields = Fields(parameters, "field", "filter", "limit", "cursor")
    path = parse_path(parameters.get("field"), f"{ROOT}.field")
    wanted = parse_filter(fields.members("filter"), f"{ROOT}.filter")
    limit = fields.integer("limit", 1, LIMIT_MAX, LIMIT_DEFAULT)
    scope = ["distinct", parameters["field"], parameters.get("filter")]
    after = fields.position(scope, bytes)
    found = _Distinct(after or b"", limit)
    search = Search(view, settings, wanted, ())
    walk = search.walk()
    for _, record in walk:
        document = record.document()
        if matches(view, wanted, record, document):
            for value in reached(document, path):
                for each in value if value.__class__ is list else (value,):
                    view.step()
                    found.add(each)
    search.report(walk, len(found.values))
    following = encode_cursor(scope, found.keys[-1]) if found.more else None
    return {"values": found.values, "next_cursor": following}


def _label(plan: Plan) -> str:
    return f"{plan.kind} {plan.name}" if plan.place is not None else plan.kind


class _Distinct:
    """The first `limit` values behind a key, in order, no two alike."""

    def __init__(self, after: bytes, limit: int) -> None:
        self._after = after
        self._limit = limit
        self._held = 0
        self.keys: list[bytes] = []
        self.values: list[Value] = []
        self.more = False

    def add(self, value: Any) -> None:
        key = order_key(value)
        place = bisect_left(self.keys, key)
        if key <= self._after or (place < len(self.keys) and self.keys[place] == key):
            return
        self.keys.insert(place, key)
        self.values.insert(place, value)
        self._held += len(key)
        while len(self.keys) > self._limit or (
            self._held > ANSWER_BYTES_MAX and len(self.keys) > 1
        ):
            self._held -= len(self.keys.pop())
            self.values.pop()
            self.more = True
