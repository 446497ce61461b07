"""Hybrid search: by meaning and by words at once, over one collection of vectors.

Candidates are the nearest vectors and the texts that fit the words best; each candidate is
judged by both, and the two judgements become one.

* `rrf`: reciprocal rank fusion: the sum of 1 / (60 + rank) over the lists that hold it. It needs
  no scales to be comparable. Source: Cormack, Clarke, Büttcher 2009.
* `score`: w · BM25 as a share of the best text's + (1 - w) · similarity, w being `text_weight`.
  Similarity is 1 - distance for cosine, and for others where the distance lies between the
  farthest candidate's (0) and the nearest's (1).

Recency multiplies either by 0.5^(age / half-life). A filter holds for both sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from engines import vector_reads
from engines.codec import Value
from engines.engine import Parameters, Settings
from engines.errors import InvalidArgument
from engines.parameters import choice, closed, integer, members, required
from engines.space import ItemChange, View
from engines.text_index import TextIndex
from engines.text_match import MODES, match_expression
from engines.vector_distance import exact
from engines.vector_filter import Filter, compile_filter, found
from engines.vector_index import VectorIndex
from engines.vector_items import Item, item_id, item_key, unpack_item, unpack_metadata
from engines.vector_rows import Array

FUSIONS: Final = ("rrf", "score")
TIME_MS_MAX: Final = 1 << 53
RRF_RANK: Final = 60
DEPTH_MIN: Final = 100  # candidates of either side
DEPTH_LIMITS: Final = 4  # times the limit
DEPTH_MAX: Final = 2_000
TEXT_WEIGHT: Final = 0.4
_PARAMETERS: Final = (
    "query", "vector", "limit", "filter", "include", "model", "fusion", "text_weight", "mode",
    "recency", "expansion", "exact",
)  # fmt: skip
_RECENCY: Final = ("field", "half_life_ms", "now_ms")
_FIELD: Final = "text"


class HybridIndex(VectorIndex):
    """Vectors and the texts beside them. `DerivedIndex`."""

    def __init__(self, settings: Settings, graph_rows_min: int) -> None:
        super().__init__(settings, graph_rows_min)
        self.texts = TextIndex((_FIELD,), settings["text"]["language"], _text_of)

    @property
    def failed(self) -> bool:
        return self.texts.failed

    def build(self, view: View) -> None:
        self.texts.build(view)
        super().build(view)

    def changed(self, changes: Sequence[ItemChange], log_index: int) -> None:
        self.texts.changed(changes, log_index)
        super().changed(changes, log_index)

    def close(self) -> None:
        super().close()
        self.texts.close()


class _Candidate(NamedTuple):
    """One item, judged by both sides. `text_score` 0: it has none of the words."""

    identity: str
    item: Item
    distance: float
    text_score: float


def search(view: View, settings: Settings, given: Parameters) -> Value:
    """Raises InvalidArgument, QueryCancelled, CorruptRecord."""
    closed(given, _PARAMETERS, "parameters.")
    index = view.index
    if settings.get("text") is None or not isinstance(index, HybridIndex):
        raise InvalidArgument("collection", "has no texts: its setting text is null")
    mode = choice(given.get("mode", MODES[0]), "parameters.mode", MODES)
    query = required(given, "query", "parameters.")
    if not isinstance(query, str):
        raise InvalidArgument("parameters.query", "must be text")
    expression = match_expression(query, mode)
    limit = integer(
        given.get("limit", vector_reads.LIMIT_DEFAULT), "parameters.limit", 1,
        vector_reads.LIMIT_MAX,
    )  # fmt: skip
    fusion = _Fusion(given)
    condition = given.get("filter")
    compiled = None if condition is None else compile_filter(condition, "parameters.filter")
    depth = min(DEPTH_MAX, max(DEPTH_MIN, DEPTH_LIMITS * limit))
    by_vector, vector = _near(view, settings, given, depth)
    by_text = _worded(view, index, expression, depth, compiled)
    candidates = _candidates(view, settings, vector, by_vector, by_text)
    ranked = fusion.ranked(candidates, settings["metric"])[:limit]
    include = vector_reads.included(given, ("metadata", "text"))
    return {"hits": [_hit(settings, each, score, include) for score, each in ranked]}


def _near(view: View, settings: Settings, given: Parameters, depth: int) -> tuple[list[str], Array]:
    """Ids of the nearest, nearest first, and the vector that was asked for."""
    names = ("vector", "filter", "model", "expansion", "exact")
    wanted = {name: given[name] for name in names if name in given}
    required(given, "vector", "parameters.")
    near = vector_reads.nearest_of(
        view, settings, {**wanted, "limit": min(depth, vector_reads.LIMIT_MAX)}
    )
    return [near.sight.rows.ids[row] for row in near.hits[0].rows], near.queries[0]


def _worded(
    view: View, index: HybridIndex, expression: str, depth: int, condition: Filter | None
) -> dict[str, float]:
    """Id → score of the texts that fit best."""
    looked_at = depth if condition is None else DEPTH_MAX
    scores: dict[str, float] = {}
    for key, score in index.texts.search(view, expression, {}, looked_at):
        if condition is not None:
            value = view.get(key)
            if value is None:
                continue
            if not condition.matches(unpack_metadata(unpack_item(key, value).metadata, key)):
                continue
        scores[item_id(key)] = score
        if len(scores) == depth:
            break
    return scores


def _candidates(
    view: View,
    settings: Settings,
    vector: Array,
    by_vector: list[str],
    by_text: Mapping[str, float],
) -> list[_Candidate]:
    items: dict[str, Item] = {}
    for identity in dict.fromkeys([*by_vector, *by_text]):
        key = item_key(identity)
        value = view.get(key)
        if value is not None:
            items[identity] = unpack_item(key, value)
    if not items:
        return []
    kind: Any = np.uint8 if settings["scalar"] == "b1" else np.float32
    stored = np.frombuffer(b"".join(item.vector for item in items.values()), kind)
    (distances,) = exact(settings["metric"], vector[None], stored.reshape(1, len(items), -1))
    return [
        _Candidate(identity, item, float(distance), by_text.get(identity, 0.0))
        for (identity, item), distance in zip(items.items(), distances, strict=True)
    ]


class _Fusion:
    """How two judgements become one."""

    def __init__(self, given: Parameters) -> None:
        self._fusion = choice(given.get("fusion", "score"), "parameters.fusion", FUSIONS)
        weight = given.get("text_weight", TEXT_WEIGHT)
        if type(weight) not in (int, float) or not 0 <= weight <= 1:
            raise InvalidArgument("parameters.text_weight", "must be a number from 0 to 1")
        self._weight = float(weight)
        self._recency: tuple[str, int, int] | None = None
        if given.get("recency") is not None:
            fields = members(given["recency"], "parameters.recency")
            closed(fields, _RECENCY, "parameters.recency.")
            field = required(fields, "field", "parameters.recency.")
            if not isinstance(field, str) or not field:
                raise InvalidArgument("parameters.recency.field", "must be a name in the metadata")
            self._recency = (
                field,
                *(
                    integer(
                        required(fields, name, "parameters.recency."),
                        f"parameters.recency.{name}", 1, TIME_MS_MAX,
                    )
                    for name in ("half_life_ms", "now_ms")
                ),
            )  # type: ignore[assignment]  # fmt: skip

    def ranked(self, candidates: list[_Candidate], metric: str) -> list[tuple[float, _Candidate]]:
        """Best first; equals by id."""
        scores = (
            self._by_rank(candidates)
            if self._fusion == "rrf"
            else self._by_score(candidates, metric)
        )
        judged = [
            (score * self._freshness(each), each)
            for score, each in zip(scores, candidates, strict=True)
        ]
        return sorted(judged, key=lambda pair: (-pair[0], pair[1].identity))

    def _by_rank(self, candidates: list[_Candidate]) -> list[float]:
        scores = dict.fromkeys((each.identity for each in candidates), 0.0)
        near = sorted(candidates, key=lambda each: (each.distance, each.identity))
        worded = sorted(candidates, key=lambda each: (-each.text_score, each.identity))
        for rank, each in enumerate(near, 1):
            scores[each.identity] += (1 - self._weight) / (RRF_RANK + rank)
        for rank, each in enumerate(worded, 1):
            if each.text_score > 0:
                scores[each.identity] += self._weight / (RRF_RANK + rank)
        return [scores[each.identity] for each in candidates]

    def _by_score(self, candidates: list[_Candidate], metric: str) -> list[float]:
        best = max((each.text_score for each in candidates), default=0.0) or 1.0
        nearest = min((each.distance for each in candidates), default=0.0)
        farthest = max((each.distance for each in candidates), default=0.0)
        scores: list[float] = []
        for each in candidates:
            if metric == "cos":
                similarity = 1.0 - each.distance
            else:
                similarity = (farthest - each.distance) / ((farthest - nearest) or 1.0)
            words = each.text_score / best
            scores.append(self._weight * words + (1 - self._weight) * similarity)
        return scores

    def _freshness(self, candidate: _Candidate) -> float:
        if self._recency is None:
            return 1.0
        field, half_life, now = self._recency
        time = found(unpack_metadata(candidate.item.metadata), field)
        if isinstance(time, bool) or not isinstance(time, int | float):
            return 0.0  # of unknown age: behind what is known
        return float(0.5 ** (max(0.0, now - time) / half_life))


def _hit(
    settings: Settings, candidate: _Candidate, score: float, include: frozenset[str]
) -> dict[str, Value]:
    return {
        "id": candidate.identity,
        "score": score,
        "distance": candidate.distance,
        "text_score": candidate.text_score,
        **vector_reads.parts(settings, candidate.item, include),
    }


def _text_of(key: bytes, value: bytes) -> tuple[str, Sequence[str]] | None:
    text = unpack_item(key, value).text
    return None if text is None else (item_id(key), [text])
