"""What a diagnosis says where there is nothing to name."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from harness.report.diagnosis import Diagnosis, Fact
from harness.report.document import GoldenReference
from harness.report.views import print_document


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ("match", "PASS  nothing to diagnose"),
        ("diverged", "FAIL  every operation is right on golden inputs: small errors add up"),
    ],
)
def test_a_diagnosis_without_a_wrong_operation_says_so(verdict, said):
    golden = GoldenReference(id="0" * 64, path="a.h5", model="a", provenance={})
    facts = (Fact("inherited", "3 taps"),)
    found = Diagnosis(1, "diagnosis", golden, "port", verdict, None, (), facts, ())
    out = io.StringIO()
    print_document(found, Console(file=out, width=120, color_system=None))
    assert said in out.getvalue()
    assert "inherited" in out.getvalue()
