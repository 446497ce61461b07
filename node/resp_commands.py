"""The commands on records: from words to operations, and from answers to replies. Pure.

A command becomes a `Read`, what to look up in any sessions, or a `Write`, an edit of one
session. Inside MULTI a read is made an edit's operations too. Several keys in one write
must be of one session, which is stricter than one slot and looks the same to a client that
uses tags; several keys in a read may be anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from engines.edits import (
    NUMBER_MAX,
    Answer,
    Aspect,
    DeadlineWhen,
    EditAdd,
    EditAddDecimal,
    EditDeadline,
    EditError,
    EditLook,
    EditRemove,
    EditSet,
    EditSplice,
    When,
)
from node.resp_actions import (
    Action,
    Arguments,
    CommandError,
    Look,
    Parse,
    Read,
    Spec,
    Write,
    all_named,
    integer,
    named,
    one_session,
)
from node.resp_names import Name
from node.resp_reply import OK, Reply, Simple

CONTENT_TYPE: Final = "application/octet-stream"  # of values that come without one

_UNITS: Final = {b"EX": (1000, False), b"PX": (1, False), b"EXAT": (1000, True), b"PXAT": (1, True)}
_DEADLINE_WHEN: Final = {
    b"NX": DeadlineWhen.NONE,
    b"XX": DeadlineWhen.SOME,
    b"GT": DeadlineWhen.LATER,
    b"LT": DeadlineWhen.EARLIER,
}


# --- Words ------------------------------------------------------------------------------------


def _deadline(word: bytes, unit: tuple[int, bool], now_ms: int, command: str) -> int:
    """ms since 1970 of a SET's time to live, which must lie in the future or be absolute."""
    scale, absolute = unit
    number = integer(word)
    if number <= 0 or number > NUMBER_MAX // scale - now_ms:
        raise CommandError(f"invalid expire time in '{command}' command")
    return number * scale + (0 if absolute else now_ms)


def _syntax() -> CommandError:
    return CommandError("syntax error")


# --- Replies -------------------------------------------------------------------------------


def _first(answers: Sequence[Answer]) -> Reply:
    answer = answers[0]
    assert not isinstance(answer, EditError), "finish has dealt with it"
    return answer


def _all(answers: Sequence[Answer]) -> Reply:
    return [_first((answer,)) for answer in answers]


def _count(answers: Sequence[Answer]) -> Reply:
    return sum(bool(answer) for answer in answers)


def _number(answers: Sequence[Answer]) -> Reply:
    return int(bool(answers[0]))


def _ok(answers: Sequence[Answer]) -> Reply:
    return OK


def _ok_if_done(answers: Sequence[Answer]) -> Reply:
    return OK if answers[0] else None


# --- Writing -------------------------------------------------------------------------------


def _set(words: Arguments, now_ms: int) -> Action:
    name, value = named(words[1]), words[2]
    if len(words) == 3:
        return Write(name.session, (EditSet(name.key, value, CONTENT_TYPE),), _ok, plain=True)
    when, get, keep, expires_ms = When.ALWAYS, False, False, None
    rest = iter(words[3:])
    for word in rest:
        option = word.upper()
        if option in (b"NX", b"XX") and when is When.ALWAYS:
            when = When.ABSENT if option == b"NX" else When.PRESENT
        elif option == b"GET":
            get = True
        elif option == b"KEEPTTL" and expires_ms is None:
            keep = True
        elif option in _UNITS and expires_ms is None and not keep:
            given = next(rest, None)
            if given is None:
                raise _syntax()
            expires_ms = _deadline(given, _UNITS[option], now_ms, "set")
        else:
            raise _syntax()
    if expires_ms is not None and expires_ms <= now_ms:
        return _set_in_the_past(name, when, get)
    op = EditSet(name.key, value, CONTENT_TYPE, expires_ms, keep, when, get)
    plain = not (get or keep or when)
    return Write(name.session, (op,), _first if get else _ok_if_done, plain)


def _set_in_the_past(name: Name, when: When, get: bool) -> Action:
    """Storing what has expired already comes to removing it."""
    if when is not When.ALWAYS:
        raise CommandError("invalid expire time in 'set' command")
    return Write(name.session, (EditRemove(name.key, get),), _first if get else _ok)


def _setnx(words: Arguments, now_ms: int) -> Action:
    name = named(words[1])
    op = EditSet(name.key, words[2], CONTENT_TYPE, when=When.ABSENT)
    return Write(name.session, (op,), _number)


def _setex(scale: int) -> Parse:
    def parse(words: Arguments, now_ms: int) -> Action:
        name = named(words[1])
        command = words[0].decode("latin-1").lower()
        expires_ms = _deadline(words[2], (scale, False), now_ms, command)
        op = EditSet(name.key, words[3], CONTENT_TYPE, expires_ms)
        return Write(name.session, (op,), _ok, plain=True)

    return parse


def _getset(words: Arguments, now_ms: int) -> Action:
    name = named(words[1])
    return Write(name.session, (EditSet(name.key, words[2], CONTENT_TYPE, get=True),), _first)


def _getdel(words: Arguments, now_ms: int) -> Action:
    name = named(words[1])
    return Write(name.session, (EditRemove(name.key, get=True),), _first)


def _getex(words: Arguments, now_ms: int) -> Action:
    name = named(words[1])
    option = words[2].upper() if len(words) > 2 else b""
    if len(words) == 2:
        return Read((Look(name.session, name.key, Aspect.VALUE),), _first)
    if len(words) == 3 and option == b"PERSIST":
        expires_ms = None
    elif len(words) == 4 and option in _UNITS:
        expires_ms = _deadline(words[3], _UNITS[option], now_ms, "getex")
    else:
        raise _syntax()
    return Write(name.session, (EditLook(name.key), EditDeadline(name.key, expires_ms)), _first)


def _mset(words: Arguments, now_ms: int) -> Action:
    if len(words) % 2 == 0:
        raise CommandError("wrong number of arguments for 'mset' command")
    names = all_named(words[1::2])
    ops = tuple(
        EditSet(name.key, value, CONTENT_TYPE)
        for name, value in zip(names, words[2::2], strict=True)
    )
    return Write(one_session([name.session for name in names]), ops, _ok)


def _del(words: Arguments, now_ms: int) -> Action:
    names = all_named(words[1:])
    session = one_session([name.session for name in names])
    return Write(session, tuple(EditRemove(name.key) for name in names), _count)


def _add(sign: int) -> Parse:
    def parse(words: Arguments, now_ms: int) -> Action:
        name = named(words[1])
        amount = sign * (integer(words[2]) if len(words) == 3 else 1)
        if amount > NUMBER_MAX:
            raise CommandError("decrement would overflow")
        return Write(name.session, (EditAdd(name.key, amount),), _first)

    return parse


def _add_decimal(words: Arguments, now_ms: int) -> Action:
    name = named(words[1])
    try:
        amount = words[2].decode("ascii")
    except UnicodeDecodeError:
        raise CommandError("value is not a valid float") from None
    return Write(name.session, (EditAddDecimal(name.key, amount),), _first)


def _append(words: Arguments, now_ms: int) -> Action:
    name = named(words[1])
    return Write(name.session, (EditSplice(name.key, words[2]),), _first)


def _setrange(words: Arguments, now_ms: int) -> Action:
    name, offset = named(words[1]), integer(words[2])
    if offset < 0:
        raise CommandError("offset is out of range")
    return Write(name.session, (EditSplice(name.key, words[3], offset),), _first)


def _expire(scale: int, *, absolute: bool) -> Parse:
    def parse(words: Arguments, now_ms: int) -> Action:
        name, number = named(words[1]), integer(words[2])
        when = DeadlineWhen.ALWAYS
        if len(words) == 4:
            found = _DEADLINE_WHEN.get(words[3].upper())
            if found is None:
                raise CommandError(f"Unsupported option {words[3].decode('utf-8', 'replace')}")
            when = found
        elif len(words) > 4:
            raise CommandError("give one of NX, XX, GT and LT")
        command = words[0].decode("latin-1").lower()
        if abs(number) > NUMBER_MAX // scale - now_ms:
            raise CommandError(f"invalid expire time in '{command}' command")
        expires_ms = max(0, number * scale + (0 if absolute else now_ms))
        return Write(name.session, (EditDeadline(name.key, expires_ms, when),), _number)

    return parse


def _persist(words: Arguments, now_ms: int) -> Action:
    name = named(words[1])
    return Write(name.session, (EditDeadline(name.key, None),), _number)


# --- Reading -------------------------------------------------------------------------------


def _look(aspect: Aspect, reply: Callable[[Sequence[Answer]], Reply]) -> Parse:
    def parse(words: Arguments, now_ms: int) -> Action:
        name = named(words[1])
        return Read((Look(name.session, name.key, aspect),), reply)

    return parse


def _look_at_all(aspect: Aspect, reply: Callable[[Sequence[Answer]], Reply]) -> Parse:
    def parse(words: Arguments, now_ms: int) -> Action:
        names = all_named(words[1:])
        return Read(tuple(Look(name.session, name.key, aspect) for name in names), reply)

    return parse


def _getrange(words: Arguments, now_ms: int) -> Action:
    name, start, end = named(words[1]), integer(words[2]), integer(words[3])

    def cut(answers: Sequence[Answer]) -> Reply:
        value = answers[0]
        if not isinstance(value, bytes):
            return b""
        size = len(value)
        first = max(0, start + size if start < 0 else start)
        last = end + size if end < 0 else end
        return value[first : last + 1] if last >= first else b""

    return Read((Look(name.session, name.key, Aspect.VALUE),), cut)


def _type(answers: Sequence[Answer]) -> Reply:
    return Simple("string" if answers[0] else "none")


def _ttl(scale: int, *, absolute: bool) -> Parse:
    def parse(words: Arguments, now_ms: int) -> Action:
        name = named(words[1])

        def left(answers: Sequence[Answer]) -> Reply:
            expires_ms = answers[0]
            if not isinstance(expires_ms, int):
                return -2
            if expires_ms == 0:
                return -1
            return (expires_ms - (0 if absolute else now_ms) + scale // 2) // scale

        return Read((Look(name.session, name.key, Aspect.DEADLINE),), left)

    return parse


_WRITES: Final = ("write", "denyoom", "fast")
_REMOVES: Final = ("write", "fast")
_READS: Final = ("readonly", "fast")

COMMANDS: Final[dict[str, Spec]] = {
    "append": Spec(_append, 3, _WRITES),
    "decr": Spec(_add(-1), 2, _WRITES),
    "decrby": Spec(_add(-1), 3, _WRITES),
    "del": Spec(_del, -2, _REMOVES, -1),
    "exists": Spec(_look_at_all(Aspect.EXISTS, _count), -2, _READS, -1),
    "expire": Spec(_expire(1000, absolute=False), -3, _REMOVES),
    "expireat": Spec(_expire(1000, absolute=True), -3, _REMOVES),
    "expiretime": Spec(_ttl(1000, absolute=True), 2, _READS),
    "get": Spec(_look(Aspect.VALUE, _first), 2, _READS),
    "getdel": Spec(_getdel, 2, _REMOVES),
    "getex": Spec(_getex, -2, _REMOVES),
    "getrange": Spec(_getrange, 4, _READS),
    "getset": Spec(_getset, 3, _WRITES),
    "incr": Spec(_add(1), 2, _WRITES),
    "incrby": Spec(_add(1), 3, _WRITES),
    "incrbyfloat": Spec(_add_decimal, 3, _WRITES),
    "mget": Spec(_look_at_all(Aspect.VALUE, _all), -2, _READS, -1),
    "mset": Spec(_mset, -3, _WRITES, -1, 2),
    "persist": Spec(_persist, 2, _REMOVES),
    "pexpire": Spec(_expire(1, absolute=False), -3, _REMOVES),
    "pexpireat": Spec(_expire(1, absolute=True), -3, _REMOVES),
    "pexpiretime": Spec(_ttl(1, absolute=True), 2, _READS),
    "psetex": Spec(_setex(1), 4, _WRITES),
    "pttl": Spec(_ttl(1, absolute=False), 2, _READS),
    "set": Spec(_set, -3, _WRITES),
    "setex": Spec(_setex(1000), 4, _WRITES),
    "setnx": Spec(_setnx, 3, _WRITES),
    "setrange": Spec(_setrange, 4, _WRITES),
    "strlen": Spec(_look(Aspect.LENGTH, _first), 2, _READS),
    "substr": Spec(_getrange, 4, _READS),
    "touch": Spec(_look_at_all(Aspect.EXISTS, _count), -2, _READS, -1),
    "ttl": Spec(_ttl(1000, absolute=False), 2, _READS),
    "type": Spec(_look(Aspect.EXISTS, _type), 2, _READS),
    "unlink": Spec(_del, -2, _REMOVES, -1),
}
