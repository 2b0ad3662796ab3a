"""Words follow values, and what is near is said where it is near."""

from __future__ import annotations

import numpy as np
import pytest

from harness.mutants.catalogue import BY_ID, CATALOGUE
from harness.mutants.diagnosis import facts
from harness.mutants.diagnosis.answer import Ranked, ranking
from harness.mutants.diagnosis.fit import at
from harness.mutants.diagnosis.hypothesis import Hypothesis

FREE = [mutant for mutant in CATALOGUE if mutant.free]


@pytest.mark.parametrize("mutant", FREE, ids=lambda mutant: f"{mutant.id} {mutant.free.symbol}")
def test_the_formula_of_a_fitted_value_has_that_value(mutant):
    value = mutant.free.tried[-1]
    (wrong,) = at(mutant, value).wrong
    if mutant.free.forms:  # another form of what the catalogue says
        assert wrong == mutant.wrong
    elif mutant.free.by_layer:  # every layer has its own, which the value says
        assert wrong == "a layer has the weights of another"
    else:
        assert f"{value:.6g}" in wrong


def test_a_value_of_the_catalogue_has_the_catalogues_words():
    assert Hypothesis.of(BY_ID["theta_1e4"]).wrong == (BY_ID["theta_1e4"].wrong,)
    assert at(BY_ID["theta_1e4"], 1000.0).wrong == ("theta = 1000",)


def near(explained, *ids):
    mutants = tuple(BY_ID[name] for name in ids)
    return Ranked(Hypothesis(mutants, tuple(m.change for m in mutants)), explained, "")


def test_two_at_once_are_near_where_they_explain_most_and_more_than_one_of_them():
    single = near(0.4, "scale_missing")
    noise = near(0.41, "scale_missing", "padding_seen")  # what the first explains alone
    weak = near(0.45, "causal_missing", "softmax_sink")  # less than most of it
    both = near(0.95, "scale_missing", "causal_missing")
    assert [r.hypothesis.ids for r in ranking([single, noise, weak, both])] == [
        ("scale_missing", "causal_missing"),
        ("scale_missing",),
    ]


def test_a_row_without_a_key_is_told_from_a_row_that_looks_ahead():
    golden = np.tril(np.ones((1, 1, 4, 4))) / np.arange(1, 5)[:, None]
    actual = golden.copy()
    actual[0, 0, 0] = 1 / 64  # a softmax over the 64 hidden keys of padded inputs
    assert facts.without_a_key(actual, golden)[0, 0].tolist() == [True, False, False, False]
    actual[0, 0, 1] = [0.5, 0.25, 0.25, 0]
    assert facts.without_a_key(actual, golden)[0, 0].tolist() == [True, False, False, False]
    assert facts.mass_ahead(actual) == 0.25
