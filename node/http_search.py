"""The route that searches a session's records by their words."""

from __future__ import annotations

from engines.session_search import (
    HITS_DEFAULT,
    HITS_MAX,
    WEIGHT_DEFAULT,
    WEIGHT_MAX,
    HitPage,
    SearchSession,
)
from engines.text_match import MODES
from node import http_views
from node.http_call import Answer, Call
from node.http_errors import bad_request
from node.http_limits import INLINE_BYTES_MAX
from node.http_params import READ_PARAMETERS, Query, key_prefix, session_path
from node.service import Service

_SEARCH = READ_PARAMETERS | {
    "query", "mode", "prefix", "limit", "values", "snippets", "key_weight", "value_weight",
}  # fmt: skip


class SearchHandlers:
    """Decode, call, encode."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def search(self, call: Call) -> Answer:
        limits = self._service.limits
        namespace, session = session_path(call.names, limits)
        query = Query(call.query, _SEARCH)
        words, mode = query.text("query"), query.text("mode")
        if words is None:
            raise bad_request("query", "is missing")
        request = SearchSession(
            namespace,
            session,
            words,
            MODES[0] if mode is None else mode,
            key_prefix(query, limits),
            query.integer("limit", 1, HITS_MAX) or HITS_DEFAULT,
            query.flag("values", False),
            query.flag("snippets", False),
            _weight(query, "key_weight"),
            _weight(query, "value_weight"),
        )
        deadline = call.start + query.timeout_seconds()
        page, revision = await self._service.search(request, query.read_options(), deadline)

        def encode() -> bytes:
            return http_views.dump(_view(request, page, revision))

        size = sum(hit.record.size for hit in page.hits) if request.values else 0
        if size <= INLINE_BYTES_MAX:
            return Answer(encode())
        return Answer(await self._service.on_thread(encode))


def _weight(query: Query, name: str) -> float:
    found = query.decimal(name, 0.0, WEIGHT_MAX)
    return WEIGHT_DEFAULT if found is None else found


def _view(request: SearchSession, page: HitPage, revision: int) -> http_views.Json:
    items: list[http_views.Json] = []
    for record, score, snippet in page.hits:
        item = {**http_views.item(record, values=request.values), "score": score}
        if request.snippets:
            item["snippet"] = snippet
        items.append(item)
    return {"items": items, "more": page.more, "revision": revision}
