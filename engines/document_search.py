"""Full-text search over chosen paths of documents: BM25, with a filter in MongoDB's language.

What is searched of a path are its texts: every text that it reaches, items of arrays each, one
after the other. The index finds; the snapshot's documents decide and are answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from engines.codec import Value, pack_value
from engines.document_filter import parse_filter
from engines.document_find import matches
from engines.document_items import DOCUMENT, unpack_record
from engines.document_parameters import ANSWER_BYTES_MAX, Fields
from engines.document_paths import Path, parse_path, reached
from engines.document_shapes import parse_projection
from engines.errors import InvalidArgument
from engines.parameters import PREFIX as ROOT
from engines.parameters import choice, closed, members
from engines.space import View
from engines.text_index import TOKENIZERS, TextIndex
from engines.text_match import MODES, match_expression

FIELDS_MAX: Final = 16
WEIGHT_MAX: Final = 1_000.0
LIMIT_DEFAULT: Final = 10
LIMIT_MAX: Final = 1_000
CANDIDATES_MAX: Final = 10_000  # the best ones, that a filter is tried on
SNIPPET_WORDS: Final = 24
_SETTING: Final = "settings.text"
_WEIGHTS: Final = f"{ROOT}.weights"


def parse_text(given: object, current: Mapping[str, Any] | None) -> dict[str, Value] | None:
    """The setting `text`, complete: {"fields": {path: weight}, "language"}; None: not searched.

    `current`: what `given` leaves out. Raises InvalidArgument.
    """
    if given is None:
        return None
    asked = members(given, _SETTING)
    closed(asked, ("fields", "language"), f"{_SETTING}.")
    kept = current or {"fields": {}, "language": "english"}
    weights = _weights(asked.get("fields", kept["fields"]), f"{_SETTING}.fields")
    if not 1 <= len(weights) <= FIELDS_MAX:
        raise InvalidArgument(f"{_SETTING}.fields", f"must be 1 to {FIELDS_MAX} paths")
    for name in weights:
        parse_path(name, f"{_SETTING}.fields.{name}")
    language = choice(
        asked.get("language", kept["language"]), f"{_SETTING}.language", tuple(TOKENIZERS)
    )
    return {"fields": weights, "language": language}


def make_index(settings: Mapping[str, Any]) -> TextIndex | None:
    """None: the collection's documents are not searched."""
    chosen = settings.get("text")
    if chosen is None:
        return None
    paths = [tuple(name.split(".")) for name in chosen["fields"]]

    def texts(key: bytes, value: bytes) -> tuple[str, Sequence[str]] | None:
        if not key.startswith(DOCUMENT):
            return None
        record = unpack_record(key, value)
        document = record.document()
        return record.id, [_text_at(document, path) for path in paths]

    return TextIndex(tuple(chosen["fields"]), chosen["language"], texts)


def search(view: View, settings: Mapping[str, Any], parameters: Mapping[str, Any]) -> Value:
    """document_search. Raises InvalidArgument, CorruptRecord, QueryCancelled."""
    view.long()  # searches of one collection take turns
    fields = Fields(
        parameters, "query", "mode", "weights", "filter", "projection", "limit", "snippets"
    )
    index = view.index
    if settings.get("text") is None or not isinstance(index, TextIndex):
        raise InvalidArgument("collection", "its documents are not searched: set settings.text")
    mode = choice(parameters.get("mode") or MODES[0], f"{ROOT}.mode", MODES)
    expression = match_expression(fields.text("query"), mode)
    weights = {**settings["text"]["fields"], **_weights(fields.members("weights"), _WEIGHTS)}
    unknown = set(weights) - set(settings["text"]["fields"])
    if unknown:
        raise InvalidArgument(f"{_WEIGHTS}.{min(unknown)}", "is no field that is searched")
    wanted = parse_filter(fields.members("filter"), f"{ROOT}.filter")
    project = parse_projection(parameters.get("projection"), f"{ROOT}.projection")
    limit = fields.integer("limit", 1, LIMIT_MAX, LIMIT_DEFAULT)
    looked_at = CANDIDATES_MAX if "filter" in fields else limit
    found = index.search(view, expression, weights, looked_at)
    hits: list[dict[str, Value]] = []
    keys: list[bytes] = []
    room = ANSWER_BYTES_MAX
    full = False
    for key, score in found:
        view.step()
        value = view.get(key)
        if value is None:
            continue
        record = unpack_record(key, value)
        document = record.document()
        if not matches(view, wanted, record, document):
            continue
        shown = document if project is None else project(document)
        room -= len(record.packed) if project is None else len(pack_value(shown))
        if len(hits) == limit or (room < 0 and hits):
            full = True
            break
        hits.append({"score": score, **record.view(shown)})
        keys.append(key)
    if fields.boolean("snippets") and hits:
        snippets = index.snippets(view, expression, keys, SNIPPET_WORDS)
        for key, hit in zip(keys, hits, strict=True):
            hit["snippet"] = snippets.get(key)
    # Were all that match looked at, or as many found as were asked for?
    exhaustive = (not full and len(found) < looked_at) or len(hits) == limit
    return {"hits": hits, "exhaustive": exhaustive}


def _weights(given: object, field: str) -> dict[str, Value]:
    """{path: weight}. Raises InvalidArgument."""
    found: dict[str, Value] = {}
    for name, weight in members(given, field).items():
        if type(weight) not in (int, float) or not 0 <= weight <= WEIGHT_MAX:
            raise InvalidArgument(f"{field}.{name}", f"must be a number from 0 to {WEIGHT_MAX:g}")
        found[name] = float(weight)
    return found


def _text_at(document: Any, path: Path) -> str:
    found: list[str] = []
    for value in reached(document, path):
        items = value if value.__class__ is list else (value,)
        found += [item for item in items if item.__class__ is str]
    return "\n".join(found)
