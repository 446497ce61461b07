"""Commands and results as bytes: round trips, refusals, and what a proposer refuses."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.codec import Malformed, pack, unpack
from engines.command import (
    Command,
    Compare,
    CompareOp,
    CompareTarget,
    Configure,
    Delete,
    DueRecord,
    Expire,
    Put,
    Txn,
    TxnDelete,
    TxnGet,
    TxnOp,
    TxnPut,
    decode,
    decode_result,
    encode,
    encode_result,
    request_digest,
    validate,
)
from engines.errors import InvalidArgument, UnknownCommand
from engines.interfaces import (
    ConfigureResult,
    DeleteResult,
    ExpireResult,
    GetResult,
    Limits,
    PutResult,
    Record,
    RejectCode,
    Rejected,
    Result,
    TxnResult,
)

NOW = 1_700_000_000_000
PUT = Put("n", "s", b"k", b"v", "text/plain", NOW)
DELETE = Delete("n", "s", b"k", NOW)
TXN = Txn(
    "n",
    "sé",
    (
        Compare(b"k", CompareTarget.VERSION, CompareOp.EQ, 1),
        Compare(b"k", CompareTarget.REVISION, CompareOp.GE, 0),
        Compare(b"k", CompareTarget.VALUE, CompareOp.NE, b""),
        Compare(b"k", CompareTarget.EXISTS, CompareOp.NE, False),
    ),
    (TxnPut(b"k", b"", "", NOW + 5), TxnDelete(b"\x00"), TxnGet(b"k")),
    (TxnPut(b"k", b"v", "a/b"),),
    NOW,
    "id",
)
COMMANDS: list[Command] = [
    PUT,
    PUT._replace(key=b"\x00\xff" * 2048, value=b"", expires_ms=NOW + 1),
    PUT._replace(if_version=0, request_id="r 1~"),
    DELETE,
    replace(DELETE, if_version=7, request_id="r"),
    TXN,
    replace(TXN, compare=(), then=(), otherwise=(), request_id=None),
    Expire((DueRecord("n", "s", b"k", 9), DueRecord("m", "s", b"\x00", 1)), NOW),
    Expire((), 0),
    Configure(Limits(history_versions_max=3)),
]
RECORD = Record("n", "s", b"k", b"\x00", 1, "", 1, 2, 2, NOW, NOW, None)
RESULTS: list[Result] = [
    PutResult(1, 2),
    DeleteResult(True, 3, 4),
    DeleteResult(False, None, 4),
    TxnResult(True, 5, (PutResult(1, 5), DeleteResult(False, None, 5), GetResult(None))),
    TxnResult(False, 5, (GetResult(RECORD), GetResult(replace(RECORD, expires_ms=NOW)))),
    ExpireResult(0),
    ConfigureResult(True),
    Rejected(RejectCode.VERSION_CONFLICT, "é", 0),
    Rejected(RejectCode.LIMIT_EXCEEDED, ""),
]


def kind(value: object) -> str:
    return type(value).__name__


@pytest.mark.parametrize("command", COMMANDS, ids=kind)
def test_commands_round_trip(command: Command) -> None:
    assert decode(encode(command)) == command


@pytest.mark.parametrize("result", RESULTS, ids=kind)
def test_results_round_trip(result: Result) -> None:
    assert decode_result(encode_result(result)) == result


def test_the_bytes_of_version_1_do_not_change() -> None:
    # Logs and forwarded requests outlive builds: these are other builds' bytes.
    assert encode(PUT).hex() == (
        "019a01a16ea173c4016bc40176aa746578742f706c61696ecf0000018bcfe56800c0c0c0"
    )
    assert encode(DELETE).hex() == "019702a16ea173c4016bcf0000018bcfe56800c0c0"
    assert encode(Txn("n", "s", (), (TxnGet(b"k"),), (), 1)).hex() == (
        "019803a16ea17390919203c4016b9001c0"
    )
    assert encode(Expire((DueRecord("n", "s", b"k", 9),), 1)).hex() == (
        "0193049194a16ea173c4016b0901"
    )


@pytest.mark.parametrize("command", COMMANDS, ids=kind)
def test_a_command_cut_anywhere_is_refused(command: Command) -> None:
    data = encode(command)
    for end in range(min(len(data), 300)):
        with pytest.raises(UnknownCommand):
            decode(data[:end])
    with pytest.raises(UnknownCommand):
        decode(data + b"\x00")


@pytest.mark.parametrize("result", RESULTS, ids=kind)
def test_a_result_cut_anywhere_is_refused(result: Result) -> None:
    data = encode_result(result)
    for end in range(len(data)):
        with pytest.raises(UnknownCommand):
            decode_result(data[:end])
    with pytest.raises(UnknownCommand):
        decode_result(data + b"\x00")


@given(st.binary(max_size=60), st.sampled_from(COMMANDS[2:6]), st.data())
@settings(max_examples=300, deadline=None)
def test_garbage_is_refused_or_a_command_never_anything_else(
    garbage: bytes, command: Command, data: st.DataObject
) -> None:
    encoded = encode(command)
    cut = data.draw(st.integers(0, len(encoded)))
    for attempt in (garbage, b"\x01" + garbage, encoded[:cut] + garbage):
        for read in (decode, decode_result):
            try:
                value = read(attempt)
            except UnknownCommand:
                continue
            assert value is not None


UNKNOWN = [
    b"",
    b"\x02" + encode(PUT)[1:],
    b"\x01" + pack(PUT.key),
    b"\x01" + pack(()),
    b"\x01" + pack((99,)),
    b"\x01" + pack((True, "n", "s", b"k", 1, None, None)),
    b"\x01" + pack((2, "n", "s", b"k", 1, None)),
    b"\x01" + pack((2, "n", "s", b"k", 1, None, None, None)),
    b"\x01" + pack((2, b"n", "s", b"k", 1, None, None)),
    b"\x01" + pack((2, "n", "s", "k", 1, None, None)),
    b"\x01" + pack((2, "n", "s", b"k", True, None, None)),
    b"\x01" + pack((2, "n", "s", b"k", 1, "1", None)),
    b"\x01" + pack((3, "n", "s", ((b"k", 9, 1, 1),), (), (), 1, None)),
    b"\x01" + pack((3, "n", "s", ((b"k", 1, 9, 1),), (), (), 1, None)),
    b"\x01" + pack((3, "n", "s", ((b"k", 1, 1, "x"),), (), (), 1, None)),
    b"\x01" + pack((3, "n", "s", (1,), (), (), 1, None)),
    b"\x01" + pack((3, "n", "s", (), ((4, b"k"),), (), 1, None)),
    b"\x01" + pack((3, "n", "s", (), (7,), (), 1, None)),
    b"\x01" + pack((3, "n", "s", (), ((),), (), 1, None)),
    b"\x01" + pack((3, "n", "s", (), ((1, b"k", b"v"),), (), 1, None)),
    b"\x01" + pack((4, (("n", "s", b"k"),), 1)),
    b"\x01" + pack((5, (("no_such_limit", 1),))),
    b"\x01" + pack((5, (("key_bytes_max", "1"),))),
    b"\x01\x95\x02\xa1\xff\xa1s\xc4\x01k\x01",  # a namespace that is not UTF-8
    b"\x01\x81\x01\x02",  # a map
    b"\x01\xd4\x01\x00",  # an extension type
    b"\x01" + b"\x91" * 5000 + b"\x00",  # nested too deep
]


@pytest.mark.parametrize("data", UNKNOWN, ids=range(len(UNKNOWN)))
def test_what_this_build_does_not_know_stops_it(data: bytes) -> None:
    with pytest.raises(UnknownCommand):
        decode(data)


@pytest.mark.parametrize(
    "parts",
    [
        99,
        (99, 1),
        (1, 1),
        (1, 1, True),
        (2, 1, None, 1),
        (3, True, 1, ((4, 1),)),
        (3, True, 1, 1),
        (6, "NO_SUCH_CODE", "", None),
        (6, "VERSION_CONFLICT", b"", None),
        (7, None),
        (3, True, 1, ((7, ("n", "s", b"k")),)),
    ],
    ids=str,
)
def test_malformed_results_are_refused(parts: object) -> None:
    with pytest.raises(UnknownCommand):
        decode_result(b"\x01" + pack(parts))  # type: ignore[arg-type]


def test_a_limit_that_an_older_build_did_not_write_has_its_default() -> None:
    data = b"\x01" + pack((5, (("key_bytes_max", 100),)))
    assert decode(data) == Configure(replace(Limits(), key_bytes_max=100))


def test_the_codec_refuses_what_it_never_writes() -> None:
    for data in (b"\x81\x01\x02", b"\xd4\x01\x00", b"", b"\x01\x02", b"\xc1"):
        with pytest.raises(Malformed):
            unpack(data)


# -- request digests ---------------------------------------------------------------------


def stamped_later(command: Put | Delete | Txn, late: int) -> Put | Delete | Txn:
    """The same request as a proposer stamps it `late` milliseconds later."""
    now = command.now_ms + late
    match command:
        case Put():
            return command._replace(now_ms=now, expires_ms=command.expires_ms and now + 1)
        case Delete():
            return replace(command, now_ms=now)
        case Txn():
            first = command.then[0]
            assert isinstance(first, TxnPut)
            then = (replace(first, expires_ms=now + 5), *command.then[1:])
            return replace(command, now_ms=now, then=then)


@pytest.mark.parametrize(
    "command", [PUT, PUT._replace(expires_ms=NOW + 1), DELETE, TXN], ids=range(4)
)
def test_a_retry_has_the_digest_of_the_first_try(command: Put | Delete | Txn) -> None:
    assert request_digest(stamped_later(command, 12_345)) == request_digest(command)


def test_a_different_request_has_another_digest() -> None:
    put = PUT._replace(expires_ms=NOW + 1)
    different: list[Command] = [
        put,
        DELETE,
        TXN,
        put._replace(namespace="m"),
        put._replace(session="t"),
        put._replace(namespace="ns", session=""),
        put._replace(key=b"kk", value=b""),
        put._replace(value=b"w"),
        put._replace(content_type=""),
        put._replace(expires_ms=NOW + 2),
        put._replace(expires_ms=None),
        put._replace(if_version=0),
        replace(DELETE, if_version=0),
        replace(DELETE, key=b"l"),
        replace(TXN, compare=TXN.compare[1:]),
        replace(TXN, then=TXN.then[1:]),
        replace(TXN, then=TXN.otherwise, otherwise=TXN.then),
        replace(TXN, then=(TxnPut(b"k", b"", "", NOW + 6), *TXN.then[1:])),
    ]
    assert len({request_digest(command) for command in different}) == len(different)


# -- validation --------------------------------------------------------------------------

LIMITS = Limits(
    namespace_bytes_max=5,
    session_bytes_max=6,
    key_bytes_max=7,
    value_bytes_max=8,
    content_type_bytes_max=9,
    request_id_bytes_max=5,
    txn_ops_max=3,
    txn_bytes_max=40,
    ttl_ms_max=1000,
    expire_batch_max=2,
)
SMALL_PUT = Put("n", "s", b"k", b"v", "", NOW)
SMALL_TXN = Txn("n", "s", (), (), (), NOW)


def compare(target: CompareTarget, op: CompareOp, value: int | bytes | bool) -> Txn:
    return replace(SMALL_TXN, compare=(Compare(b"k", target, op, value),))


def then(*ops: TxnOp) -> Txn:
    return replace(SMALL_TXN, then=ops)


REFUSED: list[tuple[Command, str, str]] = [
    (SMALL_PUT._replace(namespace=""), "namespace", "INVALID_ARGUMENT"),
    (SMALL_PUT._replace(namespace="."), "namespace", "INVALID_ARGUMENT"),
    (SMALL_PUT._replace(namespace=".."), "namespace", "INVALID_ARGUMENT"),
    (SMALL_PUT._replace(namespace="a/b"), "namespace", "INVALID_ARGUMENT"),
    (SMALL_PUT._replace(namespace="é"), "namespace", "INVALID_ARGUMENT"),
    (SMALL_PUT._replace(namespace="a\x00"), "namespace", "INVALID_ARGUMENT"),
    (SMALL_PUT._replace(namespace="a\n"), "namespace", "INVALID_ARGUMENT"),
    (SMALL_PUT._replace(namespace="abcdef"), "namespace", "INVALID_ARGUMENT"),
    (SMALL_PUT._replace(session=""), "session", "INVALID_ARGUMENT"),
    (SMALL_PUT._replace(session="a\x00"), "session", "INVALID_ARGUMENT"),
    (SMALL_PUT._replace(session="a\n"), "session", "INVALID_ARGUMENT"),
    (SMALL_PUT._replace(session="\x7f"), "session", "INVALID_ARGUMENT"),
    (SMALL_PUT._replace(session="\x85"), "session", "INVALID_ARGUMENT"),
    (SMALL_PUT._replace(session="\ud800"), "session", "INVALID_ARGUMENT"),
    (SMALL_PUT._replace(session="éééx"), "session", "INVALID_ARGUMENT"),
    (SMALL_PUT._replace(key=b""), "key", "INVALID_ARGUMENT"),
    (SMALL_PUT._replace(key=b"8 bytes!"), "key", "KEY_TOO_LARGE"),
    (SMALL_PUT._replace(value=b"9 bytes!!"), "value", "VALUE_TOO_LARGE"),
    (SMALL_PUT._replace(content_type="a\r\nb"), "content_type", "INVALID_ARGUMENT"),
    (SMALL_PUT._replace(content_type="é"), "content_type", "INVALID_ARGUMENT"),
    (SMALL_PUT._replace(content_type="0123456789"), "content_type", "INVALID_ARGUMENT"),
    (SMALL_PUT._replace(now_ms=-1), "now_ms", "INVALID_ARGUMENT"),
    (SMALL_PUT._replace(now_ms=1 << 63), "now_ms", "INVALID_ARGUMENT"),
    (SMALL_PUT._replace(expires_ms=NOW), "ttl_seconds", "INVALID_ARGUMENT"),
    (SMALL_PUT._replace(expires_ms=NOW - 1), "ttl_seconds", "INVALID_ARGUMENT"),
    (SMALL_PUT._replace(expires_ms=NOW + 1001), "ttl_seconds", "INVALID_ARGUMENT"),
    (SMALL_PUT._replace(if_version=-1), "if_version", "INVALID_ARGUMENT"),
    (SMALL_PUT._replace(if_version=1 << 63), "if_version", "INVALID_ARGUMENT"),
    (SMALL_PUT._replace(request_id=""), "request_id", "INVALID_ARGUMENT"),
    (SMALL_PUT._replace(request_id="\t"), "request_id", "INVALID_ARGUMENT"),
    (SMALL_PUT._replace(request_id="é"), "request_id", "INVALID_ARGUMENT"),
    (SMALL_PUT._replace(request_id="123456"), "request_id", "INVALID_ARGUMENT"),
    (Delete("é", "s", b"k", NOW), "namespace", "INVALID_ARGUMENT"),
    (Delete("n", "", b"k", NOW), "session", "INVALID_ARGUMENT"),
    (Delete("n", "s", b"", NOW), "key", "INVALID_ARGUMENT"),
    (Delete("n", "s", b"8 bytes!", NOW), "key", "KEY_TOO_LARGE"),
    (Delete("n", "s", b"k", -1), "now_ms", "INVALID_ARGUMENT"),
    (Delete("n", "s", b"k", NOW, if_version=-1), "if_version", "INVALID_ARGUMENT"),
    (Delete("n", "s", b"k", NOW, request_id=""), "request_id", "INVALID_ARGUMENT"),
    (replace(SMALL_TXN, namespace=""), "namespace", "INVALID_ARGUMENT"),
    (replace(SMALL_TXN, session=""), "session", "INVALID_ARGUMENT"),
    (replace(SMALL_TXN, now_ms=-1), "now_ms", "INVALID_ARGUMENT"),
    (replace(SMALL_TXN, request_id=""), "request_id", "INVALID_ARGUMENT"),
    (then(*[TxnGet(b"k")] * 4), "then", "INVALID_ARGUMENT"),
    (replace(SMALL_TXN, otherwise=(TxnGet(b"k"),) * 4), "else", "INVALID_ARGUMENT"),
    (replace(compare(CompareTarget.EXISTS, CompareOp.EQ, True),
             compare=(Compare(b"k", CompareTarget.EXISTS, CompareOp.EQ, True),) * 4),
     "compare", "INVALID_ARGUMENT"),
    (then(TxnGet(b"")), "then[0].key", "INVALID_ARGUMENT"),
    (then(TxnGet(b"k"), TxnDelete(b"8 bytes!")), "then[1].key", "KEY_TOO_LARGE"),
    (then(TxnPut(b"k", b"9 bytes!!", "")), "then[0].value", "VALUE_TOO_LARGE"),
    (then(TxnPut(b"k", b"", "\n")), "then[0].content_type", "INVALID_ARGUMENT"),
    (then(TxnPut(b"k", b"", "", NOW)), "then[0].ttl_seconds", "INVALID_ARGUMENT"),
    (then(TxnPut(b"k", b"", ""), TxnPut(b"k", b"", "")), "then[1].key", "INVALID_ARGUMENT"),
    (then(TxnPut(b"k", b"", ""), TxnDelete(b"k")), "then[1].key", "INVALID_ARGUMENT"),
    (replace(SMALL_TXN, otherwise=(TxnDelete(b"k"), TxnDelete(b"k"))), "else[1].key",
     "INVALID_ARGUMENT"),
    (replace(SMALL_TXN, then=tuple(TxnPut(b"k%d" % i, b"8 bytes!", "") for i in range(3)),
             otherwise=(TxnPut(b"k", b"8 bytes!", ""), TxnGet(b"kk"))), "then", "BODY_TOO_LARGE"),
    (replace(SMALL_TXN, compare=(Compare(b"", CompareTarget.VERSION, CompareOp.EQ, 0),)),
     "compare[0].key", "INVALID_ARGUMENT"),
    (compare(CompareTarget.VERSION, CompareOp.EQ, -1), "compare[0].value", "INVALID_ARGUMENT"),
    (compare(CompareTarget.VERSION, CompareOp.EQ, True), "compare[0].value", "INVALID_ARGUMENT"),
    (compare(CompareTarget.REVISION, CompareOp.EQ, b"1"), "compare[0].value",
     "INVALID_ARGUMENT"),
    (compare(CompareTarget.VALUE, CompareOp.EQ, 1), "compare[0].value", "INVALID_ARGUMENT"),
    (compare(CompareTarget.VALUE, CompareOp.EQ, b"9 bytes!!"), "compare[0].value",
     "VALUE_TOO_LARGE"),
    (compare(CompareTarget.EXISTS, CompareOp.EQ, 1), "compare[0].value", "INVALID_ARGUMENT"),
    (compare(CompareTarget.EXISTS, CompareOp.LT, True), "compare[0].op", "INVALID_ARGUMENT"),
    (Expire((DueRecord("n", "s", b"k", 1),) * 3, NOW), "due", "INVALID_ARGUMENT"),
    (Expire((), -1), "now_ms", "INVALID_ARGUMENT"),
    (Configure(replace(LIMITS, key_bytes_max=0)), "limits", "INVALID_ARGUMENT"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "field", "code"), REFUSED, ids=range(len(REFUSED)))
def test_bad_input_is_refused_and_the_field_named(command: Command, field: str, code: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        validate(command, LIMITS)
    assert (caught.value.field, caught.value.code) == (field, code)
    assert str(caught.value).startswith(f"{field}: ")
    # Nor does it pass the second time, or behind one with the same names.
    validate(SMALL_PUT, LIMITS)
    with pytest.raises(InvalidArgument) as caught:
        validate(command, LIMITS)
    assert (caught.value.field, caught.value.code) == (field, code)


@pytest.mark.parametrize(
    "command",
    [
        Put("aZ9._", "é\u2028 ", b"\x00/\xff4567", b"8 bytes!", "~ 2345678", 0, 1000, 0, " ~"),
        Put("...", "s", b"k", b"", "", NOW, NOW + 1, (1 << 63) - 1, "12345"),
        then(TxnPut(b"k", b"", ""), TxnGet(b"k")),
        # 40 bytes of keys and values: exactly txn_bytes_max.
        replace(
            then(*(TxnPut(b"k%d" % i, b"8 bytes!", "") for i in range(3))),
            otherwise=(TxnPut(b"kk", b"8 bytes!", ""),),
        ),
        # The same key may be written in each of the branches: one of them runs.
        replace(SMALL_TXN, then=(TxnDelete(b"k"),), otherwise=(TxnDelete(b"k"),)),
        compare(CompareTarget.VALUE, CompareOp.LT, b""),
        compare(CompareTarget.EXISTS, CompareOp.NE, False),
        # Names that have become too long must still be able to expire.
        Expire((DueRecord("n", "s", b"8 bytes!", 1),), NOW),
        Configure(Limits()),
    ],
    ids=range(9),
)
def test_what_the_limits_just_allow_is_accepted(command: Command) -> None:
    validate(command, LIMITS)
    validate(command, LIMITS)


def test_names_are_refused_once_the_limits_have_shrunk() -> None:
    put = SMALL_PUT._replace(namespace="abcd", session="abcd")
    validate(put, LIMITS)
    for field in ("namespace", "session"):
        with pytest.raises(InvalidArgument, match=field):
            validate(put, replace(LIMITS, **{f"{field}_bytes_max": 3}))


def test_the_default_limits_work_and_each_impossible_one_is_named() -> None:
    assert Limits().problems() == []
    for field in fields(Limits):
        for bad in (0, -1, 1.5, True, "1"):
            (problem,) = replace(Limits(), **{field.name: bad}).problems()  # type: ignore[arg-type]
            assert field.name in problem
    for name, value in {
        "session_bytes_max": 447,
        "request_id_bytes_max": 447,
        "key_bytes_max": 1 << 16,
        "value_bytes_max": (1 << 30) + 1,
        "history_versions_max": 1025,
    }.items():
        (problem,) = replace(Limits(), **{name: value}).problems()
        assert name in problem
        assert replace(Limits(), **{name: value - 1}).problems() == []
