"""Which node a client asks next."""

from __future__ import annotations

import pytest

from node.errors import BadRequest
from node.topology import REST_SECONDS_MAX, REST_SECONDS_MIN, Topology, normalised

A, B, C = "http://a:1", "http://b:1", "http://c:1"


def order(topology: Topology, now: float = 0.0, *, leader: bool = True) -> list[str]:
    tried: list[str] = []
    while (address := topology.next(tried, now, leader=leader)) is not None:
        tried.append(address)
    return tried


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("127.0.0.1:7411", "http://127.0.0.1:7411"),
        ("http://h:1/", "http://h:1"),
        ("HTTPS://h:1", "https://h:1"),
        ("http://[::1]:7411", "http://[::1]:7411"),
        ("h", "http://h"),
        (" h:1 ", "http://h:1"),
    ],
)
def test_addresses_are_brought_into_one_form(given: str, found: str):
    assert normalised(given) == found


@pytest.mark.parametrize(
    "given",
    ["", "ftp://h:1", "http://", "http://h:1/path", "http://u@h:1", "h:0", "h:x", "h:70000"],
)
def test_what_is_no_address_is_refused(given: str):
    with pytest.raises(BadRequest) as caught:
        normalised(given)
    assert caught.value.field == "endpoints"


def test_at_least_one_endpoint_is_needed():
    with pytest.raises(BadRequest):
        Topology([])


def test_the_leader_comes_first_where_it_is_preferred():
    topology = Topology([A, B, C])
    assert topology.led_by(C)
    assert order(topology)[0] == C
    assert order(topology, leader=False)[0] == A


def test_the_node_that_answered_last_is_kept():
    topology = Topology([A, B, C])
    topology.answered(B)
    assert order(topology)[0] == B


def test_a_failed_node_rests_longer_each_time_but_is_never_left_out():
    topology = Topology([A, B])
    now = 0.0
    rests: list[float] = []
    for _ in range(10):
        topology.failed(A, now)
        assert order(topology, now) == [B, A]
        rest = REST_SECONDS_MIN
        while order(topology, now + rest)[0] != A:
            rest += REST_SECONDS_MIN
        rests.append(rest)
        now += 100
    assert rests == sorted(rests)
    assert rests[0] < rests[-1] <= REST_SECONDS_MAX + REST_SECONDS_MIN
    topology.answered(A)
    assert order(topology, now)[0] == A


def test_a_leader_that_fails_is_no_longer_preferred():
    topology = Topology([A, B])
    topology.led_by(B)
    topology.failed(B, 0.0)
    assert topology.leader is None
    assert order(topology, 0.0) == [A, B]


def test_turns_are_taken_where_that_is_wanted():
    topology = Topology([A, B, C])
    firsts = {topology.next((), 0.0, leader=False, spread=True) for _ in range(6)}
    assert firsts == {A, B, C}


def test_only_what_proved_itself_is_used_and_once_it_fails_it_must_again():
    topology = Topology([A])
    assert not topology.led_by(B)
    assert topology.known == (A,)
    topology.learn(B)
    assert topology.led_by(B)
    assert topology.known == (A, B)
    topology.failed(B, 0.0)
    assert (topology.known, topology.unproven) == ((A,), (B,))
    topology.learn(B)
    assert (topology.known, topology.unproven) == ((A, B), ())


def test_a_node_that_says_it_is_unable_stays_known():
    topology = Topology([A])
    topology.learn(B)
    topology.unable(B, 0.0)
    assert topology.known == (A, B)


def test_tls_is_never_given_up():
    topology = Topology(["https://a:1"])
    for plain in ("http://b:1", "HTTP://a:1"):
        topology.learn(plain)
        assert not topology.led_by(plain)
    topology.learn("b:1")
    assert topology.known == ("https://a:1", "https://b:1")


def test_nonsense_from_a_cluster_is_ignored():
    topology = Topology([A])
    topology.learn("http://x/y")
    topology.led_by("")
    assert topology.known == (A,)
