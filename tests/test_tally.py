"""What the benchmark of the calibration counts, on a few cases of the embedded golden."""

from __future__ import annotations

import pytest

from harness.run.check import check
from harness.run.question import Question
from harness.run.source import GoldenSource
from harness.store import open_golden
from tests.benchmarks.tally import STATISTICS, Tally

CASES = ("hello", "one-to-five")


@pytest.fixture(scope="module")
def report(golden_path, checkpoint):
    return check(golden_path, checkpoint, question=Question(precisions=("bfloat16",), cases=CASES))


def test_a_tally_counts_comparisons_shares_and_places_and_can_be_read_again(report, golden_path, tmp_path):
    tally = Tally()
    tally.add("Decoder", "tiny", report.results)
    with open_golden(golden_path) as golden:
        tally.fit("Decoder", GoldenSource(golden, "bfloat16"), report.results)
    assert tally.total == len(report.results) and not tally.alarms
    assert set(tally.largest) == {f"bfloat16 {mode} {s}" for mode in ("forward", "replay") for s in STATISTICS}
    assert all(0 < share < 1 for share, _ in tally.largest.values())
    for mode in ("forward", "replay"):
        counts = tally.allowed[f"bfloat16 {mode}"]
        assert counts[0] > 500 and counts == sorted(counts, reverse=True)
    tally.write(tmp_path / "tally.json")
    again = Tally.read(tmp_path / "tally.json")
    assert (again.comparisons, again.ratios) == (tally.comparisons, tally.ratios)


def test_what_does_not_match_is_an_alarm(report):
    from dataclasses import replace

    tally = Tally()
    tally.add("Decoder", "tiny", [replace(report.results[0], verdict="introduced")])
    assert len(tally.alarms) == 1 and report.results[0].tap in tally.alarms[0]
