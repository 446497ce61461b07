"""Vectors in several shards: what each shard is asked, and how their answers become one.

Distances do not depend on what else a collection holds, so the nearest of all shards are the
nearest of each, put in order. Scores of words do, which is why texts are refused.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Final

from engines.codec import Value, pack_value
from engines.cursors import decode_cursor, encode_cursor, refuse_cursor
from engines.engine import Parameters, Refused, Round, Settings, Steps
from engines.errors import InvalidArgument
from engines.interfaces import RejectCode
from engines.parameters import PREFIX as ROOT
from engines.parameters import array, closed
from engines.read_requests import PAGE_BYTES_MAX
from engines.shards import PART, by_shard, in_order, made_id, shard_of
from engines.vector_parameters import DOCUMENTS_MAX, identities
from engines.vector_reads import LIMIT_DEFAULT, LIST, LIST_DEFAULT, following
from engines.vector_settings import stored
from engines.vector_writes import check_model

LISTED_BYTES_MAX: Final = 2 * PAGE_BYTES_MAX  # of all shards' pages of a listing together
_INDEXED: Final = (
    "graph_vectors", "pending_vectors", "dead_vectors", "rows_memory_bytes", "graph_memory_bytes",
)  # fmt: skip


class VectorShards:
    """See `engine.Across`."""

    long: frozenset[str] = frozenset()

    def check(self, settings: Settings) -> None:
        if settings["text"] is not None:
            raise InvalidArgument(
                "settings.text",
                "cannot be had across shards: how well words fit depends on all texts",
            )

    def write(
        self, settings: Settings, operation: str, body: Any, shards: int, seed: bytes
    ) -> Steps:
        match operation:
            case "vector_insert" | "vector_upsert":
                return _write(settings, body, shards, seed, replace=operation == "vector_upsert")
            case "vector_update":
                return _update(settings, body, shards)
            case _:
                return _delete(body, shards)

    def read(
        self, settings: Settings, operation: str, parameters: Parameters, shards: int
    ) -> Steps:
        match operation:
            case "vector_search":
                return _search(parameters, shards)
            case "vector_get":
                return _get(parameters, shards)
            case "vector_list":
                return _listed(parameters, shards)
            case "vector_count":
                return _count(parameters, shards)
            case "vector_info":
                return _info(parameters, shards)
            case _:
                raise InvalidArgument("collection", "has no texts: its setting text is null")


def _write(settings: Settings, body: Any, shards: int, seed: bytes, *, replace: bool) -> Steps:
    check_model(settings, body["model"])
    ids: list[str] = []
    documents: list[list[Any]] = []
    for place, (given, values, metadata, words) in enumerate(body["documents"]):
        stored(settings, values, f"{ROOT}.documents[{place}].vector")  # that it can be
        ids.append(made_id(seed, place) if given is None else given)
        documents.append([ids[place], values, metadata, words])
    if len(set(ids)) < len(ids):  # `prepare` refused it; a made id was given, too
        raise Refused(RejectCode.ITEM_EXISTS, "two of the vectors have one id", f"{ROOT}.documents")
    places = by_shard(ids, shards)
    answers = yield Round(
        {
            shard: {"model": body["model"], "documents": [documents[at] for at in where]}
            for shard, where in places.items()
        },
        places,
    )
    return {
        "ids": in_order(places, {shard: each["ids"] for shard, each in answers.items()}),
        **_sums(answers, ("inserted", "replaced")),
    }


def _update(settings: Settings, body: Any, shards: int) -> Steps:
    check_model(settings, body["model"])
    if body["vector"] is not None:
        stored(settings, body["vector"], f"{ROOT}.data.vector")
    shard = shard_of(body["id"], shards)
    answers = yield Round({shard: body})
    return answers[shard]


def _delete(body: Any, shards: int) -> Steps:
    """By a filter, in one shard after the other until a step did not see all of one. A cursor's
    position is a key behind two bytes of the shard."""
    if "ids" in body:
        places = by_shard(body["ids"], shards)
        answers = yield Round(
            {shard: {"ids": [body["ids"][at] for at in where]} for shard, where in places.items()}
        )
        return {**_sums(answers, ("deleted",)), "next_cursor": None}
    condition = body["filter"]
    shard, after = _started(body["after"], shards)
    deleted = 0
    for target in range(shard, shards):
        answers = yield Round({target: {**body, "after": after}})
        answer = answers[target]
        after = b""
        deleted += answer["deleted"]
        if answer["next_cursor"] is not None:
            inner = decode_cursor(answer["next_cursor"], condition, bytes) or b""
            position = inner[:1] + target.to_bytes(2) + inner[1:]
            return {"deleted": deleted, "next_cursor": encode_cursor(condition, position)}
    return {"deleted": deleted, "next_cursor": None}


def _started(position: bytes, shards: int) -> tuple[int, bytes]:
    """`position`: that of a key, as `prepare` wants it, with the shard behind its first byte."""
    if not position:
        return 0, b""
    shard = int.from_bytes(position[1:3])
    if len(position) < 4 or shard >= shards:
        refuse_cursor("is of another collection")
    return shard, position[:1] + position[3:]


def _search(parameters: Parameters, shards: int) -> Steps:
    answers = yield Round(dict.fromkeys(range(shards), parameters))
    options = parameters.get("options", {})
    limit = options.get("limit", parameters.get("limit", LIMIT_DEFAULT))
    if "vectors" not in parameters:
        return {"matches": _nearest([each["matches"] for each in answers.values()], limit)}
    per_query = zip(*(each["results"] for each in answers.values()), strict=True)
    return {
        "results": [
            {"matches": _nearest([each["matches"] for each in found], limit)} for found in per_query
        ]
    }


def _nearest(found: Sequence[Sequence[Any]], limit: int) -> list[Value]:
    """Of all shards; equals by id, as within one."""
    return heapq.nsmallest(limit, chain(*found), key=lambda each: (each["distance"], each["id"]))


def _get(parameters: Parameters, shards: int) -> Steps:
    given = array(parameters.get("ids"), f"{ROOT}.ids", DOCUMENTS_MAX)
    ids = identities(given, f"{ROOT}.ids")
    plain = {name: value for name, value in parameters.items() if name != "ids"}
    targets = by_shard(ids, shards) or {0: []}
    answers = yield Round(
        {shard: {**plain, "ids": [ids[at] for at in where]} for shard, where in targets.items()}
    )
    found = {item["id"]: item for each in answers.values() for item in each["items"]}
    return {
        "items": [found[each] for each in ids if each in found],
        "missing": [each for each in ids if each not in found],
    }


def _listed(parameters: Parameters, shards: int) -> Steps:
    """A cursor's position is an id's key, which means the same to every shard. Behind the last
    vector of a page that goes on nothing is known of its shard."""
    closed(parameters, LIST, f"{ROOT}.")  # `PART` is not the caller's to give
    part = pack_value({"bytes_max": LISTED_BYTES_MAX // shards})
    asked = {**parameters, PART: part}
    answers = yield Round(dict.fromkeys(range(shards), asked))
    limit = parameters.get("limit", LIST_DEFAULT)
    ends = [each["sized"][-1][1]["id"] for each in answers.values() if each["more"]]
    horizon = min(ends, default=None)
    pages = [each["sized"] for each in answers.values()]
    items: list[Any] = []
    more = horizon is not None
    room = PAGE_BYTES_MAX
    for size, item in heapq.merge(*pages, key=lambda each: each[1]["id"]):
        beyond = horizon is not None and item["id"] > horizon
        if beyond or len(items) == limit or (items and size > room):
            more = True
            break
        room -= size
        items.append(item)
    return {"items": items, "next_cursor": following(parameters, items[-1]["id"]) if more else None}


def _count(parameters: Parameters, shards: int) -> Steps:
    answers = yield Round(dict.fromkeys(range(shards), parameters))
    return _sums(answers, ("count",))


def _info(parameters: Parameters, shards: int) -> Steps:
    """Figures of all parts together, each on the replica that answered for it."""
    answers = yield Round(dict.fromkeys(range(shards), parameters))
    every = list(answers.values())
    measured = [each for each in every if each["recall_at_10"] is not None]
    samples = sum(each["recall_samples"] for each in measured)
    hits = sum(each["recall_at_10"] * each["recall_samples"] for each in measured)
    graphs = [each["graph_scalar"] for each in every if each.get("graph_scalar") is not None]
    indexed: dict[str, Value] = {}
    if all("graph_scalar" in each for each in every):
        indexed = {"graph_scalar": graphs[0] if graphs else None, **_sums(answers, _INDEXED)}
    return {
        "settings": every[0]["settings"],  # a node's own knowledge may be of earlier
        **_sums(answers, ("vectors", "vector_bytes")),
        **indexed,
        "recall_at_10": hits / samples if samples else None,
        "recall_samples": samples,
    }


def _sums(answers: Mapping[int, Any], names: Sequence[str]) -> dict[str, Value]:
    return {name: sum(each[name] for each in answers.values()) for name in names}
