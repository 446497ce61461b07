"""`/openapi.json`: what this door takes and answers, made once when it is first asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from node.http_call import Answer, Call
from node.http_params import Query
from node.http_views import Json, dump

_NONE: frozenset[str] = frozenset()


class DocumentHandlers:
    """One handler. Loop thread only."""

    def __init__(self, document: Callable[[], Json]) -> None:
        self._document = document
        self._answer: Answer | None = None

    async def openapi(self, call: Call) -> Answer:
        Query(call.query, _NONE)
        if self._answer is None:
            body = dump(self._document())
            tag = hashlib.sha256(body).hexdigest()[:16]
            self._answer = Answer(body, headers={"ETag": f'"{tag}"'})
        return self._answer
