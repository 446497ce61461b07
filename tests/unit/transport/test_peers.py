"""Addresses as text, and where a member's address and name come from."""

from __future__ import annotations

import pytest

from cluster.membership import Configuration, Member
from cluster.peers import Peers
from cluster.transport_config import PeerAddress

FILE = {
    "a": PeerAddress("file-a", 1, "own"),
    "b": PeerAddress("file-b", 2, "beta"),
    "c": PeerAddress("file-c", 3),
}


def _peers() -> Peers:
    return Peers("a", FILE, {}, lambda peer, incarnation: None, lambda: 0.0)


def _members(*members: Member, index: int = 5) -> Configuration:
    return Configuration(index, members)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:7101", PeerAddress("127.0.0.1", 7101)),
        ("node-1.example:65535", PeerAddress("node-1.example", 65535)),
        ("[::1]:1", PeerAddress("::1", 1)),
    ],
)
def test_an_address_is_read_as_it_is_written(text: str, address: PeerAddress) -> None:
    assert PeerAddress.parse(text) == address
    assert str(address) == text
    assert PeerAddress.parse(text, "name").name == "name"


@pytest.mark.parametrize("text", ["", "host", ":1", "[]:1", "::1:1", "[host]:1", "[::1:1", "[:1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not host:port"):
        PeerAddress.parse(text)


@pytest.mark.parametrize("port", ["", "0", "65536", "-1", "+1", "1_0", " 1", "x", "٣", "9" * 5000])
def test_what_is_no_port_is_refused(port: str) -> None:
    with pytest.raises(ValueError, match="not a number from 1 to 65535"):
        PeerAddress.parse(f"host:{port}")


def test_the_settings_file_names_the_members_until_the_log_does() -> None:
    peers = _peers()
    assert peers.members == {"b", "c"}
    peers.set_members(_members(Member("d", peer="host:4"), index=0))
    assert peers.members == {"b", "c", "d"}
    changes = peers.set_members(_members(Member("a"), Member("c"), Member("d", peer="host:4")))
    assert peers.members == {"c", "d"}
    assert [peer.id for peer in changes.left] == ["b"]
    assert changes.joined == []
    assert peers.get("b") is None
    changes = peers.set_members(_members(index=0))
    assert [peer.id for peer in changes.joined] == ["b"]
    assert [peer.id for peer in changes.left] == ["d"]
    assert peers.members == {"b", "c"}


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("", ["file-b:2"]),
        ("host:9", ["host:9", "file-b:2"]),
        ("file-b:2", ["file-b:2"]),
        ("no address", ["file-b:2"]),
    ],
)
def test_the_configurations_address_comes_first(text: str, addresses: list[str]) -> None:
    peers = _peers()
    peers.set_members(_members(Member("b", peer=text)))
    found = peers.get("b")
    assert found is not None
    assert [str(address) for address in found.addresses] == addresses


def test_a_certificate_may_name_a_peer_as_this_nodes_own_file_does() -> None:
    """A member's name is what it says of itself, so it must not override the operator's."""
    peers = _peers()
    peers.set_members(_members(Member("b", name="evil"), Member("c", name="gamma"), Member("d")))
    names = {peer.id: peer.name for peer in peers}
    assert names == {"b": "beta", "c": "gamma", "d": ""}
