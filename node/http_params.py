"""Decoding of request targets: names in the path and query parameters.

The raw target is taken apart by hand. URL libraries normalise (`a/../b`, `//`, `%2F`),
and a key must arrive as it was sent: `.`, `..`, `a//b`, ` `, `%` and `?` are all keys.
Everything here is strict: what is not understood is refused, naming the field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from engines.command import validate_key, validate_namespace, validate_session
from engines.interfaces import INTEGER_MAX, SUB_MAX, ChangeId, Limits
from engines.read_requests import PAGE_ITEMS_MAX
from node.errors import BadRequest
from node.http_errors import bad_request
from node.http_limits import PAGE_ITEMS_DEFAULT, TIMEOUT_MS_DEFAULT, TIMEOUT_MS_MAX
from node.reads import LINEARIZABLE, STALENESS_MS_MAX, Consistency, ReadOptions

TTL_SECONDS_MAX = 1e12  # representable; what is allowed is `Limits.ttl_ms_max`

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_INTEGER = re.compile(r"[0-9]{1,19}")
_DECIMAL = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,9})?")
_EVENT_ID = re.compile(r"([0-9]{1,19})\.([0-9]{1,10})")
_SHOWN_CHARACTERS_MAX = 100

READ_PARAMETERS = frozenset({"consistency", "max_staleness_ms", "min_revision", "timeout_ms"})


def split_target(target: str) -> tuple[str, str]:
    """Split a request target into its raw path and raw query.

    Both stay percent-encoded. Accepts the absolute form that proxies send.
    """
    if not target.startswith("/"):
        scheme, found, rest = target.partition("://")
        if found and scheme.lower() in ("http", "https"):
            slash = rest.find("/")
            target = rest[slash:] if slash >= 0 else "/"
    if "#" in target:
        raise bad_request("path", "a '#' must be sent as %23")
    path, _, query = target.partition("?")
    return path, query


def decode(raw: str, field: str) -> bytes:
    """The bytes that a percent-encoded name stands for; they are valid UTF-8.

    Raises: BadRequest for a bad escape or bytes that are not UTF-8.
    """
    if raw.isascii():
        if "%" not in raw:
            return raw.encode("ascii")
        data = raw.encode("ascii")
    else:
        # The HTTP parser passes bytes beyond ASCII on as UTF-8 or as lone surrogates.
        data = raw.encode("utf-8", "surrogateescape")
    if _BAD_ESCAPE.search(data):
        raise bad_request(field, "a '%' must be followed by two hexadecimal digits")
    decoded = unquote_to_bytes(data)
    try:
        decoded.decode("utf-8")
    except UnicodeDecodeError:
        raise bad_request(field, "is not valid UTF-8") from None
    return decoded


def shown(name: str) -> str:
    """A caller's name as an error may repeat it: short, and always encodable."""
    return name[:_SHOWN_CHARACTERS_MAX].encode("utf-8", "backslashreplace").decode("utf-8")


class Query:
    """Query parameters, each known and given at most once.

    Raises BadRequest on construction: UNKNOWN_PARAMETER, or INVALID_ARGUMENT for a repeated one.
    """

    __slots__ = ("_values",)

    def __init__(self, raw: str, known: frozenset[str]) -> None:
        self._values: dict[str, str] = {}
        if raw:
            self._parse(raw, known)

    def _parse(self, raw: str, known: frozenset[str]) -> None:
        for pair in raw.split("&"):
            if not pair:
                continue
            raw_name, _, value = pair.partition("=")
            # Forms encode a space as '+'; so do most clients' parameter encoders.
            name = decode(raw_name.replace("+", " "), "query").decode("utf-8")
            if name not in known:
                allowed = f"; known here: {', '.join(sorted(known))}" if known else ""
                raise BadRequest(
                    f"unknown parameter {shown(name)}{allowed}",
                    code="UNKNOWN_PARAMETER",
                    field=shown(name),
                )
            if name in self._values:
                raise bad_request(name, "is given more than once")
            self._values[name] = value

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def given(self) -> Mapping[str, str]:
        """The parameters that are there, with their raw values."""
        return self._values

    def data(self, name: str) -> bytes | None:
        raw = self._values.get(name)
        return None if raw is None else decode(raw.replace("+", " "), name)

    def text(self, name: str) -> str | None:
        data = self.data(name)
        return None if data is None else data.decode("utf-8")

    def integer(self, name: str, low: int, high: int = INTEGER_MAX) -> int | None:
        """A whole decimal number within [low, high]; None if absent."""
        text = self.text(name)
        if text is None:
            return None
        if not _INTEGER.fullmatch(text) or not low <= int(text) <= high:
            raise bad_request(name, f"must be a whole number from {low} to {high}")
        return int(text)

    def decimal(self, name: str, low: float, high: float) -> float | None:
        """A decimal number such as 1.5 within [low, high]; None if absent."""
        text = self.text(name)
        if text is None:
            return None
        if not _DECIMAL.fullmatch(text) or not low <= float(text) <= high:
            raise bad_request(name, f"must be a decimal number from {low:g} to {high:g}")
        return float(text)

    def flag(self, name: str, default: bool) -> bool:
        text = self.text(name)
        if text is None:
            return default
        if text not in ("true", "false"):
            raise bad_request(name, "must be true or false")
        return text == "true"

    def timeout_seconds(self, default_ms: int = TIMEOUT_MS_DEFAULT) -> float:
        return (self.integer("timeout_ms", 1, TIMEOUT_MS_MAX) or default_ms) / 1000

    def ttl_ms(self) -> int | None:
        text = self.text("ttl_seconds")
        if text is None:
            return None
        if not _DECIMAL.fullmatch(text):
            raise bad_request("ttl_seconds", "must be a decimal number of seconds such as 1.5")
        return ttl_ms(float(text), "ttl_seconds")

    def read_options(self) -> ReadOptions:
        if not self._values:
            return LINEARIZABLE
        return read_options(
            self.text("consistency"),
            self.integer("max_staleness_ms", 0, STALENESS_MS_MAX),
            self.integer("min_revision", 0),
        )


def read_options(
    name: str | None, staleness_ms: int | None, min_revision: int | None = None, path: str = ""
) -> ReadOptions:
    """How fresh a read must be; `path`: of where the fields lie, with a dot. Raises BadRequest."""
    level = Consistency.LINEARIZABLE
    if name is not None:
        try:
            level = Consistency.from_name(name)
        except ValueError as error:
            raise bad_request(f"{path}consistency", str(error)) from None
    if staleness_ms is not None and level is not Consistency.STALE:
        raise bad_request(f"{path}max_staleness_ms", "is only for consistency=stale")
    return ReadOptions(level, staleness_ms, min_revision)


def page_limit(query: Query) -> int:
    """The parameter `limit` of a listing."""
    return query.integer("limit", 1, PAGE_ITEMS_MAX) or PAGE_ITEMS_DEFAULT


def ttl_ms(seconds: float, field: str) -> int:
    """Milliseconds of a time to live, rounded, at least one."""
    # The comparison is written so that NaN fails it.
    if not 0 < seconds <= TTL_SECONDS_MAX:
        raise bad_request(field, "must be more than 0, and a time that can be represented")
    return max(1, round(seconds * 1000))


def namespace_name(raw: str, limits: Limits) -> str:
    """A namespace in a path. Raises BadRequest, InvalidArgument."""
    name = decode(raw, "namespace").decode("utf-8")
    validate_namespace(name, limits)
    return name


def session_path(names: list[str], limits: Limits) -> tuple[str, str]:
    """Namespace and session in a path. Raises BadRequest, InvalidArgument."""
    return namespace_name(names[0], limits), session_name(names[1], limits)


def key_prefix(query: Query, limits: Limits) -> bytes:
    """Of `prefix`, empty if it is not given. Raises BadRequest, InvalidArgument."""
    prefix = query.data("prefix") or b""
    if prefix:
        validate_key(prefix, limits, "prefix")
    return prefix


def session_name(raw: str, limits: Limits) -> str:
    """A session in a path. Raises BadRequest, InvalidArgument."""
    name = decode(raw, "session").decode("utf-8")
    validate_session(name, limits)
    return name


def key_name(raw: str, limits: Limits) -> bytes:
    """A key in a path; it may hold '/' as it is. Raises BadRequest, InvalidArgument."""
    key = decode(raw, "key")
    validate_key(key, limits)
    return key


def position(text: str, field: str) -> ChangeId:
    """Where a watch resumes: a revision (after all of it) or an event id (after that event)."""
    if _INTEGER.fullmatch(text) and int(text) <= INTEGER_MAX:
        return ChangeId(int(text), SUB_MAX)
    match = _EVENT_ID.fullmatch(text)
    if match is None or int(match[1]) > INTEGER_MAX or int(match[2]) > SUB_MAX:
        raise bad_request(field, "must be a revision such as 812 or an event id such as 812.0")
    return ChangeId(int(match[1]), int(match[2]))
