"""Pipelines over documents in several shards.

What stands before the first $group or $count ($match, $project, $unwind) looks at one document at
a time, so each shard does it for its own, and makes its part of the groups. The parts are put
together where the request was asked, and whatever stands behind runs there, on groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, NoReturn

from engines.codec import Value, pack_value
from engines.document_aggregate import (
    PIPELINE,
    Asked,
    Budget,
    Grouping,
    paged,
    parse,
    parse_stages,
    piped,
    walk_documents,
)
from engines.document_expressions import Mergeable
from engines.engine import Parameters, Round, Steps
from engines.errors import InvalidArgument
from engines.shards import PART
from engines.space import View

STEPS_MAX: Final = 1_000_000  # rows and values that stages behind the groups come to
_OF_ONE: Final = ("$match", "$project", "$unwind")
_PARTED: Final = ("$group", "$count")


class _Split(NamedTuple):
    before: Sequence[Any]  # of one document each
    stage: str  # $group or $count
    body: Any
    behind: Sequence[Any]

    @property
    def field(self) -> str:
        return f"{PIPELINE}[{len(self.before)}].{self.stage}"


def partial(view: View, settings: Mapping[str, Any], given: Mapping[str, Any]) -> Value:
    """document_aggregate of one shard: its part of the groups, or of the count.

    Raises InvalidArgument, CorruptRecord, QueryCancelled.
    """
    pipeline = given["pipeline"]
    split = _split(pipeline)
    budget = Budget(view.step, view.long)
    walked = walk_documents(view, settings, pipeline)
    rows = piped(walked.rows, parse_stages(split.before, 0, budget))
    if split.stage == "$count":
        count = sum(1 for _ in rows)
        walked.search.report(walked.walk, 1)
        return {"count": count}
    grouping = Grouping(split.body, split.field, budget)
    grouping.add(rows)
    walked.search.report(walked.walk, len(grouping.groups))
    groups: list[Value] = []
    for value, accumulators in grouping.groups.values():
        states: list[Value] = [each.state() for each in accumulators if isinstance(each, Mergeable)]
        groups.append([value, states])
    return {"groups": groups}


def aggregate(parameters: Parameters, shards: int) -> Steps:
    """document_aggregate of all shards. The steps raise InvalidArgument."""
    asked = parse(parameters)
    split = _split(asked.pipeline)
    budget = _bounded()
    parse_stages(asked.pipeline, 0, budget)  # all of it is checked before anything is asked
    _must_merge(split, budget)
    own = {"pipeline": [*split.before, {split.stage: split.body}], PART: pack_value({})}
    answers = yield Round(dict.fromkeys(range(shards), own))
    return _together(asked, split, list(answers.values()))


def _split(pipeline: Sequence[Any]) -> _Split:
    """Raises InvalidArgument: another stage comes first, or none."""
    for place, each in enumerate(pipeline):
        if not isinstance(each, dict) or len(each) != 1:
            raise InvalidArgument(f"{PIPELINE}[{place}]", "must be an object with one stage")
        ((name, body),) = each.items()
        if name in _PARTED:
            return _Split(pipeline[:place], name, body, pipeline[place + 1 :])
        if name not in _OF_ONE:
            _refuse(f"{PIPELINE}[{place}].{name}")
    _refuse(PIPELINE)


def _refuse(field: str) -> NoReturn:
    raise InvalidArgument(
        field,
        "across shards needs a $group or $count, and before it $match, $project and $unwind only; "
        "document_find sorts and pages",
    )


def _must_merge(split: _Split, budget: Budget) -> None:
    if split.stage != "$group":
        return
    made = Grouping(split.body, split.field, budget).group(None)
    names = [name for name in split.body if name != "_id"]
    for name, accumulator in zip(names, made, strict=True):
        if not isinstance(accumulator, Mergeable):
            (kind,) = split.body[name]
            raise InvalidArgument(
                f"{split.field}.{name}.{kind}",
                "depends on the order of documents, and those of several shards have none",
            )


def _together(asked: Asked, split: _Split, parts: Sequence[Any]) -> Value:
    budget = _bounded()
    if split.stage == "$count":
        count = sum(part["count"] for part in parts)
        rows = iter([{split.body: count}] if count else [])
    else:
        grouping = Grouping(split.body, split.field, budget)
        for part in parts:
            for value, states in part["groups"]:
                for accumulator, state in zip(grouping.group(value), states, strict=True):
                    assert isinstance(accumulator, Mergeable)  # `_must_merge`
                    budget.take(accumulator.absorb(state), split.field)
        rows = grouping.rows()
    behind = parse_stages(split.behind, len(split.before) + 1, budget)
    return paged(piped(rows, behind), asked)


def _bounded() -> Budget:
    """Of what runs where nothing says that nobody waits any more."""
    left = STEPS_MAX

    def step(steps: int = 1) -> None:
        nonlocal left
        left -= steps
        if left < 0:
            raise InvalidArgument(
                PIPELINE,
                f"comes to over {STEPS_MAX} rows and values behind its first $group: across shards "
                "that is too many",
            )

    return Budget(step, lambda: None)
