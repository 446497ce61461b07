"""What an engine is: a data model over the items of one collection.

An engine holds no state of its own. What it stores are *items*, bytes under keys, in a
collection's *space*; whatever else it keeps in memory is derived from items (`derived.py`).
So replication, snapshots, backups, checksums, digests and repair work for every engine alike.

A write goes three ways: `prepare` looks at what the caller gave, on the node that was asked,
and knows no state; its result travels in the log; `apply` decides by the state, the same on
every replica. A read is answered by `query` from a snapshot, on any thread.

Rules for `apply`. It is a function of the items, the settings and its arguments: no clock, no
randomness beyond `stamp`, no iteration over sets. Refuse by raising `Refused`: then nothing of
the command is kept, whatever was written before. Its time is in proportion to the request, for
the node does nothing else meanwhile; what may take more has a bound and says so.
"""

from __future__ import annotations

import enum
from collections.abc import Generator, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

from engines.codec import Value
from engines.errors import InvalidArgument
from engines.interfaces import RejectCode

if TYPE_CHECKING:
    from engines.derived import DerivedIndex
    from engines.space import Space, View

Parameters = Mapping[str, Any]
Settings = Mapping[str, Any]


class Refused(Exception):
    """A refusal by `apply`: an answer, the same on each replica. `field`: what is at fault."""

    def __init__(
        self, code: RejectCode, message: str, field: str | None = None, version: int | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.field = field
        self.version = version


class Stamp(NamedTuple):
    """What the proposer gave a command, since replicas must not make it up themselves."""

    now_ms: int  # UTC milliseconds since 1970
    seed: int  # 64 random bits


class Kind(enum.Enum):
    """What an operation does to a collection."""

    READ = "read"  # a function of the items: its answer is kept until they change
    WRITE = "write"
    STATUS = "status"  # about the replica that answers


class Engine(Protocol):
    """One data model. Stateless: one object serves every collection, from any thread.

    It may have an attribute `brief`, too: names of reads that are tried on the event loop first,
    since they end soon or come to `view.step`, or look at `view.stopped`, within a millisecond;
    what does not says so before (`view.long`). Such a read may be begun twice. And `across`: an
    `Across`, if its collections may be divided into shards.
    """

    @property
    def name(self) -> str:
        """As `engine` of a collection."""

    @property
    def aliases(self) -> tuple[str, ...]:
        """Other names that are accepted for it."""

    @property
    def capabilities(self) -> frozenset[str]:
        """What a request may require."""

    @property
    def operations(self) -> Mapping[str, Kind]:
        """Every name that callers may use; of all engines unique."""

    def settings(self, given: Parameters, current: Settings | None) -> dict[str, Value]:
        """The settings of a new collection, or with `current` those after a change, complete.

        Raises InvalidArgument, naming the field: unknown, of the wrong type or range, or one
        that cannot change.
        """

    def prepare(self, operation: str, parameters: Parameters) -> Value:
        """What `apply` needs of a write, checked as far as it can be without the collection.

        Raises InvalidArgument, naming the field.
        """

    def apply(
        self, space: Space, settings: Settings, operation: str, body: Any, stamp: Stamp
    ) -> Value:
        """Do one write; returns the answer. See the module for its rules.

        `body`: what `prepare` returned. Raises Refused, CorruptRecord.
        """

    def altered(self, space: Space, old: Settings, new: Settings) -> None:
        """Settings have changed: whatever items depend on them. Raises Refused."""

    def query(
        self, view: View, settings: Settings, operation: str, parameters: Parameters
    ) -> Value:
        """Answer one read. Any thread; bounded by a limit of its own, with a cursor beyond it.

        `parameters` stay as they are, for they may be asked again; the answer is the caller's.
        Raises InvalidArgument, CorruptRecord, QueryCancelled (from the view).
        """

    def index(self, settings: Settings) -> DerivedIndex | None:
        """An empty derived index for a collection; None: this engine has none."""

    def check(self, view: View, settings: Settings) -> Iterator[str]:
        """What is wrong with a collection, in words: every invariant between its items."""


@runtime_checkable
class AnswersTogether(Protocol):
    """What an engine may do besides: answer several reads for less than one after the other."""

    @property
    def together(self) -> frozenset[str]:
        """The operations, of those that read."""

    def query_together(
        self, view: View, settings: Settings, operation: str, many: Sequence[Parameters]
    ) -> list[Value | InvalidArgument | None]:
        """As `query` answers each of them, or refuses it, in this order.

        None: this one is to be asked alone, for it would keep the others waiting. Raises
        CorruptRecord, QueryCancelled.
        """


class ShortensReads(Protocol):
    """What an engine may do besides: have parameters of reads travel in fewer bytes."""

    def shorten(self, operation: str, parameters: Parameters) -> Parameters:
        """What means the same to `query`. On the node that was asked; a collection is not known.

        Raises InvalidArgument, as `query` would.
        """


class Round(NamedTuple):
    """What is asked of some shards at once, each of them at most once."""

    asked: Mapping[int, Any]  # shard → parameters of a read, or the body of a write
    # shard → where among the caller's items its own stand: refusals name items by their place
    places: Mapping[int, Sequence[int]] = MappingProxyType({})


# Rounds one after the other, each answered by shard → what its engine answered; at the end, the
# answer of all of them together.
Steps: TypeAlias = Generator[Round, Mapping[int, Any], Any]


class Across(Protocol):
    """How operations of an engine are done where items are in several shards.

    An item is in the shard that its id says (`shards.shard_of`), and nowhere else; each shard is
    a collection of its own. Stateless, and pure: who runs the steps does what they ask for. A
    write is checked as far as it can be before its first round, since shards that have done
    their part stay so when another one refuses.
    """

    @property
    def long(self) -> frozenset[str]:
        """Operations whose answers may take long to put together, however small they are."""

    def check(self, settings: Settings) -> None:
        """Raises InvalidArgument, naming the setting that shards cannot keep, and why."""

    def write(
        self, settings: Settings, operation: str, body: Any, shards: int, seed: bytes
    ) -> Steps:
        """`body`: what `prepare` returned. `seed`: the same for a retry; ids come from it.

        The steps raise Refused, InvalidArgument.
        """

    def read(
        self, settings: Settings, operation: str, parameters: Parameters, shards: int
    ) -> Steps:
        """The steps raise InvalidArgument."""


def across_of(engine: object) -> Across | None:
    """An engine's attribute `across`; None: a collection of it is not divided."""
    found: Across | None = getattr(engine, "across", None)
    return found


class Upkeep(NamedTuple):
    """What a look at a collection found to be done."""

    due: tuple[str, Parameters] | None  # a write, as a caller would ask for it
    after: bytes | None  # where to look on, after the write if there is one; None: at the end


@runtime_checkable
class KeepsUp(Protocol):
    """What an engine may do besides: have work that falls due as time passes.

    Replicas know no clock: the leader looks now and then, and proposes what is due.
    """

    def upkeep(self, view: View, settings: Settings, now_ms: int, after: bytes) -> Upkeep:
        """Look at a bounded number of items, from `after` on (empty: the beginning).

        A write that was made must not be due again. Raises CorruptRecord, QueryCancelled.
        """
