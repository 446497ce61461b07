"""The ports that clients come to: opened when a node is ready, closed first when it stops."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

from node.errors import StartupError


class Door(Protocol):
    async def start(
        self, host: str, port: int, ssl_context: ssl.SSLContext | None = None
    ) -> tuple[str, int]:
        """Listen. Raises: OSError."""

    async def stop(self, *, at_once: bool = False) -> None:
        """Close; unless `at_once`, let what runs finish."""


class Section(Protocol):
    """The settings of one door."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def tls_cert(self) -> Path | None: ...
    @property
    def tls_key(self) -> Path | None: ...


async def open_door(
    door: Door, name: str, section: Section, stack: AsyncExitStack, broken: Callable[[], bool]
) -> None:
    """Open `[name]` of the settings; `stack` closes it, at once if the node is `broken`.

    Raises: StartupError.
    """
    context = None
    if section.tls_cert is not None and section.tls_key is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(section.tls_cert, section.tls_key)

    async def close() -> None:
        await door.stop(at_once=broken())

    stack.push_async_callback(close)
    try:
        await door.start(section.host, section.port, context)
    except OSError as error:
        raise StartupError(
            f"{name}.host and {name}.port: {section.host}:{section.port} cannot be listened on: "
            f"{error.strerror}"
        ) from error
