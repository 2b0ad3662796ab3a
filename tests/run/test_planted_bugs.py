"""Every planted bug is caught, in float64 and in float32, at the operation where it sits and nowhere else."""

from __future__ import annotations

import pytest

from harness.run.check import check
from harness.run.question import Question
from tests.planted import BUGS, load_with

# Short prompts recorded at every operation: enough positions for a mask, a scale and RoPE to show.
CASES = ("one-to-five", "multi-token")


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_introduced_where_it_sits(bug, precision, golden_path, checkpoint):
    question = Question(precisions=(precision,), cases=CASES)
    report = check(golden_path, checkpoint, bug.name, question, load=load_with(bug))
    assert report.verdict == "diverged"
    kinds = {tap.rpartition(".")[2] for tap in report.introduced}
    assert kinds == bug.kinds
    layered = {tap for tap in report.introduced if tap.startswith("layers.")}
    if layered:
        layers = bug.layers or range(4)
        assert layered == {f"layers.{i}.{kind}" for i in layers for kind in bug.kinds}
    assert report.first_divergence.tap == report.introduced[0]


def test_a_single_token_cannot_show_a_wrong_rope_mask_or_scale(golden_path, checkpoint):
    """What "attention weights match to 0.0" on "Hello" was worth: these bugs all pass it."""
    question = Question(precisions=("float64",), cases=("hello",))
    for name in ("rope_interleaved", "rope_missing", "rope_theta", "causal_mask_missing", "scale_missing"):
        bug = next(b for b in BUGS if b.name == name)
        report = check(golden_path, checkpoint, name, question, load=load_with(bug))
        assert report.verdict == "match", name


def test_forward_alone_shows_the_error_nearly_everywhere(golden_path, checkpoint):
    bug = next(b for b in BUGS if b.name == "norm_eps")
    question = Question(precisions=("float64",), modes=("forward",), cases=CASES)
    report = check(golden_path, checkpoint, bug.name, question, load=load_with(bug))
    wrong = [r for r in report.results if r.verdict != "match"]
    assert len(wrong) > 0.9 * len(report.results)
