"""Zero false alarms: the same function computed in another way matches, at every precision."""

from __future__ import annotations

import pytest

from harness.run.check import check
from harness.run.question import Question
from harness.tolerances import PRECISIONS
from tests.second_port.variants import VARIANTS

CASES = ("hello", "multi-token")


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_a_correct_variant_is_not_called_wrong(variant, golden_path, checkpoint):
    question = Question(precisions=PRECISIONS, cases=CASES, lift=variant.lift)
    report = check(golden_path, checkpoint, variant.name, question, load=variant.load)
    assert report.verdict == "match", [r for r in report.results if r.verdict != "match"][:3]
    assert len(report.results) >= 2 * 2 * 3 * 63  # cases, modes, precisions, taps (without probs: 63)
