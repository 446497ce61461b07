"""Reads of the vector engine: parameters in, answers out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from engines.codec import Value
from engines.cursors import decode_cursor, encode_cursor, refuse_cursor, scope_of
from engines.engine import Parameters, Settings
from engines.errors import InvalidArgument
from engines.parameters import array, boolean, choice, closed, integer, members, required
from engines.read_requests import PAGE_BYTES_MAX
from engines.shards import PART, part_of
from engines.space import View
from engines.vector_filter import compile_filter
from engines.vector_index import Sight, VectorIndex
from engines.vector_items import PREFIX, Item, item_id, item_key, unpack_item, unpack_metadata
from engines.vector_parameters import QUERIES_MAX, identities, vector
from engines.vector_rows import ALIVE, Array, Rows
from engines.vector_search import Hits, Wanted, matching_count
from engines.vector_search import search as nearest
from engines.vector_settings import EXPANSION_MAX, shown, stored, vector_bytes
from engines.vector_writes import check_model, given_model

LIMIT_DEFAULT: Final = 10
LIST_DEFAULT: Final = 100
LIST: Final = ("limit", "cursor", "include")  # what a listing can be given
LIMIT_MAX: Final = 1_000
HITS_MAX: Final = 100_000  # of one answer
TOGETHER_LIMIT_MAX: Final = 100  # hits of a search that is answered with others
RECALL_SAMPLES_MAX: Final = 1_000
RECALL_LIMIT: Final = 10
COMPARED_MAX: Final = 4  # vectors of one request, that are searched exactly as well
_PREFIX: Final = "parameters."
PARTS: Final = ("metadata", "vector", "text")
_METADATA: Final = frozenset({"metadata"})  # alone, as unless said otherwise
MATCH_BYTES: Final = 64  # of its names, distance and id, as reckoned
_NUMBER_BYTES: Final = 9  # of a float as it is sent
_SEARCH: Final = (
    "vector", "vectors", "limit", "filter", "exact", "expansion", "include", "options", "model",
)  # fmt: skip


def search(view: View, settings: Settings, given: Parameters) -> Value:
    """Raises InvalidArgument, QueryCancelled, CorruptRecord."""
    closed(given, _SEARCH, _PREFIX)
    include = included(given, ("metadata",))
    found = nearest_of(view, settings, given)
    answer = _Answer(view, settings, found.sight, include)
    if "vectors" in given:
        return {"results": [{"matches": answer.matches(hits)} for hits in found.hits]}
    return {"matches": answer.matches(found.hits[0])}


def search_together(
    view: View, settings: Settings, many: Sequence[Parameters]
) -> list[Value | InvalidArgument | None]:
    """See `AnswersTogether.query_together`: one walk over the graph after the other, and what is
    around them once. Searches that may look at every vector are asked alone."""
    answers: list[Value | InvalidArgument | None] = [None] * len(many)
    groups: dict[Wanted, list[tuple[int, Array, frozenset[str]]]] = {}
    for place, given in enumerate(many):
        try:
            closed(given, _SEARCH, _PREFIX)
            include = included(given, ("metadata",))
            if not _is_plain(given, include):
                continue
            check_model(settings, given_model(given))
            query, wanted = _queries(settings, given), _wanted(settings, given)
        except InvalidArgument as error:
            answers[place] = error
            continue
        if wanted.limit <= TOGETHER_LIMIT_MAX:
            groups.setdefault(wanted, []).append((place, query, include))
    for wanted, members_of_group in groups.items():
        sight = seen(view, settings)
        queries = np.concatenate([query for _, query, _ in members_of_group])
        found = _nearest(view, settings, sight, queries, wanted)
        for (place, _, include), hits in zip(members_of_group, found, strict=True):
            matches = _Answer(view, settings, sight, include).matches(hits)
            answers[place] = {"matches": matches}
    return answers


def _is_plain(given: Parameters, include: frozenset[str]) -> bool:
    """Is it one walk over the graph, and a small answer?"""
    several = any(name in given for name in ("vectors", "filter", "exact", "expansion"))
    return not several and include <= {"metadata"}


class Nearest(NamedTuple):
    """What a search found: hits for each query, the queries as stored vectors, and where."""

    hits: list[Hits]
    queries: Array
    sight: Sight


def nearest_of(view: View, settings: Settings, given: Parameters) -> Nearest:
    """What the parameters of a search find. Raises InvalidArgument, QueryCancelled."""
    check_model(settings, given_model(given))
    queries = _queries(settings, given)
    wanted = _wanted(settings, given)
    if len(queries) * wanted.limit > HITS_MAX:
        raise InvalidArgument(
            "parameters.limit", f"for {len(queries)} vectors is over {HITS_MAX} hits together"
        )
    sight = seen(view, settings)
    return Nearest(_nearest(view, settings, sight, queries, wanted), queries, sight)


def _nearest(
    view: View, settings: Settings, sight: Sight, queries: Array, wanted: Wanted
) -> list[Hits]:
    """With a width that the node knows, unless the caller gave one; now and then compared with
    what is found exactly."""
    tuning = view.tuning
    tuned = not wanted.expansion and not wanted.exact
    least: int = settings["expansion_search"]
    width = tuning.width(least, EXPANSION_MAX) if tuned else wanted.expansion
    if width > least:
        wanted = wanted._replace(expansion=width)
    found = nearest(sight, queries, wanted, view.step, tuning)
    tuning.work.returned = sum(len(hits.rows) for hits in found)
    if tuning.explain and tuning.work.plan is not None:
        tuning.work.plan = {**tuning.work.plan, "width": max(width, least)}
    if tuned and tuning.work.approximate and tuning.samples_recall:
        some = queries[:COMPARED_MAX]
        exactly = nearest(sight, some, wanted._replace(exact=True), view.step)
        tuning.recall(width, _agreed(found, exactly), sum(len(best.rows) for best in exactly))
    return found


def _agreed(found: Sequence[Hits], exactly: Sequence[Hits]) -> int:
    """How many of the nearest were found. By distance: of equals it does not matter which."""
    pairs = zip(found, exactly, strict=False)  # only the first ones were searched exactly
    return sum(
        sum(away <= best.distances[-1] for away in each.distances)
        for each, best in pairs
        if best.rows
    )


def get(view: View, settings: Settings, given: Parameters) -> Value:
    """Vectors by id, in the order asked for, and ids that are not there."""
    closed(given, ("ids", "include"), _PREFIX)
    ids = identities(required(given, "ids", _PREFIX), "parameters.ids")
    include = included(given, PARTS)
    size = 0
    items: list[Value] = []
    missing: list[Value] = []
    for identity in ids:
        key = item_key(identity)
        value = view.get(key)
        if value is None:
            missing.append(identity)
            continue
        size += len(value) + ("vector" in include) * settings["dimensions"] * _NUMBER_BYTES
        _must_fit(size)
        item = unpack_item(key, value)
        items.append({"id": identity, **parts(settings, item, include)})
    return {"items": items, "missing": missing}


def listed(view: View, settings: Settings, given: Parameters) -> Value:
    """Every vector, in order of the ids. A cursor is the key of the last of a page.

    With `shards.PART`, of one shard: [bytes, item] each, up to as many bytes as it says.
    """
    if type(given.get(PART)) is bytes:
        plain = {name: value for name, value in given.items() if name != PART}
        sized, more = _page(view, settings, plain, part_of(given)["bytes_max"])
        return {"sized": [[size, item] for size, item in sized], "more": more}
    sized, more = _page(view, settings, given, PAGE_BYTES_MAX)
    items: list[Value] = [item for _, item in sized]
    return {"items": items, "next_cursor": following(given, sized[-1][1]["id"]) if more else None}


def following(given: Parameters, identity: Any) -> str:
    """The cursor of a listing behind that vector."""
    return encode_cursor(scope_of("vector_list", given), item_key(identity))


def _page(
    view: View, settings: Settings, given: Parameters, bytes_max: int
) -> tuple[list[tuple[int, dict[str, Value]]], bool]:
    """Vectors of a listing with the bytes of each, and whether there are more. The first always
    has room."""
    closed(given, LIST, _PREFIX)
    limit = integer(given.get("limit", LIST_DEFAULT), "parameters.limit", 1, LIMIT_MAX)
    include = included(given, PARTS)
    last = decode_cursor(given.get("cursor"), scope_of("vector_list", given), bytes) or b""
    if last and not last.startswith(PREFIX):
        refuse_cursor("is not a cursor of this query")
    around = MATCH_BYTES + ("vector" in include) * settings["dimensions"] * _NUMBER_BYTES
    sized: list[tuple[int, dict[str, Value]]] = []
    room = bytes_max
    for key, value in view.range(last + b"\x00" if last else PREFIX):
        size = len(key) + len(value) + around
        if len(sized) == limit or (sized and size > room):
            return sized, True
        room -= size
        item = unpack_item(key, value)
        sized.append((size, {"id": item_id(key), **parts(settings, item, include)}))
    return sized, False


def count(view: View, settings: Settings, given: Parameters) -> Value:
    closed(given, ("filter",), _PREFIX)
    condition = given.get("filter")
    if condition is None:
        return {"count": view.collection.items}
    compiled = compile_filter(condition, "parameters.filter")
    return {"count": matching_count(seen(view, settings), compiled, view.step)}


def info(view: View, settings: Settings, given: Parameters) -> Value:
    """What there is and how it is indexed on the replica that answers; recall as measured now."""
    closed(given, ("recall_samples", "expansion"), _PREFIX)
    samples = integer(
        given.get("recall_samples", 0), "parameters.recall_samples", 0, RECALL_SAMPLES_MAX
    )
    expansion = _expansion(given)
    sight = seen(view, settings)
    index = view.index
    stats: Mapping[str, Value] = index.stats() if isinstance(index, VectorIndex) else {}
    recall, sampled = _recall(sight, settings, samples, expansion, view) if samples else (None, 0)
    return {
        "settings": dict(settings),
        "vectors": view.collection.items,
        "vector_bytes": view.collection.item_bytes,
        **stats,
        "recall_at_10": recall,
        "recall_samples": sampled,
    }


def seen(view: View, settings: Settings) -> Sight:
    """The view's vectors, by the index, or read from the items if it cannot tell."""
    index = view.index
    sight = index.sight(view) if isinstance(index, VectorIndex) else None
    return _scanned(view, settings) if sight is None else sight


def _scanned(view: View, settings: Settings) -> Sight:
    bits = settings["scalar"] == "b1"
    width = vector_bytes(settings)
    rows = Rows(width if bits else width // 4, bits, view.applied_index)
    for key, value in view.prefix(PREFIX):
        item = unpack_item(key, value)
        rows.put(item_id(key), item.vector, item.metadata, 0)
    died = rows.died
    return Sight(
        rows, None, 0, rows.count, rows.vectors, rows.inverse,
        lambda places: died[places] == ALIVE, None,
    )  # fmt: skip


def _recall(
    sight: Sight, settings: Settings, samples: int, expansion: int, view: View
) -> tuple[float | None, int]:
    """The share of the exactly nearest that a search finds, for stored vectors as queries."""
    rows = np.arange(sight.count)
    rows = rows[sight.visible(rows)]
    if len(rows) == 0:
        return None, 0
    rows = rows[:: max(1, len(rows) // samples)][:samples]
    queries = sight.vectors[rows]
    wanted = Wanted(settings["metric"], RECALL_LIMIT, expansion, False, None)
    approximate = nearest(sight, queries, wanted, view.step)
    exactly = nearest(sight, queries, wanted._replace(exact=True), view.step)
    hits = _agreed(approximate, exactly)
    return hits / sum(len(best.rows) for best in exactly), len(rows)


class _Answer:
    """Matches as they are sent, within PAGE_BYTES_MAX."""

    def __init__(
        self, view: View, settings: Settings, sight: Sight, include: frozenset[str]
    ) -> None:
        self._view = view
        self._settings = settings
        self._sight = sight
        self._include = include
        self._size = 0

    def matches(self, hits: Hits) -> list[Value]:
        rows, include = self._sight.rows, self._include
        ids = rows.ids
        self._count(len(hits.rows) * MATCH_BYTES)
        if include == _METADATA:
            metadata = rows.metadata
            self._count(sum(len(metadata[row]) for row in hits.rows))
            return [
                {"id": ids[row], "distance": distance, "metadata": unpack_metadata(metadata[row])}
                for row, distance in zip(hits.rows, hits.distances, strict=True)
            ]
        found: list[Value] = []
        for row, distance in zip(hits.rows, hits.distances, strict=True):
            match: dict[str, Value] = {"id": ids[row], "distance": distance}
            found.append(match)
            if not include:
                continue
            if "metadata" in include:
                self._count(len(rows.metadata[row]))
                match["metadata"] = unpack_metadata(rows.metadata[row])
            if "vector" in include:
                self._count(self._settings["dimensions"] * _NUMBER_BYTES)
                match["vector"] = shown(self._settings, self._sight.vectors[row].tobytes())
            if "text" in include:
                match["text"] = self._text(ids[row])
        return found

    def _text(self, identity: str) -> str | None:
        key = item_key(identity)
        value = self._view.get(key)
        item = None if value is None else unpack_item(key, value)
        if item is None or item.text is None:
            return None
        self._count(len(item.text))
        return item.text

    def _count(self, size: int) -> None:
        self._size += size
        _must_fit(self._size)


def _must_fit(size: int) -> None:
    if size > PAGE_BYTES_MAX:
        raise InvalidArgument(
            "parameters",
            f"the answer is over {PAGE_BYTES_MAX} bytes: ask for fewer, or include less",
        )


def parts(settings: Settings, item: Item, include: frozenset[str]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    if "metadata" in include:
        found["metadata"] = unpack_metadata(item.metadata)
    if "vector" in include:
        found["vector"] = shown(settings, item.vector)
    if "text" in include:
        found["text"] = item.text
    return found


def _queries(settings: Settings, given: Parameters) -> Array:
    """The vectors that are searched for, as stored ones."""
    if ("vector" in given) == ("vectors" in given):
        raise InvalidArgument("parameters", "needs one of vector and vectors")
    if "vectors" in given:
        several = array(given["vectors"], "parameters.vectors", QUERIES_MAX)
        fields = {f"parameters.vectors[{place}]": each for place, each in enumerate(several)}
    else:
        fields = {"parameters.vector": given["vector"]}
    found = [stored(settings, vector(each, field), field) for field, each in fields.items()]
    kind: Any = np.uint8 if settings["scalar"] == "b1" else np.float32
    return np.frombuffer(b"".join(found), kind).reshape(len(found), -1)


def _wanted(settings: Settings, given: Parameters) -> Wanted:
    options = members(given.get("options", {}), "parameters.options")
    closed(options, ("limit",), "parameters.options.")
    if "limit" in options and "limit" in given:
        raise InvalidArgument("parameters.options.limit", "is given twice")
    field = "options.limit" if "limit" in options else "limit"
    limit = options.get("limit", given.get("limit", LIMIT_DEFAULT))
    condition = given.get("filter")
    return Wanted(
        settings["metric"],
        integer(limit, f"{_PREFIX}{field}", 1, LIMIT_MAX),
        _expansion(given),
        boolean(given.get("exact", False), "parameters.exact"),
        None if condition is None else compile_filter(condition, "parameters.filter"),
    )


def _expansion(given: Parameters) -> int:
    if "expansion" not in given:
        return 0
    return integer(given["expansion"], "parameters.expansion", 1, EXPANSION_MAX)


def included(given: Parameters, default: tuple[str, ...]) -> frozenset[str]:
    if "include" not in given:
        return frozenset(default)
    names = given["include"]
    if not isinstance(names, list | tuple):
        raise InvalidArgument("parameters.include", "must be an array")
    return frozenset(
        choice(name, f"parameters.include[{place}]", PARTS) for place, name in enumerate(names)
    )
