from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from harness.report.views import print_document
from harness.report.wording import times_noise
from tests.report.hostile import EXTRA, NAMED
from tests.report.samples import PASSING, REPORT, build, result


def printed(report, **options):
    out = io.StringIO()
    print_document(report, Console(file=out, width=130, **options))
    return out.getvalue()


def test_a_failing_report_says_which_operation_where_and_how_much():
    text = printed(REPORT)
    assert "FAIL" in text
    assert "layers.*.q_rope" in text
    assert "wrong even on golden inputs" in text
    assert "4.1e+05 x PyTorch's own float32 error" in text
    assert "up to 4 allowed" in text
    assert "position 3, head 1, head_dim 2:  actual -0.5, golden 2" in text
    assert "position 0 is clean in every case" in text
    assert "every single-token case is clean" in text
    assert "grows with position" in text
    assert "fed by" in text
    assert "layers.0.q, which matched" in text
    assert "inherited: 2 taps further downstream" in text


def test_a_passing_report_says_how_much_was_compared_and_names_nothing():
    text = printed(PASSING)
    assert "PASS" in text
    assert f"{len(PASSING.results)} of {len(PASSING.results)} comparisons match, 1 case" in text
    assert "introduced" not in text
    assert "inherited" not in text


def test_what_was_not_covered_is_listed():
    assert "precision bfloat16: not asked for" in printed(PASSING)


def test_a_correlation_that_means_nothing_is_not_printed_as_a_number():
    assert "means nothing here" in printed(PASSING)
    assert "position correlation +0.90" in printed(REPORT)


def test_flips_and_ties_are_counted():
    lines = printed(REPORT).splitlines()
    row = next(lines[i + 1] for i, line in enumerate(lines) if "top-1 agreement" in line)
    assert row.split()[-5:] == ["3", "of", "4", "1", "0"]


def test_errors_that_only_add_up_are_told_from_a_wrong_operation():
    text = printed(build(result("layers.1.up"), result("layers.1.up", "forward", "inherited", 9.0)))
    assert "no operation is wrong on golden inputs" in text
    assert "first layers.1.up (case code, float32)" in text


def test_what_could_not_be_compared_is_said_first():
    missing = replace(result("layers.0.probs", verdict="missing"), expected="tapped once", found="never tapped")
    text = printed(build(missing, result("layers.0.q")))
    assert "missing   layers.0.probs" in text
    assert "expected  tapped once" in text


def test_nan_is_named_as_such():
    nan = replace(result("layers.0.probs", verdict="nonfinite"), rms_multiple=None, max_abs=None)
    text = printed(build(nan))
    assert "NaN or infinity where the golden is finite" in text


def test_without_colour_there_are_no_escape_codes():
    assert "\x1b" not in printed(REPORT)
    assert "\x1b" not in printed(REPORT, force_terminal=True, no_color=True, color_system=None)
    assert "\x1b" in printed(REPORT, force_terminal=True, color_system="standard")


def test_a_name_from_outside_does_not_control_the_terminal():
    for report in (NAMED, EXTRA):
        text = printed(report)
        assert "\x1b" not in text
        assert "\\x1b[31m" in text


def test_a_finding_speaks_of_replay_at_float32_where_it_can():
    """float64 multiples are larger, and forward figures hold what came in from upstream."""
    report = build(
        replace(result("layers.0.q", verdict="introduced", multiple=9e15), precision="float64"),
        result("layers.0.q", verdict="introduced", multiple=50.0),
        result("layers.0.q", "forward", "introduced", multiple=70.0),
        result("layers.0.attn_norm"),
    )
    report = replace(report, limits={**report.limits, "float64": report.limits["float32"]})
    environment = {**report.environment, "precision": {}}
    text = printed(replace(report, environment=environment))
    assert "50 x PyTorch's own float32 error" in text
    assert "(in 1 of 2 layers, wrong even on golden inputs; float64, float32)" in text


def test_the_figures_fit_a_terminal_of_80_columns():
    out = io.StringIO()
    print_document(PASSING, Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines)
    head = next(line for line in lines if line.split()[:2] == ["precision", "mode"])
    assert " ".join(head.split()) == "precision mode match rms x max x limits rel. rms largest rms at"
    row = next(line for line in lines if line.split()[:2] == ["float32", "replay"])
    assert row.split()[:7] == ["float32", "replay", "35", "of", "35", "1.2", "1.2"]


def test_the_figure_that_is_beyond_its_limit_is_the_one_that_is_said():
    wrong = result("layers.0.q", verdict="introduced", multiple=2.0)
    largest, together = replace(wrong, max_multiple=16.0), replace(wrong, overall_multiple=6.0)
    unit = "PyTorch's own float32 error"
    assert times_noise(largest).startswith(f"16 x {unit}, of the largest error   (up to 8 allowed")
    assert times_noise(together).startswith(f"6 x {unit}, over all positions   (up to 3 allowed")
    assert times_noise(replace(largest, rms_multiple=5.0)).startswith(f"5 x {unit}   (up to 4 allowed")
