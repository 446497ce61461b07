"""What callers may give to operations on time series, checked; errors name a field by its path."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any, Final

from engines.errors import InvalidArgument
from engines.parameters import PREFIX, array, exactly, text
from engines.timeseries_columns import TIME_MS_MAX
from engines.timeseries_series import Name, Selection, make_name

METRIC_BYTES_MAX: Final = 256
TAGS_MAX: Final = 32  # of a series
TAG_BYTES_MAX: Final = 256  # of its name, and of its value
TAG_CHOICES_MAX: Final = 100  # values of one tag in a selection
_EXACT_MAX: Final = 1 << 53  # whole numbers up to here are exact in 64-bit floats


def one_text(value: object, field: str, bytes_max: int) -> str:
    """1 to `bytes_max` bytes without control characters."""
    checked = text(value, field, bytes_max, 1)
    if any(ord(character) < 32 for character in checked):
        raise InvalidArgument(field, "must be without control characters")
    return checked


def one_time(value: object, field: str) -> int:
    if type(value) is not int or not -TIME_MS_MAX < value < TIME_MS_MAX:
        raise InvalidArgument(
            field, "must be a whole number of milliseconds, within 2^53 either side of 1970"
        )
    return value


def one_number(value: object, field: str) -> float:
    """As a 64-bit float, if that holds it exactly."""
    if type(value) is float:
        if not isfinite(value):
            raise InvalidArgument(field, "must be a finite number")
        return value
    if type(value) is not int:
        raise InvalidArgument(field, "must be a number")
    if not -_EXACT_MAX <= value <= _EXACT_MAX:
        raise InvalidArgument(field, "a whole number beyond 2^53 cannot be kept exactly")
    return float(value)


def one_name(metric: object, tags: object, field: str) -> Name:
    """A series' name; `field`: of what holds `metric` and `tags`."""
    checked = one_text(metric, f"{field}.metric", METRIC_BYTES_MAX)
    place = f"{field}.tags"
    if not isinstance(tags, Mapping) or len(tags) > TAGS_MAX:
        raise InvalidArgument(place, f"must be an object of at most {TAGS_MAX} tags")
    for tag, value in tags.items():
        one_text(tag, place, TAG_BYTES_MAX)
        one_text(value, f"{place}.{tag}", TAG_BYTES_MAX)
    return make_name(checked, tags)


def one_selection(given: Mapping[str, Any]) -> Selection:
    """`metric` and `tags` of an operation: {"tag": "value"} or {"tag": {"$in": [values]}}."""
    metric = given.get("metric")
    if metric is not None:
        one_text(metric, f"{PREFIX}.metric", METRIC_BYTES_MAX)
    tags, place = given.get("tags", {}), f"{PREFIX}.tags"
    if not isinstance(tags, Mapping) or len(tags) > TAGS_MAX:
        raise InvalidArgument(place, f"must be an object of at most {TAGS_MAX} tags")
    chosen: dict[str, tuple[str, ...]] = {}
    for tag, wanted in tags.items():
        one_text(tag, place, TAG_BYTES_MAX)
        field = f"{place}.{tag}"
        if not isinstance(wanted, Mapping):
            chosen[tag] = (one_text(wanted, field, TAG_BYTES_MAX),)
            continue
        values = exactly(wanted, field, frozenset({"$in"}))["$in"]
        field = f"{field}.$in"
        chosen[tag] = tuple(
            dict.fromkeys(
                one_text(value, f"{field}[{place_}]", TAG_BYTES_MAX)
                for place_, value in enumerate(array(values, field, TAG_CHOICES_MAX))
            )
        )
    return Selection(metric, chosen)


def time_range(given: Mapping[str, Any]) -> tuple[int, int]:
    """`from` (included) and `to` (excluded), UTC milliseconds; without them: everything."""
    first, end = given.get("from"), given.get("to")
    low = -TIME_MS_MAX if first is None else one_time(first, f"{PREFIX}.from")
    high = TIME_MS_MAX if end is None else one_time(end, f"{PREFIX}.to")
    if low >= high:
        raise InvalidArgument(f"{PREFIX}.to", "must be after from")
    return low, high
