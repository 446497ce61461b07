"""Bytes of what a search of a session finds; see `read_codec.py`."""

from __future__ import annotations

from itertools import pairwise

from engines.codec import Malformed, Packable, array, boolean, number, optional, text
from engines.read_parts import items_of, record_of
from engines.result_codec import record_parts
from engines.session_search import HitPage, RecordHit, SearchSession


def hit_page_parts(page: HitPage) -> Packable:
    hits = [(record_parts(record), score, snippet) for record, score, snippet in page.hits]
    return (hits, page.more)


def hit_page(request: SearchSession, parts: object) -> HitPage:
    """Raises Malformed, also for what does not answer `request`."""
    found, more = array(parts)
    hits = tuple(_hit(request, each) for each in items_of(found, more, request))
    order = [(-hit.score, hit.record.key) for hit in hits]
    if any(one >= following for one, following in pairwise(order)):
        raise Malformed("records that are not best first, or twice")
    return HitPage(hits, boolean(more))


def _hit(request: SearchSession, parts: object) -> RecordHit:
    of_record, score, snippet = array(parts)
    record = record_of(request.namespace, request.session, of_record)
    if not record.key.startswith(request.prefix) or (record.value is not None) != request.values:
        raise Malformed("another record than those asked for")
    hit = RecordHit(record, number(score), optional(text)(snippet))
    if (hit.snippet is not None) != request.snippets:
        raise Malformed("a snippet that was not asked for, or none")
    return hit
