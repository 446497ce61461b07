"""How much work a write does on documents: conditions times the values that they are tried on.

`apply` does it on every replica, one command after the other, and nothing interrupts it. So a
command stops when it has done enough, and its answer says where the next one goes on. Values are
counted, not bytes: of an array of numbers each byte is tried, of a text none.
"""

from __future__ import annotations

from typing import Any, Final

# Of one command, times the conditions: 0.1 s or so. Those on one document may not be more, either.
TRIED_VALUES_MAX: Final = 1 << 18
CHANGE_CONDITIONS: Final = 2  # changing a document's values takes as long as trying so many
_TEXT_BITS: Final = 8  # each so many letters or bytes count as a value more


class Work:
    """Of one command. `done`: values times conditions; `conditions`: of what is done to each
    document that is changed; `on_document`: of those, what was tried on the one at hand."""

    def __init__(self) -> None:
        self.done = 0
        self.conditions = CHANGE_CONDITIONS
        self.on_document = 0

    @property
    def full(self) -> bool:
        return self.done > TRIED_VALUES_MAX


def values_in(value: Any) -> int:
    """Values within a value, itself among them; a long text or blob counts as several."""
    count = 0
    waiting = [value]
    while waiting:
        each = waiting.pop()
        count += 1
        kind = each.__class__
        if kind is dict:
            waiting.extend(each.values())
        elif kind is list:
            waiting.extend(each)
        elif kind is str or kind is bytes:
            count += len(each) >> _TEXT_BITS
    return count
