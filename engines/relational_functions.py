"""SQL's functions whose time grows with the product of two texts, with a bound on that product.

SQLite counts steps of its machine, and a call of a function is one of them, however long it
takes: `trim` of eight megabytes by eight megabytes takes a day, on every replica, and nothing
interrupts it. Between texts these do in Python what SQLite does; what else is given goes to
SQLite's own function, so that conversions are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

VALUE_BYTES_MAX: Final = 8 << 20  # of a value or row
PRODUCT_MAX: Final = 1 << 27  # bytes times bytes; some tenths of a second

Plain = Callable[[str, tuple[Any, ...]], Any]


class Function(NamedTuple):
    name: str
    arguments: int
    call: Callable[..., Any]


def bounded_functions(plain: Plain) -> Iterator[Function]:
    """`plain`: what SQLite's own function of that name answers."""
    for name, arguments in _BOUNDED.items():
        yield Function(name, arguments, _bounded(name, plain))


def _bounded(name: str, plain: Plain) -> Callable[..., Any]:
    quick = _QUICK.get(name)

    def call(*values: Any) -> Any:
        first, second = values[:2]
        if _size(first) * _size(second) > PRODUCT_MAX:
            raise ValueError(
                f"{name}: texts of {_size(first)} and {_size(second)} bytes are too large together"
            )
        if quick is not None and all(value.__class__ is str for value in values):
            return quick(*values)
        return plain(name, values)

    return call


def _size(value: Any) -> int:
    """Of a text in characters, which are one to four bytes."""
    return len(value) if isinstance(value, str | bytes) else 1


def _replace(text: str, old: str, new: str) -> str:
    # As SQLite has it: nothing to look for, or what C takes for nothing, is replaced by nothing.
    if not old or old[0] == "\x00":
        return text
    if len(text) + text.count(old) * (len(new) - len(old)) > VALUE_BYTES_MAX:
        raise ValueError("string or blob too big")
    return text.replace(old, new)


def _before_nul(letters: str) -> str:
    """As SQLite reads them."""
    return letters.partition("\x00")[0]


def _instr(text: str, part: str) -> int:
    return text.find(part) + 1


_BOUNDED: Final[Mapping[str, int]] = {
    "instr": 2, "replace": 3, "trim": 2, "ltrim": 2, "rtrim": 2, "unhex": 2,
}  # fmt: skip
_QUICK: Final[Mapping[str, Callable[..., Any]]] = {
    "instr": _instr,
    "replace": _replace,
    "trim": lambda text, letters: text.strip(_before_nul(letters)),
    "ltrim": lambda text, letters: text.lstrip(_before_nul(letters)),
    "rtrim": lambda text, letters: text.rstrip(_before_nul(letters)),
}
