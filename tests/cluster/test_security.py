"""A cluster with TLS on both doors and bearer tokens, as for other machines than this one."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from node.auth import new_token
from node.client import HivememClient
from node.errors import HivememError, Unauthenticated, Unavailable
from tests.certificates import CertificateAuthority

ROOT = Path(__file__).parents[2]


@dataclass
class Secured:
    endpoints: list[str]
    peers: list[int]
    ca: Path
    token: str


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def private(path: Path, content: bytes) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(content)
    return path


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Secured]:
    authority = CertificateAuthority(tmp_path / "ca")
    ports = free_ports(9)
    ids = [str(uuid.uuid4()) for _ in range(3)]
    token, line = new_token("agent")
    tokens = private(tmp_path / "tokens", line.encode())
    secret = private(tmp_path / "secret", secrets.token_bytes(32))
    members = "".join(
        f'[[cluster.members]]\nid = "{ids[i]}"\nname = "n{i}"\npeer = "127.0.0.1:{ports[3 + i]}"\n'
        f'http = "https://localhost:{ports[i]}"\n'
        for i in range(3)
    )
    cluster_id = uuid.uuid4()
    with contextlib.ExitStack() as stack:
        for i in range(3):
            uri = f"urn:hivemem:node:{ids[i]}"
            files = authority.issue(f"n{i}", uris=[uri], dns=["localhost"])
            config = tmp_path / f"n{i}.toml"
            config.write_text(
                f'[node]\nid = "{ids[i]}"\nname = "n{i}"\ndata_dir = "n{i}"\n'
                f'[http]\nport = {ports[i]}\ntls_cert = "{files.cert}"\ntls_key = "{files.key}"\n'
                f"[redis]\nport = {ports[6 + i]}\n"
                f'[peer]\nport = {ports[3 + i]}\ntls_cert = "{files.cert}"\n'
                f'tls_key = "{files.key}"\ntls_ca = "{files.ca}"\n'
                f'[auth]\ntokens_file = "{tokens}"\n'
                f'[cluster]\nid = "{cluster_id}"\nsecret_file = "{secret}"\n{members}'
            )
            log = stack.enter_context((tmp_path / f"n{i}.log").open("wb"))
            command = [sys.executable, "-m", "node", "--config", str(config)]
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
        endpoints = [f"https://localhost:{ports[i]}" for i in range(3)]
        yield Secured(endpoints, ports[3:6], files.ca, token)


async def served(client: HivememClient, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            await client.put("tls", "s", "k", "v")
            return
        except HivememError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)


async def connected(port: int, seconds: float = 20) -> Streams:
    """To a node that may still be starting: the other two serve without it."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)


async def test_tls_and_tokens(secured):
    async with HivememClient(secured.endpoints, token=secured.token, ca_file=secured.ca) as client:
        await served(client)
        assert (await client.get("tls", "s", "k")).text() == "v"
        status = await client.status()
        assert status["security"]["tokens"] is True
        assert status["security"]["http_tls"] is True
        assert status["security"]["peer_tls"] is True
    for wrong in (None, "hm_" + "x" * 43):
        async with HivememClient(
            secured.endpoints, token=wrong, ca_file=secured.ca, timeout_ms=2000
        ) as client:
            with pytest.raises(Unauthenticated):
                await client.get("tls", "s", "k")
            with pytest.raises(Unauthenticated):
                await client.put("tls", "s", "k", "other")
    async with HivememClient(
        secured.endpoints, token=secured.token, timeout_ms=1000
    ) as client:  # does not trust the authority
        with pytest.raises(Unavailable):
            await client.get("tls", "s", "k")


async def test_a_peer_without_a_certificate_is_turned_away(secured):
    async with HivememClient(secured.endpoints, token=secured.token, ca_file=secured.ca) as client:
        await served(client)
        reader, writer = await connected(secured.peers[0])
        writer.write(b"\x00" * 64)
        answer = await asyncio.wait_for(reader.read(4096), 10)
        assert b"hivemem" not in answer
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        await client.put("tls", "s", "k", "still served")
