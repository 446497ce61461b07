"""Mutual TLS between peers: whose certificate opens which door."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from pathlib import Path

import pytest

from cluster.errors import HandshakeRefused, PeerUnreachable
from cluster.membership import Configuration, Member
from cluster.peer_tls import NODE_URN, check_certificate
from cluster.transport import PeerAddress, PeerTls, Transport
from tests.certificates import CertificateAuthority
from tests.unit.transport.nodes import LOOPBACK, NOWHERE, Nodes, Recorder, until


class Certificates:
    """One CA, and node certificates by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = CertificateAuthority(folder)

    def of(self, name: str, *, uris: Sequence[str] = (), dns: Sequence[str] = ()) -> PeerTls:
        files = self.authority.issue(name, uris=uris, dns=dns)
        return PeerTls(files.cert, files.key, files.ca)

    def node(self, node_id: str) -> PeerTls:
        return self.of(node_id, uris=[NODE_URN + node_id])


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


async def _start(
    nodes: Nodes, of_a: PeerTls | None, of_b: PeerTls | None, name: str = ""
) -> tuple[Transport, Recorder, Transport, Recorder]:
    b, at_b = await nodes.start("b", {"a": NOWHERE._replace(name=name and "name-a")}, tls=of_b)
    peers = {"b": PeerAddress(LOOPBACK, b.port, name and "name-b")}
    a, at_a = await nodes.start("a", peers, tls=of_a)
    return a, at_a, b, at_b


async def test_frames_and_calls_over_tls(nodes: Nodes, certificates: Certificates) -> None:
    a, at_a, b, at_b = await _start(nodes, certificates.node("a"), certificates.node("b"))
    await until(lambda: at_a.connected and at_b.connected)
    big = bytes(range(256)) * (8 << 12)
    before = a.peer_states()["b"].bytes_sent
    a.send("b", 0, big, bulk=True)
    while a.peer_states()["b"].bytes_sent < before + 300_000:
        await asyncio.sleep(0)
    a.send("b", 0, b"heartbeat")
    await until(lambda: len(at_b.frames) == 2)
    assert at_b.frames == [b"heartbeat", big]

    async def echo(peer: str, payload: bytes) -> bytes:
        return payload

    a.on_call(1, echo)
    assert await b.call("a", 1, big, 10.0) == big
    await a.stop()
    await until(lambda: not at_b.connected)


async def test_a_dns_name_that_the_configuration_gives_the_peer_is_enough(
    nodes: Nodes, certificates: Certificates
) -> None:
    of_a = certificates.of("dns-a", dns=["name-a"])
    of_b = certificates.of("dns-b", dns=["name-b"])
    _, at_a, _, at_b = await _start(nodes, of_a, of_b, name="yes")
    await until(lambda: at_a.connected and at_b.connected)


async def test_a_member_may_be_named_by_the_configuration(
    nodes: Nodes, certificates: Certificates
) -> None:
    """It joined later: the settings file, where the others have their names, lacks it."""
    b, at_b = await nodes.start("b", {}, tls=certificates.of("dns-joined-b", dns=["name-b"]))
    peers = {"b": PeerAddress(LOOPBACK, b.port, "name-b")}
    a, at_a = await nodes.start("a", peers, tls=certificates.of("dns-joined-a", dns=["name-a"]))
    await until(lambda: "is not a member" in (a.peer_states()["b"].last_error or ""))
    b.set_members(Configuration(5, (Member("a", name="name-z"), Member("b"))))
    await until(lambda: "does not speak for node name-z" in (a.peer_states()["b"].last_error or ""))
    assert at_a.events == at_b.events == []
    b.set_members(Configuration(6, (Member("a", name="name-a"), Member("b"))))
    await until(lambda: at_a.connected and at_b.connected)


@pytest.mark.parametrize(("at_prober", "at_probed"), [(True, True), (True, False), (False, True)])
async def test_a_probe_goes_over_tls_where_it_is_set(
    nodes: Nodes, certificates: Certificates, at_prober: bool, at_probed: bool
) -> None:
    a, _ = await nodes.start("a", {}, tls=certificates.node("a") if at_prober else None)
    b, _ = await nodes.start("b", {}, tls=certificates.node("b") if at_probed else None)
    if at_prober and at_probed:
        await a.probe(f"{LOOPBACK}:{b.port}", 10.0)
        return
    with pytest.raises(PeerUnreachable, match="TLS between peers must be on at both or at neither"):
        await a.probe(f"{LOOPBACK}:{b.port}", 10.0)


async def test_a_probe_shows_its_certificate_is_not_trusted(
    nodes: Nodes, certificates: Certificates
) -> None:
    foreign = CertificateAuthority(certificates.folder / "foreign-probe", "foreign")
    files = foreign.issue("b", uris=[NODE_URN + "b"], ca=certificates.authority.path)
    b, _ = await nodes.start("b", {}, tls=PeerTls(files.cert, files.key, files.ca))
    a, _ = await nodes.start("a", {}, tls=certificates.node("a"))
    with pytest.raises(PeerUnreachable, match="TLS: the certificate is not trusted"):
        await a.probe(f"{LOOPBACK}:{b.port}", 10.0)


async def _refused(transport: Transport, peer: str, reason: str, *recorders: Recorder) -> None:
    await until(lambda: reason in (transport.peer_states()[peer].last_error or ""))
    assert all(recorder.events == [] for recorder in recorders)


async def test_another_nodes_certificate_is_refused_at_the_acceptor(
    nodes: Nodes, certificates: Certificates
) -> None:
    a, at_a, b, at_b = await _start(nodes, certificates.node("c"), certificates.node("b"))
    await _refused(b, "a", "does not speak for node a", at_a, at_b)
    await _refused(a, "b", "does not speak for node a", at_a, at_b)


async def test_another_nodes_certificate_is_refused_at_the_dialler(
    nodes: Nodes, certificates: Certificates
) -> None:
    a, at_a, _, at_b = await _start(nodes, certificates.node("a"), certificates.node("c"))
    await _refused(a, "b", "does not speak for node b", at_a, at_b)


async def test_a_claimed_name_does_not_count(nodes: Nodes, certificates: Certificates) -> None:
    """The dialler says that it is called name-a, and its certificate agrees."""
    of_a = certificates.of("claimed-a", dns=["name-a"])
    _, at_a, b, at_b = await _start(nodes, of_a, certificates.node("b"), name="")
    await _refused(b, "a", "does not speak for node a", at_a, at_b)


async def test_a_certificate_of_another_ca_is_refused(
    nodes: Nodes, certificates: Certificates
) -> None:
    foreign = CertificateAuthority(certificates.folder / "foreign", "foreign")
    # It trusts the cluster's CA, so that only the other side has a reason to refuse.
    files = foreign.issue("a", uris=[NODE_URN + "a"], ca=certificates.authority.path)
    of_a = PeerTls(files.cert, files.key, files.ca)
    a, at_a, b, at_b = await _start(nodes, of_a, certificates.node("b"))
    await until(lambda: b.connections_refused > 0)
    await _refused(a, "b", "cannot connect", at_a, at_b)


async def test_a_listener_of_another_ca_is_refused(
    nodes: Nodes, certificates: Certificates
) -> None:
    foreign = CertificateAuthority(certificates.folder / "foreign-b", "foreign")
    files = foreign.issue("b", uris=[NODE_URN + "b"], ca=certificates.authority.path)
    of_b = PeerTls(files.cert, files.key, files.ca)
    a, at_a, _, at_b = await _start(nodes, certificates.node("a"), of_b)
    await _refused(a, "b", "TLS: the certificate is not trusted", at_a, at_b)


async def test_an_expired_certificate_is_refused(nodes: Nodes, certificates: Certificates) -> None:
    files = certificates.authority.issue("old-b", uris=[NODE_URN + "b"], expired=True)
    of_b = PeerTls(files.cert, files.key, files.ca)
    a, at_a, _, at_b = await _start(nodes, certificates.node("a"), of_b)
    await _refused(a, "b", "certificate has expired", at_a, at_b)


async def test_a_plain_dialler_is_refused_by_a_tls_listener(
    nodes: Nodes, certificates: Certificates
) -> None:
    a, at_a, b, at_b = await _start(nodes, None, certificates.node("b"))
    await until(lambda: b.connections_refused > 0)
    await _refused(a, "b", "cannot connect", at_a, at_b)


async def test_a_tls_dialler_is_refused_by_a_plain_listener(
    nodes: Nodes, certificates: Certificates
) -> None:
    a, at_a, b, at_b = await _start(nodes, certificates.node("a"), None)
    await until(lambda: b.connections_refused > 0)
    await _refused(a, "b", "cannot connect", at_a, at_b)


async def test_a_certificate_alone_does_not_replace_the_secret(
    nodes: Nodes, certificates: Certificates
) -> None:
    b, at_b = await nodes.start("b", {"a": NOWHERE}, tls=certificates.node("b"))
    peers = {"b": PeerAddress(LOOPBACK, b.port)}
    wrong = b"another secret, also long enough"
    a, at_a = await nodes.start("a", peers, tls=certificates.node("a"), secret=wrong)
    await _refused(a, "b", "secrets differ", at_a, at_b)


async def test_a_client_without_certificate_gets_no_byte(
    nodes: Nodes, certificates: Certificates
) -> None:
    b, _ = await nodes.start("b", {"a": NOWHERE}, tls=certificates.node("b"))
    context = ssl.create_default_context(cafile=str(certificates.authority.path))
    context.check_hostname = False
    received = b""
    try:
        reader, writer = await asyncio.open_connection(LOOPBACK, b.port, ssl=context)
        received = await reader.read()
        writer.close()
    except OSError:
        pass  # TLS 1.2 refuses at once, 1.3 at the first read.
    assert received == b""
    await until(lambda: b.connections_refused == 1)


async def test_a_stalled_tls_handshake_is_cut_off(nodes: Nodes, certificates: Certificates) -> None:
    limits = {"handshake_ms_max": 60}
    b, _ = await nodes.start("b", {"a": NOWHERE}, tls=certificates.node("b"), limits=limits)
    stranger = nodes.raw()
    await stranger.connect(b.port)
    assert await stranger.closed_by_other_side()
    await until(lambda: b.connections_refused == 1)


async def test_files_that_do_not_fit_fail_at_start(
    nodes: Nodes, certificates: Certificates
) -> None:
    good = certificates.node("b")
    mixed = good._replace(key=certificates.node("a").key)
    with pytest.raises(ssl.SSLError):
        await nodes.start("b", {}, tls=mixed)
    with pytest.raises(OSError, match="No such file"):
        await nodes.start("b", {}, tls=good._replace(cert=certificates.folder / "absent.pem"))


@pytest.mark.parametrize(
    ("names", "node_name", "speaks"),
    [
        ((("URI", NODE_URN + "id-1"),), "", True),
        ((("URI", NODE_URN + "id-2"),), "", False),
        ((("URI", NODE_URN + "id-2"), ("URI", NODE_URN + "id-1")), "", True),
        ((("URI", "https://x/"), ("DNS", "one")), "one", True),
        ((("DNS", "two"),), "one", False),
        ((("DNS", "*"),), "one", False),
        ((("DNS", ""),), "", False),
        ((("URI", NODE_URN + "id-2"), ("DNS", "one")), "one", False),
        ((("DNS", NODE_URN + "id-1"),), "", False),
        ((("URI", "one"),), "one", False),
        ((), "one", False),
    ],
)
def test_which_node_a_certificate_speaks_for(
    names: tuple[tuple[str, str], ...], node_name: str, speaks: bool
) -> None:
    certificate = {"subjectAltName": names, "subject": ((("commonName", "id-1"),),)}
    if speaks:
        check_certificate(certificate, "id-1", node_name)
    else:
        with pytest.raises(HandshakeRefused, match="does not speak for node"):
            check_certificate(certificate, "id-1", node_name)


def test_no_certificate_speaks_for_nobody() -> None:
    for absent in (None, {}):
        with pytest.raises(HandshakeRefused, match="no alternative names"):
            check_certificate(absent, "id-1", "one")
