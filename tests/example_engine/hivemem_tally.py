"""An engine of another package: named tallies that are added to. It shows all that one needs.

It is installed by its metadata beside it: the entry point `tally` of the group
`hivemem.engines` names the object TALLY.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

from engines.engine import Kind, Parameters, Refused, Settings, Stamp
from engines.errors import InvalidArgument
from engines.interfaces import RejectCode
from engines.space import Space, View

LIMIT_MAX = 1_000


class Tally:
    name = "tally"
    aliases = ("counter",)
    capabilities = frozenset({"counting"})
    operations = MappingProxyType(
        {"tally_add": Kind.WRITE, "tally_get": Kind.READ, "tally_list": Kind.READ}
    )

    def settings(self, given: Parameters, current: Settings | None) -> dict[str, Any]:
        for name in given:
            if name != "maximum":
                raise InvalidArgument(f"settings.{name}", "is not known; known: maximum")
        maximum = given.get("maximum", (current or {}).get("maximum", 1_000_000))
        if type(maximum) is not int or maximum < 1:
            raise InvalidArgument("settings.maximum", "must be a whole number of at least 1")
        return {"maximum": maximum}

    def prepare(self, operation: str, parameters: Parameters) -> Any:
        name, amount = parameters.get("name"), parameters.get("amount", 1)
        if not isinstance(name, str) or not 0 < len(name.encode()) <= 200:
            raise InvalidArgument("parameters.name", "must be 1 to 200 bytes of text")
        if type(amount) is not int:
            raise InvalidArgument("parameters.amount", "must be a whole number")
        return [name, amount]

    def apply(
        self, space: Space, settings: Settings, operation: str, body: Any, stamp: Stamp
    ) -> Any:
        name, amount = body
        total = amount + int(space.get(name.encode()) or b"0")
        # Written first and refused then: nothing of it stays.
        space.put(name.encode(), b"%d" % total)
        if not 0 <= total <= settings["maximum"]:
            raise Refused(
                RejectCode.INVALID_ARGUMENT, f"{total} is not 0 to {settings['maximum']}", "amount"
            )
        if total == 0:
            space.delete(name.encode())
        return {"total": total}

    def altered(self, space: Space, old: Settings, new: Settings) -> None:
        for name, total in space.range():
            if int(total) > new["maximum"]:
                raise Refused(RejectCode.INVALID_ARGUMENT, f"{name.decode()} is {total.decode()}")

    def query(self, view: View, settings: Settings, operation: str, parameters: Parameters) -> Any:
        if operation == "tally_get":
            total = view.get(str(parameters.get("name", "")).encode())
            return {"total": None if total is None else int(total)}
        limit = parameters.get("limit", LIMIT_MAX)
        items = []
        for name, total in view.range(reverse=parameters.get("reverse") is True):
            if len(items) == limit:
                break
            items.append({"name": name.decode(), "total": int(total)})
        return {"items": items}

    def index(self, settings: Settings) -> None:
        return None

    def check(self, view: View, settings: Settings) -> Iterator[str]:
        for name, total in view.range():
            if not 0 < int(total) <= settings["maximum"]:
                yield f"tally {name.decode()} is {total.decode()}"


TALLY = Tally()
