"""Which taps a golden holds: of a level some layers, and of these some names."""

from __future__ import annotations

import pytest

from harness.errors import UsageError
from harness.selecting import Selected, at_level, folded, refuse_unmatched
from tests.small_decoder import decoder_taps

TAPS = decoder_taps(layers=9)


def names(level="ops", cached=False, taps=(), layers=None):
    return [tap.name for tap in at_level(TAPS, level, cached, Selected.asked(taps, layers))]


def test_globs_and_layers_choose_among_what_a_level_has():
    assert names(taps=["layers.*.resid_post", "logits"], layers="first, last,every 4th") == [
        *(f"layers.{i}.resid_post" for i in (0, 4, 8)),
        "logits",
    ]
    assert names("layers", layers="last 2") == [
        "embed",
        "layers.7.resid_post",
        "layers.8.resid_post",
        "final_norm",
        "logits",
    ]
    assert names("logits", layers="first") == ["logits"]
    assert names(taps=["layers.[01].q_*"]) == ["layers.0.q_rope", "layers.1.q_rope"]
    assert names(taps=["*.cache_k"]) == [] and len(names(taps=["*.cache_k"], cached=True)) == 9


def test_one_selection_has_one_form():
    assert Selected.asked(["b", "a", "a"], "first,  last") == Selected.asked(["a", "b"], " first, last ")
    assert not Selected.asked([], None)


@pytest.mark.parametrize("rule", ["", "all", "0-3", "first,,last", "every 0th"])
def test_layers_that_are_no_rule_are_refused(rule):
    with pytest.raises(UsageError, match="no rule for layers") as caught:
        Selected.asked([], rule)
    assert caught.value.where == f"--layers {rule}"


@pytest.mark.parametrize(
    ("level", "cached", "taps", "layers"),
    [
        ("ops", False, ("*.rope",), None),  # there is no such tap
        ("ops", False, ("layers.1.q",), "first"),  # not in these layers
        ("layers", False, ("*.q_rope",), None),  # not at this level
        ("ops", False, ("logits", "*.cache_v"), None),  # not without a cache
    ],
)
def test_a_glob_that_names_nothing_is_refused(level, cached, taps, layers):
    with pytest.raises(UsageError, match="no tap that would be recorded") as caught:
        refuse_unmatched(TAPS, [("a", level, cached)], Selected.asked(taps, layers))
    assert caught.value.where == f"--taps {taps[-1]}"


def test_a_case_of_which_nothing_is_left_is_refused():
    cases = [("a", "ops", False), ("b", "logits", True)]
    refuse_unmatched(TAPS, cases, Selected.asked(["*.q", "logits"], None))
    with pytest.raises(UsageError, match="nothing of a case") as caught:
        refuse_unmatched(TAPS, cases, Selected.asked(["*.q"], None))
    assert "b, of 2" in caught.value.found


def test_names_are_told_in_few_words():
    held = ["embed", *(f"layers.{i}.q" for i in range(9)), "layers.2.k", "layers.5.k"]
    assert folded(held, TAPS) == "embed, layers.*.q, layers.2,5.k"
