"""Mutual TLS between peers, and which node a certificate speaks for."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Final

from cluster.errors import HandshakeRefused
from cluster.transport_config import PeerTls

NODE_URN: Final = "urn:hivemem:node:"


def server_context(tls: PeerTls) -> ssl.SSLContext:
    """For accepting: demands a client certificate. Raises OSError, ssl.SSLError."""
    return _context(ssl.PROTOCOL_TLS_SERVER, tls)


def client_context(tls: PeerTls) -> ssl.SSLContext:
    """For dialling. Raises OSError, ssl.SSLError."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, tls)


def check_certificate(
    certificate: Mapping[str, object] | None, node_id: str, node_name: str
) -> None:
    """Raise HandshakeRefused unless the verified certificate speaks for this node.

    `certificate` is what SSLSocket.getpeercert() returns. A certificate with any node
    URN is judged by its URNs alone; one without may name the node by a DNS entry equal
    to `node_name`, the name that this node's own configuration gives to `node_id` ("":
    none). The name that the peer claims must not be used: a member could claim another
    member's id under its own name.
    """
    alternatives: object = certificate.get("subjectAltName", ()) if certificate else ()
    names: list[tuple[str, str]] = list(alternatives) if isinstance(alternatives, tuple) else []
    urns = [value for kind, value in names if kind == "URI" and value.startswith(NODE_URN)]
    if urns:
        if NODE_URN + node_id in urns:
            return
    elif node_name and ("DNS", node_name) in names:
        return
    shown = ", ".join(f"{kind}:{value}" for kind, value in names[:4]) or "no alternative names"
    raise HandshakeRefused(
        f"the certificate does not speak for node {node_name or node_id}: it carries {shown},"
        f" and needs URI:{NODE_URN}{node_id}" + (f" or DNS:{node_name}" if node_name else "")
    )


def _context(protocol: int, tls: PeerTls) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Identity is the node id, checked after the handshake; host names are mutable.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(tls.cert, tls.key)
    context.load_verify_locations(tls.ca)
    return context
