"""Reads of collections as values; see `read_requests.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from engines.catalog import Collection
from engines.codec import Value
from engines.collection_reader import Answer, PartSize
from engines.errors import EngineError, InvalidArgument
from engines.kv_reader import KvReader
from engines.read_requests import PAGE_BYTES_MAX, Shown, check_page
from engines.tuning import Tuning

PARAMETER_BYTES_MAX = 16 << 20  # of one query, packed
PARTS_MAX = 1_000  # of one request


class CollectionPage(NamedTuple):
    """Collections in order of their names."""

    collections: tuple[Collection, ...]
    more: bool  # True: continue after collections[-1].name


class QueryAnswer(NamedTuple):
    """What an engine answered, and of which state."""

    answer: bytes  # `codec.pack_value`
    engine: str
    applied_index: int  # of the log
    written_index: int  # the last entry that changed the collection
    value: Value = None  # what `answer` holds, where it was computed here and just now


@dataclass(frozen=True, slots=True)
class DescribeCollection:
    """One collection. Raises also InvalidArgument, code COLLECTION_NOT_FOUND."""

    namespace: str
    session: str  # the collection's name: it is placed as a session of that name is
    offload: ClassVar[bool] = False

    def run(self, reader: KvReader) -> Shown[Collection]:
        return Shown(reader.collections.find(self.namespace, self.session), reader.revision)


@dataclass(frozen=True, slots=True)
class ListCollections:
    """Collections of the namespace whose name is > `after`."""

    namespace: str
    after: str | None
    limit: int
    offload: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_page(self.limit)

    def run(self, reader: KvReader) -> Shown[CollectionPage]:
        found = reader.collections.list(self.namespace, self.after, self.limit + 1)
        page = CollectionPage(tuple(found[: self.limit]), len(found) > self.limit)
        return Shown(page, reader.revision)


@dataclass(frozen=True, slots=True)
class MeasureParts:
    """What parts of collections hold, all of one partition: None for each that is not there."""

    namespace: str
    names: tuple[str, ...]
    offload: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= PARTS_MAX:
            raise InvalidArgument("names", f"must be 1 to {PARTS_MAX} parts")

    @property
    def session(self) -> str:
        """Where the first of them is, and so the others."""
        return self.names[0]

    def run(self, reader: KvReader) -> Shown[tuple[PartSize | None, ...]]:
        return Shown(reader.collections.sizes(self.namespace, self.names), reader.revision)


@dataclass(frozen=True, slots=True)
class QueryCollection:
    """One read by a collection's engine. Raises also InvalidArgument, QueryCancelled."""

    namespace: str
    session: str  # the collection's name
    operation: str
    parameters: bytes  # `codec.pack_value` of an object
    # The object itself, where it is at hand: to unpack it again is for who gets bytes.
    given: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    offload: ClassVar[bool] = True
    explain: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if len(self.parameters) > PARAMETER_BYTES_MAX:
            raise InvalidArgument("parameters", f"are over {PARAMETER_BYTES_MAX} bytes")

    def run(self, reader: KvReader) -> Shown[QueryAnswer]:
        collections = reader.collections
        answer = collections.answer(
            self.namespace, self.session, self.operation, self.parameters, self.given
        )
        return _shown(answer, collections.applied_index, reader.revision)


def query_together(
    reader: KvReader, requests: Sequence[QueryCollection]
) -> list[Shown[QueryAnswer] | EngineError | None]:
    """What each of some queries that ask the same collection for the same operation would show,
    or raise; None: this one is to be run by itself.

    Raises what is wrong with all of them: CorruptRecord, QueryCancelled, InvalidArgument.
    """
    first = requests[0]
    collections = reader.collections
    answers = collections.answer_together(
        first.namespace,
        first.session,
        first.operation,
        [(each.parameters, each.given) for each in requests],
    )
    found: list[Shown[QueryAnswer] | EngineError | None] = []
    for answer in answers:
        if not isinstance(answer, Answer):
            found.append(answer)
            continue
        try:
            found.append(_shown(answer, collections.applied_index, reader.revision))
        except InvalidArgument as error:
            found.append(error)
    return found


def _shown(answer: Answer, applied_index: int, revision: int) -> Shown[QueryAnswer]:
    packed, collection, value = answer
    if len(packed) > PAGE_BYTES_MAX:
        raise InvalidArgument(
            "parameters",
            f"the answer is {len(packed)} bytes; at most {PAGE_BYTES_MAX}: ask for fewer "
            "items or fields",
        )
    found = QueryAnswer(packed, collection.engine, applied_index, collection.written_index, value)
    return Shown(found, revision)


@dataclass(frozen=True, slots=True)
class ExplainQuery(QueryCollection):
    """The same read, whose answer is {"result", "explain": how it came about}."""

    explain: ClassVar[bool] = True

    def run(self, reader: KvReader) -> Shown[QueryAnswer]:
        tuning = reader.tuning = reader.tuning or Tuning()
        tuning.explain = True
        return QueryCollection.run(self, reader)
