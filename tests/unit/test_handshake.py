"""The handshake, message by message: who is admitted, and what attacks gain."""

from __future__ import annotations

import pytest

from cluster.errors import HandshakeRefused
from cluster.framing import CHALLENGE, HANDSHAKE_BYTES_MAX, HELLO, READY, REFUSED, WELCOME
from cluster.handshake import (
    NO_BOOTSTRAP,
    PROTOCOL_VERSION,
    Handshake,
    Hello,
    Step,
    check_hello,
    decode_hello,
    encode_hello,
)

SECRET = b"0123456789abcdef"
A = Hello("cluster", "a", "alpha", "folder-a", b"digest", b"voters", b"boot-of-", 3)
B = Hello("cluster", "b", "beta", "folder-b", b"digest", b"voters", b"boot-b..", 9)


def _admit_all(hello: Hello) -> None:
    pass


def _dialler(hello: Hello = A, secret: bytes = SECRET) -> Handshake:
    return Handshake(secret, hello, dialling=True, admit=_admit_all)


def _acceptor(hello: Hello = B, secret: bytes = SECRET) -> Handshake:
    return Handshake(secret, hello, dialling=False, admit=_admit_all)


def _run(dialler: Handshake, acceptor: Handshake) -> list[Step]:
    """Carry messages to and fro until nobody has more to say; returns all steps."""
    steps = [dialler.begin()]
    sides = [acceptor, dialler]
    while steps[-1].kind is not None:
        step = steps[-1]
        assert step.kind is not None
        steps.append(sides[(len(steps) - 1) % 2].receive(step.kind, step.payload))
    return steps


def test_both_learn_who_the_other_is() -> None:
    dialler, acceptor = _dialler(), _acceptor()
    steps = _run(dialler, acceptor)
    assert [step.kind for step in steps] == [CHALLENGE, CHALLENGE, HELLO, WELCOME, READY, None]
    assert dialler.done
    assert acceptor.done
    assert dialler.peer == B
    assert acceptor.peer == A


def test_a_wrong_secret_is_refused_by_the_acceptor() -> None:
    dialler, acceptor = _dialler(secret=b"another secret!!"), _acceptor()
    steps = _run(dialler, acceptor)
    assert steps[3].kind == REFUSED
    assert "secrets differ" in (steps[3].refused or "")
    assert "secrets differ" in (steps[4].refused or "")
    assert not dialler.done
    assert not acceptor.done
    assert acceptor.claimed == "a"


def test_a_wrong_secret_is_refused_by_the_dialler() -> None:
    """An impostor at the peer's address cannot answer, whatever it admits."""
    dialler, impostor = _dialler(), _acceptor()
    challenge = impostor.receive(CHALLENGE, dialler.begin().payload)
    hello = dialler.receive(CHALLENGE, challenge.payload)
    assert hello.kind == HELLO
    forged = encode_hello(B) + b"\0" * 32
    step = dialler.receive(WELCOME, forged)
    assert step.kind == REFUSED
    assert not dialler.done


def test_the_acceptor_says_nothing_about_itself_to_a_stranger() -> None:
    dialler, acceptor = _dialler(secret=b"another secret!!"), _acceptor()
    said = b"".join(step.payload for step in _run(dialler, acceptor)[1::2])
    for private in (b"cluster-", b"beta", b"folder", b"digest", b"boot"):
        assert private not in said


def test_a_reflected_message_fails() -> None:
    """Echoing everything back proves nothing: each mac has a role."""
    dialler = _dialler()
    echoed = dialler.receive(CHALLENGE, dialler.begin().payload)
    assert echoed.kind == HELLO
    assert dialler.receive(WELCOME, echoed.payload).kind == REFUSED
    assert not dialler.done


def test_a_welcome_or_ready_of_another_connection_fails() -> None:
    steps = _run(_dialler(), _acceptor())
    welcome, ready = steps[3], steps[4]
    dialler = _dialler()
    challenge = _acceptor().receive(CHALLENGE, dialler.begin().payload)
    dialler.receive(CHALLENGE, challenge.payload)
    assert dialler.receive(WELCOME, welcome.payload).kind == REFUSED
    other, acceptor = _dialler(), _acceptor()
    hello = other.receive(CHALLENGE, acceptor.receive(CHALLENGE, other.begin().payload).payload)
    assert acceptor.receive(HELLO, hello.payload).kind == WELCOME
    assert acceptor.receive(READY, ready.payload).kind == REFUSED
    assert not acceptor.done


def test_a_replayed_dialler_fails() -> None:
    recorded = [step for step in _run(_dialler(), _acceptor())[0::2] if step.kind is not None]
    acceptor = _acceptor()
    answers = []
    for step in recorded[:2]:
        assert step.kind is not None
        answers.append(acceptor.receive(step.kind, step.payload))
    assert answers[-1].kind == REFUSED
    assert not acceptor.done


@pytest.mark.parametrize("kind", [CHALLENGE, HELLO, WELCOME, READY])
def test_every_flipped_byte_is_refused(kind: int) -> None:
    position = {CHALLENGE: 0, HELLO: 2, WELCOME: 3, READY: 4}[kind]
    length = len(_run(_dialler(), _acceptor())[position].payload)
    for at in range(length):
        dialler, acceptor = _dialler(), _acceptor()
        step = dialler.begin()
        sides = [acceptor, dialler]
        for turn in range(6):
            if step.kind is None or step.refused:
                break
            payload = bytearray(step.payload)
            if turn == position:
                payload[at] ^= 0x10
            step = sides[turn % 2].receive(step.kind, bytes(payload))
        assert not (dialler.done and acceptor.done), f"byte {at}"


@pytest.mark.parametrize(
    "payload", [b"", b"x", b"GET / HTTP/1.1\r\n", b"HVMP", b"HVMP\x02\x00short"]
)
def test_malformed_challenges_are_refused(payload: bytes) -> None:
    assert _acceptor().receive(CHALLENGE, payload).kind == REFUSED


def test_an_unknown_version_is_named() -> None:
    challenge = bytearray(_dialler().begin().payload)
    challenge[4] = 200
    step = _acceptor().receive(CHALLENGE, bytes(challenge))
    only = f"only {PROTOCOL_VERSION}"
    assert step.refused == f"peer protocol version 200 is not spoken here, {only}"


def test_a_probe_ends_before_anything_is_said_about_itself() -> None:
    for other, answered in ((_acceptor(), True), (None, False)):
        probe = Handshake(SECRET, A, dialling=True, admit=_admit_all, probing=True)
        challenge = probe.begin()
        assert challenge.kind == CHALLENGE
        if other is not None:
            step = probe.receive(CHALLENGE, other.receive(CHALLENGE, challenge.payload).payload)
        else:
            step = probe.receive(REFUSED, b"go away")
        assert step.kind is None
        assert step.refused is not None
        assert probe.answered is answered
        assert not probe.done


@pytest.mark.parametrize("kind", [0, 1, HELLO, WELCOME, READY, 255])
def test_messages_out_of_order_are_refused(kind: int) -> None:
    step = _acceptor().receive(kind, b"x" * 64)
    assert step.refused == "unexpected message in the handshake"


def test_a_refusal_is_quoted_without_control_characters() -> None:
    step = _dialler().receive(REFUSED, b"no\x1b[31m\n entry\xff")
    assert step.kind is None
    assert step.refused == "the other side refused: no?[31m? entry\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("cut", range(len(encode_hello(A))))
def test_a_cut_hello_is_malformed(cut: int) -> None:
    with pytest.raises(ValueError, match="hello"):
        decode_hello(encode_hello(A)[:cut])


def test_hello_round_trip_and_bounds() -> None:
    widest = Hello(
        "c" * 255, "é" * 127, "n" * 255, "i" * 255, bytes(255), bytes(255), b"b" * 8, 2**64 - 1
    )
    assert decode_hello(encode_hello(widest)) == widest
    assert len(encode_hello(widest)) + 32 <= HANDSHAKE_BYTES_MAX
    with pytest.raises(ValueError, match="trailing"):
        decode_hello(encode_hello(A) + b"x")
    for bad in (
        A._replace(node_name=""),
        A._replace(cluster_id="c" * 256),
        A._replace(bootstrap=b""),
    ):
        with pytest.raises(ValueError, match="1–255 bytes"):
            encode_hello(bad)
    with pytest.raises(ValueError, match="printable"):
        encode_hello(A._replace(node_name="a\nb"))


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 16 bytes"):
        _dialler(secret=b"short")


def _check(own: Hello, peer: Hello, dialled: str | None) -> None:
    check_hello(own, peer, dialled=dialled, members=frozenset("abc") - {own.node_id})


def test_members_are_admitted() -> None:
    _check(A, B, "b")
    _check(B, A, None)


def test_initial_members_are_compared_only_while_both_go_by_them() -> None:
    """Who has members from its log no longer depends on what its settings file lists."""
    started = B._replace(bootstrap=NO_BOOTSTRAP)
    _check(A, started, "b")
    _check(started, A, None)
    _check(started, A._replace(bootstrap=NO_BOOTSTRAP), None)


@pytest.mark.parametrize(
    ("own", "peer", "dialled", "reason"),
    [
        (A, B._replace(cluster_id="other"), "b", "belongs to cluster other"),
        (A, A, "b", "connects to itself"),
        (A, B._replace(node_id="c"), "b", "answers at the address of node id b"),
        (B, A._replace(node_id="A"), None, "is not a member that node beta knows"),
        (B, A._replace(node_id="c"), None, "the smaller id dials"),
        (A, B._replace(config_digest=b"other"), "b", "limits differ on node beta"),
        (A, B._replace(bootstrap=b"x"), "b", "the initial members differ on node beta"),
        (B, A._replace(bootstrap=b"x"), None, "the initial members differ on node alpha"),
    ],
)
def test_others_are_refused_with_the_reason(
    own: Hello, peer: Hello, dialled: str | None, reason: str
) -> None:
    with pytest.raises(HandshakeRefused, match=reason):
        _check(own, peer, dialled)
