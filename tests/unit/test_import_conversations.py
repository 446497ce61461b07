"""Conversation files: what is stored of them, and what is refused and where."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from scripts import import_conversations as script

conversations = script.conversations
BadFile = conversations.BadFile


def turn(text: str = "Hello", **fields: Any) -> dict[str, Any]:
    return {"speaker": "Ada", "dia_id": "D1:1", "text": text, **fields}


def sample(**fields: Any) -> dict[str, Any]:
    return {"sample_id": "talk-1", "conversation": {"session_1": [turn()], **fields}}


def test_a_turn_becomes_canonical_json_with_its_date() -> None:
    said = turn("„ä“", **{"re-download": True, "img_url": ["b", "a"]})
    date_time = "1:56 pm on 8 May, 2023"
    (stored,) = conversations.turns([sample(session_1=[said], session_1_date_time=date_time)])
    assert (stored.session, stored.key) == ("talk-1", "session_0001/turn_0001")
    assert (
        stored.value
        == (
            '{"conversation":"talk-1","date_time":"1:56 pm on 8 May, 2023","session":1,"turn":'
            '{"dia_id":"D1:1","img_url":["b","a"],"re-download":true,"speaker":"Ada","text":"„ä“"}}'
        ).encode()
    )


def test_keys_sort_as_the_conversation_went() -> None:
    fields = {f"session_{n}": [turn() for _ in range(12)] for n in (10, 9, 2, 100, 1)}
    found = conversations.turns([{"sample_id": "t", "conversation": fields}])
    keys = [each.key for each in found]
    assert keys == sorted(keys, key=str.encode)
    assert len(set(keys)) == 60
    assert keys[12] == "session_0002/turn_0001"
    assert keys[-1] == "session_0100/turn_0012"


def test_the_order_of_fields_does_not_change_the_bytes() -> None:
    one = {"speaker": "A", "dia_id": "D1:1", "text": "x"}
    other = {"text": "x", "dia_id": "D1:1", "speaker": "A"}
    values = [conversations.turns([sample(session_1=[each])])[0].value for each in (one, other)]
    assert values[0] == values[1]


def test_dates_without_a_session_and_annotations_are_left_alone() -> None:
    document = sample(session_7_date_time="tomorrow", speaker_a="Ada", events_session_1=[])
    document |= {"qa": [{"question": 1}], "session_summary": "anything"}
    assert len(conversations.turns([document])) == 1
    assert conversations.turns([sample(session_2=[])])[0].key == "session_0001/turn_0001"
    assert conversations.turns([]) == []


def broken(**changes: Any) -> dict[str, Any]:
    document = copy.deepcopy(sample())
    document |= changes
    return document


MALFORMED: list[tuple[Any, str]] = [
    ({}, "file: must be a list"),
    ([7], r"\[0\]: must be an object"),
    ([{"conversation": {}}], r"\[0\].sample_id: must be text, not nothing"),
    ([broken(sample_id=3)], r"\[0\].sample_id: must be text, not a number"),
    ([broken(sample_id="")], r"\[0\].sample_id: must be text, not empty text"),
    ([broken(sample_id="a\x00b")], r"\[0\].sample_id: holds a character"),
    ([broken(sample_id="ä" * 129)], r"\[0\].sample_id: is longer than 256 bytes"),
    ([sample(), sample()], r"\[1\].sample_id: 'talk-1' occurs twice"),
    ([broken(conversation=[])], r"\[0\].conversation: must be an object, not a list"),
    ([broken(conversation={"speaker_a": "x"})], r"\[0\].conversation: holds no session_1"),
    ([sample(session_2={})], r"\[0\].conversation.session_2: must be a list"),
    ([sample(session_0=[])], r"\[0\].conversation.session_0: sessions are numbered from 1"),
    ([sample(session_12345=[])], r"session_12345: sessions are numbered from 1 to 9999"),
    ([sample(session_01=[])], r"session_01: is the same session as session_1"),
    ([sample(session_1_date_time=7)], r"session_1_date_time: must be text, not a number"),
    ([sample(session_1=[turn(), "x"])], r"session_1\[1\]: must be an object, not text"),
    ([sample(session_1=[{"speaker": "A", "dia_id": "D"}])], r"session_1\[0\].text: must be text"),
    ([sample(session_1=[turn(speaker=None)])], r"\[0\].speaker: must be text, not nothing"),
    ([sample(session_1=[turn(dia_id=True)])], r"\[0\].dia_id: must be text, not true or false"),
    ([sample(session_1=[turn("\ud800")])], r"session_1\[0\]: holds half of a surrogate pair"),
    ([sample(session_1=[turn()] * 10_000)], r"session_1: more than 9999 turns"),
]


@pytest.mark.parametrize(("document", "message"), MALFORMED)
def test_what_is_malformed_is_refused_naming_the_place(document: Any, message: str) -> None:
    with pytest.raises(BadFile, match=message):
        conversations.turns(document)


FILES: list[tuple[bytes, str]] = [
    (b"", "line 1, column 1: not JSON"),
    (b'[{"sample_id":\n  nope}]', "line 2, column 3: not JSON"),
    (b'["\xff"]', "byte 2 is not UTF-8"),
    (b'[{"a": 1, "a": 2}]', "field 'a' occurs 2 times"),
    (b"[NaN]", "NaN is not JSON"),
]


@pytest.mark.parametrize(("content", "message"), FILES)
def test_a_file_that_is_no_json_says_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    file = tmp_path / "talks.json"
    file.write_bytes(content)
    with pytest.raises(BadFile, match=message):
        conversations.load(file)
    assert script.main([str(file), "--endpoints", "http://127.0.0.1:1"]) == 2
    told = capsys.readouterr().err
    assert str(file) in told
    assert message in told


def test_a_missing_file_and_a_missing_cluster_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "talks.json"
    nowhere = ["--endpoints", "http://127.0.0.1:1", "--timeout-ms", "200", "--quiet"]
    assert script.main([str(file), *nowhere]) == 2
    assert "No such file" in capsys.readouterr().err
    file.write_text(json.dumps([sample()]))
    assert script.main([str(file), *nowhere]) == 1
    assert "run it again" in capsys.readouterr().err


def test_requests_are_bounded_and_keep_the_order() -> None:
    def made(size: int) -> Any:
        return conversations.Turn("s", "k", b"x" * size)

    small = [made(1) for _ in range(250)]
    assert [len(batch) for batch in script.batches(small)] == [100, 100, 50]
    large = [made(script.BATCH_BYTES_MAX), made(1), made(script.BATCH_BYTES_MAX + 1), made(1)]
    found = list(script.batches(large))
    assert [len(batch) for batch in found] == [1, 1, 1, 1]
    assert [each for batch in found for each in batch] == large


def test_request_ids_differ_between_turns_and_between_runs() -> None:
    one = conversations.Turn("s", "k", b"v")
    assert script.request_id("r", "n", one) == script.request_id("r", "n", one)
    others = [
        ("r2", "n", one),
        ("r", "n2", one),
        ("r", "n", conversations.Turn("s2", "k", b"v")),
        ("r", "n", conversations.Turn("s", "k2", b"v")),
        ("r", "n", conversations.Turn("s", "k", b"v2")),
    ]
    ids = {script.request_id(*each) for each in others} | {script.request_id("r", "n", one)}
    assert len(ids) == 6
    assert all(len(each) <= 128 and each.isascii() for each in ids)
