"""A request on its way through a handler, and what the handler gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from node.metrics import RouteFigures

JSON_TYPE: Final = "application/json; charset=utf-8"


@dataclass(slots=True)
class Call:
    """One request on its way through a handler."""

    request: web.BaseRequest
    start: float  # Clock.monotonic() seconds
    names: list[str]  # of the path, still percent-encoded
    query: str  # still percent-encoded
    figures: RouteFigures
    body_bytes_held: int = 0
    observed: bool = False  # counted in the metrics already


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler gives back. `wrote`: it may follow a change, so it must not be dropped."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = JSON_TYPE
    wrote: bool = False
