"""From two reports to a diff: what may be compared, what the diff says, and that its JSON survives."""

from __future__ import annotations

import json
from dataclasses import replace

import jsonschema
import pytest

from harness.difference import STATUSES
from harness.errors import UsageError
from harness.report.diff_assembly import diff
from harness.report.diff_document import Diff
from harness.report.document import GoldenReference, LimitEntry, encode
from harness.report.pairing import Candidate, Selection, narrowed
from harness.report.reading import SCHEMAS, read_report, schema
from harness.results import LogitStatistics
from tests.report.samples import PASSING, REPORT, TAPS, build, result

ROPE = [result(f"layers.{i}.q_rope", verdict="introduced", multiple=4e5) for i in range(2)]
NORM = result("layers.1.attn_norm", verdict="introduced", multiple=900.0)
RIGHT = build(*(result(tap) for tap in TAPS))


def port(*wrong):
    """A report of a port that is right but for these results."""
    keys = {(r.case, r.mode, r.tap) for r in wrong}
    return build(*wrong, *(r for r in RIGHT.results if (r.case, r.mode, r.tap) not in keys))


def compared(before, after, **options):
    return diff(Candidate("before.json", before), Candidate("after.json", after, git="c" * 40), **options)


def refusal(before, after, **options):
    with pytest.raises(UsageError) as caught:
        compared(before, after, **options)
    message = str(caught.value)
    assert "before.json and after.json" in message
    assert "hint: " in message
    return message


def test_a_fix_of_the_only_bug_is_better_and_leaves_nothing_wrong():
    found = compared(port(*ROPE), RIGHT)
    assert found.verdict == "better"
    assert found.counts == dict.fromkeys(STATUSES, 0) | {"fixed": 2, "unchanged": len(RIGHT.results) - 2}
    assert [(c.tap, c.status) for c in found.changes] == [(r.tap, "fixed") for r in ROPE]
    assert (found.before.wrong, found.after.wrong) == (2, 0)
    assert (found.before.introduced, found.after.introduced) == (tuple(r.tap for r in ROPE), ())
    assert found.after.first_divergence is None
    assert found.still_wrong == ()


def test_a_fix_of_one_of_two_bugs_is_better_and_says_what_is_still_wrong_and_where_that_starts():
    found = compared(port(*ROPE, NORM), port(NORM))
    assert found.verdict == "better"
    assert [c.tap for c in found.still_wrong] == [NORM.tap]
    assert found.still_wrong[0].status == "unchanged"
    assert found.after.introduced == (NORM.tap,)
    assert found.after.first_divergence.tap == NORM.tap


def test_a_fix_that_breaks_something_is_mixed_and_one_that_only_breaks_is_worse():
    assert compared(port(*ROPE), port(NORM)).verdict == "mixed"
    found = compared(RIGHT, port(NORM))
    assert found.verdict == "worse"
    assert [(c.tap, c.status) for c in found.changes] == [(NORM.tap, "broken")]


def test_the_same_port_at_another_rounding_is_the_same():
    other = build(*(replace(r, rms_multiple=2.1, max_multiple=2.9) for r in RIGHT.results))
    found = compared(RIGHT, other)
    assert found.verdict == "same"
    assert found.changes == ()
    assert found.notes == ()


def test_a_limit_that_is_crossed_within_the_noise_is_said_and_is_no_change():
    near = replace(result("layers.0.q"), rms_multiple=3.9)
    over = replace(result("layers.0.q", verdict="introduced"), rms_multiple=4.1)
    found = compared(port(near), port(over))
    assert found.verdict == "same"
    assert found.after.wrong == 1
    assert [c.tap for c in found.still_wrong] == ["layers.0.q"]
    assert "1 comparison crossed a limit by less than the noise" in found.notes[0]
    assert "layers.0.q in case code, float32, replay" in found.notes[0]


def test_counts_are_gathered_by_operation_in_data_flow_order_and_by_case():
    hello = result("layers.0.up", case="hello", verdict="introduced", multiple=70.0)
    found = compared(port(*ROPE, hello), port(result("layers.0.up", case="hello")))
    assert found.operations["q_rope"]["fixed"] == 2
    assert found.operations["up"] == dict.fromkeys(STATUSES, 0) | {"fixed": 1, "unchanged": 2}
    names = list(found.operations)
    assert names.index("embed") < names.index("q_rope") < names.index("logits")
    assert found.cases["hello"]["fixed"] == 1
    assert found.cases["code"]["fixed"] == 2


def test_changes_are_in_data_flow_order():
    late, early = result("layers.1.act", verdict="introduced", multiple=9e3), NORM
    found = compared(port(late, early), RIGHT)
    assert [c.tap for c in found.changes] == [early.tap, late.tap]


def test_the_largest_multiples_name_their_taps():
    largest = compared(port(*ROPE), RIGHT).largest
    assert [(x.precision, x.mode) for x in largest] == [("float32", "replay")]
    assert (largest[0].before.tap, largest[0].before.rms_multiple) == ("layers.0.q_rope", 4e5)
    assert largest[0].after.rms_multiple == 1.2


def test_logits_before_and_after():
    good = replace(result("logits", "forward"), logits=LogitStatistics(1e-9, 1e-9, 1e-9, 1.0, (), 1e-14, 1.0, 4))
    bad = next(r for r in REPORT.results if r.logits is not None)
    entry = compared(port(bad), port(good)).logits[0]
    assert (entry.before.max_kl, entry.before.flips, entry.before.positions) == (0.5, 1, 4)
    assert (entry.after.max_kl, entry.after.flips) == (1e-9, 0)
    assert compared(RIGHT, RIGHT).logits == ()


def test_coverage_that_is_lost_is_worse_and_coverage_that_is_gained_is_better():
    without = build(*(r for r in RIGHT.results if not r.tap.endswith("probs")))
    lost = compared(RIGHT, without)
    assert (lost.verdict, lost.counts["lost"]) == ("worse", 2)
    assert {c.tap for c in lost.changes} == {"layers.0.probs", "layers.1.probs"}
    assert compared(without, RIGHT).verdict == "better"
    # Hiding the tap that is wrong is not mending it.
    hidden = compared(port(*ROPE), build(*(r for r in RIGHT.results if not r.tap.endswith("q_rope"))))
    assert (hidden.verdict, hidden.counts["fixed"]) == ("worse", 0)


def test_environments_that_differ_are_notes():
    libraries = {**RIGHT.environment["libraries"], "jax": "0.11"}
    other = replace(RIGHT, environment={**RIGHT.environment, "libraries": libraries, "devices": ["TPU v5e"]})
    notes = compared(RIGHT, other).notes
    assert "another libraries jax: 0.10 before, 0.11 after" in notes
    assert "another devices: cpu before, TPU v5e after" in notes
    assert len(notes) == 2


def test_different_goldens_are_never_compared():
    other = replace(RIGHT, golden=GoldenReference("cd" * 32, "other.h5", "org/other", {}))
    for intersection in (False, True):
        message = refusal(RIGHT, other, intersection=intersection)
        assert "different goldens" in message
        assert "abababababab" in message
        assert "cdcdcdcdcdcd after (other.h5, org/other)" in message


@pytest.mark.parametrize(("rms", "largest"), [(2.0, 1.0), (1.0, 3.0)])
def test_different_limits_are_never_compared(rms, largest):
    other = replace(RIGHT, limits={"float32": LimitEntry(3.2, rms, largest, "mine", 1.0)})
    for intersection in (False, True):
        message = refusal(RIGHT, other, intersection=intersection)
        assert "different limits at float32" in message
        assert f"found:    allowance 3.2, factors rms {rms:g}, max {largest:g}" in message


def test_limits_of_another_version_are_never_compared():
    known = RIGHT.limits["float32"]
    message = refusal(RIGHT, replace(RIGHT, limits={"float32": replace(known, single=7.0)}))
    assert (
        f"found:    allowance {known.allowance:g} (7 where a call has one token), factors rms 1, max 1" in message
    )


DOUBLE = LimitEntry(1.0, 1.0, 1.0, "measured", 7e12, None)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (replace(result("embed"), precision="float64"), "precision float64: only after, 1 comparison"),
        (result("embed", "forward"), "mode forward: only after, 1 comparison"),
        (result("embed", case="hello"), "case hello: only after, 1 comparison"),
    ],
)
def test_another_precision_mode_or_case_is_refused_or_left_out_by_name(more, words):
    wider = replace(build(*RIGHT.results, more), limits={**RIGHT.limits, "float64": DOUBLE})
    message = refusal(RIGHT, wider)
    assert "were not asked the same" in message
    assert words in message
    assert "--intersection" in message
    found = compared(RIGHT, wider, intersection=True)
    assert found.left_out == (words,)
    assert sum(found.counts.values()) == len(RIGHT.results)
    swapped = compared(wider, RIGHT, intersection=True)
    assert swapped.left_out == (words.replace("after", "before"),)


def test_a_case_that_one_side_ran_in_one_mode_only_is_named_with_its_mode():
    both = [result("embed", mode, case=case) for mode in ("forward", "replay") for case in ("code", "hello")]
    message = refusal(build(*both), build(*both[:-1]))
    assert "case hello at float32, replay: only before, 1 comparison" in message


def test_nothing_in_common_is_refused_even_as_an_intersection():
    other = build(*(replace(r, case="hello") for r in RIGHT.results))
    assert "nothing in common" in refusal(RIGHT, other, intersection=True)


def test_two_empty_reports_are_not_the_same():
    assert "nothing in common" in refusal(build(), build())


def test_a_selection_keeps_what_it_names_and_refuses_what_is_not_there():
    wide = build(*RIGHT.results, result("embed", case="hello"), result("embed", "forward"))
    assert {r.case for r in narrowed(wide, Selection(cases=("hel*",)), "x").results} == {"hello"}
    assert {r.mode for r in narrowed(wide, Selection(modes=("replay",)), "x").results} == {"replay"}
    assert narrowed(wide, Selection(), "x") == wide
    for selection, words in (
        (Selection(cases=("none*",)), ("x: --case none*", "code, hello")),
        (Selection(precisions=("float64",)), ("x: --precision float64", "expected: float32")),
        (Selection(modes=("forward",)), ("x: --mode forward", "expected: replay")),
    ):
        with pytest.raises(UsageError, match="does not have what was selected") as caught:
            narrowed(RIGHT if selection.modes else wide, selection, "x")
        for word in words:
            assert word in str(caught.value)


SCHEMA = json.loads(SCHEMAS[Diff].read_text())
DIFF = compared(port(*ROPE, NORM), REPORT, intersection=True)


def test_the_committed_schema_is_the_one_that_the_classes_give():
    assert SCHEMAS[Diff].read_bytes() == schema(Diff), "run: python -m harness.report.reading"


@pytest.mark.parametrize("document", [DIFF, compared(RIGHT, RIGHT), compared(REPORT, PASSING, intersection=True)])
def test_a_diff_fits_its_schema_and_comes_back_as_it_was(document, tmp_path):
    jsonschema.validate(json.loads(encode(document)), SCHEMA)
    path = tmp_path / "diff.json"
    path.write_bytes(encode(document))
    assert read_report(path) == document


@pytest.mark.parametrize(
    "spoil",
    [lambda d: d.pop("counts"), lambda d: d.update(verdict="ok"), lambda d: d["changes"][0].update(status="gone")],
)
def test_a_spoiled_diff_neither_fits_nor_is_read(spoil, tmp_path):
    document = json.loads(encode(DIFF))
    spoil(document)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMA)
    path = tmp_path / "diff.json"
    path.write_text(json.dumps(document))
    with pytest.raises(UsageError, match="the report is malformed"):
        read_report(path)


@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        (lambda d: d["changes"].pop(), "counts: "),
        (lambda d: d["counts"].pop("lost"), "counts: lost"),
        (lambda d: d["changes"].append(d["changes"][0] | {"status": "unchanged"}), "changes"),
        (lambda d: d["counts"].update(unchanged=3), "operations: unchanged"),
        (lambda d: d["cases"]["code"].update(unchanged=3), "cases: unchanged"),
    ],
)
def test_a_diff_that_contradicts_itself_is_refused(spoil, where, tmp_path):
    document = json.loads(encode(DIFF))
    spoil(document)
    path = tmp_path / "diff.json"
    path.write_text(json.dumps(document))
    with pytest.raises(UsageError, match="contradicts itself") as caught:
        read_report(path)
    assert f"{path}: {where}" in str(caught.value)
