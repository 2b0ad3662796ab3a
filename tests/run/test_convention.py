"""Positions that count from the pads: a convention where it is declared, and judged at every tap; else a fault."""

from __future__ import annotations

import numpy as np
import pytest

from harness.along import Case
from harness.errors import PortError
from harness.families.options import Rope
from harness.run.check import check
from harness.run.port import NOTE
from harness.run.question import Question
from harness.run.source import TURNED, shifts, turned

CASES = ("batch-left", "batch-right", "batch-decode", "digits")


def checked(golden_path, checkpoint, name, *precisions):
    question = Question(precisions=precisions or ("float32",), cases=CASES)
    return check(golden_path, checkpoint, f"tests.run.pad_ports:{name}", question)


def test_without_a_declaration_it_is_a_fault_where_rows_are_padded_on_the_left(golden_path, checkpoint):
    report = checked(golden_path, checkpoint, "CountsFromPads")
    wrong = {r.case for r in report.results if r.verdict == "introduced"}
    assert wrong == {"batch-left", "batch-decode"}
    assert {tap.rpartition(".")[2] for tap in report.introduced} <= TURNED


def test_declared_it_matches_at_every_tap_in_every_mode_and_the_report_says_so(golden_path, checkpoint):
    report = checked(golden_path, checkpoint, "DeclaresThatItCountsFromPads", "float64", "float32", "bfloat16")
    assert report.verdict == "match", [r for r in report.results if r.verdict != "match"][:5]
    assert NOTE in report.notes
    compared = {(r.case, r.mode, r.tap.rpartition(".")[2]) for r in report.results}
    for mode in ("forward", "replay", "alone"):
        assert ("batch-left", mode, "q_rope") in compared
    assert ("batch-decode", "replay", "cache_k") in compared


def test_a_declaration_that_is_not_true_is_a_fault_at_the_rotation(golden_path, checkpoint):
    report = checked(golden_path, checkpoint, "DeclaresWhatItDoesNot")
    assert report.verdict == "diverged"
    assert {tap.rpartition(".")[2] for tap in report.introduced} <= TURNED
    assert {r.case for r in report.results if r.verdict == "introduced"} == {"batch-left", "batch-decode"}


def test_a_side_on_which_it_changes_nothing_is_refused(golden_path, checkpoint):
    with pytest.raises(PortError, match="do not depend on the pads"):
        checked(golden_path, checkpoint, "DeclaresTheRight")


def test_shifts_are_the_pads_of_each_row():
    mask = np.array([[False, False, True, True], [True, True, True, True], [True, True, False, False]])
    positions = np.array([[0, 0, 0, 1], [0, 1, 2, 3], [0, 1, 1, 1]], np.int32)
    assert shifts(Case("x", positions, positions, mask)).tolist() == [2, 0, 0]


@pytest.mark.parametrize("rope", [Rope(1e4, 8), Rope(1e4, 8, interleaved=True), Rope(1e4, 4)])
def test_turning_is_the_rotation_of_rope_and_keeps_what_queries_and_keys_say_to_each_other(rope):
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, 1, 3, 2, 8))
    by = np.array([5])
    assert np.allclose(turned(turned(q, by, rope), -by, rope), q, atol=1e-14)
    scores = np.einsum("bqhd,bkhd->bhqk", q, k)
    moved = np.einsum("bqhd,bkhd->bhqk", turned(q, by, rope), turned(k, by, rope))
    assert np.allclose(moved, scores, atol=1e-13)
