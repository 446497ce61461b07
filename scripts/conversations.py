"""LoCoMo-format files: conversations as the turns that are stored of them.

The file is a JSON list of {"sample_id", "conversation": {"session_1": [turns],
"session_1_date_time": text, ...}}; everything else in it is left alone. No I/O but reading it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

NUMBER_MAX = 9999  # sessions of a conversation, turns of a session: four digits in the key
SESSION_BYTES_MAX = 256  # of a sample_id: the API's bound for session names


class BadFile(Exception):
    """The file is not what it should be. The message names the place."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn, as it is stored."""

    session: str
    key: str
    value: bytes


def load(path: Path) -> list[Turn]:
    """Every turn of the file, in the order of the conversations. Raises: BadFile."""
    try:
        document = json.loads(
            path.read_bytes(), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except OSError as error:
        raise BadFile(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadFile(f"{path}: byte {error.start} is not UTF-8 text") from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise BadFile(f"{path}: {place}: not JSON: {error.msg}") from error
    except ValueError as error:
        raise BadFile(f"{path}: {error}") from error
    return turns(document)


def turns(document: object) -> list[Turn]:
    """The turns of a parsed file. Raises: BadFile."""
    if not isinstance(document, list):
        _refuse("file", f"must be a list of conversations, not {_kind(document)}")
    found: list[Turn] = []
    seen: set[str] = set()
    for index, sample in enumerate(document):
        place = f"[{index}]"
        if not isinstance(sample, dict):
            _refuse(place, f"must be an object, not {_kind(sample)}")
        name = _session_name(f"{place}.sample_id", sample.get("sample_id"))
        if name in seen:
            _refuse(f"{place}.sample_id", f"{name!r} occurs twice")
        seen.add(name)
        conversation = sample.get("conversation")
        if not isinstance(conversation, dict):
            _refuse(f"{place}.conversation", f"must be an object, not {_kind(conversation)}")
        found.extend(_conversation(f"{place}.conversation", name, conversation))
    return found


def key_of(session: int, turn: int) -> str:
    """The key of a turn; both numbers count from 1."""
    return f"session_{session:04d}/turn_{turn:04d}"


def canonical(value: object) -> bytes:
    """Canonical JSON: the same value is always the same bytes."""
    text = json.dumps(
        value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
    )
    return text.encode()


def _conversation(place: str, name: str, conversation: dict[str, object]) -> Iterator[Turn]:
    for number, field in _session_fields(place, conversation):
        where = f"{place}.{field}"
        said = conversation[field]
        date_time = conversation.get(f"{field}_date_time")
        if not isinstance(said, list):
            _refuse(where, f"must be a list of turns, not {_kind(said)}")
        if not (date_time is None or isinstance(date_time, str)):
            _refuse(f"{where}_date_time", f"must be text, not {_kind(date_time)}")
        if len(said) > NUMBER_MAX:
            _refuse(where, f"more than {NUMBER_MAX} turns do not fit into the keys")
        for position, turn in enumerate(said):
            _check_turn(f"{where}[{position}]", turn)
            record = {
                "conversation": name,
                "session": number,
                "date_time": date_time,
                "turn": turn,
            }
            try:
                value = canonical(record)
            except UnicodeEncodeError as error:
                raise BadFile(f"{where}[{position}]: holds half of a surrogate pair") from error
            yield Turn(name, key_of(number, position + 1), value)


def _session_fields(place: str, conversation: dict[str, object]) -> list[tuple[int, str]]:
    """(n, name) of each field `session_<n>`, in order of n; other fields are left alone."""
    fields: dict[int, str] = {}
    for field in conversation:
        digits = field.removeprefix("session_")
        if digits == field or not digits.isascii() or not digits.isdigit():
            continue
        number = int(digits) if len(digits) <= len(str(NUMBER_MAX)) else 0
        if number == 0:
            _refuse(f"{place}.{field}", f"sessions are numbered from 1 to {NUMBER_MAX}")
        if number in fields:
            _refuse(f"{place}.{field}", f"is the same session as {fields[number]}")
        fields[number] = field
    if not fields:
        _refuse(place, "holds no session_1, session_2, ...")
    return sorted(fields.items())


def _check_turn(place: str, turn: object) -> None:
    if not isinstance(turn, dict):
        _refuse(place, f"must be an object, not {_kind(turn)}")
    for field in ("speaker", "dia_id", "text"):
        if not isinstance(turn.get(field), str):
            _refuse(f"{place}.{field}", f"must be text, not {_kind(turn.get(field))}")


def _session_name(place: str, name: object) -> str:
    if not isinstance(name, str) or not name:
        _refuse(place, f"must be text, not {_kind(name)}")
    if any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) < 0xE000 for c in name):
        _refuse(place, "holds a character that a session's name cannot have")
    if len(name.encode()) > SESSION_BYTES_MAX:
        _refuse(place, f"is longer than {SESSION_BYTES_MAX} bytes")
    return name


def _refuse(place: str, message: str) -> NoReturn:
    raise BadFile(f"{place}: {message}")


def _kind(value: object) -> str:
    names = {type(None): "nothing", bool: "true or false", int: "a number", float: "a number"}
    names |= {str: "text", list: "a list", dict: "an object"}
    return "empty text" if value == "" else names[type(value)]


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    # json.loads would silently keep the last of two fields of the same name.
    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1:
            raise ValueError(f"the field {name!r} occurs {count} times in one object")
    return dict(pairs)


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")
