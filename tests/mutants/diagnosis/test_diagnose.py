"""Bugs of a port that shares no code with the built-in decoder: named where they are known, and only there."""

from __future__ import annotations

import functools
import shlex
from dataclasses import replace

import jax
import pytest

from harness import embedded
from harness.errors import PortError
from harness.mutants.catalogue import CATALOGUE
from harness.mutants.diagnosis import search
from harness.mutants.diagnosis.diagnose import diagnose
from harness.mutants.diagnosis.hint import hint
from harness.mutants.diagnosis.observe import first_cases
from harness.mutants.planting import loader
from harness.report.diagnosis import verdict_line
from harness.run import check as checking
from harness.run.check import Checker, checked
from harness.run.port import BUILT_IN
from harness.run.question import Question
from tests.run.ports import CutsTheVocabulary
from tests.second_port.bugs import BUGS, BY_NAME, Bug, both, neighbours, scaled_by
from tests.second_port.fresh_bugs import FRESH
from tests.second_port.port import SecondPort

CASES = ("hello", "the", "multi-token")  # two lengths to compile
QUESTION = Question(precisions=("float64",), modes=("replay",), cases=CASES)
AS_ASKED = shlex.join(["--precision", "float64", *(word for case in CASES for word in ("--case", case))])
# Of every family one, those with another value, another layer, one tensor alone, and two at once.
FIRST_CASES = (
    *("hello", "one-to-five", "repetition", "batch-left", "batch-decode", "decode", "multi-token", "chunked"),
)
KNOWN = (
    *("head_scaled_16", "norm_weight_ignored", "v_bias_missing", "mlp_bfloat16_inputs", "theta_123456"),
    *("rope_neighbours", "rope_missing_in_the_last_layer", "scale_0.3", "heads_tiled", "causal_missing"),
    *("phantom_key", "window_8", "residual_0.22", "layers_off_by_one", "eps_3e-6", "q_transposed_without_bias"),
)
UNKNOWN = ("norm_unbiased", "rope_from_the_end", "values_rotated")


def diagnosis(load, golden_path, checkpoint, question=QUESTION):
    with Checker(golden_path, checkpoint, "second", question, load=load, inspect=False) as checker:
        return diagnose(checker, "second")


@functools.cache
def of_bug(name):
    """The diagnosis of a planted bug, made once for all tests that look at it."""
    return diagnosis(BY_NAME[name].load, embedded.golden(), embedded.directory() / "qwen2-tiny")


def texts(operation):
    return "\n".join(f"{fact.topic}: {fact.text}" for fact in operation.facts)


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_bug_is_named(name):
    found = of_bug(name)
    assert found.verdict == "diverged"
    assert len(found.operations) == 1
    named, *alike = found.operations[0].named
    assert len(alike) <= 1  # a chunk that is not causal cannot be told from a missing causal mask on prompts
    assert "+".join(sorted(named.mutants)) == "+".join(sorted(BY_NAME[name].catalogue.split("+")))
    assert named.explained > 0.999999
    assert named.line.startswith("harness/")


def test_a_value_that_is_fitted_to_what_is_near_rounding_is_no_name(golden_path, checkpoint, monkeypatch):
    """A variance over N - 1 scales by 1 %: in bfloat16 some offset of the norm's weight is as good."""
    question = replace(QUESTION, precisions=("bfloat16",), cases=("hello", "multi-token"))
    load = BY_NAME["norm_unbiased"].load
    with Checker(golden_path, checkpoint, "second", question, load=load, inspect=False) as checker:
        assert not any(operation.named for operation in diagnose(checker, "second").operations)
        monkeypatch.setattr(search, "TELLING", 0.0)
        named = [operation.named for operation in diagnose(checker, "second").operations]
    assert any(named), "without the rule it has a name that is not its own"


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_bug_is_given_no_name(name):
    found = of_bug(name)
    assert found.verdict == "diverged"
    assert [operation.named for operation in found.operations] == [()] * len(found.operations)
    assert "rest on the evidence" in verdict_line(found.operations[0], "float64")
    assert found.operations[0].facts


@pytest.mark.parametrize(
    ("name", "cases", "value"),
    [
        ("slot_after", ("decode",), ""),  # the last write is clamped to the right slot: only earlier calls show it
        ("merged_feature_first", CASES, "the other way round"),
        ("head_of_bfloat16", CASES, ""),  # and not of every product: those of the layers are right
    ],
)
def test_a_bug_that_was_not_named_at_first_sight_is_named(name, cases, value, golden_path, checkpoint):
    bug = next(bug for bug in FRESH if bug.name == name)
    found = diagnosis(bug.load, golden_path, checkpoint, replace(QUESTION, cases=cases))
    (operation,) = found.operations
    (named,) = operation.named
    assert (named.mutants, named.value) == ((bug.catalogue,), value)


def test_there_are_enough_bugs_and_they_are_of_the_catalogue():
    ids = {mutant.id for mutant in CATALOGUE}
    known = [bug for bug in BUGS if bug.catalogue is not None]
    assert len(BUGS) == len(BY_NAME) >= 80
    assert len(BUGS) - len(known) >= 8
    assert {part for bug in known for part in bug.catalogue.split("+")} <= ids
    assert sum(bug.variation is not None for bug in known) >= 15


def test_names_that_cannot_be_told_apart_are_all_named():
    found = of_bug("eps_0")
    (operation,) = found.operations
    assert [s.mutants for s in operation.named] == [("eps_1e12",), ("norm_eps_as_maximum",)]
    assert "the same on these inputs" in verdict_line(operation, "float64")


def test_a_bug_that_is_narrower_than_the_catalogues_says_so():
    (operation,) = of_bug("eps_3e-6").operations
    assert operation.named[0].remark == "only attn_norm: the bug as it is known is also at mlp_norm"
    assert operation.named[0].value == "eps = 3e-06"


def test_every_layer_with_another_layers_weights_is_named_with_it():
    (operation,) = of_bug("layers_off_by_one").operations
    assert operation.named[0].value == "layers.1: weights of layer 0, layers.3: weights of layer 2"


def test_two_bugs_in_two_operations_are_two_findings(golden_path, checkpoint):
    two = Bug("two", None, {**both(neighbours), "similarity": scaled_by(lambda size: 1.0)})
    found = diagnosis(two.load, golden_path, checkpoint)
    assert [o.named[0].mutants for o in found.operations] == [("rope_interleaved",), ("scale_missing",)]


class Hiding:
    """The second port without some of its taps."""

    def __init__(self, port, kinds):
        self._port, self.without = port, kinds

    def forward(self, input_ids, positions, mask, cache, tap):
        def some(name, value):
            return value if name.rpartition(".")[2] in self.without else tap(name, value)

        return self._port.forward(input_ids, positions, mask, cache, some)


@pytest.mark.parametrize(
    ("name", "hidden", "first"),
    [
        ("rope_neighbours", ("q_rope", "k_rope", "probs"), "context"),
        ("q_bias_missing", ("q", "k"), "q_rope"),
        ("gate_up_swapped", ("act",), "mlp_out"),
        ("values_rotated", ("context",), "attn_out"),
    ],
)
def test_a_bug_is_named_from_the_next_tap_that_the_port_exposes(name, hidden, first, golden_path, checkpoint):
    bug = BY_NAME[name]
    found = diagnosis(lambda *args: Hiding(bug.load(*args), hidden), golden_path, checkpoint)
    (operation,) = found.operations
    assert operation.kinds == (first,)
    names = [suspect.mutants for suspect in operation.named]
    assert names == ([(bug.catalogue,)] if bug.catalogue else [])


def test_a_bug_that_only_float32_can_show_is_named_there(golden_path, checkpoint):
    question = replace(QUESTION, precisions=("float32",), cases=("one-to-five",))  # one length to compile
    found = diagnosis(BY_NAME["theta_1e4"].load, golden_path, checkpoint, question)
    assert found.precision == "float32"
    assert found.operations[0].named[0].mutants == ("theta_1e4",)


def test_a_right_port_has_nothing_to_diagnose(golden_path, checkpoint):
    load = lambda *args: SecondPort.load(*args, None)  # noqa: E731
    found = diagnosis(load, golden_path, checkpoint, replace(QUESTION, cases=("hello", "digits")))
    assert found.verdict == "match"
    assert found.operations == ()
    assert found.precision is None


def test_a_port_that_breaks_its_contract_is_refused(golden_path, checkpoint):
    with pytest.raises(PortError, match="breaks its contract"):
        diagnosis(lambda *args: CutsTheVocabulary.load(*args, None), golden_path, checkpoint)


def test_the_evidence_says_which_positions_are_clean_and_what_that_excludes():
    rope = of_bug("rope_neighbours").operations[0]
    assert "position 0 is clean in every case" in texts(rope)
    assert "every single-token case is clean" in texts(rope)
    assert "every vector keeps its length" in texts(rope)
    bias = of_bug("v_bias_missing").operations[0]
    assert "a single token is wrong: this is not RoPE, the scale, the mask or the cache" in texts(bias)
    assert "the same vector is added at every position" in texts(bias)
    assert "position 0 is clean" not in texts(bias)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("head_scaled_16", "actual = 0.0625 x golden"),
        ("norm_weight_ignored", "each feature has a factor of its own"),
        ("causal_missing", "the causal mask is not whole"),
        ("phantom_key", "rows of probabilities sum to"),
        ("head_bfloat16", "every value is exactly a bfloat16"),
        ("mlp_bfloat16_inputs", "as large as the rounding of bfloat16"),
        ("v_bias_missing", "wrong in 3 of 3 cases"),
        ("rope_missing_in_the_last_layer", "layers.3.q_rope"),
    ],
)
def test_the_evidence_has_figures(name, sentence):
    (operation,) = of_bug(name).operations
    assert sentence in texts(operation)


def hinted(golden_path, checkpoint, spec, load, question=QUESTION, inspect=False):
    """What a check ends with."""
    with Checker(golden_path, checkpoint, spec, question, load=load, inspect=inspect) as checker:
        return hint(checker, checked(checker))


@pytest.fixture(scope="module")
def ended(golden_path, checkpoint):
    """What a check of a port with a known bug ends with; and what was done for it, in order."""
    done = []

    def load(*args):
        done.append("load")
        return BY_NAME["rope_neighbours"].load(*args)

    with pytest.MonkeyPatch.context() as patch, jax.numpy_rank_promotion("allow"):
        for name in ("open_golden", "preflight"):
            own = getattr(checking, name)
            patch.setattr(checking, name, lambda *args, own=own, name=name: (done.append(name), own(*args))[1])
        return hinted(golden_path, checkpoint, "second", load, inspect=True), done


def test_what_a_check_ends_with_opens_verifies_and_loads_nothing_again(ended):
    line, done = ended
    assert line.startswith("rope_interleaved: ")
    assert done == ["open_golden", "preflight", "load"]


def test_a_check_ends_with_what_the_bug_looks_like(ended):
    line, _ = ended
    assert line.startswith("rope_interleaved: this port reproduces that bug to ")
    assert line.endswith(f"`goldens diagnose {AS_ASKED} --port second` says more")


def test_a_check_whose_bug_is_not_in_the_catalogue_as_it_is_ends_with_the_command(golden_path, checkpoint):
    line = hinted(golden_path, checkpoint, "second", BY_NAME["scale_0.3"].load)
    known, command = line.splitlines()
    assert known == "no bug of the catalogue as it is"
    assert command.startswith(f"`goldens diagnose {AS_ASKED} --port second` tries other values")


BRIEF = replace(QUESTION, cases=("hello",))
AS_BRIEF = shlex.join(["--precision", "float64", "--case", "hello"])


def test_a_model_that_is_large_gets_the_command_alone(golden_path, checkpoint, monkeypatch):
    monkeypatch.setattr("harness.mutants.diagnosis.hint.MOST_PARAMETERS", 1000)
    line = hinted(golden_path, checkpoint, "second", BY_NAME["head_scaled_16"].load, BRIEF)
    assert line == f"`goldens diagnose {AS_BRIEF} --port second` looks for the bug that does the same"


def test_the_command_at_the_end_names_golden_and_weights_that_are_not_the_embedded_ones(
    golden_path, checkpoint, tmp_path, monkeypatch
):
    monkeypatch.setattr("harness.mutants.diagnosis.hint.MOST_PARAMETERS", 1000)
    moved = tmp_path / "my golden.h5"
    moved.symlink_to(golden_path)
    line = hinted(moved, checkpoint, "second", BY_NAME["head_scaled_16"].load, BRIEF)
    assert line.startswith(f"`goldens diagnose '{moved}' --weights {checkpoint} {AS_BRIEF} --port second`")


def test_a_check_that_matches_ends_without_a_diagnosis(golden_path, checkpoint):
    assert hinted(golden_path, checkpoint, BUILT_IN, None, replace(QUESTION, cases=("digits",))) is None


def test_only_cases_that_were_checked_are_looked_at(golden_path, checkpoint):
    """Of all cases a few are enough here; `code`, which was not run, is no case in which the port is right."""
    load = loader(next(mutant for mutant in CATALOGUE if mutant.id == "rope_interleaved"))
    found = diagnosis(load, golden_path, checkpoint, replace(QUESTION, cases=()))
    assert found.cases[0] == "one-to-five"
    assert set(found.cases) == set(FIRST_CASES)
    assert found.operations[0].named[0].mutants == ("rope_interleaved",)


def test_the_first_cases_are_a_token_short_prompts_and_every_other_sort_of_call(golden_path, checkpoint):
    with Checker(golden_path, checkpoint, "harness.run.decoder:Decoder", Question()) as checker:
        assert tuple(case.name for case in first_cases(checker.cases)) == FIRST_CASES
