"""A mutant reaches the port that is checked, and only it: the preflight has seen the right checkpoint."""

from __future__ import annotations

import json

import pytest

from harness.errors import UsageError
from harness.mutants.catalogue import BY_ID
from harness.mutants.planting import loader
from harness.run.check import check
from harness.run.question import Question

QUESTION = Question(precisions=("float32",), cases=("one-to-five",))
FOREIGN = "tests.run.ports:Wrapped"


@pytest.mark.parametrize("name", ["q_bias_missing", "layer_repeated", "theta_1e4"])
def test_weight_and_config_mutants_work_on_any_port(name, golden_path, checkpoint, tmp_path):
    load = loader(BY_ID[name], FOREIGN, tmp_path / "changed")
    report = check(golden_path, checkpoint, FOREIGN, QUESTION, load=load)
    kinds = {tap.rpartition(".")[2] for tap in report.taps}
    assert {tap.rpartition(".")[2] for tap in report.introduced} == BY_ID[name].introduced & kinds


def test_an_operation_mutant_is_refused_for_another_port(tmp_path):
    with pytest.raises(UsageError, match="an operation mutant lives in the built-in decoder"):
        loader(BY_ID["rope_interleaved"], FOREIGN, tmp_path / "changed")


def test_a_mutant_can_sit_in_the_last_layer_alone(golden_path, checkpoint):
    report = check(golden_path, checkpoint, question=QUESTION, load=loader(BY_ID["rope_missing_in_last_layer"]))
    assert report.introduced == ("layers.3.q_rope", "layers.3.k_rope")


def test_a_changed_checkpoint_links_what_it_does_not_change(golden_path, checkpoint, tmp_path):
    changed = tmp_path / "changed"
    check(golden_path, checkpoint, FOREIGN, QUESTION, load=loader(BY_ID["theta_1e4"], FOREIGN, changed))
    assert json.loads((changed / "config.json").read_text())["rope_theta"] == 1e4
    assert (changed / "model.safetensors").is_symlink()
    assert not (changed / "config.json").is_symlink()
