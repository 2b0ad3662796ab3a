"""The second port is right: at every precision, at every operation of the embedded golden."""

from __future__ import annotations

import ast
from pathlib import Path

from harness.run.check import check
from harness.run.question import Question
from harness.tolerances import PRECISIONS

# Decoding, padding, far positions: each length is compiled anew. Prompts are checked in `test_variants`.
CASES = ("decode", "chunked", "batch-left", "offset")


def test_the_second_port_matches_the_embedded_golden_at_every_precision(golden_path, checkpoint):
    question = Question(precisions=PRECISIONS, cases=CASES)
    report = check(golden_path, checkpoint, "tests.second_port.variants:Compiled", question)
    assert report.verdict == "match", report.introduced
    assert {r.precision for r in report.results} == set(PRECISIONS)
    exact = [r.rel_rms for r in report.results if r.precision == "float64"]
    assert max(exact) < 1e-12  # angles at position 40,000; 2e-15 elsewhere


def test_it_shares_no_code_with_the_harness():
    for path in ("parameters.py", "parts.py", "port.py"):
        tree = ast.parse(Path(__file__).with_name(path).read_text())
        imported = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        assert not [name for name in imported if name.startswith("harness")], path
