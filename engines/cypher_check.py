"""What a statement must keep whatever the graph holds: limits, names, the order of clauses.

Statements from the log are checked as those of callers are.
"""

from __future__ import annotations

from typing import Any, Final

from engines import cypher_tree as tree
from engines.cypher_errors import CypherError
from engines.errors import InvalidArgument
from engines.graph_items import LABELS_MAX, NAME_BYTES_MAX, PROPERTY_BYTES_MAX
from engines.timeseries_parameters import one_text

CLAUSES_MAX: Final = 32
COLUMNS_MAX: Final = 64  # and keys of ORDER BY, changes of SET, targets of DELETE
PATTERN_EDGES_MAX: Final = 16  # relationships in the patterns of one clause
TYPES_MAX: Final = 32  # of a relationship in a pattern
HOPS_MAX: Final = 30  # of a relationship of variable length
EXISTS_DEPTH_MAX: Final = 4  # EXISTS within each other
VARIABLE_BYTES_MAX: Final = 256
_WRITES: Final = (tree.Create, tree.Merge, tree.Update, tree.Delete)


def is_write(statement: tree.Statement) -> bool:
    return any(isinstance(clause, _WRITES) for clause in statement.clauses)


def check_statement(statement: tree.Statement) -> None:
    """Raises CypherError."""
    clauses = statement.clauses
    if len(clauses) > CLAUSES_MAX:
        raise CypherError(f"has {len(clauses)} clauses; at most {CLAUSES_MAX}")
    for place, clause in enumerate(clauses):
        returns = isinstance(clause, tree.Project) and clause.last
        if returns and place + 1 < len(clauses):
            raise CypherError("nothing may follow RETURN")
        _check(clause)
    last = clauses[-1]
    if not isinstance(last, _WRITES) and not (isinstance(last, tree.Project) and last.last):
        raise CypherError("must end with RETURN, or with a clause that writes")


def _check(of: Any, around: int = 0) -> None:
    """The tree below a clause, too. Its depth is bounded. `around`: how many EXISTS are."""
    kind = type(of)
    if kind is tree.Exists:
        around += 1
        if around > EXISTS_DEPTH_MAX:
            raise CypherError(f"EXISTS is nested deeper than {EXISTS_DEPTH_MAX}")
    if kind is tree.PathPattern:
        if len(of.nodes) != len(of.edges) + 1:
            raise CypherError("a path has one node more than relationships")
    elif kind is tree.EdgePattern:
        _check_hops(of)
        _check_count(len(of.types), "types", TYPES_MAX)
        _check_names(of.types, "a type", NAME_BYTES_MAX)
    elif kind in (tree.NodePattern, tree.HasLabels, tree.SetLabels, tree.RemoveLabels):
        _check_count(len(of.labels), "labels", LABELS_MAX)
        _check_names(of.labels, "a label", NAME_BYTES_MAX)
    elif kind is tree.Variable:
        _check_names((of.name,), "a variable", VARIABLE_BYTES_MAX)
    elif kind is tree.Project:
        _check_count(len(of.columns), "columns", COLUMNS_MAX)
        _check_count(len(of.order), "keys to sort by", COLUMNS_MAX)
        if not of.last:
            names = tuple(column.name for column in of.columns)
            _check_names(names, "a variable", VARIABLE_BYTES_MAX)
    elif kind is tree.MapOf:
        if len(of.names) != len(of.values):
            raise CypherError("a map has other names than values")
        _check_names(of.names, "a member's name", PROPERTY_BYTES_MAX)
    elif kind in (tree.SetProperty, tree.RemoveProperty):
        _check_names((of.name,), "a property's name", PROPERTY_BYTES_MAX)
    if kind in (tree.Match, tree.Create, tree.Exists):
        _check_count(len(of.paths), "patterns", PATTERN_EDGES_MAX)
        edges = sum(len(path.edges) for path in of.paths)
        _check_count(edges, "relationships", PATTERN_EDGES_MAX)
    elif kind is tree.Merge:
        _check_count(len(of.path.edges), "relationships", PATTERN_EDGES_MAX)
        _check_count(len(of.on_create) + len(of.on_match), "changes", COLUMNS_MAX)
    elif kind is tree.Update:
        _check_count(len(of.changes), "changes", COLUMNS_MAX)
    elif kind is tree.Delete:
        _check_count(len(of.targets), "targets", COLUMNS_MAX)
    if isinstance(of, tuple):
        for each in of:
            _check(each, around)


def _check_count(count: int, what: str, most: int) -> None:
    if count > most:
        raise CypherError(f"has {count} {what} in one place; at most {most}")


def _check_hops(edge: tree.EdgePattern) -> None:
    least, most = edge.least, edge.most
    if (least is None) != (most is None):
        raise CypherError("a relationship of variable length has two bounds")
    if least is not None and most is not None and not 0 <= least <= most <= HOPS_MAX:
        raise CypherError(f"*{least}..{most}: hops go from 0 to {HOPS_MAX}, the least first")


def _check_names(names: tuple[str, ...], what: str, bytes_max: int) -> None:
    for name in names:
        try:
            one_text(name, what, bytes_max)
        except InvalidArgument as error:
            raise CypherError(f"{str(error).removeprefix(what + ': ')} ({what})") from None
