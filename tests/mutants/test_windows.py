"""Bugs of the sliding window: caught and named where there is a window, no bugs at all where there is none."""

from __future__ import annotations

import pytest

from harness.architecture import architecture_of, read_config
from harness.mutants.applies import not_here
from harness.mutants.audit import AuditQuestion, audit
from harness.mutants.configs import MUTANTS as CONFIGS
from harness.mutants.judgement import Facts, judge
from harness.mutants.needs import case_facts, model_facts
from harness.mutants.planting import changed_config
from harness.mutants.runs import MutantRun
from harness.mutants.windows import MUTANTS
from harness.store import open_golden
from tests.mutants.conftest import Sharing

IDS = tuple(mutant.id for mutant in MUTANTS)
BY_ID = {mutant.id: mutant for mutant in MUTANTS}
NONE = "no layer has a sliding window here"


def windows_after(name: str, config):
    return architecture_of(changed_config(BY_ID[name], config)).windows


@pytest.fixture(scope="module")
def caught(window_golden):
    return audit(window_golden, question=AuditQuestion(mutants=IDS), progress=Sharing())


@pytest.mark.parametrize("name", IDS)
def test_it_is_caught_and_named_at_the_probabilities_in_float64_and_float32(name, caught):
    audited = next(found for found in caught.mutants if found.id == name)
    assert [result.precision for result in audited.results] == ["float64", "float32"]
    for result in audited.results:
        assert (result.outcome, result.named, result.introduced) == ("caught", True, ("probs",))


def test_nothing_of_the_window_is_a_blind_spot_and_two_cases_are_enough(caught):
    assert caught.verdict == "sees" and caught.blind == ()
    assert {score.caught for score in caught.scores.values()} == {len(MUTANTS)}
    assert set(caught.needed) == {"far-beyond", "across"}


def test_on_a_model_without_a_window_none_of_them_is_a_bug_and_none_is_counted(golden_path, checkpoint):
    question = AuditQuestion(("float32",), (*IDS, "scale_missing"), ("one-to-five",))
    audited = audit(golden_path, checkpoint, question)
    for mutant in audited.mutants:
        if mutant.id in BY_ID:
            [result] = mutant.results
            assert (result.outcome, result.reason, result.compared) == ("equivalent", NONE, 0)
    score = audited.scores["float32"]
    assert (score.equivalent, score.caught, score.visible) == (len(MUTANTS), 1, 1)


def test_where_no_case_is_longer_than_the_window_that_is_the_reason(window_golden, window_checkpoint):
    model = model_facts(window_checkpoint, read_config(window_checkpoint))
    with open_golden(window_golden) as golden:
        facts = {entry.name: case_facts(golden, entry) for entry in golden.manifest.cases}
    assert {name: fact.over_window for name, fact in facts.items()} == {
        "shorter": -2,
        "as-long": 0,
        "one-beyond": 1,
        "far-beyond": 29,
        "across": 3,
        "chunks": 4,
        "left": 1,
    }

    def found(name, *cases):
        result = judge(MutantRun(BY_ID[name]), "float32", Facts([facts[case] for case in cases], model))
        return result.outcome, result.reason, result.remedy

    longer = ("no case is longer than the window", "a prompt that is longer than the window")
    assert found("window_missing", "shorter", "as-long") == ("unreachable", *longer)
    as_long = ("no case is as long as the window", "a prompt that is as long as the window")
    assert found("window_off_by_one_narrower", "shorter") == ("unreachable", *as_long)
    assert "longer" not in found("window_off_by_one_narrower", "as-long")[1]
    assert found("decode_window_missing", "far-beyond")[1] == "no case has 1 decode steps"


def test_where_every_layer_has_the_window_its_layers_cannot_be_mistaken(window_checkpoint):
    config = read_config(window_checkpoint)
    whole = model_facts(window_checkpoint, {**config, "max_window_layers": 0})
    assert not_here(BY_ID["window_in_every_layer"], whole) == "every layer has the sliding window here"
    assert not_here(BY_ID["window_layers_swapped"], whole) == "every layer has the sliding window here"
    assert not_here(BY_ID["window_missing"], whole) is None


def test_a_mutant_of_the_config_says_which_layers_have_which_window(window_checkpoint):
    config = read_config(window_checkpoint)
    assert windows_after("window_missing", config) == (None, None, None)
    assert windows_after("window_off_by_one_wider", config) == (None, 7, 7)
    assert windows_after("window_off_by_one_narrower", config) == (None, 5, 5)
    assert windows_after("window_in_every_layer", config) == (6, 6, 6)
    assert windows_after("window_layers_swapped", config) == (6, None, None)
    assert windows_after("window_starts_late", config) == (None, None, 6)
    types = ["full_attention", "sliding_attention", "sliding_attention"]
    assert windows_after("window_layers_swapped", {**config, "layer_types": types}) == (6, None, None)


@pytest.mark.parametrize("name", [name for name in IDS if BY_ID[name].kind == "config"])
def test_without_a_window_a_mutant_of_the_config_changes_nothing(name, checkpoint):
    """A diagnosis tries it on any model, and must not stumble."""
    config = read_config(checkpoint)
    assert changed_config(BY_ID[name], config) == config


def test_a_layer_fewer_has_a_layer_type_fewer(window_checkpoint):
    dropped = next(mutant for mutant in CONFIGS if mutant.id == "last_layer_dropped")
    types = {"layer_types": ["full_attention", "sliding_attention", "sliding_attention"]}
    config = {**read_config(window_checkpoint), **types}
    assert architecture_of(changed_config(dropped, config)).windows == (None, 6)
