"""Request ids: a retry with the same id gets the first outcome instead of a second effect.

`requests` maps namespace NUL request id to the digest of the command and its result;
`request_order` lists the ids by age, so that the oldest are forgotten first, once there
are more than `request_ids_max` or their records exceed `request_bytes_max` bytes.

What is remembered: every outcome that was decided against the state, a VERSION_CONFLICT
too. Suppose conflicts were not: a first try is delayed, the retry is answered
"conflict, definitely no effect", and then the first try arrives, finds that the version
now fits, and is applied. What has been answered must stay true, so the first outcome of
an id is final; to try again for real a caller takes a new id.
What is not: LIMIT_EXCEEDED and REQUEST_ID_REUSED. They say that the command cannot be
or that the id belongs to another command; neither outcome depends on the records. Nor
COLLECTION_SHARDED and COLLECTION_DROPPING, which the node that proposed the command takes as a
hint to do the same otherwise, under the same id.
"""

from __future__ import annotations

from engines.command import (
    REQUEST_DIGEST_BYTES,
    Command,
    decode_result,
    encode_result,
    request_digest,
)
from engines.counters import Counters
from engines.errors import CorruptRecord
from engines.interfaces import Limits, RejectCode, Rejected, Result
from engines.layout import pack_u64, seal, unseal
from engines.overlay import Overlay

# Forgetting keeps pace with remembering as the sweep does (retention.py), so that one
# large result does not have to push out thousands of small ones at once.
FORGET_STEPS = 4
FORGET_BYTES_PER_STEP = 4096

_REUSED = Rejected(RejectCode.REQUEST_ID_REUSED, "this request id was used for a different request")


class RequestTable:
    """The request ids of one apply's write transaction."""

    def __init__(self, overlay: Overlay, counters: Counters) -> None:
        self._requests = overlay.requests
        self._order = overlay.request_order
        self._counters = counters

    def recall(self, namespace: str, request_id: str, command: Command) -> Result | None:
        """The outcome that this id had; REQUEST_ID_REUSED for another command; else None."""
        key = _key(namespace, request_id)
        record = self._requests.get(key)
        if record is None:
            return None
        body = unseal("requests", key, record)
        if body[:REQUEST_DIGEST_BYTES] != request_digest(command):
            return _REUSED
        return decode_result(body[REQUEST_DIGEST_BYTES:])

    def remember(
        self, namespace: str, request_id: str, command: Command, result: Result, limits: Limits
    ) -> None:
        """Keep the outcome of an id that was not known, and forget the oldest ones."""
        counters = self._counters
        key = _key(namespace, request_id)
        record = seal(key, request_digest(command) + encode_result(result))
        order = pack_u64(counters.request_next)
        self._requests.put(key, record)
        self._order.put(order, seal(order, key))
        counters.request_next += 1
        counters.request_bytes += len(record)
        budget = FORGET_STEPS + len(record) // FORGET_BYTES_PER_STEP
        while (
            budget > 0
            and counters.request_ids > 0
            and (
                counters.request_ids > limits.request_ids_max
                or counters.request_bytes > limits.request_bytes_max
            )
        ):
            self._forget_oldest()
            budget -= 1

    def _forget_oldest(self) -> None:
        counters = self._counters
        order = pack_u64(counters.request_first)
        sealed = self._order.pop(order)
        if sealed is None:
            raise CorruptRecord("request_order", order, "missing")
        key = unseal("request_order", order, sealed)
        record = self._requests.pop(key)
        if record is None:
            raise CorruptRecord("requests", key, "missing")
        counters.request_first += 1
        counters.request_bytes -= len(record)


def _key(namespace: str, request_id: str) -> bytes:
    return b"%b\x00%b" % (namespace.encode(), request_id.encode())
