"""Every bug of cache, padding and far positions is caught where it sits, and in the call it starts in."""

from __future__ import annotations

import pytest

from harness.report.findings import findings
from harness.run.check import check
from harness.run.question import Question
from tests.planted_decode import CALL_BUGS, load_call_bug


def checked(bug, golden_path, checkpoint, precision="float32", cases=None):
    question = Question(precisions=(precision,), cases=cases or bug.cases)
    return check(golden_path, checkpoint, bug.name, question, load=load_call_bug(bug))


@pytest.mark.parametrize("bug", CALL_BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_introduced_where_it_sits_and_in_the_call_it_starts_in(bug, golden_path, checkpoint):
    report = checked(bug, golden_path, checkpoint)
    assert report.verdict == "diverged"
    assert {tap.rpartition(".")[2] for tap in report.introduced} == bug.kinds
    found = [r for r in report.results if r.verdict in ("introduced", "nonfinite") and r.mode == "replay"]
    assert {r.case for r in found} == set(bug.cases)
    starts = {r.since_call for r in found if r.calls and r.case == bug.cases[0]}
    assert starts <= {bug.since}


@pytest.mark.parametrize("bug", CALL_BUGS, ids=lambda bug: bug.name)
def test_no_short_unpadded_prompt_sees_it(bug, golden_path, checkpoint):
    """What prefill alone is worth: but for wrong frequencies and masks, all of these pass a short prompt."""
    report = checked(bug, golden_path, checkpoint, cases=("hello", "digits"))
    sees_it = {"chunk_not_causal", "mask_added_as_bool", "padding_inverted", "frequencies_bfloat16"}
    sees_it |= {"theta_off_by_little", "cache_stale"}
    assert (report.verdict == "diverged") == (bug.name in sees_it)


def test_a_wrong_cache_and_an_operation_that_is_wrong_from_a_step_on_are_told_apart(golden_path, checkpoint):
    def evidence(name):
        bug = next(bug for bug in CALL_BUGS if bug.name == name)
        return {f.kind: f.evidence for f in findings(checked(bug, golden_path, checkpoint))}

    late = evidence("cache_one_slot_late")
    assert any(
        line.startswith("wrong in the cache itself, first after step 1 (case decode") for line in late["cache_k"]
    )
    stuck = evidence("position_stuck")
    assert "right in every call before, wrong only from step 2 on (case decode)" in stuck["q_rope"]
    chunk = evidence("chunk_aligned_left")
    assert "right in every call before, wrong only from chunk 2 of the prefill on (case chunked)" in chunk["probs"]
