"""Registers through the Redis door, told as the HTTP client would tell: for the workload."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import NamedTuple

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Lost
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as TimedOut

from node.errors import NotFound, Unavailable

# What the code of an error says certainly had no effect (docs/redis.md).
DEFINITE = {"CLUSTERDOWN": "QUORUM_NOT_REACHED", "TRYAGAIN": "OVERLOADED", "DISKFULL": "DISK_FULL"}
CODES = {**DEFINITE, "OUTCOMEUNKNOWN": "OUTCOME_UNKNOWN", "TIMEOUT": "DEADLINE_EXCEEDED"}
CLASSES = {"ClusterDownError": "CLUSTERDOWN", "TryAgainError": "TRYAGAIN"}


class Found(NamedTuple):
    """A record as the protocol tells it: without a version."""

    value: bytes
    version: None = None

    def text(self) -> str:
        return self.value.decode()


class Written(NamedTuple):
    version: None = None
    revision: int = 0


class Deleted(NamedTuple):
    deleted: bool
    version: None = None
    revision: int = 0


class RedisDoor:
    """One client: it stays at a node until that fails it. Every call is sent once."""

    def __init__(self, addresses: list[tuple[str, int]], namespace: str) -> None:
        self._addresses = addresses
        self._namespace = namespace
        self._at = 0
        self._client: redis.asyncio.Redis | None = None

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def get(self, session: str, key: str, timeout_ms: int) -> Found:
        """Raises NotFound, Unavailable."""
        async with self._asking(timeout_ms) as client:
            value = await client.get(_name(session, key))
        if value is None:
            raise NotFound("no such key")
        assert isinstance(value, bytes)
        return Found(value)

    async def put(self, session: str, key: str, value: str, timeout_ms: int) -> Written:
        async with self._asking(timeout_ms) as client:
            await client.set(_name(session, key), value)
        return Written()

    async def delete(self, session: str, key: str, timeout_ms: int) -> Deleted:
        async with self._asking(timeout_ms) as client:
            return Deleted(await client.delete(_name(session, key)) == 1)

    @contextlib.asynccontextmanager
    async def _asking(self, timeout_ms: int) -> AsyncIterator[redis.asyncio.Redis]:
        host, port = self._addresses[self._at % len(self._addresses)]
        if self._client is None:
            self._client = redis.asyncio.Redis(
                host=host,
                port=port,
                db=self._namespace,
                socket_timeout=timeout_ms / 1000,
                socket_connect_timeout=timeout_ms / 1000,
                max_connections=1,
                # Sent again, a command could be applied twice, and its history would be wrong.
                retry=Retry(NoBackoff(), 0),
            )
        try:
            yield self._client
        except ResponseError as error:
            word = CLASSES.get(type(error).__name__, str(error).partition(" ")[0])
            code = CODES.get(word, f"REDIS {error}")
            await self._leave()
            raise Unavailable(str(error), code=code, definite=word in DEFINITE) from error
        except (Lost, TimedOut, RedisError, OSError) as error:
            # Whether the command was sent is not told apart: it may have been.
            await self._leave()
            raise Unavailable(str(error), code="UNREACHABLE", definite=False) from error

    async def _leave(self) -> None:
        self._at += 1
        with contextlib.suppress(RedisError, OSError):
            await self.close()


def _name(session: str, key: str) -> str:
    return f"{{{session}}}{key}"
