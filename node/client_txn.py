"""Transactions, as a client builds them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

from node import client_wire as wire
from node.client_types import JSON, TxnResult

CompareOp = Literal["==", "!=", "<", "<=", ">", ">="]


class Branch:
    """Operations of one branch of a transaction, in order; each call returns the branch."""

    def __init__(self) -> None:
        self.operations: list[wire.Fields] = []

    def put(
        self,
        key: str,
        value: bytes | str,
        *,
        content_type: str | None = None,
        ttl_seconds: float | None = None,
    ) -> Branch:
        """`content_type` None: text for a str, octet-stream for bytes."""
        fields: wire.Fields = {"op": "put", "key": key, **wire.encoded_value(value)}
        fields["content_type"] = wire.content_type_of(value, content_type)
        if ttl_seconds is not None:
            fields["ttl_seconds"] = ttl_seconds
        self.operations.append(fields)
        return self

    def put_json(self, key: str, value: object, *, ttl_seconds: float | None = None) -> Branch:
        text = wire.json_value(value)
        return self.put(key, text, content_type=JSON, ttl_seconds=ttl_seconds)

    def delete(self, key: str) -> Branch:
        self.operations.append({"op": "delete", "key": key})
        return self

    def get(self, key: str) -> Branch:
        self.operations.append({"op": "get", "key": key})
        return self


Commit = Callable[["Transaction", str | None, int | None], Awaitable[TxnResult]]


class Transaction:
    """Compares and two branches within one session; all or nothing.

    If every compare holds, `then` runs, and `otherwise` if not. Nothing is sent before
    `commit`. An absent record has version and revision 0.

        txn = client.txn("app", "chat")
        txn.when_version("turn", "==", 3)
        txn.then.put("turn", "hello").get("summary")
        txn.otherwise.get("turn")
        result = await txn.commit()
    """

    def __init__(self, namespace: str, session: str, commit: Commit) -> None:
        self.namespace = namespace
        self.session = session
        self.then = Branch()
        self.otherwise = Branch()
        self._compares: list[wire.Fields] = []
        self._commit = commit

    def when_version(self, key: str, op: CompareOp, version: int) -> Transaction:
        return self._when(key, "version", op, {"value": version})

    def when_revision(self, key: str, op: CompareOp, revision: int) -> Transaction:
        return self._when(key, "revision", op, {"value": revision})

    def when_value(self, key: str, op: CompareOp, value: bytes | str) -> Transaction:
        """Compare bytes, as bytes."""
        return self._when(key, "value", op, wire.encoded_value(value))

    def when_exists(self, key: str, exists: bool = True) -> Transaction:
        return self._when(key, "exists", "==", {"value": exists})

    def _when(self, key: str, target: str, op: CompareOp, value: wire.Fields) -> Transaction:
        self._compares.append({"key": key, "target": target, "op": op, **value})
        return self

    async def commit(
        self, *, request_id: str | None = None, timeout_ms: int | None = None
    ) -> TxnResult:
        """Send it. Committing again is another transaction, unless `request_id` is the same.

        Raises: HivememError; a compare that does not hold is no error.
        """
        return await self._commit(self, request_id, timeout_ms)

    def document(self, request_id: str) -> bytes:
        """The request's JSON object."""
        return wire.dumps(
            {
                "namespace": self.namespace,
                "session": self.session,
                "request_id": request_id,
                "compare": self._compares,
                "then": self.then.operations,
                "else": self.otherwise.operations,
            }
        )
