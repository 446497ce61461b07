"""The relational engine: SQL over a database of SQLite whose pages are items.

A write is one or more statements that happen together or not at all; a read sees one snapshot.
See `relational_pages.py` for how, and `relational_rules.py` for what SQL may not do.
"""

from __future__ import annotations

import base64
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from engines.codec import Value
from engines.engine import Kind, Parameters, Refused, Settings, Stamp
from engines.errors import InvalidArgument, QueryCancelled
from engines.interfaces import RejectCode
from engines.relational_functions import WorkDone
from engines.relational_pages import (
    NO_PAGES,
    PAGE_BYTES,
    ROWID_MAX,
    Database,
    Interrupted,
    OutOfMemory,
    SQLError,
    is_full,
    is_taken,
    run,
)
from engines.relational_rules import Rules
from engines.space import ItemChange, Space, View
from engines.text_parameters import Given

STATEMENTS_MAX: Final = 1_000  # of one write
# Of SQLite's virtual machine, of one write: 0.2 s or so, in which no replica does anything else.
STEPS_MAX: Final = 10_000_000
_STEPS: Final = 10_000  # between two looks
_READ_STEPS: Final = 1_000  # of a read, which may be tried on the event loop
ROWS_DEFAULT: Final = 1_000
ROWS_MAX: Final = 10_000
ANSWER_BYTES_MAX: Final = 12 << 20
DATABASE_BYTES_MIN: Final = 1 << 20
DATABASE_BYTES_MAX: Final = 64 << 30
DATABASE_BYTES_DEFAULT: Final = 1 << 30
CONNECTIONS_MAX: Final = 4  # kept for reads of one collection
REMEMBERED_MAX: Final = 500  # statements that one of them remembers something of

_TABLES = "SELECT name, type, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY name"


class RelationalEngine:
    """See the module. `Engine`."""

    name = "relational"
    aliases = ("sqlite", "sql")
    capabilities = frozenset({"sql", "transactions", "search", "analytics"})
    operations = MappingProxyType(
        {"sql_execute": Kind.WRITE, "sql_query": Kind.READ, "sql_tables": Kind.READ}
    )

    brief = frozenset({"sql_query"})

    def settings(self, given: Parameters, current: Settings | None) -> dict[str, Value]:
        fields = Given(given, "settings", ("bytes_max",))
        default = DATABASE_BYTES_DEFAULT if current is None else current["bytes_max"]
        return {
            "bytes_max": fields.integer(
                "bytes_max", DATABASE_BYTES_MIN, DATABASE_BYTES_MAX, default
            )
        }

    def altered(self, space: Space, old: Settings, new: Settings) -> None:
        """A database that is larger already stays, and cannot grow."""

    # --- Writes --------------------------------------------------------------------

    def prepare(self, operation: str, parameters: Parameters) -> Value:
        if "statements" not in parameters:
            return [_statement(parameters, "parameters")]
        given = Given(parameters, "parameters", ("statements",))
        return [
            _statement(each, f"parameters.statements[{place}]")
            for place, each in enumerate(given.objects("statements", STATEMENTS_MAX))
        ]

    def apply(
        self, space: Space, settings: Settings, operation: str, body: Any, stamp: Stamp
    ) -> Value:
        database = Database(space, writable=True)
        try:
            database.stamp(*stamp)
            result: Value = run(database, lambda: _execute(database, settings, body))
            return result
        finally:
            database.close()

    # --- Reads ---------------------------------------------------------------------

    def query(
        self, view: View, settings: Settings, operation: str, parameters: Parameters
    ) -> Value:
        pool = view.index
        assert isinstance(pool, Connections)
        if operation == "sql_tables":
            Given(parameters, "parameters", ())
            wanted: tuple[str, Any, int] = (_TABLES, [], ROWS_MAX)
        else:
            given = Given(parameters, "parameters", ("sql", "params", "limit"))
            sql, params = _statement(parameters, "parameters", ("limit",))
            wanted = (sql, params, given.integer("limit", 1, ROWS_MAX, ROWS_DEFAULT))
        reader = pool.take(view)
        try:
            answer: Value = run(reader.database, lambda: _select(reader, view, *wanted))
        except BaseException as error:
            refused = isinstance(error, InvalidArgument | QueryCancelled)
            if refused and reader.database.trouble is None:
                pool.give(reader)
            else:
                reader.database.close()
            raise
        pool.give(reader)
        return answer

    def index(self, settings: Settings) -> Connections:
        return Connections()

    def check(self, view: View, settings: Settings) -> Iterator[str]:
        database = Database(view, writable=False)
        try:
            for row in run(database, lambda: list(_rows(database, "PRAGMA integrity_check", []))):
                if row != ("ok",):
                    yield f"SQLite: {row[0]}"
        except SQLError as error:
            yield f"SQLite: {error}"
        finally:
            database.close()


class Reader:
    """A connection for reads. Its rules stay: SQLite forgets what it has prepared whenever it is
    given others, and preparing a statement takes longer than looking up a row."""

    def __init__(self, view: View) -> None:
        self.database = database = Database(view, writable=False)
        self.rules = Rules()
        # SQLite asks the rules when it prepares a statement, not when it uses it again.
        self.random: set[str] = set()
        self.costly: set[str] = set()
        self.looks = 0  # of SQLite's, at whether it is to stop, during the statement that runs
        database.connection.authorizer = self.rules
        database.connection.set_progress_handler(self._stopped, _READ_STEPS)

    def _stopped(self) -> bool:
        # It counts the steps of all runs of a statement together, so that the first look may
        # come at once.
        self.looks += 1
        if self.looks == 1:
            return False
        store: Any = self.database.store
        return bool(store.stopped)


class Connections:
    """Connections for reads of one collection, which keep what they have parsed and cached."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[Reader] = []
        self._closed = False

    def take(self, view: View) -> Reader:
        """One that reads from `view`."""
        with self._lock:
            reader = self._free.pop() if self._free else None
        if reader is None:
            return Reader(view)
        reader.database.store = view
        return reader

    def give(self, reader: Reader) -> None:
        # A snapshot's place among the readers is free once nothing refers to it.
        reader.database.store = NO_PAGES
        with self._lock:
            keep = (
                not self._closed
                # A statement that is under way would show the next reader its own snapshot.
                and reader.database.idle
                and len(self._free) < CONNECTIONS_MAX
                and len(reader.random) + len(reader.costly) < REMEMBERED_MAX
            )
            if keep:
                self._free.append(reader)
        if not keep:
            reader.database.close()

    # `DerivedIndex`: nothing is derived but what SQLite itself looks after.

    @property
    def failed(self) -> bool:
        return False

    def build(self, view: View) -> None: ...

    def changed(self, changes: Sequence[ItemChange], log_index: int) -> None: ...

    def close(self) -> None:
        with self._lock:
            self._closed = True
            free, self._free = self._free, []
        for reader in free:
            reader.database.close()


# --- Running statements --------------------------------------------------------------


def _execute(database: Database, settings: Settings, statements: Any) -> Value:
    """All of them in one transaction. Raises Refused."""
    rules = Rules()
    connection = database.connection
    pages = int(settings["bytes_max"]) // PAGE_BYTES
    database.run_all(f"PRAGMA max_page_count = {pages}; BEGIN IMMEDIATE")
    connection.authorizer = rules
    steps = 0

    def count() -> bool:
        nonlocal steps
        steps += _STEPS
        return steps > STEPS_MAX

    connection.set_progress_handler(count, _STEPS)
    results: list[Value] = []
    room = ANSWER_BYTES_MAX
    for place, (sql, params) in enumerate(statements):
        rules.reason = None
        before = connection.total_changes()
        try:
            columns, rows, more = _answer(database, sql, params, ROWS_MAX, room, reads=False)
        except (SQLError, InvalidArgument, ValueError) as error:
            if database.trouble is not None or isinstance(error, OutOfMemory):
                raise  # This replica's trouble, and no refusal, which is every replica's.
            raise _refused(error, rules, place, len(statements)) from error
        if database.last_row_used:
            raise Refused(
                RejectCode.LIMIT_EXCEEDED,
                f"the rowid {ROWID_MAX} cannot be used: SQLite would choose later ones by chance",
                _field(place, len(statements)),
            )
        if more:
            raise Refused(RejectCode.LIMIT_EXCEEDED, "the statements return too much")
        result: dict[str, Value] = {
            "changes": connection.total_changes() - before,
            "last_insert_rowid": connection.last_insert_rowid(),
        }
        if columns:
            result |= {"columns": columns, "rows": rows}
        results.append(result)
    connection.authorizer = None
    connection.set_progress_handler(None)
    try:
        database.run_all("COMMIT")
    except SQLError as error:
        if database.trouble is not None or isinstance(error, OutOfMemory):
            raise
        raise _refused(error, rules, len(statements) - 1, len(statements)) from error
    return {"results": results}


def _field(place: int, count: int) -> str:
    return "parameters.sql" if count == 1 else f"parameters.statements[{place}].sql"


def _refused(error: Exception, rules: Rules, place: int, count: int) -> Refused:
    field = _field(place, count)
    if isinstance(error, Interrupted):
        message = f"takes more than {STEPS_MAX} steps of SQLite"
        return Refused(RejectCode.LIMIT_EXCEEDED, message, field)
    if isinstance(error, WorkDone):
        return Refused(RejectCode.LIMIT_EXCEEDED, str(error), field)
    if is_full(error):
        return Refused(RejectCode.LIMIT_EXCEEDED, "the database has reached bytes_max", field)
    message = _message(error, rules)
    code = RejectCode.ITEM_EXISTS if is_taken(error) else RejectCode.INVALID_ARGUMENT
    return Refused(code, message, field)


def _select(reader: Reader, view: View, sql: str, params: Any, limit: int) -> Value:
    """The rows of one statement. Raises InvalidArgument, QueryCancelled."""
    database, rules = reader.database, reader.rules
    brief = view.tuning.brief
    if sql in reader.costly:
        view.long()
    rules.brief, rules.reason, rules.random, rules.costly = brief, None, False, False
    reader.looks = 0
    database.limit_values(brief=brief)
    try:
        columns, rows, more = _answer(database, sql, params, limit, ANSWER_BYTES_MAX)
    except Interrupted as error:
        raise QueryCancelled("the deadline passed") from error
    except (SQLError, ValueError) as error:
        if database.trouble is not None or isinstance(error, OutOfMemory):
            raise
        view.long()  # it may be that only
        raise InvalidArgument("parameters.sql", _message(error, rules)) from error
    if rules.random:
        reader.random.add(sql)
    if rules.costly:
        reader.costly.add(sql)
    view.volatile = sql in reader.random
    work = view.tuning.work
    work.returned = len(rows)
    if view.tuning.explain:
        work.plan = {"steps": _query_plan(database, sql, params)}
    return {"columns": columns, "rows": rows, "truncated": more}


def _query_plan(database: Database, sql: str, params: Any) -> list[Value]:
    """What SQLite says that it does, in its words; empty for what is no query."""
    if not sql.lstrip().lower().startswith(("select", "with", "values")):
        return []
    cursor = database.connection.cursor()
    found: list[Value] = []
    for row in cursor.execute(f"EXPLAIN QUERY PLAN {sql}", _bound(params)):
        if [name for name, *_ in cursor.get_description()][-1:] != ["detail"]:
            break  # of a second statement
        found.append(str(row[-1]))
    cursor.close(True)
    return found


def _answer(
    database: Database, sql: str, params: Any, limit: int, room: int, *, reads: bool = True
) -> tuple[list[Value], list[Value], bool]:
    """Columns, rows, and whether there are more of them. `reads`: it is one statement, and may
    explain another, which tells addresses of this process."""
    columns: list[Value] = []
    cursor = database.connection.cursor()
    begun = 0

    def trace(cursor: Any, statement: str, bindings: Any) -> bool:
        nonlocal begun
        begun += 1
        if cursor.is_explain and not reads:
            raise ValueError("EXPLAIN is for sql_query")
        own = [name for name, *_ in cursor.get_description()]
        if reads and begun > 1 and own:
            raise ValueError("holds more than one statement")
        if columns and own:
            raise ValueError("two statements in one text return rows: give them as statements")
        columns.extend(own)
        return True

    cursor.exec_trace = trace
    rows: list[Value] = []
    try:
        for row in cursor.execute(sql, _bound(params)):
            shown = [_shown(value) for value in row]
            room -= sum(len(value) if isinstance(value, str | bytes) else 8 for value in row)
            if len(rows) == limit or (room < 0 and rows):
                return columns, rows, True
            rows.append(shown)
    except KeyError as error:
        # What apsw says of an object that lacks a name of the statement.
        raise ValueError(f"params hold no value for {error.args[0]}") from error
    finally:
        # However it ends: a statement under way holds its snapshot, and whoever holds the error
        # holds the cursor.
        cursor.close(True)
    return columns, rows, False


def _rows(database: Database, sql: str, params: Any) -> Iterator[tuple[Any, ...]]:
    yield from database.connection.execute(sql, params)


def _message(error: Exception, rules: Rules) -> str:
    if rules.reason is not None:
        return rules.reason
    if isinstance(error, UnicodeDecodeError):
        return "the answer holds text that is not UTF-8: select CAST(column AS BLOB)"
    text = str(error)
    name, colon, rest = text.partition(": ")
    return rest if colon and name.endswith("Error") else text


# --- Values ----------------------------------------------------------------------------


def _statement(
    value: Mapping[str, Any], path: str, more: tuple[str, ...] = ()
) -> tuple[str, list[Any] | dict[str, Any]]:
    given = Given(value, path, ("sql", "params", *more))
    sql = given.text("sql")
    params = value.get("params", [])
    if not isinstance(params, list | dict):
        raise InvalidArgument(f"{path}.params", "must be an array or an object")
    places = params.items() if isinstance(params, dict) else enumerate(params)
    for place, each in places:
        _check_param(each, f"{path}.params[{place}]")
    return sql, params


def _check_param(value: Any, field: str) -> None:
    if isinstance(value, dict):
        if set(value) != {"base64"} or not isinstance(value["base64"], str):
            raise InvalidArgument(field, 'an object must be {"base64": text}: a blob')
        try:
            base64.b64decode(value["base64"], validate=True)
        except ValueError:  # binascii.Error, or text beyond ASCII
            raise InvalidArgument(field, "is not base64") from None
    elif isinstance(value, list):
        raise InvalidArgument(field, "cannot be an array")
    elif type(value) is int and not -(1 << 63) <= value < 1 << 63:
        raise InvalidArgument(field, "does not fit 64 bits")


def _bound(params: Any) -> Any:
    if isinstance(params, dict):
        return {name: _sql_value(value) for name, value in params.items()}
    return [_sql_value(value) for value in params]


def _sql_value(value: Any) -> Any:
    if isinstance(value, dict):
        return base64.b64decode(value["base64"])
    return int(value) if type(value) is bool else value


def _shown(value: Any) -> Value:
    """As JSON can hold it: a blob as {"base64"}, an infinite number as text."""
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    found: Value = value
    return found


RELATIONAL = RelationalEngine()
