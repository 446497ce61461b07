"""Aggregation: a pipeline of stages over the documents of a collection.

Stages are generators, so that documents pass one by one; what a stage has to hold ($group,
$sort) counts against one budget for the pipeline, and a pipeline that goes over it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

from engines.codec import Value, pack_value
from engines.cursors import encode_cursor, refuse_cursor
from engines.document_detour import Detour
from engines.document_expressions import (
    ACCUMULATORS,
    STATE_BYTES,
    Accumulator,
    Expression,
    must_fit,
    parse_expression,
    present,
)
from engines.document_filter import Filter, before_trying, parse_filter
from engines.document_find import Search
from engines.document_order import order_key
from engines.document_parameters import ANSWER_BYTES_MAX, LIMIT_DEFAULT, LIMIT_MAX, Fields
from engines.document_paths import MISSING, Path, parse_path
from engines.document_shapes import excluding, including, item_sort_key, parse_sort
from engines.document_walk import Walk
from engines.errors import InvalidArgument
from engines.parameters import PREFIX as ROOT
from engines.space import View

PIPELINE: Final = f"{ROOT}.pipeline"
STAGES_MAX: Final = 32
MEMBERS_MAX: Final = 100  # of one $group or $project
HELD_BYTES_MAX: Final = 16 << 20  # of all stages of a pipeline together
COUNT_MAX: Final = (1 << 63) - 1

Rows = Iterator[Any]  # documents
Stage = Callable[[Rows], Rows]


class Budget:
    """What a pipeline's stages hold. `step`: called for each row, so that a query can end;
    `long`: before what may take long for one row."""

    def __init__(self, step: Callable[..., None], long: Callable[[], None]) -> None:
        self.step = step
        self.long = long
        self._left = HELD_BYTES_MAX

    def take(self, size: int, field: str) -> None:
        self.step()
        self._left -= size
        if self._left < 0:
            raise InvalidArgument(
                field, f"has to hold over {HELD_BYTES_MAX} bytes: narrow it by a $match before"
            )


def aggregate(view: View, settings: Mapping[str, Any], parameters: Mapping[str, Any]) -> Value:
    """document_aggregate. Raises InvalidArgument, CorruptRecord, QueryCancelled."""
    asked = parse(parameters)
    budget = Budget(view.step, view.long)
    walked = walk_documents(view, settings, asked.pipeline)
    answer = paged(piped(walked.rows, parse_stages(asked.pipeline, 0, budget)), asked)
    walked.search.report(walked.walk, len(answer["items"]))
    return answer


class Asked(NamedTuple):
    """A page of what a pipeline makes. Its stages are not looked at yet."""

    pipeline: Sequence[Any]
    limit: int
    start: int


def parse(parameters: Mapping[str, Any]) -> Asked:
    """Raises InvalidArgument."""
    fields = Fields(parameters, "pipeline", "limit", "cursor")
    given = parameters.get("pipeline")
    if not isinstance(given, list | tuple) or len(given) > STAGES_MAX:
        raise InvalidArgument(PIPELINE, f"must be an array of at most {STAGES_MAX} stages")
    limit = fields.integer("limit", 1, LIMIT_MAX, LIMIT_DEFAULT)
    start = fields.position(_scope(given), int) or 0
    if not 0 <= start <= COUNT_MAX:
        refuse_cursor("is not a cursor")
    return Asked(given, limit, start)


def parse_stages(given: Sequence[Any], first: int, budget: Budget) -> list[Stage]:
    """`first`: where in the caller's pipeline they begin. Raises InvalidArgument."""
    return [_stage(each, f"{PIPELINE}[{first + at}]", budget) for at, each in enumerate(given)]


def piped(rows: Rows, stages: Iterable[Stage]) -> Rows:
    for stage in stages:
        rows = stage(rows)
    return rows


def paged(rows: Rows, asked: Asked) -> dict[str, Any]:
    """The answer."""
    found: list[Value] = []
    size = 0
    following = None
    for row in islice(rows, asked.start, None):
        size += len(pack_value(row))
        if len(found) == asked.limit or (found and size > ANSWER_BYTES_MAX):
            following = encode_cursor(_scope(asked.pipeline), asked.start + len(found))
            break
        found.append(row)
    return {"items": found, "next_cursor": following}


def _scope(pipeline: Sequence[Any]) -> list[Value]:
    return ["aggregate", list(pipeline)]


class Walked(NamedTuple):
    """The documents that a pipeline begins with, and how they are come to."""

    rows: Rows
    search: Search
    walk: Walk | Detour


def walk_documents(view: View, settings: Mapping[str, Any], pipeline: Sequence[Any]) -> Walked:
    """Raises InvalidArgument."""
    search = _search(view, settings, pipeline, PIPELINE)
    walk = search.walk()
    return Walked(_documents(view, search.filter, walk, f"{PIPELINE}[0].$match"), search, walk)


def _search(view: View, settings: Mapping[str, Any], given: Any, field: str) -> Search:
    """For the documents that a $match in front wants."""
    wanted = Filter(lambda _: True, (), False, 0)
    # What else the first stage may be is said when all stages are parsed.
    if given and isinstance(given[0], dict) and "$match" in given[0]:
        wanted = parse_filter(given[0]["$match"], f"{field}[0].$match")
    return Search(view, settings, wanted, ())


def _documents(view: View, wanted: Filter, walk: Walk | Detour, field: str) -> Rows:
    for _, record in walk:
        before_trying(view, wanted, len(record.packed), field)
        yield record.document()


def _stage(given: object, field: str, budget: Budget) -> Stage:
    if not isinstance(given, dict) or len(given) != 1:
        raise InvalidArgument(field, "must be an object with one stage")
    ((name, body),) = given.items()
    if name not in _STAGES:
        known = ", ".join(_STAGES)
        raise InvalidArgument(f"{field}.{name}", f"is no stage; known: {known}")
    return _STAGES[name](body, f"{field}.{name}", budget)


def _match(body: Any, field: str, budget: Budget) -> Stage:
    wanted = parse_filter(body, field)
    if wanted.regex:
        budget.long()

    def match(rows: Rows) -> Rows:
        for row in rows:
            budget.step(wanted.size)
            if wanted.matches(row):
                yield row

    return match


def _project(body: Any, field: str, budget: Budget) -> Stage:
    if not isinstance(body, dict) or not 1 <= len(body) <= MEMBERS_MAX:
        raise InvalidArgument(field, f"must be an object of 1 to {MEMBERS_MAX} members")
    shown: list[Path] = []
    hidden: list[Path] = []
    computed: dict[str, Expression] = {}
    for name, value in body.items():
        where = f"{field}.{name}"
        if type(value) in (bool, int):
            if value not in (0, 1):
                raise InvalidArgument(where, "must be true, false, 1, 0 or an expression")
            (shown if value else hidden).append(parse_path(name, where))
        else:
            if "." in name:
                raise InvalidArgument(where, "a member that is computed has no dots")
            computed[name] = parse_expression(value, where)
    if [path for path in hidden if path != ("_id",)] and (shown or computed):
        raise InvalidArgument(field, "either names what is shown or what is not, but for _id")
    if hidden and not shown and not computed:
        exclude = excluding(hidden)
        return lambda rows: map(exclude, rows)
    include = including([*shown, *([] if hidden else [("_id",)])])

    def project(row: Any) -> Any:
        found = include(row)
        for name, expression in computed.items():
            value = expression(row)
            if value is not MISSING:
                found[name] = value
        if computed:
            must_fit(found, field)
        return found

    return lambda rows: map(project, rows)


class Grouping:
    """A $group: its groups by the key of their _id, in no order."""

    def __init__(self, body: Any, field: str, budget: Budget) -> None:
        """Raises InvalidArgument."""
        if not isinstance(body, dict) or "_id" not in body or len(body) > MEMBERS_MAX:
            raise InvalidArgument(field, f"must be an object of at most {MEMBERS_MAX}, with _id")
        self._by = parse_expression(body["_id"], f"{field}._id")
        self._made: dict[str, tuple[Callable[[], Accumulator], Expression]] = {}
        for name, each in body.items():
            if name != "_id":
                self._made[name] = _accumulator(each, f"{field}.{name}")
        self._field = field
        self._budget = budget
        self.groups: dict[bytes, tuple[Any, list[Accumulator]]] = {}

    def add(self, rows: Rows) -> None:
        """Raises InvalidArgument: they have to hold too much."""
        budget, field, made = self._budget, self._field, self._made
        for row in rows:
            accumulators = self.group(present(self._by(row)))
            for accumulator, (_, expression) in zip(accumulators, made.values(), strict=True):
                budget.take(accumulator.add(expression(row)), field)

    def group(self, value: Any) -> list[Accumulator]:
        """The accumulators of the group of this _id, new ones if there is none yet."""
        key = order_key(value)
        found = self.groups.get(key)
        if found is None:
            made = self._made
            self._budget.take(2 * len(key) + STATE_BYTES * (1 + len(made)), self._field)
            found = self.groups[key] = value, [make() for make, _ in made.values()]
        return found[1]

    def rows(self) -> Rows:
        """In order of their _ids."""
        for key in sorted(self.groups):
            value, accumulators = self.groups[key]
            results = (accumulator.result() for accumulator in accumulators)
            yield {"_id": value, **dict(zip(self._made, results, strict=True))}


def _group(body: Any, field: str, budget: Budget) -> Stage:
    Grouping(body, field, budget)  # it is checked before anything is read

    def group(rows: Rows) -> Rows:
        grouping = Grouping(body, field, budget)
        grouping.add(rows)
        yield from grouping.rows()

    return group


def _accumulator(given: Any, field: str) -> tuple[Callable[[], Accumulator], Expression]:
    if not isinstance(given, dict) or len(given) != 1 or next(iter(given)) not in ACCUMULATORS:
        raise InvalidArgument(field, f"must be an object with one of {', '.join(ACCUMULATORS)}")
    ((name, operand),) = given.items()
    if name == "$count" and operand != {}:
        raise InvalidArgument(f"{field}.$count", "must be an empty object")
    return ACCUMULATORS[name], parse_expression(operand, f"{field}.{name}")


def _sort(body: Any, field: str, budget: Budget) -> Stage:
    sort = parse_sort(body, field)
    if not sort:
        raise InvalidArgument(field, "must be an object of paths")

    def ordered(rows: Rows) -> Rows:
        held: list[tuple[bytes, Any]] = []
        for row in rows:
            key = item_sort_key(row, sort)
            budget.take(len(key) + len(pack_value(row)), field)
            held.append((key, row))
        held.sort(key=lambda pair: pair[0])  # stable: equals stay as they came
        return (row for _, row in held)

    return ordered


def _limit(body: Any, field: str, budget: Budget) -> Stage:
    count = _whole(body, field, 1)
    return lambda rows: islice(rows, count)


def _skip(body: Any, field: str, budget: Budget) -> Stage:
    count = _whole(body, field, 0)
    return lambda rows: islice(rows, count, None)


def _count(body: Any, field: str, budget: Budget) -> Stage:
    if type(body) is not str or not body or "." in body or body.startswith("$"):
        raise InvalidArgument(field, "must be the name of a member, without dots")

    def counted(rows: Rows) -> Rows:
        count = sum(1 for _ in rows)
        if count:
            yield {body: count}

    return counted


def _unwind(body: Any, field: str, budget: Budget) -> Stage:
    keep = False
    if isinstance(body, dict):
        for name in body:
            if name not in ("path", "preserveNullAndEmptyArrays"):
                raise InvalidArgument(f"{field}.{name}", "is not known here")
        keep = body.get("preserveNullAndEmptyArrays", False)
        if type(keep) is not bool:
            raise InvalidArgument(f"{field}.preserveNullAndEmptyArrays", "must be true or false")
        body = body.get("path")
    if type(body) is not str or not body.startswith("$"):
        raise InvalidArgument(field, 'must be a path with "$" before it')
    path = parse_path(body[1:], field)

    def unwound(rows: Rows) -> Rows:
        for row in rows:
            yield from _unwound(row, path, keep, budget.step)

    return unwound


def _unwound(row: Any, path: Path, keep: bool, step: Callable[[], None]) -> Iterable[Any]:
    """A row for each item of the array at the path. What is no array stands for one item."""
    value = _member(row, path)
    if value is MISSING or value is None or value == []:
        if keep:
            yield row if value != [] else _with(row, path, MISSING)
        return
    if value.__class__ is not list:
        yield row
        return
    for item in value:
        step()
        yield _with(row, path, item)


def _member(row: Any, path: Path) -> Any:
    """The value at a path that leads through objects only."""
    for part in path:
        if row.__class__ is not dict or part not in row:
            return MISSING
        row = row[part]
    return row


def _with(row: Any, path: Path, value: Any) -> Any:
    """The row with another value at the path, where `_member` found one."""
    if not path:
        return value
    name, rest = path[0], path[1:]
    inner = _with(row[name], rest, value)
    if inner is MISSING:
        return {key: member for key, member in row.items() if key != name}
    return {**row, name: inner}


def _whole(given: Any, field: str, least: int) -> int:
    if type(given) is not int or not least <= given <= COUNT_MAX:
        raise InvalidArgument(field, f"must be a whole number of at least {least}")
    return given


_STAGES: Mapping[str, Callable[[Any, str, Budget], Stage]] = {
    "$match": _match,
    "$group": _group,
    "$sort": _sort,
    "$limit": _limit,
    "$skip": _skip,
    "$project": _project,
    "$unwind": _unwind,
    "$count": _count,
}
