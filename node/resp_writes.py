"""Writes of the Redis door: from operations to commands of the log, proposed here or at the
leader of their session's group. Loop thread only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cluster.errors import ClusterError, NotLeader
from engines.command import Compare, Edit, Put, encode, validate
from engines.edits import Answer, EditResult, EditSet
from engines.errors import InvalidArgument
from engines.interfaces import Limits, PutResult, Rejected, Result
from node.errors import InternalError
from node.http_errors import bad_argument, rejection
from node.resp_actions import Write
from node.resp_lookups import Groups
from node.service import Router

Command = Put | Edit
Done = Callable[[Result | None, Exception | None], None]


class Writes:
    """`limits`: what a command is checked against before it is proposed."""

    def __init__(self, groups: Groups, router: Router, limits: Limits) -> None:
        self._groups = groups
        self._router = router
        self.limits = limits

    def command(self, namespace: str, write: Write, now_ms: int) -> Command:
        """Raises: BadRequest."""
        op = write.ops[0]
        if write.plain and isinstance(op, EditSet):
            return self._valid(
                Put(
                    namespace, write.session, op.key, op.value, op.content_type, now_ms,
                    op.expires_ms,
                )
            )  # fmt: skip
        return self.edit(namespace, write, now_ms)

    def edit(
        self, namespace: str, write: Write, now_ms: int, compare: Sequence[Compare] = ()
    ) -> Command:
        """Raises: BadRequest."""
        return self._valid(Edit(namespace, write.session, tuple(compare), write.ops, now_ms))

    def _valid(self, command: Command) -> Command:
        try:
            validate(command, self.limits)
        except InvalidArgument as error:
            raise bad_argument(error) from None
        return command

    def group_of(self, command: Command) -> int:
        """The group that holds what the command changes."""
        return self._groups.group_of(command.session)

    def submit(self, command: Command, done: Done) -> None:
        """Propose to this node, if it leads the command's group. `done(None, NotLeader)`: it
        does not, and the command had no effect. Never called while the outcome is open."""
        hosted = self._groups.replica(self.group_of(command))
        if hosted is None:
            done(None, NotLeader(None))
            return

        def answered(result: object, error: ClusterError | None) -> None:
            if error is not None:
                done(None, error)
            elif isinstance(result, Rejected):
                done(None, rejection(result))
            else:
                done(result, None)  # type: ignore[arg-type]

        hosted.group.submit(encode(command), answered)

    async def forward(self, command: Command, deadline: float) -> Result:
        """Have whoever leads do it. Raises: HivememError."""
        result = await self._router.propose(command, deadline)
        if isinstance(result, Rejected):
            raise rejection(result)
        return result

    @staticmethod
    def refused(result: Result) -> bool:
        """Did a comparison not hold, so that nothing was done?"""
        return isinstance(result, EditResult) and not result.succeeded

    @staticmethod
    def answers(result: Result) -> Sequence[Answer]:
        """What each operation answered."""
        match result:
            case PutResult():
                return (True,)
            case EditResult(succeeded=True):
                return result.answers
            case _:
                raise InternalError("the state machine answered another command", definite=False)
