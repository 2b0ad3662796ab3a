"""A bug in one early layer: without replay nearly everything is wrong, with it one operation is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.mutants.catalogue import BY_ID
from harness.mutants.planting import loader
from harness.run.check import check
from harness.run.question import Question

CASE = "one-to-five"
# Each where it sits, planted in layer 0 alone.
MUTANTS = {
    "norm_before_attention_twice": "layers.0.attn_norm",
    "rope_missing_on_keys": "layers.0.k_rope",
    "scale_missing": "layers.0.probs",
    "activation_gelu": "layers.0.act",
    "attention_residual_missing": "layers.0.resid_mid",
}


def checked(name, golden_path, checkpoint, modes=("forward", "replay")):
    question = Question(("float32",), modes=modes, cases=(CASE,))
    load = loader(replace(BY_ID[name], layers=(0,)))
    return check(golden_path, checkpoint, question=question, load=load)


def wrong(report, mode):
    return {r.tap for r in report.results if r.mode == mode and r.verdict != "match"}


def downstream(report, place):
    """The recorded taps that come after a place in data flow."""
    recorded = {r.tap for r in report.results}
    order = [tap for tap in report.taps if tap in recorded]
    return order[order.index(place) + 1 :]


@pytest.mark.parametrize(("name", "place"), MUTANTS.items(), ids=MUTANTS)
def test_forward_shows_the_error_nearly_everywhere_and_replay_only_where_it_sits(
    name, place, golden_path, checkpoint
):
    report = checked(name, golden_path, checkpoint)
    later = downstream(report, place)
    forward = wrong(report, "forward")
    assert len(forward & set(later)) > 0.9 * len(later)
    assert forward <= {place, *later}
    assert {tap for tap in later if tap.startswith("layers.3.")} | {"final_norm", "logits"} <= forward
    assert wrong(report, "replay") == {place}
    assert report.introduced == (place,)
    assert {r.verdict for r in report.results if r.tap in forward - {place}} == {"match", "inherited"}


def test_a_check_without_replay_says_where_it_starts_and_takes_the_rest_for_inherited(golden_path, checkpoint):
    place = MUTANTS["activation_gelu"]
    report = checked("activation_gelu", golden_path, checkpoint, modes=("forward",))
    assert len(wrong(report, "forward")) > 0.9 * len(downstream(report, place))
    assert report.introduced == (place,)
