"""What a command may hold: checked by the proposer, and again by `apply`.

The proposer's check gives callers an error that names the field. The same check in
`apply` (against the limits in the state) keeps what slipped past an older or differently
configured proposer out of every replica alike.
Field names in errors are those of the HTTP API (docs/http-api.md).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from engines.edits import (
    NUMBER_MAX,
    NUMBER_MIN,
    Edit,
    EditAdd,
    EditAddDecimal,
    EditDeadline,
    EditOp,
    EditSet,
    EditSplice,
)
from engines.errors import InvalidArgument
from engines.interfaces import INTEGER_MAX, Limits
from engines.mutations import (
    Checkpoint,
    CollectionCommand,
    Command,
    Compare,
    CompareOp,
    CompareTarget,
    Configure,
    Delete,
    Expire,
    Put,
    Sweep,
    Txn,
    TxnGet,
    TxnOp,
    TxnPut,
)

NAME_PATTERN = r"[A-Za-z0-9._-]+"  # of namespaces and collections
_NAMESPACE = re.compile(NAME_PATTERN).fullmatch
COLLECTION_BYTES_MAX = 128  # of a name that callers give
# Of a part of a collection: the collection's name, its id and when it was made, and what decides
# the partition. No caller's name holds the mark.
PART_MARK = "~"
_PART = re.compile(rf"({NAME_PATTERN}){PART_MARK}[0-9a-f]{{28}}{PART_MARK}[0-9]{{1,6}}").fullmatch
SWEEP_ITEMS_MAX = 1_000  # items of dropped collections that one Sweep removes
KNOWN_NAMES_MAX = 1024  # pairs of a namespace and a session that are known to be valid
NOW_MS_MAX = INTEGER_MAX // 2
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]").search


def validate(command: Command, limits: Limits) -> None:
    """Raises InvalidArgument, naming the first field at fault."""
    match command:
        case Put():
            _validate_put(command, limits)
        case Delete():
            validate_namespace(command.namespace, limits)
            validate_session(command.session, limits)
            validate_key(command.key, limits)
            _validate_stamps(command.now_ms, None, limits)
            _validate_condition(command.if_version, command.request_id, limits)
        case Txn():
            _validate_txn(command, limits)
        case Edit():
            _validate_edit(command, limits)
        case Expire():
            _validate_expire(command, limits)
        case Configure():
            problems = command.limits.problems()
            if problems:
                raise InvalidArgument("limits", "; ".join(problems))
        case CollectionCommand():
            _validate_collection_command(command, limits)
        case Sweep(items_max):
            if not 0 < items_max <= SWEEP_ITEMS_MAX:
                raise InvalidArgument("items_max", f"must be 1 to {SWEEP_ITEMS_MAX}")
        case Checkpoint():
            pass


def _validate_put(put: Put, limits: Limits) -> None:
    """The most frequent command: what needs no look is not looked at."""
    namespace, session, key, value, content_type, now_ms, expires_ms, if_version, request_id = put
    _validate_names(namespace, session, limits)
    if not 0 < len(key) <= limits.key_bytes_max:
        validate_key(key, limits)
    if content_type or len(value) > limits.value_bytes_max:
        _validate_value(value, content_type, limits)
    if expires_ms is not None or not 0 <= now_ms <= NOW_MS_MAX:
        _validate_stamps(now_ms, expires_ms, limits)
    if if_version is not None or request_id is not None:
        _validate_condition(if_version, request_id, limits)


def _validate_names(namespace: str, session: str, limits: Limits) -> None:
    _remembered_names(namespace, session, limits.namespace_bytes_max, limits.session_bytes_max)


@lru_cache(KNOWN_NAMES_MAX)
def _remembered_names(
    namespace: str, session: str, namespace_bytes_max: int, session_bytes_max: int
) -> None:
    """Only names that are valid are remembered: errors are not."""
    limits = Limits(namespace_bytes_max=namespace_bytes_max, session_bytes_max=session_bytes_max)
    validate_namespace(namespace, limits)
    validate_session(session, limits)


def validate_namespace(namespace: str, limits: Limits) -> None:
    """1..namespace_bytes_max of A-Z a-z 0-9 . _ -, not "." or "..". Raises InvalidArgument."""
    if not _NAMESPACE(namespace) or namespace in (".", ".."):
        raise InvalidArgument(
            "namespace", "must be made of A-Z a-z 0-9 . _ - and be neither . nor .."
        )
    if len(namespace) > limits.namespace_bytes_max:
        raise InvalidArgument(
            "namespace", f"is {len(namespace)} bytes; at most {limits.namespace_bytes_max}"
        )


def validate_session(session: str, limits: Limits) -> None:
    """1..session_bytes_max of UTF-8 without control characters. Raises InvalidArgument."""
    if not session:
        raise InvalidArgument("session", "must not be empty")
    if _CONTROL(session):
        raise InvalidArgument("session", "must not hold control characters")
    try:
        size = len(session.encode())
    except UnicodeEncodeError as error:
        raise InvalidArgument("session", "is not text that UTF-8 can hold") from error
    if size > limits.session_bytes_max:
        raise InvalidArgument("session", f"is {size} bytes; at most {limits.session_bytes_max}")


def validate_collection(name: str) -> None:
    """1..COLLECTION_BYTES_MAX of A-Z a-z 0-9 . _ -, not "." or "..". Raises InvalidArgument."""
    if not _NAMESPACE(name) or name in (".", ".."):
        raise InvalidArgument(
            "collection", "must be made of A-Z a-z 0-9 . _ - and be neither . nor .."
        )
    if len(name) > COLLECTION_BYTES_MAX:
        raise InvalidArgument("collection", f"is {len(name)} bytes; at most {COLLECTION_BYTES_MAX}")


def is_part_name(name: str) -> bool:
    """Is it one that only nodes say, of a part of a collection?"""
    found = _PART(name)
    return found is not None and len(found[1]) <= COLLECTION_BYTES_MAX


def _validate_collection_command(command: CollectionCommand, limits: Limits) -> None:
    validate_namespace(command.namespace, limits)
    if PART_MARK not in command.collection or not is_part_name(command.collection):
        validate_collection(command.collection)
    _validate_stamps(command.now_ms, None, limits)
    _validate_condition(None, command.request_id, limits)
    if len(command.body) > limits.txn_bytes_max:
        raise InvalidArgument(
            "parameters",
            f"are {len(command.body)} bytes as they are stored; at most {limits.txn_bytes_max}",
            "BODY_TOO_LARGE",
        )


def validate_key(key: bytes, limits: Limits, field: str = "key") -> None:
    """1..key_bytes_max of any bytes. Raises InvalidArgument, code KEY_TOO_LARGE if longer."""
    if not key:
        raise InvalidArgument(field, "must not be empty")
    if len(key) > limits.key_bytes_max:
        raise InvalidArgument(
            field, f"is {len(key)} bytes; at most {limits.key_bytes_max}", "KEY_TOO_LARGE"
        )


def _validate_value(value: bytes, content_type: str, limits: Limits, prefix: str = "") -> None:
    if len(value) > limits.value_bytes_max:
        raise InvalidArgument(
            f"{prefix}value",
            f"is {len(value)} bytes; at most {limits.value_bytes_max}",
            "VALUE_TOO_LARGE",
        )
    # It is given back as an HTTP header: a line break in it would forge another header.
    if not (content_type.isascii() and content_type.isprintable()):
        raise InvalidArgument(f"{prefix}content_type", "must be printable ASCII")
    if len(content_type) > limits.content_type_bytes_max:
        raise InvalidArgument(
            f"{prefix}content_type",
            f"is {len(content_type)} bytes; at most {limits.content_type_bytes_max}",
        )


def _validate_stamps(now_ms: int, expires_ms: int | None, limits: Limits, prefix: str = "") -> None:
    if not 0 <= now_ms <= NOW_MS_MAX:
        raise InvalidArgument("now_ms", "is not a time in milliseconds since 1970")
    if expires_ms is not None and not 0 < expires_ms - now_ms <= limits.ttl_ms_max:
        raise InvalidArgument(
            f"{prefix}ttl_seconds",
            f"must be more than 0 and at most {limits.ttl_ms_max // 1000}",
        )


def _validate_condition(if_version: int | None, request_id: str | None, limits: Limits) -> None:
    if if_version is not None and not 0 <= if_version <= INTEGER_MAX:
        raise InvalidArgument("if_version", "must be a whole number of at least 0")
    if request_id is None:
        return
    if not request_id or not (request_id.isascii() and request_id.isprintable()):
        raise InvalidArgument("request_id", "must be printable ASCII and not empty")
    if len(request_id) > limits.request_id_bytes_max:
        raise InvalidArgument(
            "request_id", f"is {len(request_id)} bytes; at most {limits.request_id_bytes_max}"
        )


def _validate_txn(txn: Txn, limits: Limits) -> None:
    validate_namespace(txn.namespace, limits)
    validate_session(txn.session, limits)
    _validate_stamps(txn.now_ms, None, limits)
    _validate_condition(None, txn.request_id, limits)
    for name, items in (("compare", txn.compare), ("then", txn.then), ("else", txn.otherwise)):
        if len(items) > limits.txn_ops_max:
            raise InvalidArgument(name, f"holds {len(items)}; at most {limits.txn_ops_max}")
    for place, compare in enumerate(txn.compare):
        _validate_compare(compare, f"compare[{place}].", limits)
    size = sum(len(c.key) + _value_bytes(c) for c in txn.compare)
    for name, branch in (("then", txn.then), ("else", txn.otherwise)):
        size += _validate_branch(branch, name, txn.now_ms, limits)
    if size > limits.txn_bytes_max:
        raise InvalidArgument(
            "then",
            f"the transaction's keys and values are {size} bytes; at most {limits.txn_bytes_max}",
            "BODY_TOO_LARGE",
        )


def _value_bytes(compare: Compare) -> int:
    return len(compare.value) if isinstance(compare.value, bytes) else 8


def _validate_compare(compare: Compare, prefix: str, limits: Limits) -> None:
    validate_key(compare.key, limits, f"{prefix}key")
    value = compare.value
    match compare.target:
        case CompareTarget.VERSION | CompareTarget.REVISION:
            if type(value) is not int or not 0 <= value <= INTEGER_MAX:
                raise InvalidArgument(f"{prefix}value", "must be a whole number of at least 0")
        case CompareTarget.VALUE:
            if type(value) is not bytes:
                raise InvalidArgument(f"{prefix}value", "must be bytes")
            if len(value) > limits.value_bytes_max:
                raise InvalidArgument(
                    f"{prefix}value",
                    f"is {len(value)} bytes; at most {limits.value_bytes_max}",
                    "VALUE_TOO_LARGE",
                )
        case CompareTarget.EXISTS:
            if type(value) is not bool:
                raise InvalidArgument(f"{prefix}value", "must be true or false")
            if compare.op not in (CompareOp.EQ, CompareOp.NE):
                raise InvalidArgument(f"{prefix}op", "must be == or != with exists")


def _validate_branch(branch: Sequence[TxnOp], name: str, now_ms: int, limits: Limits) -> int:
    """Returns the branch's bytes of keys and values."""
    size = 0
    written: set[bytes] = set()
    for place, op in enumerate(branch):
        prefix = f"{name}[{place}]."
        validate_key(op.key, limits, f"{prefix}key")
        size += len(op.key)
        if isinstance(op, TxnGet):
            continue
        if isinstance(op, TxnPut):
            _validate_value(op.value, op.content_type, limits, prefix)
            _validate_stamps(now_ms, op.expires_ms, limits, prefix)
            size += len(op.value)
        # One change of a record per revision: history and watch name a change by revision.
        if op.key in written:
            raise InvalidArgument(f"{prefix}key", "is written twice in one branch")
        written.add(op.key)
    return size


def _validate_edit(edit: Edit, limits: Limits) -> None:
    validate_namespace(edit.namespace, limits)
    validate_session(edit.session, limits)
    _validate_stamps(edit.now_ms, None, limits)
    _validate_condition(None, edit.request_id, limits)
    for name, items in (("compare", edit.compare), ("ops", edit.ops)):
        if len(items) > limits.txn_ops_max:
            raise InvalidArgument(name, f"holds {len(items)}; at most {limits.txn_ops_max}")
    for place, compare in enumerate(edit.compare):
        _validate_compare(compare, f"compare[{place}].", limits)
    size = sum(len(c.key) + _value_bytes(c) for c in edit.compare)
    for place, op in enumerate(edit.ops):
        size += _validate_edit_op(op, f"ops[{place}].", edit.now_ms, limits)
    if size > limits.txn_bytes_max:
        raise InvalidArgument(
            "ops", f"hold {size} bytes; at most {limits.txn_bytes_max}", "BODY_TOO_LARGE"
        )


def _validate_edit_op(op: EditOp, prefix: str, now_ms: int, limits: Limits) -> int:
    """Returns the operation's bytes of keys and values."""
    validate_key(op.key, limits, f"{prefix}key")
    match op:
        case EditSet(value=value):
            _validate_value(value, op.content_type, limits, prefix)
            _validate_stamps(now_ms, op.expires_ms, limits, prefix)
            if op.keep_deadline and op.expires_ms is not None:
                raise InvalidArgument(f"{prefix}ttl_seconds", "cannot be given and kept")
            return len(op.key) + len(value)
        case EditSplice(value=value, offset=offset):
            _validate_value(value, "", limits, prefix)
            if offset is not None and not 0 <= offset <= limits.value_bytes_max:
                raise InvalidArgument(f"{prefix}offset", "is not within the largest value")
            return len(op.key) + len(value)
        case EditAdd(amount=amount) if not NUMBER_MIN <= amount <= NUMBER_MAX:
            raise InvalidArgument(f"{prefix}amount", "does not fit 64 bits")
        case EditAddDecimal(amount=text) if not text.isascii():
            raise InvalidArgument(f"{prefix}amount", "is not a decimal number")
        case EditDeadline(expires_ms=int(expires)):
            # One in the past removes the record, so only what is too far away is refused.
            if not 0 <= expires <= now_ms + limits.ttl_ms_max:
                raise InvalidArgument(
                    f"{prefix}ttl_seconds", f"must be at most {limits.ttl_ms_max // 1000}"
                )
        case _:
            pass
    return len(op.key)


def _validate_expire(expire: Expire, limits: Limits) -> None:
    _validate_stamps(expire.now_ms, None, limits)
    if len(expire.due) > limits.expire_batch_max:
        raise InvalidArgument("due", f"holds {len(expire.due)}; at most {limits.expire_batch_max}")
    # The names are not checked: a record must be able to expire after its limits shrank,
    # and a name that cannot be is merely not found.
