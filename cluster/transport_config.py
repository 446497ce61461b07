"""Settings of the peer transport, and what it reports about each peer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from cluster.framing import CHUNK_BYTES_MAX, CHUNK_BYTES_MIN

PORT_MAX: Final = 65_535
_BRACKETS: Final = frozenset("[]")
_KIB = 1024
_MIB = 1024 * _KIB


class PeerAddress(NamedTuple):
    """Where a peer listens. `name`, if given, lets a certificate name the peer by it."""

    host: str
    port: int
    name: str = ""

    @classmethod
    def parse(cls, text: str, name: str = "") -> PeerAddress:
        """The address in "host:port", an IPv6 host in brackets. Raises ValueError."""
        host, _, port = text.rpartition(":")
        bare = host[1:-1] if host[:1] == "[" and host[-1:] == "]" else host
        if not bare or (":" in bare) != (bare is not host) or not _BRACKETS.isdisjoint(bare):
            raise ValueError(f"{text!r} is not host:port, with an IPv6 host in brackets")
        digits = port.isascii() and port.isdigit() and len(port) <= len(str(PORT_MAX))
        if not digits or not 1 <= int(port) <= PORT_MAX:
            raise ValueError(f"the port in {text!r} is not a number from 1 to {PORT_MAX}")
        return cls(bare, int(port), name)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class PeerTls(NamedTuple):
    """PEM files for mutual TLS. The certificate must serve both server and client."""

    cert: Path
    key: Path
    ca: Path


class PeerState(NamedTuple):
    """What is known of the connection to one peer. Byte counts are since start."""

    connected: bool
    address: str  # the first that is dialled; "": none is known
    since_ms: int  # how long `connected` has had this value
    last_error: str | None  # why it is not connected; None while it is
    bytes_sent: int
    bytes_received: int
    queue_bytes: int  # waiting to be sent, including what the socket has not taken
    replaced: bool = False  # its latest hello named another data folder than the recorded one


@dataclass(frozen=True, slots=True)
class TransportLimits:
    """Bounds of the transport. Every queue, buffer and wait is covered by one of these."""

    frame_bytes_max: int = 64 * _MIB
    """One frame, after reassembly. Must be the same on every node."""

    chunk_bytes: int = 64 * _KIB
    """Longer frames are cut into chunks of this size, so that others can overtake."""

    send_queue_bytes_max: int = 64 * _MIB
    """Per peer. A frame is accepted while less than this is queued: one frame may exceed it."""

    send_queue_frames_max: int = 16_384
    """Per peer: bounds the overhead of many tiny frames."""

    calls_inflight_max: int = 4_096
    """Per peer and direction: calls without an answer yet."""

    connections_unauthenticated_max: int = 64
    """Accepted connections that have not proved membership; the oldest gives way."""

    handshake_ms_max: int = 3_000
    """From connecting or accepting to the end of the handshake, TLS included."""

    ping_ms: int = 1_000
    """A connection silent for this long is asked for a sign of life."""

    silence_ms_max: int = 5_000
    """A connection silent for this long is closed, so that half-open ones die."""

    reconnect_ms_min: int = 50
    reconnect_ms_max: int = 2_000
    """Bounds of the exponential backoff between attempts, before jitter."""

    stop_ms_max: int = 1_000
    """How long `stop` lets queued frames drain."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive")
        if not CHUNK_BYTES_MIN <= self.chunk_bytes <= CHUNK_BYTES_MAX:
            raise ValueError(f"chunk_bytes must be {CHUNK_BYTES_MIN}..{CHUNK_BYTES_MAX}")
        if self.frame_bytes_max < self.chunk_bytes:
            raise ValueError("frame_bytes_max must be at least chunk_bytes")
        if self.silence_ms_max < 2 * self.ping_ms:
            raise ValueError("silence_ms_max must be at least twice ping_ms")
        if self.reconnect_ms_max < self.reconnect_ms_min:
            raise ValueError("reconnect_ms_max must be at least reconnect_ms_min")
