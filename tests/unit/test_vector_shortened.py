"""Vectors of searches, as they travel."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest

from engines.errors import InvalidArgument
from engines.vector import VectorEngine
from engines.vector_parameters import vector

GIVEN = [0.1, -2.0, 3, 1e-3]
BYTES = struct.pack("<4f", *GIVEN)


def shorten(operation: str = "vector_search", **parameters: Any) -> Any:
    return VectorEngine().shorten(operation, parameters)


def test_all_spellings_become_the_same_bytes() -> None:
    encoded = {"f32": base64.b64encode(BYTES).decode()}
    for spelled in (GIVEN, tuple(GIVEN), encoded, BYTES):
        assert shorten(vector=spelled, limit=3) == {"vector": BYTES, "limit": 3}
        assert shorten("hybrid_search", vector=spelled, query="a") == {
            "vector": BYTES,
            "query": "a",
        }
        assert vector(shorten(vector=spelled)["vector"], "f") == vector(spelled, "f") == BYTES
    assert shorten(vectors=[GIVEN, encoded]) == {"vectors": [BYTES, BYTES]}


def test_other_operations_are_left_as_they_are() -> None:
    assert shorten("vector_get", ids=["a"], vector="?") == {"ids": ["a"], "vector": "?"}


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"vector": [0.1, "x"]}, "parameters.vector[1]"),
        ({"vector": [True]}, "parameters.vector[0]"),
        ({"vector": [1.0, float("nan")]}, "parameters.vector[1]"),
        ({"vector": []}, "parameters.vector"),
        ({"vector": b""}, "parameters.vector"),
        ({"vector": b"abc"}, "parameters.vector"),
        ({"vector": struct.pack("<2f", 1.0, float("inf"))}, "parameters.vector[1]"),
        ({"vector": None}, "parameters.vector"),
        ({"vector": {"f32": "A"}}, "parameters.vector.f32"),
        ({"vectors": [[1.0], [None]]}, "parameters.vectors[1][0]"),
        ({"vectors": 1}, "parameters.vectors"),
    ],
)
def test_what_is_no_vector_is_refused_by_its_place(parameters: Any, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        shorten(**parameters)
    assert caught.value.field == field
