"""Update operators in MongoDB's language, and JSON Merge Patch (RFC 7396).

Operators are checked as they are parsed, on the node that was asked, and parsed again by
`apply`. What a document makes impossible ($inc of a text) is refused there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, NoReturn

from engines.document_filter import parse_item_test
from engines.document_order import is_number, order_key
from engines.document_paths import MISSING, Path, item_number, parse_path
from engines.document_work import TRIED_VALUES_MAX, Work, values_in
from engines.engine import Refused
from engines.errors import InvalidArgument
from engines.interfaces import RejectCode

CHANGES_MAX: Final = 1_000  # paths of one update
SLICE_MAX: Final = 1_000_000

Change = Callable[[dict[str, Any]], None]


class _Operation(NamedTuple):
    path: Path
    operand: Any
    field: str
    work: Work

    def refuse(self, message: str) -> NoReturn:
        raise Refused(RejectCode.INVALID_ARGUMENT, message, self.field)


def parse_update(given: object, field: str, work: Work) -> list[Change]:
    """What to do to a document, in order. `work` hears what it is worth.

    Raises InvalidArgument, naming the place.
    """
    if not isinstance(given, dict) or not given:
        raise InvalidArgument(field, "must be an object of operators")
    changes: list[Change] = []
    paths: set[Path] = set()
    for name, operand in given.items():
        where = f"{field}.{name}"
        if name not in _OPERATORS:
            known = ", ".join(_OPERATORS)
            raise InvalidArgument(
                where, f"is no operator; known: {known}; to give members as they are, use merge"
            )
        if not isinstance(operand, dict) or not operand:
            raise InvalidArgument(where, "must be an object of paths")
        for text, each in operand.items():
            place = f"{where}.{text}"
            path = _changed_path(text, place, paths)
            operation = _Operation(path, each, place, work)
            changes.append(_OPERATORS[name](operation, paths))
            if len(paths) > CHANGES_MAX:
                raise InvalidArgument(field, f"changes over {CHANGES_MAX} paths")
    return changes


def parse_merge(given: object, field: str) -> Change:
    """RFC 7396: members take the place of members, null removes. Raises InvalidArgument."""
    if not isinstance(given, dict):
        raise InvalidArgument(field, "must be an object")
    if "_id" in given:
        raise InvalidArgument(f"{field}._id", "cannot change")
    return lambda document: _merge(document, given)


def set_at(document: dict[str, Any], path: Path, value: Any, field: str) -> None:
    """Raises Refused: something that is no object stands in the way."""
    container, key = _made_place(document, _Operation(path, value, field, Work()))
    _put(container, key, value)


def _merge(target: dict[str, Any], patch: Mapping[str, Any]) -> None:
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        elif isinstance(value, dict):
            inner = target.get(name)
            if inner.__class__ is not dict:
                # A new one, so that nulls within the patch are not stored.
                inner = target[name] = {}
            _merge(inner, value)
        else:
            target[name] = value


def _changed_path(text: object, field: str, paths: set[Path]) -> Path:
    """One that no other change of the same update touches: the order would matter."""
    path = parse_path(text, field)
    if path[0] == "_id":
        raise InvalidArgument(field, "_id cannot change")
    for other in sorted(paths):
        shorter = min(len(path), len(other))
        if path[:shorter] == other[:shorter]:
            raise InvalidArgument(field, f"{'.'.join(other)} is changed by the same update")
    paths.add(path)
    return path


# --- Places ------------------------------------------------------------------------------


def _found_place(document: Any, path: Path) -> tuple[Any, Any] | None:
    """The object or array that holds the path's end, and its key there; None: not there."""
    container = document
    for place, part in enumerate(path):
        key: Any = part
        if container.__class__ is list:
            key = item_number(part)
            if key is None or key >= len(container):
                return None
        elif container.__class__ is not dict or part not in container:
            return None
        if place == len(path) - 1:
            return container, key
        container = container[key]
    return None


def _made_place(document: Any, operation: _Operation) -> tuple[Any, Any]:
    """The same, with objects made where there is nothing; the end itself may be absent."""
    path, container = operation.path, document
    for place, part in enumerate(path):
        key: Any = part
        if container.__class__ is list:
            key = item_number(part)
            if key is None or key > len(container):
                operation.refuse(f"an array of {len(container)} has no place {part}")
        elif container.__class__ is not dict:
            operation.refuse(f"{'.'.join(path[:place])} is neither object nor array")
        if place == len(path) - 1:
            return container, key
        if _value(container, key) is MISSING:
            _put(container, key, {})
        container = container[key]
    raise AssertionError("a path has at least one part")


def _value(container: Any, key: Any) -> Any:
    if container.__class__ is list:
        return container[key] if key < len(container) else MISSING
    return container.get(key, MISSING)


def _put(container: Any, key: Any, value: Any) -> None:
    if container.__class__ is list and key == len(container):
        container.append(value)
    else:
        container[key] = value


# --- Operators: each checks its operand and returns the change ------------------------------


def _set(operation: _Operation, _: set[Path]) -> Change:
    def change(document: dict[str, Any]) -> None:
        container, key = _made_place(document, operation)
        _put(container, key, operation.operand)

    return change


def _unset(operation: _Operation, _: set[Path]) -> Change:
    def change(document: dict[str, Any]) -> None:
        found = _found_place(document, operation.path)
        if found is None:
            return
        container, key = found
        if container.__class__ is list:
            container[key] = None  # the others keep their places
        else:
            del container[key]

    return change


def _arithmetic(compute: Callable[[Any, Any], Any], absent: Callable[[Any], Any]) -> Any:
    def parse(operation: _Operation, _: set[Path]) -> Change:
        if not is_number(operation.operand):
            raise InvalidArgument(operation.field, "must be a number")

        def change(document: dict[str, Any]) -> None:
            container, key = _made_place(document, operation)
            old = _value(container, key)
            if old is MISSING:
                _put(container, key, absent(operation.operand))
            elif is_number(old):
                container[key] = compute(old, operation.operand)
            else:
                operation.refuse("what is there is no number")

        return change

    return parse


def _extreme(sign: int) -> Any:
    def parse(operation: _Operation, _: set[Path]) -> Change:
        limit = order_key(operation.operand)

        def change(document: dict[str, Any]) -> None:
            container, key = _made_place(document, operation)
            old = _value(container, key)
            if old is MISSING:
                _put(container, key, operation.operand)
                return
            there = order_key(old)
            if (limit < there) if sign < 0 else (limit > there):
                container[key] = operation.operand

        return change

    return parse


def _array_at(document: dict[str, Any], operation: _Operation) -> list[Any]:
    """The array at the path, made if there is nothing."""
    container, key = _made_place(document, operation)
    found = _value(container, key)
    if found is MISSING:
        found = []
        _put(container, key, found)
    if found.__class__ is not list:
        operation.refuse("what is there is no array")
    array: list[Any] = found
    return array


def _each(operation: _Operation, *more: str) -> tuple[list[Any], Mapping[str, Any]]:
    """The values to add: the operand, or those of its $each; and its other members."""
    operand = operation.operand
    if not isinstance(operand, dict) or "$each" not in operand:
        return [operand], {}
    for name in operand:
        if name not in ("$each", *more):
            raise InvalidArgument(f"{operation.field}.{name}", "is not known here")
    if not isinstance(operand["$each"], list | tuple):
        raise InvalidArgument(f"{operation.field}.$each", "must be an array")
    return list(operand["$each"]), operand


def _push(operation: _Operation, _: set[Path]) -> Change:
    values, more = _each(operation, "$slice")
    kept = more.get("$slice")
    if kept is not None and (type(kept) is not int or abs(kept) > SLICE_MAX):
        raise InvalidArgument(f"{operation.field}.$slice", "must be a whole number")

    def change(document: dict[str, Any]) -> None:
        array = _array_at(document, operation)
        array.extend(values)
        if kept is not None and kept >= 0:
            del array[kept:]
        elif kept is not None:
            del array[:kept]

    return change


def _add_to_set(operation: _Operation, _: set[Path]) -> Change:
    values, _more = _each(operation)

    def change(document: dict[str, Any]) -> None:
        array = _array_at(document, operation)
        known = set(map(order_key, array))
        for value in values:
            key = order_key(value)
            if key not in known:
                known.add(key)
                array.append(value)

    return change


def _pull(operation: _Operation, _: set[Path]) -> Change:
    wanted = parse_item_test(operation.operand, operation.field)
    if wanted.regex:
        raise InvalidArgument(operation.field, "$regex is for reads only")
    operation.work.conditions += wanted.size

    def change(document: dict[str, Any]) -> None:
        found = _found_place(document, operation.path)
        if found is None:
            return
        array = found[0][found[1]]
        if array.__class__ is not list:
            operation.refuse("what is there is no array")
        if wanted.size:
            values = values_in(array)
            operation.work.on_document += wanted.size * values
            if operation.work.on_document > TRIED_VALUES_MAX:
                operation.refuse(f"has {wanted.size} conditions, too many for {values} values")
        array[:] = [item for item in array if not wanted.test(item)]

    return change


def _rename(operation: _Operation, paths: set[Path]) -> Change:
    target = _Operation(
        _changed_path(operation.operand, operation.field, paths),
        None,
        operation.field,
        operation.work,
    )

    def change(document: dict[str, Any]) -> None:
        found = _found_place(document, operation.path)
        if found is None:
            return
        container, key = found
        if container.__class__ is list:
            operation.refuse("an item of an array has no name")
        value = container.pop(key)
        place, name = _made_place(document, target)
        _put(place, name, value)

    return change


_OPERATORS: Mapping[str, Callable[[_Operation, set[Path]], Change]] = {
    "$set": _set,
    "$unset": _unset,
    "$inc": _arithmetic(lambda old, operand: old + operand, lambda operand: operand),
    "$mul": _arithmetic(lambda old, operand: old * operand, lambda operand: operand * 0),
    "$min": _extreme(-1),
    "$max": _extreme(1),
    "$push": _push,
    "$pull": _pull,
    "$addToSet": _add_to_set,
    "$rename": _rename,
}
