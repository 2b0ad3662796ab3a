"""Ports that share no code with the built-in decoder: right ones match, and bugs have their names."""

from __future__ import annotations

import pytest

from harness import embedded
from harness.mutants.diagnosis.diagnose import diagnose
from harness.run.check import Checker, check
from harness.run.question import Question
from tests.families.independent import BUGS, PORTS

PLANTED = [(name, bug) for name, bugs in BUGS.items() for bug in bugs]


def paths(name):
    return embedded.directory() / f"{name}.h5", embedded.directory() / name


def loading(name, bug=""):
    return lambda checkpoint, config, dtype: PORTS[name].load(checkpoint, config, dtype, bug=bug)


@pytest.mark.parametrize("name", PORTS)
def test_an_independent_port_matches_in_every_mode_at_every_precision(name):
    golden, checkpoint = paths(name)
    cases = ("seven", "left-decode", "far")
    question = Question(precisions=("float64", "float32", "bfloat16"), cases=cases)
    report = check(golden, checkpoint, name, question, load=loading(name))
    assert report.verdict == "match", report.introduced
    assert {result.mode for result in report.results} == {"forward", "replay", "prefill", "alone"}


@pytest.mark.parametrize(("name", "bug"), PLANTED, ids=[f"{name}: {bug}" for name, bug in PLANTED])
def test_a_planted_bug_is_named(name, bug):
    golden, checkpoint = paths(name)
    cases = ("seven", "far", "chunks") if "window" in bug else ("seven", "far")  # theirs show in a cache as well
    question = Question(precisions=("float64",), modes=("replay",), cases=cases)
    with Checker(golden, checkpoint, name, question, load=loading(name, bug), inspect=False) as checker:
        found = diagnose(checker, name)
    assert found.verdict == "diverged"
    named = [one.mutants for operation in found.operations for one in operation.named]
    assert named and all(BUGS[name][bug] in ids for ids in named), (named, [o.taps for o in found.operations])
