"""Vectors in NumPy's format: a file of float32, shape (n, d), read and written row by row.

Source: NEP 1, and numpy.lib.format. Nothing of it needs NumPy, which a client may lack.
"""

from __future__ import annotations

import ast
import base64
import os
import struct
from typing import Any, BinaryIO, Final

from node.errors import BadRequest

_MAGIC: Final = b"\x93NUMPY"
_HEAD_BYTES: Final = 128  # of a file that is written: room for any count
_HEADER_BYTES_MAX: Final = 10_000
_FIELD: Final = "vectors"
COMPONENT_BYTES: Final = 4


class VectorFile:
    """The rows of a file. Raises BadRequest, as it is made, for what is none of float32."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        try:
            self._start, fields = _header(file)
            described, (count, dimensions) = fields["descr"], fields["shape"]
            in_rows = fields["fortran_order"] is False
        except (ValueError, KeyError, TypeError, SyntaxError, struct.error) as error:
            raise _refused(f"is no .npy file of shape (n, d): {error}") from error
        if described != "<f4" or not in_rows:
            raise _refused(f"must hold float32 (<f4) row by row, not {described!r}")
        self.count: int = count
        self.dimensions: int = dimensions
        size = os.fstat(file.fileno()).st_size - self._start
        if size != count * dimensions * COMPONENT_BYTES:
            raise _refused(f"holds {size} bytes of numbers, which is not ({count}, {dimensions})")

    def row(self, place: int) -> dict[str, str]:
        """One vector as the API takes it."""
        size = self.dimensions * COMPONENT_BYTES
        data = os.pread(self._file.fileno(), size, self._start + place * size)
        return {"f32": base64.b64encode(data).decode("ascii")}


class VectorWriter:
    """Writes rows; `close` says how many there are."""

    def __init__(self, file: BinaryIO, dimensions: int) -> None:
        self._file = file
        self._dimensions = dimensions
        self._pack = struct.Struct(f"<{dimensions}f").pack
        self.count = 0
        file.write(_head(0, dimensions))

    def write(self, vector: list[float]) -> None:
        self._file.write(self._pack(*vector))
        self.count += 1

    def close(self) -> None:
        self._file.seek(0)
        self._file.write(_head(self.count, self._dimensions))


def _header(file: BinaryIO) -> tuple[int, Any]:
    """Where the numbers begin, and the header's fields."""
    start = os.pread(file.fileno(), _HEADER_BYTES_MAX, 0)
    if not start.startswith(_MAGIC):
        raise ValueError("it does not begin as one")
    length = struct.Struct("<H" if start[6] == 1 else "<I")
    (size,) = length.unpack_from(start, 8)
    first = 8 + length.size
    text = start[first : first + size]
    if len(text) != size:
        raise ValueError("its header is cut short")
    return first + size, ast.literal_eval(text.decode("latin-1").strip())


def _head(count: int, dimensions: int) -> bytes:
    fields = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count}, {dimensions}), }}"
    size = _HEAD_BYTES - len(_MAGIC) - 4
    header = fields.ljust(size - 1).encode("ascii") + b"\n"
    return _MAGIC + b"\x01\x00" + struct.pack("<H", size) + header


def _refused(message: str) -> BadRequest:
    return BadRequest(f"{_FIELD}: {message}", field=_FIELD)
