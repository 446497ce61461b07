"""Writes of the vector engine: prepared where they are asked for, applied by the state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from engines.codec import Value, check_value, pack_value
from engines.cursors import decode_cursor, encode_cursor, refuse_cursor
from engines.engine import Parameters, Refused, Settings, Stamp
from engines.errors import CorruptRecord, InvalidArgument
from engines.interfaces import RejectCode
from engines.parameters import array, closed, members, required, text
from engines.space import Space
from engines.vector_filter import compile_filter
from engines.vector_items import PREFIX, Item, item_key, pack_item, unpack_item, unpack_metadata
from engines.vector_parameters import (
    DOCUMENTS_MAX,
    ID_BYTES_MAX,
    METADATA_BYTES_MAX,
    MODEL_BYTES_MAX,
    TEXT_BYTES_MAX,
    checked,
    identities,
    vector,
)
from engines.vector_settings import stored

EXAMINED_MAX: Final = 1_000  # items that one deletion by filter looks at
# Of their metadata, times the conditions of the filter; the last item may exceed it.
EXAMINED_BYTES_MAX: Final = 8 << 20
_PREFIX: Final = "parameters."


def prepare(operation: str, given: Parameters) -> Value:
    """Raises InvalidArgument."""
    match operation:
        case "vector_insert" | "vector_upsert":
            return _prepare_documents(given)
        case "vector_update":
            return _prepare_update(given)
        case _:
            return _prepare_delete(given)


def apply(space: Space, settings: Settings, operation: str, body: Any, stamp: Stamp) -> Value:
    """Raises Refused, InvalidArgument, CorruptRecord."""
    match operation:
        case "vector_insert" | "vector_upsert":
            return _write(space, settings, body, stamp, replace=operation == "vector_upsert")
        case "vector_update":
            return _update(space, settings, body)
        case _:
            return _delete(space, body)


def check_model(settings: Settings, model: str | None) -> None:
    """Raises InvalidArgument: vectors of two models cannot be compared."""
    if model is not None and model != settings["model"]:
        own = settings["model"]
        is_of = "names none" if own is None else f"is of {own}"
        raise InvalidArgument("parameters.model", f"is {model}, the collection {is_of}")


def given_model(given: Parameters) -> str | None:
    model = given.get("model")
    return None if model is None else text(model, "parameters.model", MODEL_BYTES_MAX, 1)


def _prepare_documents(given: Parameters) -> Value:
    closed(given, ("documents", "model"), _PREFIX)
    documents = array(required(given, "documents", _PREFIX), "parameters.documents", DOCUMENTS_MAX)
    prepared: list[Value] = []
    seen: set[str] = set()
    for place, document in enumerate(documents):
        field = f"parameters.documents[{place}]"
        members(document, field)
        closed(document, ("id", "vector", "metadata", "text"), f"{field}.")
        identity = document.get("id")
        if identity is not None:
            text(identity, f"{field}.id", ID_BYTES_MAX, 1)
            if identity in seen:
                raise InvalidArgument(f"{field}.id", "is that of another document, too")
            seen.add(identity)
        values = vector(required(document, "vector", f"{field}."), f"{field}.vector")
        prepared.append(
            [identity, values, _metadata(document, field) or pack_value({}), _text(document, field)]
        )
    return {"model": given_model(given), "documents": prepared}


def _prepare_update(given: Parameters) -> Value:
    closed(given, ("id", "data", "model"), _PREFIX)
    identity = text(required(given, "id", _PREFIX), "parameters.id", ID_BYTES_MAX, 1)
    field = "parameters.data"
    data = members(required(given, "data", _PREFIX), field)
    closed(data, ("vector", "metadata", "text"), f"{field}.")
    if not data:
        raise InvalidArgument(field, "names nothing to change")
    values = vector(data["vector"], f"{field}.vector") if "vector" in data else None
    return {
        "model": given_model(given),
        "id": identity,
        "vector": values,
        "metadata": _metadata(data, field),
        "text": _text(data, field),
        "retext": "text" in data,
    }


def _prepare_delete(given: Parameters) -> Value:
    closed(given, ("ids", "filter", "cursor"), _PREFIX)
    if ("ids" in given) == ("filter" in given):
        raise InvalidArgument("parameters", "needs one of ids and filter")
    if "ids" in given:
        if "cursor" in given:
            raise InvalidArgument("parameters.cursor", "is only for a filter")
        return {"ids": identities(given["ids"], "parameters.ids")}
    condition = given["filter"]
    compile_filter(condition, "parameters.filter")
    after = decode_cursor(given.get("cursor"), condition, bytes) or b""
    if after and not after.startswith(PREFIX):
        refuse_cursor("is not a cursor of this query")
    return {"filter": condition, "after": after}


def _metadata(given: Mapping[str, Any], field: str) -> bytes | None:
    metadata = given.get("metadata")
    if metadata is None:
        return None
    members(metadata, f"{field}.metadata")
    check_value(metadata, f"{field}.metadata")
    packed = pack_value(metadata)
    if len(packed) > METADATA_BYTES_MAX:
        raise InvalidArgument(
            f"{field}.metadata", f"is {len(packed)} bytes; at most {METADATA_BYTES_MAX}"
        )
    return packed


def _text(given: Mapping[str, Any], field: str) -> str | None:
    value = given.get("text")
    return None if value is None else text(value, f"{field}.text", TEXT_BYTES_MAX)


def _write(space: Space, settings: Settings, body: Any, stamp: Stamp, *, replace: bool) -> Value:
    check_model(settings, body["model"])
    ids: list[Value] = []
    replaced = 0
    for place, (given, values, metadata, words) in enumerate(body["documents"]):
        field = f"parameters.documents[{place}]"
        identity = f"{stamp.seed:016x}-{place:04x}" if given is None else given
        key = item_key(text(identity, f"{field}.id", ID_BYTES_MAX, 1))
        exists = space.get(key) is not None
        if exists and not replace:
            raise Refused(RejectCode.ITEM_EXISTS, f"there is a vector {identity}", f"{field}.id")
        own = _own(settings, values, f"{field}.vector")
        space.put(key, pack_item(Item(own, _sound(metadata, key), words)))
        replaced += exists
        ids.append(identity)
    if space.items > settings["vectors_max"] and len(ids) > replaced:
        raise Refused(
            RejectCode.LIMIT_EXCEEDED,
            f"the collection would hold {space.items} vectors; vectors_max is "
            f"{settings['vectors_max']}",
        )
    return {"ids": ids, "inserted": len(ids) - replaced, "replaced": replaced}


def _update(space: Space, settings: Settings, body: Any) -> Value:
    check_model(settings, body["model"])
    key = item_key(body["id"])
    value = space.get(key)
    if value is None:
        raise Refused(
            RejectCode.ITEM_NOT_FOUND, f"there is no vector {body['id']}", "parameters.id"
        )
    item = unpack_item(key, value)
    if body["vector"] is not None:
        own = _own(settings, body["vector"], "parameters.data.vector")
        item = item._replace(vector=own)
    if body["metadata"] is not None:
        item = item._replace(metadata=_sound(body["metadata"], key))
    if body["retext"]:
        item = item._replace(text=body["text"])
    new = pack_item(item)
    if new != value:
        space.put(key, new)
    return {"id": body["id"], "changed": new != value}


def _own(settings: Settings, values: bytes, field: str) -> bytes:
    """The vector as it is stored. Raises InvalidArgument, also for what `prepare` refuses."""
    return stored(settings, checked(values, field), field)


def _sound(metadata: bytes, key: bytes) -> bytes:
    """Raises InvalidArgument: no packed object, which would be a damaged record afterwards."""
    try:
        check_value(unpack_metadata(metadata, key), "parameters.metadata")
    except CorruptRecord as error:
        raise InvalidArgument("parameters.metadata", error.reason) from error
    return metadata


def _delete(space: Space, body: Any) -> Value:
    if "ids" in body:
        deleted = sum(space.delete(item_key(identity)) for identity in body["ids"])
        return {"deleted": deleted, "next_cursor": None}
    wanted = compile_filter(body["filter"], "parameters.filter")
    looked_at = 0
    doomed: list[bytes] = []
    last, more = b"", False
    first = body["after"] + b"\x00" if body["after"] else PREFIX
    for examined, (key, value) in enumerate(space.range(first)):
        if examined == EXAMINED_MAX or looked_at > EXAMINED_BYTES_MAX:
            more = True
            break
        last = key
        metadata = unpack_item(key, value).metadata
        looked_at += wanted.size * len(metadata)
        if wanted.matches(unpack_metadata(metadata, key)):
            doomed.append(key)
    for key in doomed:
        space.delete(key)
    following = encode_cursor(body["filter"], last) if more else None
    return {"deleted": len(doomed), "next_cursor": following}
