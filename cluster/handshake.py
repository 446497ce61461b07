"""How two nodes prove membership to each other before anything else is said.

    dialler                                     acceptor
    CHALLENGE  version, nonce          →
                                       ←        CHALLENGE  version, nonce
    HELLO      hello, mac              →        checks the mac, then the hello
    checks the mac, then the hello     ←        WELCOME    hello, mac
    READY      mac                     →        open
    open

Each mac is HMAC-SHA256 under the cluster's secret over a label of its own and all
that was said before, so that a message can be replayed neither to another connection
(fresh nonces on both sides) nor back to its sender (the labels differ). The dialler
speaks first about itself because one side must; the acceptor, which anybody can reach,
says nothing about itself or its cluster until the dialler has proved that it knows the
secret. Either side may answer REFUSED with a short reason instead.

This module knows bytes and no sockets or time; deadlines are the connection's.
"""

from __future__ import annotations

import hmac
import secrets
import struct
from collections.abc import Callable
from typing import Final, NamedTuple

from cluster.errors import HandshakeRefused
from cluster.framing import CHALLENGE, HANDSHAKE_BYTES_MAX, HELLO, READY, REFUSED, WELCOME

PROTOCOL_VERSION: Final = 3
SECRET_BYTES_MIN: Final = 16
REASON_BYTES_MAX: Final = 512
_NONCE_BYTES: Final = 32
_MAC_BYTES: Final = 32
_FIELDS: Final = 6  # of varying length, each with its length before it
_FIELD_BYTES_MAX: Final = 255
_BOOT_BYTES: Final = 8
NO_BOOTSTRAP: Final = b"-"  # of a node whose members come from its log

_CHALLENGE = struct.Struct(f"<4sH{_NONCE_BYTES}s")
_MAGIC: Final = b"HVMP"
_FIXED = struct.Struct(f"<Q{_BOOT_BYTES}s")
_LABEL_HELLO: Final = b"hivemem peer dialler hello"
_LABEL_WELCOME: Final = b"hivemem peer acceptor welcome"
_LABEL_READY: Final = b"hivemem peer dialler ready"

_NO_SECRET: Final = "the cluster secrets differ: another cluster, or another secret file"


class Hello(NamedTuple):
    """What a node says of itself. Every text is 1–255 bytes of printable UTF-8."""

    cluster_id: str
    node_id: str
    node_name: str
    incarnation: str  # random id made together with the data folder
    config_digest: bytes  # 1–255 bytes, over the settings that must agree on every node
    bootstrap: bytes  # 1–255 bytes, over the initial voters' ids; or NO_BOOTSTRAP
    boot: bytes  # 8 random bytes of this process
    epoch: int  # numbers the connections that this process began


class Step(NamedTuple):
    """What to do next: send `payload` if `kind` is given; stop if `refused` is."""

    kind: int | None
    payload: bytes = b""
    refused: str | None = None


def encode_hello(hello: Hello) -> bytes:
    """Raises ValueError for an empty or overlong field."""
    texts = (hello.cluster_id, hello.node_id, hello.node_name, hello.incarnation)
    fields = [*(text.encode() for text in texts), hello.config_digest, hello.bootstrap]
    data = _FIXED.pack(hello.epoch, hello.boot)
    for name, field in zip(hello._fields[:_FIELDS], fields, strict=True):
        if not 1 <= len(field) <= _FIELD_BYTES_MAX:
            raise ValueError(f"{name} must be 1–{_FIELD_BYTES_MAX} bytes")
        data += bytes((len(field),)) + field
    # Names end up in logs and tables, where control characters do harm.
    if not all(text.isprintable() for text in texts):
        raise ValueError("the texts of a hello must be printable")
    return data


def decode_hello(data: bytes) -> Hello:
    """Raises ValueError unless `data` is exactly one hello."""
    if len(data) < _FIXED.size:
        raise ValueError("hello is too short")
    epoch, boot = _FIXED.unpack_from(data)
    fields: list[bytes] = []
    at = _FIXED.size
    for _ in range(_FIELDS):
        length = data[at] if at < len(data) else 0
        field = data[at + 1 : at + 1 + length]
        if not length or len(field) != length:
            raise ValueError("hello is malformed")
        fields.append(field)
        at += 1 + length
    if at != len(data):
        raise ValueError("hello has trailing bytes")
    texts = [field.decode() for field in fields[:4]]
    if not all(text.isprintable() for text in texts):
        raise ValueError("hello has unprintable text")
    cluster_id, node_id, node_name, incarnation = texts
    return Hello(cluster_id, node_id, node_name, incarnation, fields[4], fields[5], boot, epoch)


def check_hello(own: Hello, peer: Hello, *, dialled: str | None, members: frozenset[str]) -> None:
    """Raise HandshakeRefused, with a reason for both sides, unless `peer` may connect.

    `dialled`: the node id that was dialled; None on the accepting side. `members`: the
    other nodes of the cluster. Its incarnation is not judged here: a node that lost its
    data folder must be able to come back, and consensus decides what it may do.
    """
    name = peer.node_name
    if peer.cluster_id != own.cluster_id:
        raise HandshakeRefused(
            f"node {name} belongs to cluster {peer.cluster_id}, node {own.node_name}"
            f" to cluster {own.cluster_id}"
        )
    if peer.node_id == own.node_id:
        raise HandshakeRefused(
            f"node id {own.node_id} connects to itself: an address is wrong,"
            " or a data folder was copied"
        )
    if dialled is not None and peer.node_id != dialled:
        raise HandshakeRefused(
            f"node {name} (id {peer.node_id}) answers at the address of node id {dialled}"
        )
    if peer.node_id not in members:
        raise HandshakeRefused(
            f"node {name} (id {peer.node_id}) is not a member that node {own.node_name} knows"
        )
    if dialled is None and peer.node_id > own.node_id:
        raise HandshakeRefused(f"node {name} must not dial: of two nodes the smaller id dials")
    if peer.config_digest != own.config_digest:
        raise HandshakeRefused(
            f"limits differ on node {name}: its configuration digest is"
            f" {peer.config_digest.hex()[:12]}, that of node {own.node_name} is"
            f" {own.config_digest.hex()[:12]}"
        )
    if NO_BOOTSTRAP not in (own.bootstrap, peer.bootstrap) and peer.bootstrap != own.bootstrap:
        # Two lists of initial voters have majorities that need not overlap.
        raise HandshakeRefused(
            f"the initial members differ on node {name} and node {own.node_name}: the members"
            " in their settings files must be the same until the cluster has started"
        )


class Handshake:
    """One side of one handshake: messages in, messages out.

    `admit` decides about a peer that has proved to know the secret; it raises
    HandshakeRefused. `peer` is set, and trustworthy, once `done`. `claimed` is the
    node id that the other side claimed, proved or not. `probing`: stop before the hello,
    with `answered` set if the other side speaks this protocol.
    """

    def __init__(
        self,
        secret: bytes,
        hello: Hello,
        *,
        dialling: bool,
        admit: Callable[[Hello], None],
        probing: bool = False,
    ) -> None:
        if len(secret) < SECRET_BYTES_MIN:
            raise ValueError(f"the cluster secret must be at least {SECRET_BYTES_MIN} bytes")
        self._secret = secret
        self._hello = encode_hello(hello)
        self._dialling = dialling
        self._probing = probing
        self._admit = admit
        self._expected = CHALLENGE
        self._challenge = _CHALLENGE.pack(
            _MAGIC, PROTOCOL_VERSION, secrets.token_bytes(_NONCE_BYTES)
        )
        self._transcript: list[bytes] = []
        self.peer: Hello | None = None
        self.claimed: str | None = None
        self.answered = False
        self.done = False

    def begin(self) -> Step:
        """The dialler's first message; the acceptor waits."""
        return Step(CHALLENGE, self._challenge) if self._dialling else Step(None)

    def receive(self, kind: int, payload: bytes) -> Step:
        """Take one message of the other side; never raises for bad input."""
        if kind == REFUSED:
            # Before the other side has proved anything its text is only quoted.
            return Step(None, refused=f"the other side refused: {_printable(payload)}")
        try:
            if kind != self._expected:
                raise HandshakeRefused("unexpected message in the handshake")
            return self._RECEIVERS[kind](self, payload)
        except HandshakeRefused as refusal:
            return refuse(str(refusal))

    def _receive_challenge(self, payload: bytes) -> Step:
        if payload[:4] != _MAGIC or len(payload) < 6:
            raise HandshakeRefused("not a hivemem peer")
        version = int.from_bytes(payload[4:6], "little")
        if version != PROTOCOL_VERSION:
            raise HandshakeRefused(
                f"peer protocol version {version} is not spoken here, only {PROTOCOL_VERSION}"
            )
        if len(payload) != _CHALLENGE.size:
            raise HandshakeRefused("malformed challenge")
        if not self._dialling:
            self._transcript = [payload, self._challenge]
            self._expected = HELLO
            return Step(CHALLENGE, self._challenge)
        self.answered = True
        if self._probing:
            return Step(None, refused="nothing more was asked")
        self._transcript = [self._challenge, payload, self._hello]
        self._expected = WELCOME
        return Step(HELLO, self._hello + self._mac(_LABEL_HELLO))

    def _receive_hello(self, payload: bytes) -> Step:
        hello = self._verified(payload, _LABEL_HELLO)
        self._admit(hello)
        self.peer = hello
        self._transcript.append(self._hello)
        self._expected = READY
        return Step(WELCOME, self._hello + self._mac(_LABEL_WELCOME))

    def _receive_welcome(self, payload: bytes) -> Step:
        hello = self._verified(payload, _LABEL_WELCOME)
        self._admit(hello)
        self.peer = hello
        self.done = True
        return Step(READY, self._mac(_LABEL_READY))

    def _receive_ready(self, payload: bytes) -> Step:
        if not hmac.compare_digest(payload, self._mac(_LABEL_READY)):
            raise HandshakeRefused(_NO_SECRET)
        self.done = True
        return Step(None)

    def _verified(self, payload: bytes, label: bytes) -> Hello:
        """The hello in `payload`, added to the transcript, if its mac is right."""
        said, mac = payload[:-_MAC_BYTES], payload[-_MAC_BYTES:]
        try:
            hello = decode_hello(said)
        except ValueError:
            raise HandshakeRefused("malformed hello") from None
        self.claimed = hello.node_id
        self._transcript.append(said)
        if not hmac.compare_digest(mac, self._mac(label)):
            raise HandshakeRefused(_NO_SECRET)
        return hello

    def _mac(self, label: bytes) -> bytes:
        """HMAC-SHA256 over the label and all that was said, each with its length."""
        mac = hmac.new(self._secret, digestmod="sha256")
        for part in (label, *self._transcript):
            mac.update(len(part).to_bytes(4, "little"))
            mac.update(part)
        return mac.digest()

    _RECEIVERS: Final = {
        CHALLENGE: _receive_challenge,
        HELLO: _receive_hello,
        WELCOME: _receive_welcome,
        READY: _receive_ready,
    }


def refuse(reason: str) -> Step:
    """Tell the other side why, and stop."""
    return Step(REFUSED, reason.encode()[:REASON_BYTES_MAX], refused=reason)


def _printable(payload: bytes) -> str:
    text = payload[:REASON_BYTES_MAX].decode(errors="replace")
    return "".join(c if c.isprintable() else "?" for c in text) or "no reason given"


assert _FIXED.size + _FIELDS * (1 + _FIELD_BYTES_MAX) + _MAC_BYTES <= HANDSHAKE_BYTES_MAX
assert REASON_BYTES_MAX <= HANDSHAKE_BYTES_MAX
