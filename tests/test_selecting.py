from __future__ import annotations

import pytest

from harness.errors import UsageError
from harness.selecting import select

NAMES = ("hello", "batch-right", "batch-left", "Hello")
SAID = {"problem": "no such name", "where": "--name", "hint": "ask for another"}


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        ((), NAMES),
        (("batch-*",), ("batch-right", "batch-left")),
        (("batch-left", "h*"), ("hello", "batch-left")),
        (("[hH]ello", "hello"), ("hello", "Hello")),
    ],
)
def test_what_matches_any_pattern_is_selected_once_in_the_order_of_the_names(patterns, chosen):
    assert select(NAMES, patterns, **SAID) == chosen


@pytest.mark.parametrize("patterns", [("nothing",), ("hello", "nothing"), ("HELLO", "nothing")])
def test_a_pattern_that_matches_nothing_is_refused_also_beside_one_that_does(patterns):
    with pytest.raises(UsageError) as caught:
        select(iter(NAMES), patterns, **SAID)
    wrong = next(pattern for pattern in patterns if pattern not in NAMES)
    for part in ("no such name", f"--name {wrong}", ", ".join(NAMES), "hint: ask for another"):
        assert part in str(caught.value)


def test_where_there_is_nothing_no_pattern_matches():
    assert select((), (), **SAID) == ()
    with pytest.raises(UsageError, match="no such name"):
        select((), ("*",), **SAID)
