"""A golden whose truth is stored in float32 is not asked about float64, and refuses when it is."""

from __future__ import annotations

import pytest

from harness.errors import UsageError
from harness.run.question import Question


def test_the_usual_question_is_what_the_golden_can_carry():
    assert Question().carried_by("float32").precisions == ("float32",)
    assert Question().carried_by("float64").precisions == ("float64", "float32")
    assert Question(precisions=("bfloat16",)).carried_by("float32").precisions == ("bfloat16",)


@pytest.mark.parametrize("asked", [("float64",), ("float64", "bfloat16")])
def test_float64_is_refused_where_it_is_asked_for_by_itself(asked):
    with pytest.raises(UsageError, match="cannot say anything about float64") as refusal:
        Question(precisions=asked).carried_by("float32")
    assert "--dtype float64" in refusal.value.hint
