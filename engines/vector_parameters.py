"""What callers give to the vector engine, checked. Fields are named as the caller wrote them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from engines.errors import InvalidArgument
from engines.parameters import array, closed, required, text

DOCUMENTS_MAX: Final = 1_000  # of one write, and ids of one request
DIMENSIONS_MAX: Final = 16_384
QUERIES_MAX: Final = 1_000  # vectors of one search
ID_BYTES_MAX: Final = 256
MODEL_BYTES_MAX: Final = 256
METADATA_BYTES_MAX: Final = 64 << 10
TEXT_BYTES_MAX: Final = 256 << 10
# Squares and their sums then stay within f32, and so do the norms that cosines divide by.
COMPONENT_MAX: Final = 1e15
NORM_MIN: Final = 1e-15

Floats = npt.NDArray[np.float32]


def identities(value: object, field: str) -> list[str]:
    """Ids, each once, in the order given."""
    given = [
        text(each, f"{field}[{place}]", ID_BYTES_MAX, 1)
        for place, each in enumerate(array(value, field, DOCUMENTS_MAX))
    ]
    return list(dict.fromkeys(given))


def shortened(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """Parameters of a search with their vectors as bytes. Raises InvalidArgument."""
    found: dict[str, Any] = {}
    if "vector" in parameters:
        found["vector"] = vector(parameters["vector"], "parameters.vector")
    if "vectors" in parameters:
        several = array(parameters["vectors"], "parameters.vectors", QUERIES_MAX)
        found["vectors"] = [
            vector(each, f"parameters.vectors[{place}]") for place, each in enumerate(several)
        ]
    return {**parameters, **found}


def vector(value: object, field: str) -> bytes:
    """Little-endian f32 of an array of numbers, of {"f32": base64 of the same bytes}, or of
    these bytes themselves, which no caller can send: what `shortened` made.

    Raises InvalidArgument: neither of them, or with a component that is no finite number.
    """
    if isinstance(value, bytes) and not len(value) % 4:
        found = np.frombuffer(value, dtype="<f4")
    else:
        found = _encoded(value, field) if isinstance(value, Mapping) else _numbers(value, field)
    if not 1 <= len(found) <= DIMENSIONS_MAX:
        raise InvalidArgument(field, f"has {len(found)} components; from 1 to {DIMENSIONS_MAX}")
    return checked(found.tobytes(), field)


def checked(values: bytes, field: str) -> bytes:
    """`values`: little-endian f32. Raises InvalidArgument: a component that is none."""
    found = np.frombuffer(values, dtype="<f4")
    # Written so that a NaN, which compares with nothing, is outside.
    outside = ~(np.abs(found) <= COMPONENT_MAX)
    if outside.any():
        place = int(outside.argmax())
        raise InvalidArgument(
            f"{field}[{place}]", f"must be a finite number within ±{COMPONENT_MAX:g}"
        )
    return values


def _numbers(value: object, field: str) -> Floats:
    if not isinstance(value, list | tuple):
        raise InvalidArgument(field, 'must be an array of numbers, or {"f32": base64 text}')
    if not set(map(type, value)) <= {int, float}:
        place = next(i for i, each in enumerate(value) if type(each) not in (int, float))
        raise InvalidArgument(f"{field}[{place}]", "must be a number")
    with np.errstate(over="ignore"):  # becomes infinite, which is refused by its place
        try:
            return np.array(value, dtype="<f4")
        except OverflowError:
            raise InvalidArgument(field, "holds a number that is far too large") from None


def _encoded(value: Mapping[str, Any], field: str) -> Floats:
    closed(value, ("f32",), f"{field}.")
    given = required(value, "f32", f"{field}.")
    if not isinstance(given, str):
        raise InvalidArgument(f"{field}.f32", "must be base64 text")
    try:
        raw = base64.b64decode(given.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise InvalidArgument(f"{field}.f32", "is not base64") from None
    if len(raw) % 4:
        raise InvalidArgument(f"{field}.f32", f"is {len(raw)} bytes, not a whole number of f32")
    return np.frombuffer(raw, dtype="<f4")
