"""Documents in several shards: what each shard is asked, and how their answers become one.

What one collection would answer is answered, but for what `check` and the operations below
refuse: a unique index and the words of a full-text search are about all documents together.
Reads ask the shards at once; a write by filter goes over them one after the
other, so that its bound on how many documents it changes is one of all of them.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

from engines import document_part, document_partial
from engines.codec import Value, pack_value
from engines.cursors import decode_cursor, encode_cursor, refuse_cursor
from engines.document_filter import Filter, parse_filter
from engines.document_order import order_key
from engines.document_parameters import (
    ANSWER_BYTES_MAX,
    IDS_MAX,
    LIMIT_DEFAULT,
    LIMIT_MAX,
    Fields,
    check_id,
)
from engines.document_shapes import parse_sort
from engines.engine import Parameters, Refused, Round, Settings, Steps
from engines.errors import InvalidArgument
from engines.interfaces import RejectCode
from engines.parameters import PREFIX as ROOT
from engines.shards import PART, by_shard, in_order, made_id, shard_of

# Of all shards' pages together: twice what an answer holds, since not all of it is shown.
PAGES_BYTES_MAX: Final = 2 * ANSWER_BYTES_MAX
_SUMMED: Final = ("examined_entries", "examined_documents")


class DocumentShards:
    """See `engine.Across`."""

    long = frozenset(("document_aggregate",))

    def check(self, settings: Settings) -> None:
        for place, index in enumerate(settings["indexes"]):
            if index["unique"]:
                raise InvalidArgument(
                    f"settings.indexes[{place}].unique",
                    "cannot be kept across shards: each knows its own documents alone. An _id is "
                    "unique",
                )
        if settings["text"] is not None:
            raise InvalidArgument(
                "settings.text",
                "cannot be had across shards: how well words fit depends on all documents",
            )

    def write(
        self, settings: Settings, operation: str, body: Any, shards: int, seed: bytes
    ) -> Steps:
        match operation:
            case "document_insert":
                return _insert(body, shards, seed)
            case "document_upsert":
                return _upsert(body, shards, seed)
            case "document_update":
                return _changed(body, shards, ("matched", "modified"))
            case "document_delete":
                return _changed(body, shards, ("deleted",))
            case _:
                return _build(body, shards)

    def read(
        self, settings: Settings, operation: str, parameters: Parameters, shards: int
    ) -> Steps:
        match operation:
            case "document_find":
                return _find(parameters, shards)
            case "document_get":
                return _get(parameters, shards)
            case "document_count":
                return _count(parameters, shards)
            case "document_distinct":
                return _distinct(parameters, shards)
            case "document_indexes":
                return _indexes(parameters, shards)
            case "document_aggregate":
                return document_partial.aggregate(parameters, shards)
            case _:
                _refuse(operation)


def _refuse(operation: str) -> NoReturn:
    raise InvalidArgument(
        "operation",
        f"{operation} needs all documents in one place, and the collection is in several shards",
    )


# --- Writes ----------------------------------------------------------------------------------


def _insert(body: Any, shards: int, seed: bytes) -> Steps:
    documents = _with_ids(body, seed)
    seen: set[str] = set()
    for place, document in enumerate(documents):
        if document["_id"] in seen:
            raise Refused(
                RejectCode.ITEM_EXISTS,
                f"there is a document with _id {document['_id']}",
                f"{ROOT}.documents[{place}]._id",
            )
        seen.add(document["_id"])
    places, answers = yield from _divided(body, documents, shards)
    ids = in_order(places, {shard: each["ids"] for shard, each in answers.items()})
    return {"inserted": len(ids), "ids": ids}


def _upsert(body: Any, shards: int, seed: bytes) -> Steps:
    places, answers = yield from _divided(body, _with_ids(body, seed), shards)
    lists = {
        name: in_order(places, {shard: each[name] for shard, each in answers.items()})
        for name in ("ids", "versions")
    }
    return {**_sums(answers, ("inserted", "replaced")), **lists}


def _with_ids(body: Any, seed: bytes) -> list[dict[str, Any]]:
    return [
        document if "_id" in document else {"_id": made_id(seed, place), **document}
        for place, document in enumerate(body["documents"])
    ]


def _divided(body: Any, documents: Sequence[Mapping[str, Any]], shards: int) -> Any:
    """One round: the documents to their shards. Returns the places, and the answers."""
    places = by_shard((document["_id"] for document in documents), shards)
    bodies = {
        shard: {**body, "documents": [documents[at] for at in where]}
        for shard, where in places.items()
    }
    answers = yield Round(bodies, places)
    return places, answers


def _changed(body: Any, shards: int, counts: Sequence[str]) -> Steps:
    """An update or deletion. `counts`: of its answer, the first of what the limit is for."""
    if "id" in body:
        return (yield from _one(shard_of(body["id"], shards), body))
    wanted = parse_filter(body["filter"], f"{ROOT}.filter")
    if body.get("upsert"):
        return (yield from _one(shard_of(_named_id(wanted), shards), body))
    targets = _shards_of(wanted, shards)
    if len(targets) == 1:
        return (yield from _one(targets[0], body))
    return (yield from _one_after_the_other(body, targets, counts))


def _named_id(wanted: Filter) -> str:
    """The _id of what an upsert would insert, which has to be in the shard of it."""
    named = [
        operand
        for path, operator, operand in wanted.conditions
        if path == ("_id",) and operator == "$eq"
    ]
    if len(named) != 1:
        raise InvalidArgument(
            f"{ROOT}.upsert",
            "across shards needs a filter that says what _id equals, once: no shard knows that the "
            "others hold nothing that matches",
        )
    return check_id(named[0], f"{ROOT}.filter._id")


def _one(shard: int, body: Any) -> Steps:
    answers = yield Round({shard: body})
    return answers[shard]


def _one_after_the_other(body: Any, targets: Sequence[int], counts: Sequence[str]) -> Steps:
    """In each shard in order of the ids, until the limit is reached or a step did not see all.

    A cursor's position is "shard:id", where the id is empty at a shard's beginning.
    """
    change = body.get("update", body.get("merge"))
    scope = [body["filter"], change]
    shard, after = _started(body["after"], targets)
    left = body["limit"]
    totals = dict.fromkeys(counts, 0)
    position: str | None = None
    for target in targets[targets.index(shard) :]:
        if left == 0:
            position = f"{target}:"
            break
        answers = yield Round({target: {**body, "after": after, "limit": left}})
        answer = answers[target]
        after = None
        for name in counts:
            totals[name] += answer[name]
        left -= answer[counts[0]]
        if answer["next_cursor"] is not None:
            position = f"{target}:{decode_cursor(answer['next_cursor'], scope, str)}"
            break
    return {
        **totals,
        **({"upserted_id": None} if counts[0] == "matched" else {}),
        "more": position is not None,
        "next_cursor": position and encode_cursor(scope, position),
    }


def _started(position: str | None, targets: Sequence[int]) -> tuple[int, str | None]:
    if position is None:
        return targets[0], None
    shard, colon, after = position.partition(":")
    if not colon or shard not in map(str, targets):
        refuse_cursor("is of another collection")
    return int(shard), after or None


def _build(body: Any, shards: int) -> Steps:
    answers = yield Round(dict.fromkeys(range(shards), body))
    return {
        **_sums(answers, ("indexed",)),
        **{name: all(each[name] for each in answers.values()) for name in ("ready", "cleared")},
    }


# --- Reads -----------------------------------------------------------------------------------


def _find(parameters: Parameters, shards: int) -> Steps:
    fields = Fields(parameters, "filter", "projection", "sort", "limit", "cursor", "explain")
    wanted = parse_filter(fields.members("filter"), f"{ROOT}.filter")
    limit = fields.integer("limit", 1, LIMIT_MAX, LIMIT_DEFAULT)
    scope = ["find", *(parameters.get(name) for name in ("filter", "sort", "projection"))]
    order = document_part.total_order(parse_sort(parameters.get("sort"), f"{ROOT}.sort"))
    after = fields.position([*scope, "shards"], list)
    if after is not None:
        _check_place(after, len(order))
    plain = {name: value for name, value in parameters.items() if name != "cursor"}
    targets = _shards_of(wanted, shards)
    part = _part(len(targets), after=after)
    asked = {**plain, **part}
    answers = yield Round(dict.fromkeys(targets, asked))
    items, last = _merged(answers, limit)
    answer: dict[str, Value] = {
        "items": items,
        "next_cursor": last and encode_cursor([*scope, "shards"], last),
    }
    if fields.boolean("explain"):
        explained = {shard: each["explain"] for shard, each in answers.items()}
        answer["explain"] = {
            **explained[targets[0]], **_sums(explained, _SUMMED), "returned": len(items),
        }  # fmt: skip
    return answer


def _check_place(place: Sequence[Any], pieces: int) -> None:
    """That of a cursor, which anybody can make: [pieces of the total order, id]."""
    sound = len(place) == 2 and type(place[0]) is list and type(place[1]) is str
    if not sound or len(place[0]) != pieces or any(type(each) is not bytes for each in place[0]):
        refuse_cursor("is not a cursor of this query")


def _merged(answers: Mapping[int, Any], limit: int) -> tuple[list[Value], list[Any] | None]:
    """The first documents of all pages, and the place of the last if there may be more.

    Behind the last document of a page that goes on nothing is known of its shard.
    """
    pages = [each["placed"] for each in answers.values()]
    ends = [each["placed"][-1][0] for each in answers.values() if each["more"]]
    horizon = min(ends, key=_place_key, default=None)
    items: list[Value] = []
    last: list[Any] | None = None
    room = ANSWER_BYTES_MAX
    for place, size, item in heapq.merge(*pages, key=lambda placed: _place_key(placed[0])):
        beyond = horizon is not None and _place_key(place) > _place_key(horizon)
        if beyond or len(items) == limit or (items and size > room):
            return items, last
        room -= size
        items.append(item)
        last = place
    return items, last if horizon is not None else None


def _place_key(place: Any) -> list[bytes]:
    """Pieces of the total order, which hold the id: in the order of the sort."""
    pieces: list[bytes] = place[0]
    return pieces


def _get(parameters: Parameters, shards: int) -> Steps:
    fields = Fields(parameters, "id", "ids", "projection", "cursor")
    if fields.one_of("id", "ids") == "id":
        ids = [check_id(parameters["id"], f"{ROOT}.id")]
    else:
        given = fields.items("ids", IDS_MAX)
        ids = [check_id(each, f"{ROOT}.ids[{place}]") for place, each in enumerate(given)]
    projection = parameters.get("projection")
    scope: list[Value] = ["get", list(ids), projection]
    start = fields.position(scope, int) or 0
    if not 0 <= start <= len(ids):
        refuse_cursor("is not a cursor")
    places = by_shard(ids[start:], shards)
    part = _part(len(places) or 1)
    asked = {
        shard: {"ids": [ids[start + at] for at in where], "projection": projection, **part}
        for shard, where in places.items()
    }
    answers = (yield Round(asked)) if asked else {}
    found = {
        start + at: each
        for shard, where in places.items()
        for at, each in zip(where, answers[shard]["found"], strict=False)  # as far as it got
    }
    items: list[Value] = []
    room = ANSWER_BYTES_MAX
    for place in range(start, len(ids)):
        if place not in found or (found[place] and items and found[place][0] > room):
            return {"items": items, "next_cursor": encode_cursor(scope, place)}
        item = found[place]
        items.append(item and item[1])
        room -= item[0] if item else 0
    return {"items": items, "next_cursor": None}


def _count(parameters: Parameters, shards: int) -> Steps:
    fields = Fields(parameters, "filter")
    wanted = parse_filter(fields.members("filter"), f"{ROOT}.filter")
    answers = yield Round(dict.fromkeys(_shards_of(wanted, shards), parameters))
    return _sums(answers, ("count",))


def _distinct(parameters: Parameters, shards: int) -> Steps:
    """A cursor's position is a value's key, which means the same to every shard."""
    fields = Fields(parameters, "field", "filter", "limit", "cursor")
    wanted = parse_filter(fields.members("filter"), f"{ROOT}.filter")
    limit = fields.integer("limit", 1, LIMIT_MAX, LIMIT_DEFAULT)
    answers = yield Round(dict.fromkeys(_shards_of(wanted, shards), parameters))
    pages = [[(order_key(value), value) for value in each["values"]] for each in answers.values()]
    goes_on = [each["next_cursor"] is not None for each in answers.values()]
    horizon = min(
        (page[-1][0] for page, more in zip(pages, goes_on, strict=True) if more), default=None
    )
    keys: list[bytes] = []
    values: list[Value] = []
    more = horizon is not None
    size = 0
    for key, value in heapq.merge(*pages, key=lambda pair: pair[0]):
        if keys and keys[-1] == key:
            continue
        size += len(key)
        beyond = horizon is not None and key > horizon
        if beyond or len(keys) == limit or (keys and size > ANSWER_BYTES_MAX):
            more = True
            break
        keys.append(key)
        values.append(value)
    scope = ["distinct", parameters.get("field"), parameters.get("filter")]
    return {"values": values, "next_cursor": encode_cursor(scope, keys[-1]) if more else None}


def _indexes(parameters: Parameters, shards: int) -> Steps:
    answers = yield Round(dict.fromkeys(range(shards), parameters))
    by_name: dict[str, Any] = {}
    for answer in answers.values():
        for item in answer["items"]:
            known = by_name.setdefault(item["name"], {**item, "documents_with_several_entries": 0})
            known["ready"] = known["ready"] and item["ready"]
            known["documents_with_several_entries"] += item["documents_with_several_entries"]
    return {"items": list(by_name.values()), **_sums(answers, ("documents",))}


def _shards_of(wanted: Filter, shards: int) -> list[int]:
    """Those that may hold what matches: fewer than all if the filter names ids."""
    for path, operator, operand in wanted.conditions:
        if path == ("_id",) and operator in ("$eq", "$in"):
            ids = [operand] if operator == "$eq" else operand
            named = {shard_of(each, shards) for each in ids if type(each) is str}
            return sorted(named) or [0]  # which holds none of them either, and says so
    return list(range(shards))


def _part(asked: int, **more: Value) -> dict[str, Value]:
    """What each of so many shards is told besides."""
    return {PART: pack_value({"bytes_max": PAGES_BYTES_MAX // asked, **more})}


def _sums(answers: Mapping[int, Any], names: Sequence[str]) -> dict[str, Value]:
    return {name: sum(each[name] for each in answers.values()) for name in names}
