"""Reads of one shard of documents, so that those of all shards can be put together.

What a shard is asked for stands in a parameter of bytes (`shards.PART`), which no caller can
send. Documents come in a total order, whatever the plan: that of the sort, and of the ids where
it leaves two equal. So each comes with its place in that order, and a place is where any shard
goes on from, whichever shard it was found in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from engines.codec import Value
from engines.document_filter import parse_filter
from engines.document_find import Page, Search, in_order, in_plan_order
from engines.document_items import Record, document_key, find_record
from engines.document_order import INVERTED
from engines.document_parameters import LIMIT_DEFAULT, LIMIT_MAX, Fields
from engines.document_plan import Sort
from engines.document_shapes import Projection, parse_projection, parse_sort, sort_pieces
from engines.parameters import PREFIX as ROOT
from engines.shards import PART, part_of
from engines.space import View

_ID: Final = ("_id",)

Place = list[Any]  # [pieces of the sort key, id]


def total_order(sort: Sort) -> Sort:
    """The sort, with the ids behind it, in the direction of its last path: an index that yields
    the one then yields the other."""
    if any(path == _ID for path, _ in sort):
        return sort
    return (*sort, (_ID, sort[-1][1] if sort else 1))


class PartPage(Page):
    """Documents with their places."""

    def __init__(self, limit: int, project: Projection | None, order: Sort, bytes_max: int) -> None:
        super().__init__(limit, project, bytes_max)
        self._order = order
        self.placed: list[Value] = []  # [place, bytes of the document, the item]

    def add(self, record: Record, document: Any = None) -> bool:
        whole = record.document() if document is None else document
        pieces = sort_pieces(whole, self._order)
        before = self.size
        if not super().add(record, whole):
            return False
        size = self.size - before
        self.size += sum(map(len, pieces))  # they are held, too
        self.placed.append([[list(pieces), record.id], size, self.items[-1]])
        return True


def find(view: View, settings: Mapping[str, Any], given: Mapping[str, Any]) -> Value:
    """document_find of one shard. Raises InvalidArgument, CorruptRecord, QueryCancelled."""
    parameters, part = _taken_apart(given)
    fields = Fields(parameters, "filter", "projection", "sort", "limit", "explain")
    wanted = parse_filter(fields.members("filter"), f"{ROOT}.filter")
    order = total_order(parse_sort(parameters.get("sort"), f"{ROOT}.sort"))
    project = parse_projection(parameters.get("projection"), f"{ROOT}.projection")
    limit = fields.integer("limit", 1, LIMIT_MAX, LIMIT_DEFAULT)
    explain = fields.boolean("explain")
    search = Search(view, settings, wanted, order)
    page = PartPage(limit, project, order, part["bytes_max"])
    after = part["after"]
    if search.plan.ordered:
        position = after and [search.plan.name, _place_in(search, order, *after)]
        walk, following = in_plan_order(search, page, position)
    else:
        position = after and ["sort", b"".join(after[0]), after[1]]
        walk, following = in_order(view, search, order, page, limit, position)
    search.report(walk, len(page.items))
    answer: dict[str, Value] = {"placed": page.placed, "more": following is not None}
    if explain:
        answer["explain"] = search.explanation(walk, len(page.items))
    return answer


def get(view: View, settings: Mapping[str, Any], given: Mapping[str, Any]) -> Value:
    """document_get of one shard: [bytes, item] or null for each of the first ids in order, as
    many as there is room for. Raises InvalidArgument, CorruptRecord."""
    parameters, part = _taken_apart(given)
    project = parse_projection(parameters.get("projection"), f"{ROOT}.projection")
    ids: Sequence[str] = parameters["ids"]
    page = Page(len(ids), project, part["bytes_max"])
    found: list[Value] = []
    for identity in ids:
        record = find_record(view, identity)
        before = page.size
        if record is None:
            found.append(None)
        elif page.add(record):
            found.append([page.size - before, page.items[-1]])
        else:
            break
    return {"found": found}


def _taken_apart(given: Mapping[str, Any]) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """What the caller gave, and what the node added."""
    return {name: value for name, value in given.items() if name != PART}, part_of(given)


def _place_in(search: Search, order: Sort, pieces: Sequence[bytes], identity: str) -> bytes:
    """Where the plan would lead to a document of this place."""
    plan = search.plan
    if plan.place is None:
        return document_key(identity)
    index = search.index_of(plan)
    fixed = set(index.fields[: plan.equal])
    values = [
        piece if direction > 0 else piece.translate(INVERTED)
        for (path, direction), piece in zip(order, pieces, strict=True)
        if path not in fixed and path != _ID
    ]
    return plan.prefix + b"".join(values) + identity.encode()
