"""Settings of a collection of time series."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from engines.codec import Value
from engines.errors import InvalidArgument
from engines.parameters import array, choice, exactly, integer
from engines.timeseries_chunks import CHUNK_POINTS_MAX
from engines.timeseries_columns import TIME_MS_MAX

DUPLICATES: Final = ("last", "first", "sum", "max", "min", "reject")
ROLLUP_AGGREGATES: Final = ("avg", "min", "max", "sum", "count", "first", "last")
ROLLUPS_MAX: Final = 4
ROLLUP_WINDOW_MS_MIN: Final = 1_000
CHUNK_POINTS_DEFAULT: Final = 1_024
CHUNK_POINTS_MIN: Final = 16
_FIELD: Final = "settings"
_KNOWN: Final = frozenset({"retention_ms", "duplicates", "rollups", "chunk_points_max"})


class Rollup(NamedTuple):
    """What is kept of points that the retention drops."""

    window_ms: int
    aggregates: tuple[str, ...]
    retention_ms: int | None  # None: for good


def make_settings(given: Mapping[str, Any], current: Mapping[str, Any] | None) -> dict[str, Value]:
    """Complete; `current`: what `given` changes. Raises InvalidArgument."""
    exactly(given, _FIELD, frozenset(), _KNOWN)
    settings: dict[str, Value] = {
        "retention_ms": None,
        "duplicates": "last",
        "rollups": [],
        "chunk_points_max": CHUNK_POINTS_DEFAULT,
        **(current or {}),
    }
    if "retention_ms" in given:
        settings["retention_ms"] = _span(given["retention_ms"], f"{_FIELD}.retention_ms")
    if "duplicates" in given:
        settings["duplicates"] = choice(given["duplicates"], f"{_FIELD}.duplicates", DUPLICATES)
    if "chunk_points_max" in given:
        settings["chunk_points_max"] = integer(
            given["chunk_points_max"], f"{_FIELD}.chunk_points_max", CHUNK_POINTS_MIN,
            CHUNK_POINTS_MAX,
        )  # fmt: skip
    if "rollups" in given:
        rollups = _rollups(given["rollups"])
        if current is not None and rollups != current["rollups"]:
            raise InvalidArgument(f"{_FIELD}.rollups", "cannot change: rows of old ones exist")
        settings["rollups"] = rollups
    if settings["rollups"] and settings["retention_ms"] is None:
        raise InvalidArgument(
            f"{_FIELD}.retention_ms",
            "is needed with rollups, which are made of points as the retention drops them",
        )
    _check_retention(settings)
    return settings


def rollups_of(settings: Mapping[str, Any]) -> tuple[Rollup, ...]:
    """In order of their windows."""
    return tuple(
        Rollup(each["window_ms"], tuple(each["aggregates"]), each["retention_ms"])
        for each in settings["rollups"]
    )


def _rollups(given: object) -> list[Value]:
    field = f"{_FIELD}.rollups"
    if not isinstance(given, list | tuple) or len(given) > ROLLUPS_MAX:
        raise InvalidArgument(field, f"must be an array of at most {ROLLUPS_MAX} rollups")
    made: dict[int, dict[str, Value]] = {}
    for place, each in enumerate(given):
        own = f"{field}[{place}]"
        known = exactly(
            each, own, frozenset({"window_ms", "aggregates"}), frozenset({"retention_ms"})
        )
        window = integer(known["window_ms"], f"{own}.window_ms", ROLLUP_WINDOW_MS_MIN, TIME_MS_MAX)
        if window in made:
            raise InvalidArgument(f"{own}.window_ms", "is another rollup's")
        wanted = array(known["aggregates"], f"{own}.aggregates", len(ROLLUP_AGGREGATES))
        aggregates = [
            choice(name, f"{own}.aggregates[{number}]", ROLLUP_AGGREGATES)
            for number, name in enumerate(wanted)
        ]
        made[window] = {
            "window_ms": window,
            "aggregates": [name for name in ROLLUP_AGGREGATES if name in aggregates],
            "retention_ms": _span(known.get("retention_ms"), f"{own}.retention_ms"),
        }
    return [made[window] for window in sorted(made)]


def _check_retention(settings: Mapping[str, Any]) -> None:
    """A rollup that is kept no longer than the points would be dropped as it is made."""
    for rollup in rollups_of(settings):
        if rollup.retention_ms is not None and rollup.retention_ms <= settings["retention_ms"]:
            raise InvalidArgument(
                f"{_FIELD}.retention_ms", "must be shorter than that of every rollup"
            )


def _span(value: object, field: str) -> int | None:
    return None if value is None else integer(value, field, 1, TIME_MS_MAX)
