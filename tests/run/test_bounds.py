"""What roundings can add up to: no right port is beyond it, and bugs are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.architecture import architecture_of, read_config
from harness.checkpoint import Checkpoint
from harness.report.views import report_text
from harness.run import bounds
from harness.run.check import check
from harness.run.decoder import Decoder
from harness.run.operations import OPERATIONS
from harness.run.question import Question
from harness.run.source import GoldenSource
from harness.store import open_golden
from harness.tolerances import PRECISIONS

CASES = ("hello", "multi-token", "batch-left", "decode", "offset")
REPLAY = Question(precisions=("float32",), modes=("replay",), cases=("multi-token",))


def beyond(report, golden_path, checkpoint):
    """(tap, how many times its bound the error is), of everything that was replayed."""
    arch, weights = architecture_of(read_config(checkpoint)), Checkpoint(checkpoint)
    with open_golden(golden_path) as golden:
        sources = {precision: GoldenSource(golden, precision) for precision in PRECISIONS}
        found = [
            (r.tap, replace(r, bound=bounds.bound(r, sources[r.precision], weights, arch)).beyond_rounding)
            for r in report.results
            if r.mode == "replay"
        ]
    assert None not in {share for _, share in found}
    return found


@pytest.fixture(scope="module")
def right(golden_path, checkpoint):
    question = Question(precisions=PRECISIONS, modes=("replay",), cases=CASES)
    return check(golden_path, checkpoint, question=question)


def test_no_rounding_of_a_right_port_is_beyond_what_roundings_can_add_up_to(right, golden_path, checkpoint):
    found = beyond(right, golden_path, checkpoint)
    assert len(found) == 3 * (3 * 67 + 2 * 75) - 3 * 8  # `batch-left` is no decode
    assert max(share for _, share in found) <= 1
    assert {tap.rpartition(".")[2] for tap, share in found if share > 0.01} >= {"q", "probs", "context", "mlp_out"}


def test_a_bound_that_counted_no_roundings_would_be_noticed(right, golden_path, checkpoint, monkeypatch):
    monkeypatch.setattr(bounds, "_gamma", lambda count, unit: 1e-3 * count * unit)
    assert max(share for _, share in beyond(right, golden_path, checkpoint)) > 1


def wrong(**operations):
    return lambda directory, config, dtype: Decoder.load(
        directory, config, dtype, operations=replace(OPERATIONS, **operations)
    )


def said(golden_path, checkpoint, load):
    report = check(golden_path, checkpoint, "wrong", REPLAY, load=load)
    return " ".join(report_text(report, 200).split())


def test_a_bug_is_proven_to_be_no_rounding(golden_path, checkpoint):
    text = said(golden_path, checkpoint, wrong(scores=lambda q, k: OPERATIONS.scores(q, k) * 1.1))
    assert "proven no rounding: " in text
    assert "unusual" not in text


def test_what_could_be_rounding_and_hardly_ever_is_one_is_called_unusual(golden_path, checkpoint):
    """Every product a little too large: within what 64 roundings can do, and in each of them the same way."""
    text = said(golden_path, checkpoint, wrong(gated=lambda g, u: OPERATIONS.gated(g, u) * (1 + 1e-6)))
    assert "unusual roundings could add up to this, but in a correct port they do" in text
    assert "proven" not in text


def test_where_replay_spans_operations_nothing_is_proven(golden_path, checkpoint):
    class Hides(Decoder):
        without = ("probs",)

    def load(directory, config, dtype):
        doubled = replace(OPERATIONS, context=lambda probs, v: OPERATIONS.context(probs, v) * 2)
        return Hides.load(directory, config, dtype, operations=doubled)

    report = check(golden_path, checkpoint, "wrong", REPLAY, load=load)
    assert report.introduced
    assert not any(r.bound for r in report.results)
