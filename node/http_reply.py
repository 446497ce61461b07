"""Small answers, with their head, in one write.

aiohttp composes a head out of a case-insensitive dictionary that it completes step by step, which
was a tenth of a GET in a profile. What is sent here has a head that is known in
advance; whatever is not so plain (HEAD, HTTP/1.0, a connection that ends) goes its way.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Final

from aiohttp import HttpVersion11, web

SERVER: Final = "hivemem"
_WITHOUT_BODY: Final = frozenset({204, 304})


def is_plain(request: web.BaseRequest, status: int) -> bool:
    """May a `SmallReply` answer it?"""
    return (
        request.keep_alive
        and request.version == HttpVersion11
        and request.method != "HEAD"
        and status >= 200
        and status not in _WITHOUT_BODY
    )


class SmallReply(web.StreamResponse):
    """For what `is_plain`, on a transport that holds nothing back."""

    def __init__(
        self, status: int, headers: Mapping[str, str], content_type: str, body: bytes, now: int
    ) -> None:
        """`now`: UTC seconds. Raises ValueError: a header that would break out of its line."""
        super().__init__(status=status)
        self._keep_alive = True
        more = "".join([f"\r\n{name}: {value}" for name, value in headers.items()])
        lines = f"{_begin(status, content_type)}{more}"
        # One line break a header, and none within.
        if lines.count("\n") != 2 + len(headers) or lines.count("\r") != 2 + len(headers):
            raise ValueError("a header holds a line break")
        head = f"{lines}\r\nContent-Length: {len(body)}\r\nDate: {_date(now)}\r\n\r\n"
        self._sent = head.encode() + body

    async def prepare(self, request: web.BaseRequest) -> None:
        """Send everything. Raises ConnectionResetError."""
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        self._eof_sent = True
        request.writer.output_size += len(self._sent)
        transport.write(self._sent)

    async def write_eof(self, data: bytes = b"") -> None:
        assert not data


@lru_cache(64)
def _begin(status: int, content_type: str) -> str:
    return (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nServer: {SERVER}\r\n"
        f"Content-Type: {content_type}"
    )


@lru_cache(1)
def _date(now: int) -> str:
    return formatdate(now, usegmt=True)
