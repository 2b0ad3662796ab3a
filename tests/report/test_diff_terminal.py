from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from harness.report.document import encode
from harness.report.views import print_document
from tests.report.samples import LOGITS, TAPS, build, result
from tests.report.test_diff import NORM, RIGHT, ROPE, compared, port


def printed(document, **options):
    out = io.StringIO()
    print_document(document, Console(file=out, width=130, **options))
    return out.getvalue()


def row(text, *words):
    """The one line that holds all these words, spaces folded."""
    lines = [" ".join(line.split()) for line in text.splitlines()]
    found = [line for line in lines if all(word in line for word in words)]
    assert len(found) == 1, text
    return found[0]


def test_a_fix_says_what_it_fixed_operation_by_operation():
    text = printed(compared(port(*ROPE), RIGHT))
    assert row(text, "BETTER").startswith(
        "BETTER 2 fixed, 0 improved, 33 unchanged, 0 worse, 0 broken (35 comparisons"
    )
    assert row(text, "layers.*.q_rope", "replay;") == (
        "fixed layers.*.q_rope (in 2 of 2 layers, replay; float32) 4e+05 -> 1.2 x PyTorch's own float32 error"
    )
    assert "nothing is wrong after" in text
    assert "criteria" not in text


def test_what_is_broken_is_said_as_well():
    text = printed(compared(port(*ROPE), port(NORM)))
    assert "MIXED" in text
    assert row(text, "layers.1.attn_norm", "broken") == (
        "broken layers.1.attn_norm (in 1 of 2 layers, replay; float32) 1.2 -> 900 x PyTorch's own float32 error"
    )


def test_what_is_still_wrong_and_where_that_starts():
    text = printed(compared(port(*ROPE, NORM), port(NORM)))
    assert row(text, "still wrong").startswith(
        "still wrong layers.1.attn_norm (in 1 of 2 layers, replay; float32)"
    )
    assert "900 -> 900 x" in text
    assert row(text, "starts at") == "which starts at layers.1.attn_norm (case code, float32); 1 comparison in all"


def test_inherited_errors_are_a_number_and_not_a_list():
    down = [result(f"layers.1.{kind}", "forward", "inherited", 5e4) for kind in ("context", "attn_out")]
    right = [result(r.tap, "forward") for r in down]
    text = printed(compared(port(*ROPE, *down), port(*right)))
    assert "and 2 taps downstream, by inheritance alone" in text
    assert "attn_out" not in text
    alone = printed(compared(port(*down), port(*right)))
    assert row(alone, "fixed", "downstream") == "fixed 2 taps downstream, by inheritance alone"


def test_errors_that_only_add_up_are_told_from_a_wrong_operation():
    beyond = result("layers.1.up", "forward", "inherited", 9.0)
    text = printed(compared(port(beyond), port(beyond)))
    assert "SAME" in text
    assert "still wrong: 1 comparison, yet no operation on golden inputs" in text
    assert "first beyond the limit at layers.1.up (case code, float32)" in text


def test_what_could_not_be_compared_is_called_by_its_verdict():
    nan = replace(result("layers.0.probs", verdict="nonfinite"), rms_multiple=None, max_multiple=None)
    assert "nonfinite -> 1.2 x" in printed(compared(port(nan), RIGHT))


def test_lost_coverage_is_named():
    text = printed(compared(RIGHT, build(*(r for r in RIGHT.results if not r.tap.endswith("probs")))))
    assert "WORSE" in text
    assert row(text, "lost", "layers.*.probs").endswith("1.2 -> not compared x PyTorch's own float32 error")


def test_many_kinds_are_cut_and_counted_on_one_screen():
    wrong = [result(tap, verdict="introduced", multiple=900.0) for tap in TAPS]
    text = printed(compared(build(*wrong), RIGHT))
    assert "and at " in text
    assert len(text.splitlines()) < 40


def test_logits_and_acceptance_before_and_after():
    good = replace(LOGITS, verdict="match", rms_multiple=1.0, max_multiple=1.0, max_abs=1e-6, mean_abs=1e-7)
    good = replace(good, logits=replace(LOGITS.logits, max_kl=1e-9, flips=()), position_r=None)
    text = printed(compared(port(LOGITS), port(good)))
    assert "0.5 -> 1e-09" in text
    assert "1 of 4 -> 0 of 4" in text
    assert "phase-3 criteria at float32: fail -> pass" in text


def test_the_commit_the_notes_and_what_was_left_out_are_there():
    old = replace(port(*ROPE), notes=("matmul precision waived",))
    wider = build(*RIGHT.results, result("embed", case="hello"))
    text = printed(compared(old, wider, intersection=True))
    assert "commit cccccccccccc" in text
    assert "before: matmul precision waived" in text
    assert "case hello: only after, 1 comparison" in text
    assert "precision bfloat16: not asked for" in text


def test_a_note_of_both_sides_is_said_once():
    noted = replace(RIGHT, notes=("lifted to float64",))
    assert printed(compared(noted, noted)).count("lifted to float64") == 1


def test_without_colour_there_are_no_escape_codes():
    document = compared(port(*ROPE), port(NORM))
    assert "\x1b" not in printed(document)
    assert "\x1b" in printed(document, force_terminal=True, color_system="standard")
    assert b"\x1b" not in encode(document)
