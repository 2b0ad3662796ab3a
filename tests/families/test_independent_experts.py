"""Ports of mixtures of experts that share no code with the built-in decoder: they match, and bugs have names."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.record

import numpy as np

from harness.architecture import read_config
from harness.corpus import Corpus
from harness.entries import Batch, Decode, Prompt
from harness.mutants.catalogue import BY_ID
from harness.mutants.diagnosis.diagnose import diagnose
from harness.mutants.diagnosis.fit import at
from harness.mutants.diagnosis.hypothesis import Hypothesis
from harness.mutants.diagnosis.prediction import Predictor
from harness.record.recorder import record
from harness.run.check import Checker, check
from harness.run.precision import in_force
from harness.run.question import Question
from harness.run.source import GoldenSource
from harness.store import open_golden
from tests.families import tiny
from tests.families.independent_experts import BUGS, PORTS, TOGETHER
from tests.mutants.diagnosis.test_parts import OTHERS, stage

CORPUS = Corpus(
    (
        Prompt("short", "1 2 3 45", "few tokens", level="logits"),
        Prompt("some", "one, two; three.", "enough tokens"),
    ),
    decodes=(Decode("chunks", "a cached", "two chunks and steps", steps=2, chunks=(3,)),),
    batches=(Batch("left", ("short", "some"), "left", "pads"),),
)
PLANTED = [(name, bugs) for name, planted in TOGETHER.items() for bugs in planted]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    made = {}

    def paths(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            directory, golden = tiny.write(folder / "model", name, "plain"), folder / "golden.h5"
            record(directory, "model", CORPUS, str(golden))
            made[name] = golden, directory
        return made[name]

    return paths


def loading(name, bug=""):
    return lambda checkpoint, config, dtype: PORTS[name].load(checkpoint, config, dtype, bug=bug)


@pytest.mark.parametrize("name", PORTS)
def test_an_independent_port_matches(recorded, name):
    question = Question(precisions=("float64", "bfloat16"), modes=("replay", "prefill"), cases=("chunks",))
    report = check(*recorded(name), name, question, load=loading(name))
    assert report.verdict == "match", report.introduced
    assert {result.mode for result in report.results} == {"replay", "prefill"}


def test_every_bug_is_planted():
    planted = {
        name: [bug for bugs in together for bug in bugs.split(" + ")] for name, together in TOGETHER.items()
    }
    assert {name: sorted(bugs) for name, bugs in planted.items()} == {n: sorted(bugs) for n, bugs in BUGS.items()}


@pytest.mark.parametrize(("name", "bugs"), PLANTED, ids=[f"{name}: {bugs}" for name, bugs in PLANTED])
def test_planted_bugs_are_named(recorded, name, bugs):
    question = Question(precisions=("float64",), modes=("replay",), cases=("left",))
    with Checker(*recorded(name), name, question, load=loading(name, bugs), inspect=False) as checker:
        found = diagnose(checker, name)
    assert found.verdict == "diverged"
    named = [one.mutants for operation in found.operations for one in operation.named]
    expected = {BUGS[name][bug] for bug in bugs.split(" + ")}
    assert all(len(ids) == 1 for ids in named), named
    assert {ids[0] for ids in named} == expected, (named, [o.taps for o in found.operations])
    assert found.unexplained == ()


@pytest.mark.parametrize(("mutant", "symbol", "value"), OTHERS, ids=lambda x: str(x))
def test_a_value_of_the_catalogue_is_the_catalogues_mutant(recorded, mutant, symbol, value):
    golden_path, checkpoint = recorded("deepseek_v3")
    assert BY_ID[mutant].free.symbol == symbol
    with open_golden(golden_path) as golden, in_force("float64"):
        source = GoldenSource(golden, "float64")
        everything = frozenset(tap.kind for tap in source.taps.values())
        predictor = Predictor(source, checkpoint, read_config(checkpoint), everything)
        replay = stage(predictor, "layers.1", "some")
        ours = predictor.predict(at(BY_ID[mutant], value), replay)
        theirs = predictor.predict(Hypothesis.of(BY_ID[mutant]), replay)
    assert set(ours) == set(replay.taps)
    for kind, expected in theirs.items():
        np.testing.assert_allclose(ours[kind], expected, rtol=1e-9, atol=1e-12, err_msg=kind)
