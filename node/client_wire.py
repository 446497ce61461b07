"""Between typed values and the HTTP API's wire shapes. Pure: no I/O, no state.

Whatever a node says that the API does not document becomes an InternalError which
names what was odd, so that no caller meets a KeyError from inside.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar, cast
from urllib.parse import quote

from node.client_errors import error_of, unexpected
from node.client_types import (
    BYTES,
    TEXT,
    BatchDelete,
    BatchGet,
    BatchOperation,
    BatchPut,
    BatchResult,
    ChangeType,
    ClusterView,
    DeleteResult,
    Event,
    EventId,
    Forgotten,
    GetResult,
    HistoryItem,
    HistoryPage,
    Item,
    Members,
    NamePage,
    NodeStatus,
    Page,
    Partition,
    PartitionNode,
    Partitions,
    PutResult,
    TxnResult,
    Value,
)
from node.errors import BadRequest, HivememError

T = TypeVar("T")
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]").search
Fields = dict[str, object]


def path(namespace: str, session: str | None = None, key: str | None = None) -> str:
    """Percent-encode the names and join them by `/`.

    Everything but unreserved characters is encoded, `/` too; so keys such as `a//b`, `%2F`
    and NUL arrive as they are. A name of dots only has its dots encoded, since they are
    unreserved and a proxy would take `..` for a step up.
    Raises: BadRequest for an empty name (it would be another route) or text that is not UTF-8.
    """
    names = {"namespace": namespace, "session": session, "key": key}
    return "/".join(one_name(field, name) for field, name in names.items() if name is not None)


def one_name(field: str, name: str) -> str:
    """One name of a path. Raises as `path`; `field` names it in the error."""
    if not name:
        raise BadRequest(f"{field}: must not be empty", field=field)
    try:
        text = quote(name, safe="")
    except UnicodeEncodeError:
        message = f"{field}: holds half of a surrogate pair, which is not Unicode text"
        raise BadRequest(message, field=field) from None
    return text.replace(".", "%2E") if text in (".", "..") else text


def query(parameters: Mapping[str, object]) -> str:
    """Parameters that are not None, as `?a=1&b=2`; booleans as true and false; "" if none.

    Raises: BadRequest for text that UTF-8 cannot hold.
    """
    given = {name: value for name, value in parameters.items() if value is not None}
    if not given:
        return ""
    return "?" + "&".join(f"{name}={_parameter(name, value)}" for name, value in given.items())


def _parameter(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        # repr of a float such as 1e-07 is no plain decimal; nine places are finer than 1 ms.
        return f"{value:.9f}".rstrip("0").rstrip(".")
    try:
        return quote(str(value), safe="")
    except UnicodeEncodeError:
        message = f"{name}: holds half of a surrogate pair, which is not Unicode text"
        raise BadRequest(message, field=name) from None


def body_of(value: bytes | str) -> bytes:
    """Raises: BadRequest for text that UTF-8 cannot hold."""
    if not isinstance(value, str):
        return bytes(value)
    try:
        return value.encode()
    except UnicodeEncodeError:
        message = "value: holds half of a surrogate pair, which is not Unicode text"
        raise BadRequest(message, field="value") from None


def content_type_of(value: bytes | str, content_type: str | None) -> str:
    if content_type is not None:
        return content_type
    return TEXT if isinstance(value, str) else BYTES


def encoded_value(value: bytes | str) -> Fields:
    """`{"value", "encoding"}`: text where the bytes are plain UTF-8, base64 otherwise.

    Control characters take six bytes each in JSON, so that what holds any goes as base64.
    """
    data = body_of(value)
    if not _CONTROL(data):
        with contextlib.suppress(UnicodeDecodeError):
            return {"value": data.decode(), "encoding": "utf-8"}
    return {"value": base64.b64encode(data).decode("ascii"), "encoding": "base64"}


def decoded_value(value: str, encoding: str) -> bytes:
    """Raises: ValueError for an unknown encoding or bad base64."""
    if encoding == "utf-8":
        return value.encode()
    if encoding == "base64":
        return base64.b64decode(value, validate=True)
    raise ValueError(f"unknown encoding {encoding!r}")


def dumps(fields: object) -> bytes:
    """Compact JSON. Raises: BadRequest for text that UTF-8 cannot hold."""
    try:
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise BadRequest("a name or value holds half of a surrogate pair") from None


def json_value(value: object) -> str:
    """A value for `put_json`. Raises: BadRequest for what JSON cannot hold, NaN too."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as reason:
        raise BadRequest(f"value: is not JSON: {reason}", field="value") from None


def without_none(fields: Mapping[str, object]) -> Fields:
    return {name: value for name, value in fields.items() if value is not None}


def operation(op: BatchOperation) -> Fields:
    """One operation of a batch as the API wants it."""
    names: Fields = {"namespace": op.namespace, "session": op.session, "key": op.key}
    match op:
        case BatchGet():
            return {"op": "get", **names}
        case BatchDelete():
            options = {"if_version": op.if_version, "request_id": op.request_id}
            return {"op": "delete", **names, **without_none(options)}
        case BatchPut():
            written: Fields = {
                "content_type": content_type_of(op.value, op.content_type),
                "ttl_seconds": op.ttl_seconds,
                "if_version": op.if_version,
                "request_id": op.request_id,
            }
            return {"op": "put", **names, **encoded_value(op.value), **without_none(written)}


def parsed(body: bytes, decode: Callable[[Fields], T], *, mutates: bool = False) -> T:
    """Decode a JSON answer. Raises: InternalError if it is not what the API documents."""
    try:
        fields = json.loads(body)
        if not isinstance(fields, dict):
            raise TypeError("not an object")
        return decode(fields)
    except (ValueError, KeyError, TypeError, AttributeError) as reason:
        raise unexpected(reason, mutates=mutates) from reason


def time_of(text: object) -> datetime:
    return datetime.fromisoformat(cast(str, text))


def maybe_time(text: object) -> datetime | None:
    return None if text is None else time_of(text)


def _int(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is no integer")
    return value


def maybe_value(fields: Fields) -> bytes | None:
    value = fields.get("value")
    if value is None:
        return None
    return decoded_value(cast(str, value), cast(str, fields["encoding"]))


def put_result(fields: Fields) -> PutResult:
    return PutResult(_int(fields["version"]), _int(fields["revision"]))


def delete_result(fields: Fields) -> DeleteResult:
    version = fields["version"]
    return DeleteResult(
        deleted=fields["deleted"] is True,
        version=None if version is None else _int(version),
        revision=_int(fields["revision"]),
    )


def forgotten(fields: Fields) -> Forgotten:
    return Forgotten(
        deleted=_int(fields["deleted"]),
        kept=_int(fields["kept"]),
        more=fields["more"] is True,
        revision=_int(fields["revision"]),
    )


def item(fields: Fields) -> Item:
    return Item(
        key=cast(str, fields["key"]),
        version=_int(fields["version"]),
        revision=_int(fields["revision"]),
        created_revision=_int(fields["created_revision"]),
        content_type=cast(str, fields["content_type"]),
        size=_int(fields["size"]),
        created_at=time_of(fields["created_at"]),
        updated_at=time_of(fields["updated_at"]),
        expires_at=maybe_time(fields["expires_at"]),
        value=maybe_value(fields),
    )


def _objects(fields: Fields, name: str) -> list[Fields]:
    return cast("list[Fields]", fields[name])


def page(fields: Fields) -> Page:
    return Page(
        items=tuple(item(each) for each in _objects(fields, "items")),
        next_cursor=cast("str | None", fields["next_cursor"]),
        revision=_int(fields["revision"]),
    )


def name_page(name: str) -> Callable[[Fields], NamePage]:
    """Decoder of a page of `{name: …}` items."""

    def decode(fields: Fields) -> NamePage:
        return NamePage(
            names=tuple(cast(str, each[name]) for each in _objects(fields, "items")),
            next_cursor=cast("str | None", fields["next_cursor"]),
        )

    return decode


def _history_item(fields: Fields) -> HistoryItem:
    return HistoryItem(
        type=cast(ChangeType, fields["type"]),
        version=_int(fields["version"]),
        revision=_int(fields["revision"]),
        time=time_of(fields["time"]),
        size=_int(fields["size"]),
        content_type=cast(str, fields["content_type"]),
        value=maybe_value(fields),
    )


def history_page(fields: Fields) -> HistoryPage:
    return HistoryPage(
        items=tuple(_history_item(each) for each in _objects(fields, "items")),
        next_cursor=cast("str | None", fields["next_cursor"]),
        compacted=fields["compacted"] is True,
        revision=_int(fields["revision"]),
    )


def value_of(headers: Mapping[str, str], body: bytes) -> Value:
    """A GET's answer: the body as it is, the rest from the headers."""
    try:
        return Value(
            value=body,
            content_type=headers["Content-Type"],
            version=int(headers["X-Hivemem-Version"]),
            revision=int(headers["X-Hivemem-Revision"]),
            expires_at=maybe_time(headers.get("X-Hivemem-Expires-At")),
            served_by=headers.get("X-Hivemem-Served-By"),
        )
    except (KeyError, ValueError) as reason:
        raise unexpected(reason) from reason


def node_status(fields: Fields) -> NodeStatus:
    """Raises: KeyError if something that identifies the node is missing."""
    _require(fields, "id", "name", "role", "http")
    return cast(NodeStatus, fields)


def cluster_view(fields: Fields) -> ClusterView:
    _require(fields, "cluster_id", "leader", "term", "nodes")
    for each in _objects(fields, "nodes"):
        _require(each, "id", "name", "role", "http", "healthy")
    return cast(ClusterView, fields)


def members(fields: Fields) -> Members:
    _require(fields, "configuration_index", "leader", "members")
    for each in _objects(fields, "members"):
        _require(each, "id", "name", "role", "peer", "http")
    return cast(Members, fields)


def partitions(fields: Fields) -> Partitions:
    _require(fields, "epoch", "replication_factor", "warnings", "progress")
    for each in _objects(fields, "nodes"):
        _require(each, *PartitionNode.__annotations__)
    for each in _objects(fields, "partitions"):
        _require(each, *Partition.__annotations__)
    return cast(Partitions, fields)


def leader(fields: Fields) -> str:
    return cast(str, fields["leader"])


def _require(fields: Fields, *names: str) -> None:
    for name in names:
        fields[name]


def txn_result(fields: Fields) -> TxnResult:
    revision = _int(fields["revision"])
    return TxnResult(
        succeeded=fields["succeeded"] is True,
        revision=revision,
        results=tuple(_txn_step(each, revision) for each in _objects(fields, "results")),
    )


def _txn_step(fields: Fields, revision: int) -> PutResult | DeleteResult | GetResult:
    match fields["op"]:
        case "put":
            return put_result(fields)
        case "delete":
            return delete_result({"revision": revision, **fields})
        case "get":
            return GetResult(item(fields) if fields["found"] is True else None)
        case other:
            raise ValueError(f"unknown op {other!r}")


def batch_results(
    operations: Sequence[BatchOperation],
) -> Callable[[Fields], list[BatchResult | HivememError]]:
    """Decoder of a batch's answer: one result for each operation, in order."""

    def decode(fields: Fields) -> list[BatchResult | HivememError]:
        results = _objects(fields, "results")
        if len(results) != len(operations):
            raise ValueError(f"{len(results)} results for {len(operations)} operations")
        return [_batch_step(op, each) for op, each in zip(operations, results, strict=True)]

    return decode


def _batch_step(op: BatchOperation, fields: Fields) -> BatchResult | HivememError:
    if "error" in fields:
        return error_of(_int(fields["status"]), cast(Fields, fields["error"]))
    match op:
        case BatchPut():
            return put_result(fields)
        case BatchDelete():
            return delete_result(fields)
        case BatchGet():
            return Value(
                value=decoded_value(cast(str, fields["value"]), cast(str, fields["encoding"])),
                content_type=cast(str, fields["content_type"]),
                version=_int(fields["version"]),
                revision=_int(fields["revision"]),
                expires_at=maybe_time(fields.get("expires_at")),
            )


def event(event_id: str, fields: Fields) -> Event:
    return Event(
        id=EventId.of(event_id),
        type=cast(ChangeType, fields["type"]),
        namespace=cast(str, fields["namespace"]),
        session=cast(str, fields["session"]),
        key=cast(str, fields["key"]),
        version=_int(fields["version"]),
        revision=_int(fields["revision"]),
        time=time_of(fields["time"]),
        expires_at=maybe_time(fields.get("expires_at")),
        content_type=cast(str, fields["content_type"]),
        size=_int(fields["size"]),
        value=maybe_value(fields),
    )
