"""The replicas of one group compare their digests at one log index, and the odd one is rebuilt.

The leader has a `Checkpoint` written into the log; each replica notes the hash tree of its state
after that entry. Then the leader asks every replica for what it noted, judges
(`cluster/anti_entropy.py`), and tells each the verdict. A replica believes no more than what it can
see itself: that its digest at that index is another than the one the majority is said to have.

A leader that is odd itself hands over first, to one of those who agree, and is rebuilt then.
So the snapshot that an odd replica gets is always made by a replica which agreed, and at or
after the index at which it did (`RaftGroup.quarantine`, `reseed_from`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import struct
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, NamedTuple

from cluster.anti_entropy import Verdict, judge, majority_of
from cluster.errors import ClusterError, NotLeader
from cluster.group import RaftGroup
from engines.command import Checkpoint, encode
from engines.digests import BUCKETS, ROOT_BYTES, Digest
from engines.interfaces import CheckpointResult
from engines.state_machine import StateMachine
from node.clock import Clock
from node.forward import encode_error, payload_of
from node.group_calls import Caller
from node.members import decided
from node.quarantine import Quarantine
from node.views import ComparisonView

logger = logging.getLogger(__name__)

DIGEST, VERDICT, COMPARE, RESEED = 24, 25, 26, 27  # methods of calls
COMPARE_SECONDS_MAX: Final = 10.0  # for the entry to be committed and applied everywhere
CALL_SECONDS_MAX: Final = 2.0
TRANSFER_SECONDS_MAX: Final = 3.0
LATER_SECONDS: Final = 0.05  # before a replica that has not applied the entry is asked again
LOOK_SECONDS: Final = 1.0  # between two looks at whether a comparison is due
_OK: Final = b"\x00"
_INDEX: Final = struct.Struct("<Q")
_TREE: Final = struct.Struct(f"<{ROOT_BYTES}s{BUCKETS}Q")
_NOTED, _LATER, _NONE, _QUARANTINED = b"\x00", b"\x01", b"\x02", b"\x03"
_NEVER: Final = (1 << 64) - 1  # an index that is asked for to hear how a replica is


class Refused(ClusterError):
    """What was asked for is not safe now, or makes no sense; definite."""


class Asked(NamedTuple):
    """What a replica answered."""

    serves: bool  # its state is answered from
    digest: Digest | None


@dataclass(frozen=True, slots=True)
class Compared:
    """One comparison, for who asked for it. Sets of node ids."""

    group: int
    index: int  # log index
    digest: str | None  # the majority's, in hexadecimal
    agreed: tuple[str, ...]
    odd: tuple[str, ...]
    silent: tuple[str, ...]
    differ: bool
    buckets: dict[str, int]  # by odd node: how many buckets of its tree are not the majority's
    message: str


class Comparison:
    """Loop thread only."""

    def __init__(
        self,
        self_id: str,
        group: RaftGroup,
        machine: StateMachine,
        caller: Caller,
        quarantine: Quarantine,
        clock: Clock,
        interval_seconds: float,
    ) -> None:
        """`interval_seconds`: between two comparisons while something is written; 0: only when
        asked."""
        self._self_id = self_id
        self._group = group
        self._machine = machine
        self._caller = caller
        self._quarantine = quarantine
        self._clock = clock
        self._interval_seconds = interval_seconds
        self._compared_at = clock.monotonic()
        self._compared_revision: int | None = None
        self._running: asyncio.Lock = asyncio.Lock()
        self._view: ComparisonView | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        caller.on_call(DIGEST, self._serve_digest)
        caller.on_call(VERDICT, self._serve_verdict)
        caller.on_call(COMPARE, self._serve_compare)
        caller.on_call(RESEED, self._serve_reseed)

    def view(self) -> ComparisonView | None:
        """The newest comparison that this node knows of."""
        return self._view

    async def run(self) -> None:
        """Until cancelled: while this node leads, compare now and then."""
        while self._interval_seconds:
            await asyncio.sleep(min(LOOK_SECONDS, self._interval_seconds))
            if self._is_due():
                self._compared_at = self._clock.monotonic()
                try:
                    await self.compare(COMPARE_SECONDS_MAX)
                except ClusterError as error:
                    logger.info("digests were not compared: %s", error)

    def _is_due(self) -> bool:
        return (
            self._leads()
            and self._quarantine.mark is None
            and self._machine.revision != self._compared_revision
            and self._clock.monotonic() - self._compared_at >= self._interval_seconds
            and self._group.status().room
        )

    def _leads(self) -> bool:
        return self._group.role().leader == self._self_id

    # --- Comparing, as the leader ------------------------------------------------------

    async def compare_anywhere(self, seconds: float) -> Compared:
        """Compare now, at the leader, whoever that is. Raises ClusterError."""
        leader = self._group.role().leader
        if leader is None:
            raise NotLeader(None)
        if leader == self._self_id:
            return await self.compare(seconds)
        request = json.dumps({"seconds": seconds}).encode()
        answer = payload_of(await self._caller.call(leader, COMPARE, request, seconds))
        fields = json.loads(answer)
        for name in ("agreed", "odd", "silent"):
            fields[name] = tuple(fields[name])
        return Compared(**fields)

    async def compare(self, seconds: float) -> Compared:
        """Have every replica note its digest at one index, and act on what they say.

        Raises ClusterError: NotLeader, OutcomeUnknown, Overloaded…
        """
        if not self._leads():
            raise NotLeader(self._group.role().leader)
        async with self._running:
            deadline = self._clock.monotonic() + seconds
            revision = self._machine.revision
            command = encode(Checkpoint())
            result = await decided(lambda done: self._group.submit(command, done), seconds)
            assert isinstance(result, CheckpointResult)
            index = result.log_index
            nodes = sorted(self._group.configuration().ids)
            asked = await asyncio.gather(*(self._ask(node, index, deadline) for node in nodes))
            noted = {node: each.digest for node, each in zip(nodes, asked, strict=True)}
            verdict = judge(
                self._group.configuration().voters,
                {node: digest.root if digest else None for node, digest in noted.items()},
            )
            self._compared_revision = revision
            compared = self._compared(index, verdict, noted)
            self._log(compared)
            await self._tell(nodes, compared, verdict)
            return compared

    async def _ask(self, node: str, index: int, deadline: float) -> Asked:
        """What a replica noted, once it has applied the entry."""
        while True:
            left = deadline - self._clock.monotonic()
            answer = self._digest(index)
            try:
                if node != self._self_id:
                    answer = await self._caller.call(
                        node, DIGEST, _INDEX.pack(index), max(0.001, min(left, CALL_SECONDS_MAX))
                    )
            except ClusterError:
                return Asked(False, None)
            if answer[:1] != _LATER or index == _NEVER or left <= LATER_SECONDS:
                return _asked(index, answer)
            await asyncio.sleep(LATER_SECONDS)

    def _compared(self, index: int, verdict: Verdict, noted: dict[str, Digest | None]) -> Compared:
        right = next((noted[node] for node in sorted(verdict.agreed)), None)
        buckets = {
            node: sum(a != b for a, b in zip(right.buckets, wrong.buckets, strict=True))
            for node in sorted(verdict.odd)
            if right is not None and (wrong := noted[node]) is not None
        }
        return Compared(
            self._group.group,
            index,
            verdict.digest.hex() if verdict.digest else None,
            tuple(sorted(verdict.agreed)),
            tuple(sorted(verdict.odd)),
            tuple(sorted(verdict.silent)),
            verdict.differ,
            buckets,
            verdict.words,
        )

    def _log(self, compared: Compared) -> None:
        level = logging.ERROR if compared.differ else logging.DEBUG
        logger.log(
            level, "group %d, digests at entry %d: %s; agreed %s, odd %s, silent %s",
            compared.group, compared.index, compared.message, list(compared.agreed),
            compared.buckets or list(compared.odd), list(compared.silent),
        )  # fmt: skip

    async def _tell(self, nodes: Collection[str], compared: Compared, verdict: Verdict) -> None:
        """Tell everybody; this node last, for it may have to hand over first."""
        told = json.dumps(
            {"index": compared.index, "digest": compared.digest, "message": compared.message}
        ).encode()

        async def tell(node: str) -> None:
            with contextlib.suppress(ClusterError):
                await self._caller.call(node, VERDICT, told, CALL_SECONDS_MAX)

        await asyncio.gather(*(tell(node) for node in nodes if node != self._self_id))
        if self._self_id in verdict.odd:
            await self._hand_over(verdict.agreed)
        self._hear(compared.index, compared.digest, compared.message)

    async def _hand_over(self, heirs: Collection[str]) -> None:
        """To one of those who agree. If that does not come off, the quarantine hands over."""
        for heir in sorted(set(heirs) & self._group.configuration().voters):
            with contextlib.suppress(ClusterError):
                await self._transfer(heir)
                return

    async def _transfer(self, heir: str) -> None:
        """Raises ClusterError: it did not come off."""
        await decided(
            lambda done: self._group.transfer_leadership(heir, done), TRANSFER_SECONDS_MAX
        )

    # --- As a replica ------------------------------------------------------------------

    def _digest(self, index: int) -> bytes:
        """What this replica noted at `index`, for the leader."""
        if self._quarantine.mark is not None:
            return _QUARANTINED
        noted = self._machine.digests.get(index)
        if noted is not None:
            return _NOTED + _TREE.pack(noted.root, *noted.buckets)
        return _LATER if self._machine.applied_index < index else _NONE

    async def _serve_digest(self, peer: str, payload: bytes) -> bytes:
        return self._digest(_INDEX.unpack(payload)[0])

    async def _serve_verdict(self, peer: str, payload: bytes) -> bytes:
        told = json.loads(payload)
        self._hear(int(told["index"]), told["digest"], str(told["message"]))
        return _OK

    def _hear(self, index: int, digest: str | None, message: str) -> None:
        """The verdict of a comparison: is this replica odd?"""
        noted = self._machine.digests.get(index)
        own = noted.root.hex() if noted else None
        agreed = None if own is None or digest is None else own == digest
        self._view = ComparisonView(index, self._clock.now_ms(), own, agreed, message)
        if agreed is False and self._quarantine.mark is None:
            reason = f"at entry {index} its digest is {own}, the majority's {digest}"
            self._quarantine.quarantine("digest", reason, index)

    # --- When nobody compared ------------------------------------------------------------

    def suspect(self, reason: str) -> None:
        """The records are not those of the hash tree, and every checksum is right."""
        task = asyncio.get_running_loop().create_task(self._give_up_if_others_serve(reason))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _give_up_if_others_serve(self, reason: str) -> None:
        if await self._others_serve():
            if self._quarantine.mark is None:
                self._quarantine.quarantine("digest", reason)
        else:
            logger.error("%s; too few other replicas serve to rebuild this one from them", reason)

    async def _others_serve(self) -> bool:
        """Is the group whole without this replica's state?"""
        voters = self._group.configuration().voters
        deadline = self._clock.monotonic() + CALL_SECONDS_MAX
        others = sorted(voters - {self._self_id})
        asked = await asyncio.gather(*(self._ask(node, _NEVER, deadline) for node in others))
        return sum(each.serves for each in asked) >= majority_of(len(voters))

    # --- When somebody asks --------------------------------------------------------------

    async def reseed(self, node: str, reason: str, seconds: float) -> None:
        """Have a replica drop its state and take the leader's. Raises ClusterError."""
        if node == self._self_id:
            await self._reseed_here(reason)
            return
        request = json.dumps({"reason": reason}).encode()
        payload_of(await self._caller.call(node, RESEED, request, seconds))

    async def _reseed_here(self, reason: str) -> None:
        if self._quarantine.mark is not None:
            return  # It is under way.
        if not await self._others_serve():
            raise Refused("too few other replicas serve to rebuild this one from them")
        if self._leads():
            await self._hand_over(self._group.configuration().voters - {self._self_id})
        if self._quarantine.mark is None:
            self._quarantine.quarantine("operator", reason, self._machine.applied_index)

    async def _serve_compare(self, peer: str, payload: bytes) -> bytes:
        try:
            compared = await self.compare(float(json.loads(payload)["seconds"]))
        except ClusterError as error:
            return encode_error(error)
        fields = {name: getattr(compared, name) for name in Compared.__dataclass_fields__}
        return _OK + json.dumps(fields).encode()

    async def _serve_reseed(self, peer: str, payload: bytes) -> bytes:
        try:
            await self._reseed_here(str(json.loads(payload)["reason"]))
        except ClusterError as error:
            return encode_error(error)
        return _OK


def _asked(index: int, answer: bytes) -> Asked:
    if answer[:1] == _NOTED and len(answer) == 1 + _TREE.size:
        root, *buckets = _TREE.unpack(answer[1:])
        return Asked(True, Digest(index, root, tuple(buckets)))
    return Asked(answer[:1] in (_LATER, _NONE), None)
