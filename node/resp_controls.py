"""Commands on the connection: who one is, which namespace, transactions. See resp_server.py
for those on the server and the cluster."""

from __future__ import annotations

from typing import Final, NamedTuple

from engines.command import Compare, CompareOp, CompareTarget, validate_namespace
from engines.edits import EditLook, EditOp
from engines.errors import InvalidArgument
from engines.interfaces import Held, Result
from node.errors import Unauthenticated
from node.resp_actions import CommandError, Write, all_named, as_ops, finish
from node.resp_connection import Connection
from node.resp_names import DEFAULT_NAMESPACE, InvalidName, namespace
from node.resp_reply import NULL_ARRAY, OK, Reply, Simple
from node.resp_steps import Alone, Control, Proposal, Step, Transaction
from node.resp_writes import Writes

REDIS_VERSION: Final = "7.2.0"  # the version of the protocol and commands that clients may expect
NAME_BYTES_MAX: Final = 64  # of a client's name; the rest is cut off
WATCHED_MAX: Final = 128  # records of one transaction, as txn_ops_max


class Spec(NamedTuple):
    run: Control
    arity: int
    flags: tuple[str, ...] = ("fast",)
    in_transaction: bool = False
    first_key: int = 0
    last_key: int = 0
    step: int = 0


def text(word: bytes) -> str:
    return word.decode("utf-8", "replace")


# --- Connection ----------------------------------------------------------------------------


def _ping(connection: Connection, words: list[bytes]) -> Step:
    if len(words) > 2:
        raise CommandError("wrong number of arguments for 'ping' command")
    return words[1] if len(words) == 2 else Simple("PONG")


def _echo(connection: Connection, words: list[bytes]) -> Step:
    return words[1]


def _auth(connection: Connection, words: list[bytes]) -> Step:
    if len(words) > 3:
        raise CommandError("syntax error")
    _authenticate(connection, words[-1])
    return OK


def _authenticate(connection: Connection, token: bytes) -> None:
    """Any user name will do: the token says who it is."""
    tokens = connection.door.tokens
    if tokens is None:
        raise CommandError("AUTH is not needed: this node has no tokens (auth.tokens_file)")
    try:
        connection.authenticated(tokens.authenticate(f"Bearer {token.decode('latin-1')}"))
    except Unauthenticated:
        raise CommandError("the token is not known here", "WRONGPASS") from None


def _hello(connection: Connection, words: list[bytes]) -> Step:
    protocol = connection.protocol
    rest = list(words[1:])
    if rest:
        version = rest.pop(0)
        if version not in (b"2", b"3"):
            raise CommandError("unsupported protocol version", "NOPROTO")
        protocol = int(version)
    name: bytes | None = None
    while rest:
        option = rest.pop(0).upper()
        if option == b"AUTH" and len(rest) >= 2:
            _authenticate(connection, rest[1])
            del rest[:2]
        elif option == b"SETNAME" and rest:
            name = rest.pop(0)
        else:
            raise CommandError("syntax error in HELLO")
    if not connection.open:
        raise CommandError(
            "HELLO must be called with the client already authenticated, otherwise the "
            "HELLO <proto> AUTH <user> <pass> option can be used",
            "NOAUTH",
        )
    connection.protocol = protocol
    if name is not None:
        connection.name = text(name[:NAME_BYTES_MAX])
    return {
        "server": "redis",
        "version": REDIS_VERSION,
        "proto": protocol,
        "id": connection.number,
        "mode": "cluster",
        "role": "master",  # every node takes writes; INFO says which one leads
        "modules": [],
    }


def _select(connection: Connection, words: list[bytes]) -> Step:
    try:
        name = namespace(words[1])
        validate_namespace(name, connection.door.writes.limits)
    except (InvalidName, InvalidArgument) as error:
        raise CommandError(str(error)) from None
    connection.namespace = name
    return OK


def _quit(connection: Connection, words: list[bytes]) -> Step:
    connection.close_after_replies()
    return OK


def _reset(connection: Connection, words: list[bytes]) -> Step:
    connection.transaction = None
    connection.watched.clear()
    connection.namespace = DEFAULT_NAMESPACE
    connection.protocol = 2
    connection.stale = False
    connection.name = ""
    connection.leave()
    return Simple("RESET")


def _readonly(stale: bool) -> Control:
    def run(connection: Connection, words: list[bytes]) -> Step:
        connection.stale = stale
        return OK

    return run


# --- Transactions --------------------------------------------------------------------------


def _multi(connection: Connection, words: list[bytes]) -> Step:
    if connection.transaction is not None:
        raise CommandError("MULTI calls can not be nested")
    connection.transaction = Transaction()
    return OK


def _discard(connection: Connection, words: list[bytes]) -> Step:
    if connection.transaction is None:
        raise CommandError("DISCARD without MULTI")
    connection.transaction = None
    connection.watched.clear()
    return OK


def _watch(connection: Connection, words: list[bytes]) -> Step:
    if connection.transaction is not None:
        raise CommandError("WATCH inside MULTI is not allowed")
    names = all_named(words[1:])
    where = connection.namespace
    if len(connection.watched) + len(names) > WATCHED_MAX:
        raise CommandError(f"at most {WATCHED_MAX} keys can be watched")

    async def run() -> Reply:
        wanted = [(name.session, name.key, False) for name in names]
        found = await connection.door.reads.get(where, wanted)
        for name, held in zip(names, found, strict=True):
            # What was watched first stays: a change since then must not be overlooked.
            connection.watched.setdefault((where, *name), _revision(held))
        return OK

    return Alone(run)


def _revision(held: Held | None) -> int:
    return 0 if held is None else held.revision


def _unwatch(connection: Connection, words: list[bytes]) -> Step:
    connection.watched.clear()
    return OK


def _exec(connection: Connection, words: list[bytes]) -> Step:
    transaction, watched = connection.transaction, dict(connection.watched)
    if transaction is None:
        raise CommandError("EXEC without MULTI")
    connection.transaction = None
    connection.watched.clear()
    if transaction.spoilt:
        raise CommandError("Transaction discarded because of previous errors.", "EXECABORT")
    parts = [as_ops(action) for action in transaction.actions]
    sessions = {session for session, _ in parts} | {record[1] for record in watched}
    places = {record[0] for record in watched} | {connection.namespace}
    if len(sessions) > 1 or len(places) > 1:
        raise CommandError("Keys in request don't hash to the same slot", "CROSSSLOT")
    if not sessions:
        return []
    ops: list[EditOp] = [op for _, part in parts for op in part]
    compares = [
        Compare(key, CompareTarget.REVISION, CompareOp.EQ, revision)
        for (_, _, key), revision in watched.items()
    ]
    # With nothing to do, what is watched is still compared.
    ops = ops or [EditLook(compares[0].key)]
    now_ms = connection.door.clock.now_ms()
    write = Write(sessions.pop(), tuple(ops), lambda answers: None)
    command = connection.door.writes.edit(connection.namespace, write, now_ms, compares)

    def told(result: Result) -> Reply:
        if Writes.refused(result):
            return NULL_ARRAY
        answers = iter(Writes.answers(result))
        return [
            finish(action, [next(answers) for _ in part])
            for action, (_, part) in zip(transaction.actions, parts, strict=True)
        ]

    return Proposal(command, told)


# --- CLIENT --------------------------------------------------------------------------------


def _client(connection: Connection, words: list[bytes]) -> Step:
    run = _CLIENT.get(words[1].upper())
    if run is None:
        raise CommandError(f"unknown subcommand '{text(words[1])}' of CLIENT")
    return run(connection, words)


def _client_setname(connection: Connection, words: list[bytes]) -> Step:
    if len(words) != 3 or any(letter <= 32 or letter > 126 for letter in words[2]):
        raise CommandError("Client names cannot contain spaces, newlines or special characters.")
    connection.name = text(words[2][:NAME_BYTES_MAX])
    return OK


def _client_info(connection: Connection, words: list[bytes]) -> Step:
    # Clients want a number; the namespace's name comes beside it.
    database = 0 if connection.namespace == DEFAULT_NAMESPACE else -1
    return (
        f"id={connection.number} addr={connection.address} name={connection.name} "
        f"db={database} namespace={connection.namespace} user={connection.user or 'default'} "
        f"resp={connection.protocol}\n"
    )


def _ok(connection: Connection, words: list[bytes]) -> Step:
    return OK


_CLIENT: Final[dict[bytes, Control]] = {
    b"GETNAME": lambda connection, words: connection.name,
    b"ID": lambda connection, words: connection.number,
    b"INFO": _client_info,
    b"NO-EVICT": _ok,  # nothing is evicted
    b"NO-TOUCH": _ok,
    b"SETINFO": _ok,
    b"SETNAME": _client_setname,
}

CONNECTION_COMMANDS: Final[dict[str, Spec]] = {
    "auth": Spec(_auth, -2),
    "client": Spec(_client, -2),
    "discard": Spec(_discard, 1, in_transaction=True),
    "echo": Spec(_echo, 2),
    "exec": Spec(_exec, 1, in_transaction=True),
    "hello": Spec(_hello, -1),
    "multi": Spec(_multi, 1, in_transaction=True),
    "ping": Spec(_ping, -1),
    "quit": Spec(_quit, -1, in_transaction=True),
    "readonly": Spec(_readonly(True), 1),
    "readwrite": Spec(_readonly(False), 1),
    "reset": Spec(_reset, 1, in_transaction=True),
    "select": Spec(_select, 2),
    "unwatch": Spec(_unwatch, 1),
    "watch": Spec(_watch, -2, in_transaction=True, first_key=1, last_key=-1, step=1),
}
