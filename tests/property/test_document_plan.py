"""The short way to the plan of one equality, beside the rules for every filter."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from engines import document_plan
from engines.document_filter import Condition
from engines.document_indexes import Index
from engines.document_items import IndexState

PATHS = (("_id",), ("a",), ("a", "b"), ("c",))
_path = st.sampled_from(PATHS)
_value = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.floats(allow_nan=False), st.text(max_size=3),
    st.binary(max_size=3), st.lists(st.integers(0, 2), max_size=2),
    st.dictionaries(st.sampled_from("ab"), st.integers(0, 2), max_size=2),
)  # fmt: skip
_index = st.builds(
    lambda paths, unique: Index("_".join(map(".".join, paths)), tuple(paths), unique),
    st.lists(_path, min_size=1, max_size=3, unique=True),
    st.booleans(),
)
_state = st.builds(
    IndexState, st.integers(1, 9), st.one_of(st.none(), st.text(max_size=2)), st.integers(0, 2)
)


@given(
    st.sampled_from(("$eq", "$in", "$gt", "$lte")), _path, _value,
    st.lists(st.tuples(_index, _state), max_size=6),
)  # fmt: skip
def test_it_is_what_the_rules_lead_to(
    operator: str, path: tuple[str, ...], value: Any, indexes: list[tuple[Index, IndexState]]
) -> None:
    operand = [value] if operator == "$in" else value
    condition = Condition(path, operator, operand)
    short = document_plan.plans([condition], (), indexes)
    # What is said twice is no news to the rules, and nothing that the short way takes.
    assert short == document_plan.plans([condition, condition], (), indexes)
