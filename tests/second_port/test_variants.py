"""Zero false alarms: the same function computed in another way matches, at every precision."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest

from harness.run.check import check
from harness.run.question import Question
from harness.tolerances import PRECISIONS
from tests.second_port.variants import VARIANTS

CASES = ("multi-token",)  # its first token sees what a single one does


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_a_correct_variant_is_not_called_wrong(variant, golden_path, checkpoint):
    question = Question(precisions=PRECISIONS, cases=CASES, lift=variant.lift)
    report = check(golden_path, checkpoint, variant.name, question, load=variant.load)
    assert report.verdict == "match", [r for r in report.results if r.verdict != "match"][:3]
    hides_probs = "probs" in getattr(variant.port, "without", ())
    compared = Counter((r.precision, r.mode, r.case) for r in report.results)
    assert set(compared) == set(product(PRECISIONS, ("forward", "replay"), CASES))
    assert set(compared.values()) == {63 if hides_probs else 67}  # taps; 4 layers


def test_there_are_22_correct_variants():
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS) == 22
