"""SQL's functions that take long for large values, with a bound on what they take.

SQLite counts steps of its machine, and a call of a function is one of them, however long it
takes: `trim` of eight megabytes by eight megabytes takes a day, on every replica, and nothing
interrupts it. So what grows with the product of two texts looks first. In a write, what grows
with one text counts, too: all calls of a command together have a budget.

Between texts these do in Python what SQLite does; what else is given goes to SQLite's own
function, so that conversions are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

VALUE_BYTES_MAX: Final = 8 << 20  # of a value or row
PRODUCT_MAX: Final = 1 << 27  # bytes times bytes; some tenths of a second
WORK_BYTES_MAX: Final = 64 << 20  # of one write: 0.2 s or so
CALL_BYTES: Final = 512  # a call takes as long as so many bytes
_PRODUCT_BITS: Final = 3  # so many bytes times bytes, as a power of two, count as one byte
PATTERN_BYTES_MAX: Final = 256  # of LIKE and GLOB; SQLite's own limit is set to it

Plain = Callable[[str, tuple[Any, ...]], Any]


class Function(NamedTuple):
    name: str
    arguments: int
    call: Callable[..., Any]


class WorkDone(ValueError):
    """The functions of a write have taken as much as they may."""

    def __init__(self) -> None:
        super().__init__(f"its functions go through over {WORK_BYTES_MAX} bytes")


class Work:
    """What the functions of one write have gone through. What a call takes is a function of
    sizes, so that every replica refuses the same."""

    def __init__(self) -> None:
        self.done = 0  # bytes, or what takes as long

    def add(self, size: int) -> None:
        """Raises WorkDone."""
        self.done += size
        if self.done > WORK_BYTES_MAX:
            raise WorkDone


def bounded_functions(plain: Plain) -> Iterator[Function]:
    """For a read. `plain`: what SQLite's own function of that name answers."""
    for name, arguments in _BOUNDED.items():
        yield Function(name, arguments, _bounded(name, _answering(name, plain)))


def counted_functions(plain: Plain, work: Work) -> Iterator[Function]:
    """For a write: the same and more, which count what they take."""
    for name, numbers in _COUNTED.items():
        answer = _answering(name, plain)
        if name in _BOUNDED or name in _PATTERNS:
            answer = _bounded(name, answer)
        for arguments in numbers:
            yield Function(name, arguments, _counted(name, answer, work))


def _bounded(name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
    def call(*values: Any) -> Any:
        if _product(values) > PRODUCT_MAX:
            first, second = values[:2]
            raise ValueError(
                f"{name}: texts of {_size(first)} and {_size(second)} bytes are too large together"
            )
        return answer(*values)

    return call


def _counted(name: str, answer: Callable[..., Any], work: Work) -> Callable[..., Any]:
    multiplies = name in _BOUNDED or name in _PATTERNS

    def call(*values: Any) -> Any:
        taken = CALL_BYTES + sum(map(_size, values))
        if multiplies:
            taken += _product(values) >> _PRODUCT_BITS
        work.add(taken)
        found = answer(*values)
        work.add(_size(found))
        return found

    return call


def _answering(name: str, plain: Plain) -> Callable[..., Any]:
    """NotImplemented of a quick function: it does not know."""
    quick = _QUICK.get(name)

    def call(*values: Any) -> Any:
        if quick is not None and all(value.__class__ is str for value in values):
            found = quick(*values)
            if found is not NotImplemented:
                return found
        return plain(name, values)

    return call


def _product(values: tuple[Any, ...]) -> int:
    return _size(values[0]) * _size(values[1]) if len(values) > 1 else 0


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


def _strip(method: Callable[..., str]) -> Callable[..., Any]:
    def call(text: str, letters: str = " ") -> str:
        return method(text, _before_nul(letters))

    return call


def _in_ascii(method: Callable[[str], str]) -> Callable[..., Any]:
    """SQLite knows no other letters."""
    return lambda text: method(text) if text.isascii() else NotImplemented


def _hex(text: str) -> str:
    return text.encode().hex().upper()


def _like(pattern: str, text: str, *escape: str) -> Any:
    """What has no _ in it: each piece between two % is looked for behind the one before."""
    both = pattern + text
    unknown = "_" in pattern or "\x00" in both or not both.isascii()
    if escape or unknown or len(pattern) > PATTERN_BYTES_MAX:
        return NotImplemented
    first, *others = pattern.lower().split("%")
    text = text.lower()
    if not others:
        return int(text == first)
    if not text.startswith(first):
        return 0
    at = len(first)
    *inner, last = others
    for piece in inner:
        found = text.find(piece, at)
        if found < 0:
            return 0
        at = found + len(piece)
    return int(len(text) - len(last) >= at and text.endswith(last))


def _instr(text: str, part: str) -> int:
    return text.find(part) + 1


_BOUNDED: Final[Mapping[str, int]] = {
    "instr": 2, "replace": 3, "trim": 2, "ltrim": 2, "rtrim": 2, "unhex": 2,
}  # fmt: skip
_PATTERNS: Final = frozenset({"like", "glob"})
# What is counted, by its numbers of arguments; -1: any.
_COUNTED: Final[Mapping[str, tuple[int, ...]]] = {
    "instr": (2,), "replace": (3,), "trim": (1, 2), "ltrim": (1, 2), "rtrim": (1, 2),
    "unhex": (1, 2), "like": (2, 3), "glob": (2,), "hex": (1,), "quote": (1,), "upper": (1,),
    "lower": (1,), "printf": (-1,), "format": (-1,),
}  # fmt: skip
_QUICK: Final[Mapping[str, Callable[..., Any]]] = {
    "instr": _instr,
    "replace": _replace,
    "trim": _strip(str.strip),
    "ltrim": _strip(str.lstrip),
    "rtrim": _strip(str.rstrip),
    "upper": _in_ascii(str.upper),
    "lower": _in_ascii(str.lower),
    "hex": _hex,
    "like": _like,
}
