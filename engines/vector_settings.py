"""Settings of a vector collection, and how a vector of it is stored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from engines.codec import Value
from engines.errors import InvalidArgument
from engines.parameters import choice, closed, integer, members, required, text
from engines.text_index import TOKENIZERS
from engines.vector_parameters import DIMENSIONS_MAX, MODEL_BYTES_MAX, NORM_MIN, Floats

METRICS: Final = ("cos", "l2sq", "ip")
SCALARS: Final = ("f32", "f16", "i8", "b1")
VECTORS_MAX: Final = 10_000_000
EXPANSION_MAX: Final = 4_096

_FIXED: Final = ("dimensions", "metric", "model")
RANGES: Final[Mapping[str, tuple[int, int, int]]] = {  # default, lowest, highest
    "connectivity": (16, 2, 128),
    "expansion_add": (128, 8, EXPANSION_MAX),
    "expansion_search": (96, 8, EXPANSION_MAX),
    "vectors_max": (1_000_000, 1, VECTORS_MAX),
}
_NAMES: Final = (*_FIXED, "scalar", "text", *RANGES)
_PREFIX: Final = "settings."


def complete(given: Mapping[str, Any], current: Mapping[str, Any] | None) -> dict[str, Value]:
    """All settings, of a new collection or after a change. Raises InvalidArgument."""
    closed(given, _NAMES, _PREFIX)
    if current is not None:
        return _changed(given, current)
    dimensions = integer(
        required(given, "dimensions", _PREFIX), "settings.dimensions", 1, DIMENSIONS_MAX
    )
    scalar = choice(given.get("scalar", "f32"), "settings.scalar", SCALARS)
    default = "l2sq" if scalar == "b1" else "cos"
    metric = choice(given.get("metric", default), "settings.metric", METRICS)
    model = given.get("model")
    if model is not None:
        text(model, "settings.model", MODEL_BYTES_MAX, 1)
    _must_fit(dimensions, metric, scalar)
    return {
        "dimensions": dimensions,
        "metric": metric,
        "scalar": scalar,
        "model": model,
        "text": text_settings(given.get("text")),
        **{name: _ranged(given, name, default) for name, (default, _, _) in RANGES.items()},
    }


def stored(settings: Mapping[str, Any], vector: bytes, field: str) -> bytes:
    """The bytes that are kept of a vector, given as f32.

    Raises InvalidArgument: another dimension, zero with cos, other than bits where bits are kept.
    """
    dimensions = len(vector) // 4
    if dimensions != settings["dimensions"]:
        raise InvalidArgument(
            field, f"has {dimensions} components, the collection {settings['dimensions']}"
        )
    values = np.frombuffer(vector, dtype="<f4")
    if settings["scalar"] == "b1":
        wrong = (values != 0) & (values != 1)
        if wrong.any():
            place = int(wrong.argmax())
            raise InvalidArgument(f"{field}[{place}]", "must be 0 or 1, as scalar is b1")
        return np.packbits(values.astype(np.uint8)).tobytes()
    if settings["metric"] == "cos" and _is_zero(values):
        raise InvalidArgument(field, "is zero, or nearly, and has no direction: metric is cos")
    return vector


def _is_zero(values: Floats) -> bool:
    """Is the vector shorter than NORM_MIN? The same on every machine: how numpy adds depends on
    the processor, so what it finds near the bound is computed exactly."""
    length = float(np.linalg.norm(values))
    if not NORM_MIN / 2 < length < NORM_MIN * 2:
        return length < NORM_MIN
    return math.fsum(each * each for each in values.tolist()) < NORM_MIN * NORM_MIN


def shown(settings: Mapping[str, Any], vector: bytes) -> list[Value]:
    """A stored vector as numbers."""
    if settings["scalar"] == "b1":
        bits = np.unpackbits(np.frombuffer(vector, np.uint8), count=settings["dimensions"])
        return list(bits.tolist())
    return list(np.frombuffer(vector, "<f4").tolist())


def vector_bytes(settings: Mapping[str, Any]) -> int:
    """Of one stored vector."""
    dimensions: int = settings["dimensions"]
    return dimensions // 8 if settings["scalar"] == "b1" else dimensions * 4


def _changed(given: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, Value]:
    for name in _FIXED:
        if name in given and given[name] != current[name]:
            raise InvalidArgument(f"settings.{name}", "cannot change")
    scalar = choice(given.get("scalar", current["scalar"]), "settings.scalar", SCALARS)
    if (scalar == "b1") != (current["scalar"] == "b1"):
        raise InvalidArgument("settings.scalar", "cannot change from or to b1")
    _must_fit(current["dimensions"], current["metric"], scalar)
    ranged = {name: _ranged(given, name, current[name]) for name in RANGES}
    text = text_settings(given["text"]) if "text" in given else current["text"]
    return {**current, "scalar": scalar, "text": text, **ranged}


def text_settings(given: object) -> dict[str, Value] | None:
    """The setting `text`: None, or with its language. Raises InvalidArgument."""
    if given is None:
        return None
    fields = members(given, "settings.text")
    closed(fields, ("language",), "settings.text.")
    language = choice(
        fields.get("language", "english"), "settings.text.language", tuple(TOKENIZERS)
    )
    return {"language": language}


def _ranged(given: Mapping[str, Any], name: str, default: int) -> int:
    _, low, high = RANGES[name]
    return integer(given.get(name, default), f"settings.{name}", low, high)


def _must_fit(dimensions: int, metric: str, scalar: str) -> None:
    if scalar == "i8" and metric != "cos":
        raise InvalidArgument("settings.scalar", "i8 is for metric cos: others have no scale")
    if scalar == "b1" and metric != "l2sq":
        raise InvalidArgument("settings.metric", "must be l2sq with scalar b1: bits that differ")
    if scalar == "b1" and dimensions % 8:
        raise InvalidArgument("settings.dimensions", "must be a multiple of 8 with scalar b1")
