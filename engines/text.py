"""The text engine: texts with fields, found by their words (BM25, stemmed).

One item per document, under `d` and its id. The full-text index is derived (`text_index.py`);
what is answered is read from the snapshot, so that what is not there is never shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from types import MappingProxyType
from typing import Any, Final

from engines.codec import Value, pack_value
from engines.cursors import decode_cursor, encode_cursor, refuse_cursor, scope_of
from engines.engine import Kind, Parameters, Refused, Settings, Stamp
from engines.errors import InvalidArgument
from engines.interfaces import RejectCode
from engines.space import Space, View, unpack_object
from engines.text_index import TOKENIZERS, TextIndex
from engines.text_match import MODES, match_expression
from engines.text_parameters import Given, document_of

ID_BYTES_MAX: Final = 256
FIELDS_MAX: Final = 8
DOCUMENTS_MAX: Final = 10_000  # of one write
DOCUMENT_BYTES_MAX: Final = 1 << 20
LIMIT_DEFAULT: Final = 10
LIST_DEFAULT: Final = 100
LIMIT_MAX: Final = 1_000
IDS_MAX: Final = 1_000
# A filter is applied to what was found, best first: at most so many are looked at.
CANDIDATES_MAX: Final = 10_000
SNIPPET_WORDS: Final = 24
ANSWER_BYTES_MAX: Final = 12 << 20
WEIGHT_MAX: Final = 1_000.0

_PREFIX = b"d"
_SEARCH = (
    "query", "limit", "mode", "weights", "snippets", "sessions", "from_ms", "to_ms", "metadata",
    "include",
)  # fmt: skip


class TextEngine:
    """See the module. `Engine`."""

    name = "text"
    aliases = ("fulltext",)
    capabilities = frozenset({"search", "full_text", "bm25"})
    operations = MappingProxyType(
        {
            "text_insert": Kind.WRITE,
            "text_upsert": Kind.WRITE,
            "text_delete": Kind.WRITE,
            "text_get": Kind.READ,
            "text_list": Kind.READ,
            "text_search": Kind.READ,
            "text_count": Kind.READ,
        }
    )

    # --- Settings ------------------------------------------------------------------

    def settings(self, given: Parameters, current: Settings | None) -> dict[str, Value]:
        fields = Given(given, "settings", ("fields", "language"))
        weights = fields.numbers("fields", 0.0, WEIGHT_MAX)
        weights = {"text": 1.0} if weights is None else weights
        if not 1 <= len(weights) <= FIELDS_MAX:
            raise InvalidArgument("settings.fields", f"must be 1 to {FIELDS_MAX} names")
        language = fields.choice("language", tuple(TOKENIZERS), "english")
        if current is not None:
            weights = weights if "fields" in given else dict(current["fields"])
            language = language if "language" in given else current["language"]
            if set(weights) != set(current["fields"]):
                raise InvalidArgument("settings.fields", "cannot change but in their weights")
        return {"fields": dict(weights), "language": language}

    def altered(self, space: Space, old: Settings, new: Settings) -> None:
        """Items do not depend on settings."""

    # --- Writes --------------------------------------------------------------------

    def prepare(self, operation: str, parameters: Parameters) -> Value:
        if operation == "text_delete":
            given = Given(parameters, "parameters", ("ids",))
            return list(given.texts("ids", IDS_MAX, ID_BYTES_MAX))
        given = Given(parameters, "parameters", ("documents",))
        documents = given.objects("documents", DOCUMENTS_MAX)
        found: list[Value] = []
        ids: set[str] = set()
        for place, each in enumerate(documents):
            document = document_of(each, f"parameters.documents[{place}]", ID_BYTES_MAX)
            identity = document["id"]
            if identity is not None:
                if identity in ids:
                    field = f"parameters.documents[{place}].id"
                    raise InvalidArgument(field, "is given twice")
                ids.add(identity)
            if len(pack_value(document)) > DOCUMENT_BYTES_MAX:
                raise InvalidArgument(
                    f"parameters.documents[{place}]", f"is over {DOCUMENT_BYTES_MAX} bytes"
                )
            found.append(document)
        return found

    def apply(
        self, space: Space, settings: Settings, operation: str, body: Any, stamp: Stamp
    ) -> Value:
        if operation == "text_delete":
            return {"deleted": sum(space.delete(_key(identity)) for identity in body)}
        ids: list[Value] = []
        inserted = 0
        for place, given in enumerate(body):
            # Looked at again: what is none would be stored, and break what reads it.
            document = document_of(given, f"parameters.documents[{place}]", ID_BYTES_MAX)
            unknown = set(document["fields"]) - set(settings["fields"])
            if unknown:
                raise Refused(
                    RejectCode.INVALID_ARGUMENT,
                    f"the collection has no field {min(unknown)}",
                    f"parameters.documents[{place}].fields",
                )
            identity = document["id"] or _made_id(stamp, place)
            key = _key(identity)
            old = space.get(key)
            if old is not None and operation == "text_insert":
                raise Refused(
                    RejectCode.ITEM_EXISTS,
                    f"there is a document {identity}",
                    f"parameters.documents[{place}].id",
                )
            created = stamp.now_ms if old is None else unpack_object(key, old)["created_ms"]
            stored = {**document, "id": identity, "created_ms": created}
            stored["updated_ms"] = stamp.now_ms
            if stored["time_ms"] is None:
                stored["time_ms"] = stamp.now_ms
            space.put(key, pack_value(stored))
            inserted += old is None
            ids.append(identity)
        return {"ids": ids, "inserted": inserted, "replaced": len(ids) - inserted}

    # --- Reads ---------------------------------------------------------------------

    def query(
        self, view: View, settings: Settings, operation: str, parameters: Parameters
    ) -> Value:
        match operation:
            case "text_get":
                given = Given(parameters, "parameters", ("ids",))
                return self._get(view, given.texts("ids", IDS_MAX, ID_BYTES_MAX))
            case "text_list":
                return self._list(view, parameters)
            case "text_count":
                Given(parameters, "parameters", ())
                return {"count": view.collection.items}
            case _:
                return self._search(view, settings, Given(parameters, "parameters", _SEARCH))

    def _get(self, view: View, ids: Sequence[str]) -> Value:
        documents: list[Value] = []
        room = ANSWER_BYTES_MAX
        for identity in ids:
            value = view.get(_key(identity))
            if value is None:
                documents.append(None)
                continue
            room -= len(value)
            if room < 0 and documents:
                raise InvalidArgument("parameters.ids", "are too large together: ask for fewer")
            documents.append(unpack_object(_key(identity), value))
        return {"documents": documents}

    def _list(self, view: View, parameters: Parameters) -> Value:
        """Every document, in order of the ids. A cursor is the key of the last of a page."""
        given = Given(parameters, "parameters", ("limit", "cursor", "include"))
        limit = given.integer("limit", 1, LIMIT_MAX, LIST_DEFAULT)
        include = given.choice("include", tuple(INCLUDE), "all")
        scope = scope_of("text_list", parameters)
        last = decode_cursor(parameters.get("cursor"), scope, bytes) or b""
        if last and not last.startswith(_PREFIX):
            refuse_cursor("is not a cursor of this query")
        documents: list[Value] = []
        room = ANSWER_BYTES_MAX
        for key, value in view.range(last + b"\x00" if last else _PREFIX):
            room -= len(value)
            if len(documents) == limit or (room < 0 and documents):
                return {"documents": documents, "next_cursor": encode_cursor(scope, last)}
            documents.append(_shown(unpack_object(key, value), include))
            last = key
        return {"documents": documents, "next_cursor": None}

    def _search(self, view: View, settings: Settings, given: Given) -> Value:
        limit = given.integer("limit", 1, LIMIT_MAX, LIMIT_DEFAULT)
        mode = given.choice("mode", MODES, "any")
        expression = match_expression(given.text("query"), mode)
        weights = {**settings["fields"], **(given.numbers("weights", 0.0, WEIGHT_MAX) or {})}
        if set(weights) != set(settings["fields"]):
            raise InvalidArgument("parameters.weights", "names a field that there is not")
        include = given.choice("include", tuple(INCLUDE), "all")
        wanted = _Wanted(given)
        index = view.index
        assert isinstance(index, TextIndex)
        looked_at = CANDIDATES_MAX if wanted.narrows else limit
        found = index.search(view, expression, weights, looked_at)
        work = view.tuning.work
        work.examined = len(found)
        if view.tuning.explain:
            work.plan = {"match": expression, "candidates": len(found), "filtered": wanted.narrows}
        hits: list[dict[str, Value]] = []
        room = ANSWER_BYTES_MAX
        complete = len(found) < looked_at  # or until as many as wanted are found
        for key, score in found:
            value = view.get(key)
            if value is None:
                continue
            document = unpack_object(key, value)
            if not wanted.accepts(document):
                continue
            room -= len(value)
            if len(hits) == limit or (room < 0 and hits):
                complete = len(hits) == limit
                break
            hits.append({"score": score, **_shown(document, include)})
        if given.flag("snippets") and hits:
            keys = [_key(str(hit["id"])) for hit in hits]
            snippets = index.snippets(view, expression, keys, SNIPPET_WORDS)
            for key, hit in zip(keys, hits, strict=True):
                hit["snippet"] = snippets.get(key)
        work.returned = len(hits)
        return {"hits": hits, "exhaustive": complete or len(hits) == limit}

    # --- The index, and whether it holds together ------------------------------------

    def index(self, settings: Settings) -> TextIndex:
        names = tuple(settings["fields"])

        def texts(key: bytes, value: bytes) -> tuple[str, Sequence[str]]:
            document = unpack_object(key, value)
            fields = document["fields"]
            return document["id"], [fields.get(name, "") for name in names]

        return TextIndex(names, settings["language"], texts)

    def check(self, view: View, settings: Settings) -> Iterator[str]:
        for key, value in view.range():
            document = unpack_object(key, value)
            if _key(document["id"]) != key:
                yield f"document {document['id']} is under another one's key"
            if not set(document["fields"]) <= set(settings["fields"]):
                yield f"document {document['id']} has a field that the collection has not"


# What of a document a search answers.
INCLUDE: Final = {
    "all": ("id", "fields", "metadata", "session", "time_ms"),
    "fields": ("id", "fields"),
    "ids": ("id",),
}


class _Wanted:
    """What else a hit has to be."""

    def __init__(self, given: Given) -> None:
        self._sessions = given.texts("sessions", IDS_MAX, ID_BYTES_MAX, optional=True)
        self._from_ms = given.optional_integer("from_ms")
        self._to_ms = given.optional_integer("to_ms")
        self._metadata: Mapping[str, Any] = given.members("metadata")
        self.narrows = bool(
            self._sessions or self._metadata or self._from_ms is not None or self._to_ms is not None
        )

    def accepts(self, document: Mapping[str, Any]) -> bool:
        time_ms, metadata = document["time_ms"], document["metadata"]
        return (
            (not self._sessions or document["session"] in self._sessions)
            and (self._from_ms is None or time_ms >= self._from_ms)
            and (self._to_ms is None or time_ms < self._to_ms)
            and all(_matches(metadata.get(name), value) for name, value in self._metadata.items())
        )


def _matches(value: Any, wanted: Any) -> bool:
    """Equal, or one of several."""
    return value in wanted if isinstance(wanted, list) else bool(value == wanted)


def _key(identity: str) -> bytes:
    return _PREFIX + identity.encode()


def _made_id(stamp: Stamp, place: int) -> str:
    seed = b"%d %d %d" % (stamp.seed, stamp.now_ms, place)
    return blake2b(seed, digest_size=12).hexdigest()


def _shown(document: Mapping[str, Any], include: str) -> dict[str, Value]:
    return {name: document[name] for name in INCLUDE[include]}


TEXT = TextEngine()
