"""`goldens diff` of real ports and saved checks: verdicts, exit codes, refusals."""

from __future__ import annotations

import json

import jax
import pytest
from click.testing import CliRunner

from harness.cli import cli
from harness.report.diff_document import Diff
from harness.report.document import encode
from harness.report.reading import read_report
from tests.report.audit_samples import SEES

FAST = ("--precision", "float32", "--case", "digits")
RIGHT = "harness.run.decoder:Decoder"
CANDIDATES = "tests.run.candidates"


@pytest.fixture(autouse=True)
def default_promotion_of_ranks(strict_promotion):
    """The ports here are as users write them: they promote ranks as JAX does by default."""
    with jax.numpy_rank_promotion("allow"):
        yield


def goldens(*args: object):
    return CliRunner().invoke(cli, [str(arg) for arg in args])


def diff(before: object, after: object, *args: object):
    return goldens("diff", "--before", before, "--after", after, *args)


def refused(result, *words):
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert "hint: " in result.stderr
    assert "Traceback" not in result.output
    for word in words:
        assert word in result.stderr
    return result


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Saved checks, by name."""
    folder = tmp_path_factory.mktemp("saved")
    asked = {
        "right": (RIGHT, *FAST),
        "rope": (f"{CANDIDATES}:WrongRope", *FAST),
        "replay": (RIGHT, *FAST, "--mode", "replay"),
        "two-cases": (RIGHT, *FAST, "--case", "hello"),
        "tight": (RIGHT, *FAST, "--limit-rms", "3"),
    }
    for name, (port, *options) in asked.items():
        goldens("check", "--port", port, *options, "--json", folder / f"{name}.json")
    return {name: folder / f"{name}.json" for name in asked}


@pytest.fixture(scope="module")
def mended(tmp_path_factory):
    """What a fix of RoPE is judged by, and the document of that."""
    path = tmp_path_factory.mktemp("mended") / "diff.json"
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("allow"):
        return diff(f"{CANDIDATES}:WrongRope", RIGHT, *FAST, "--json", path), path


def test_a_mended_bug_is_fixed_where_it_sat_and_nothing_is_wrong_after(mended):
    result, _ = mended
    assert result.exit_code == 0
    assert result.stderr == ""
    for words in ("BETTER", "layers.*.k_rope", "in 4 of 4 layers, replay; float32", "nothing is wrong after"):
        assert words in result.stdout
    assert "q_rope" not in result.stdout.partition("precision")[0]


def test_the_same_the_other_way_round_is_worse_and_exits_with_1():
    result = diff(RIGHT, f"{CANDIDATES}:WrongRope", *FAST)
    assert result.exit_code == 1
    assert "WORSE" in result.stdout
    assert "starts at layers.0.k_rope" in result.stdout


def test_mending_one_of_two_bugs_exits_with_0_and_says_what_is_still_wrong(tmp_path):
    path = tmp_path / "diff.json"
    result = diff(f"{CANDIDATES}:WrongRopeAndBias", f"{CANDIDATES}:WrongBias", *FAST, "--json", path)
    assert result.exit_code == 0
    assert "starts at layers.0.v" in result.stdout
    found = read_report(path)
    assert isinstance(found, Diff)
    assert found.verdict == "better"
    assert {c.tap.rpartition(".")[2] for c in found.changes if c.mode == "replay"} == {"k_rope"}
    assert {name.rpartition(".")[2] for name in found.after.introduced} == {"v"}


def test_a_fix_that_breaks_something_else_exits_with_1():
    result = diff(f"{CANDIDATES}:WrongRope", f"{CANDIDATES}:WrongBias", *FAST)
    assert result.exit_code == 1
    assert "MIXED" in result.stdout


@pytest.mark.parametrize("precision", ["float64", "float32", "bfloat16"])
def test_another_rounding_of_the_right_port_is_the_same(precision):
    result = diff(RIGHT, f"{CANDIDATES}:NotJitted", "--precision", precision, "--case", "digits")
    assert result.exit_code == 0
    assert "SAME  0 fixed, 0 improved, 134 unchanged, 0 worse, 0 broken" in result.stdout


def test_two_saved_checks_are_compared_like_the_ports_they_were_made_of(saved, mended, tmp_path):
    (_, live), from_files = mended, tmp_path / "files.json"
    assert diff(saved["rope"], saved["right"], "--json", from_files).exit_code == 0
    documents = [json.loads(path.read_text()) for path in (live, from_files)]
    for document in documents:
        for side in ("before", "after"):
            del document[side]["label"]
    assert documents[0] == documents[1]


def test_a_port_beside_a_saved_check_is_asked_what_that_was_asked(saved):
    result = diff(saved["replay"], f"{CANDIDATES}:WrongRope")
    assert result.exit_code == 1
    assert "(67 comparisons, 1 case)" in result.stdout
    assert "left out" not in result.stdout


def test_json_on_stdout_is_nothing_but_json(saved):
    result = diff(saved["rope"], saved["right"], "--json", "-")
    assert json.loads(result.stdout)["kind"] == "diff"
    assert "BETTER" in result.stderr


def test_coverage_that_is_given_up_exits_with_1_and_says_so():
    result = diff(RIGHT, "tests.run.ports:DeclaresNoProbs", *FAST)
    assert result.exit_code == 1
    assert "8 lost" in result.stdout
    assert "tap probs: the port declares that it does not expose it" in result.stdout


def test_a_broken_contract_is_wrong_before_and_fixed_after():
    result = diff("tests.run.ports:ForgetsProbs", RIGHT, *FAST)
    assert result.exit_code == 0
    assert "missing -> " in result.stdout
    assert diff(RIGHT, "tests.run.ports:InventsATap", *FAST).exit_code == 1


def test_other_cases_are_refused_and_compared_where_both_have_them_on_request(saved):
    refused(
        diff(saved["right"], saved["two-cases"]),
        "were not asked the same",
        "case hello: only after, 134 comparisons",
        "--intersection",
    )
    result = diff(saved["right"], saved["two-cases"], "--intersection")
    assert result.exit_code == 0
    assert "case hello: only after, 134 comparisons" in result.stdout


def test_a_selection_narrows_saved_checks(saved):
    result = diff(saved["right"], saved["two-cases"], "--case", "dig*", "--mode", "forward")
    assert result.exit_code == 0
    assert "(67 comparisons, 1 case)" in result.stdout
    refused(diff(saved["right"], saved["rope"], "--mode", "both", "--case", "code"), "--case code", "digits")
    refused(diff(saved["replay"], saved["right"], "--mode", "both"), "--mode forward")


@pytest.mark.parametrize("option", [("--precision", "float16"), ("--precision", ",")])
def test_a_wrong_precision_is_refused_whatever_the_sides_are(saved, option):
    for sides in ((saved["right"], saved["rope"]), (RIGHT, RIGHT)):
        refused(diff(*sides, *option), "--precision")


def test_a_saved_check_of_another_golden_is_refused_before_anything_runs(saved, tmp_path):
    document = json.loads(saved["right"].read_text())
    document["golden"].update(id="0" * 64, path="other.h5")
    other = tmp_path / "other.json"
    other.write_text(json.dumps(document))
    words = ("against another golden", "000000000000 (other.h5)", "goldens diff other.h5")
    refused(diff(other, "no.such:Port"), "--before", *words)
    refused(diff(saved["right"], other), "different goldens")
    embedded = json.loads(saved["right"].read_text())["golden"]["path"]
    refused(diff(saved["right"], other, embedded), "--after", *words)


def test_saved_limits_that_a_port_would_not_be_judged_by_are_refused_before_it_runs(saved):
    refused(
        diff(saved["tight"], "no.such:Port"),
        "different limits at float32",
        "factors rms 3, max 1",
        "factors rms 1, max 1",
    )
    refused(diff(saved["tight"], saved["right"], "--intersection"), "different limits at float32")


def test_what_is_not_a_saved_check_is_refused(saved, tmp_path):
    path = tmp_path / "diff.json"
    diff(saved["rope"], saved["right"], "--json", path)
    refused(diff(path, saved["right"]), f"--before {path}", "a saved diff cannot be a side of a diff")
    path.write_bytes(encode(SEES))
    refused(diff(path, saved["right"]), "a saved audit cannot be a side of a diff", "goldens check --json FILE")
    (tmp_path / "cut.json").write_bytes(saved["right"].read_bytes()[:-50])
    refused(diff(saved["right"], tmp_path / "cut.json"), "the report is not JSON")
    refused(diff(saved["right"], tmp_path / "none.json"), "the report cannot be read")


def test_a_side_that_could_not_be_checked_is_refused_by_name():
    refused(diff(RIGHT, f"{CANDIDATES}:Refuses", *FAST), "not today", f"--after {CANDIDATES}:Refuses: forward")
    refused(diff("no.such:Port", RIGHT, *FAST), "cannot be imported", "--before no.such:Port")


@pytest.mark.parametrize("option", [("--weights", "."), ("--lift",), ("--allow-reduced-precision",)])
def test_an_option_that_nothing_would_use_is_refused(saved, option):
    refused(diff(saved["rope"], saved["right"], *option), "both sides are saved checks", f"leave {option[0]} out")


def test_a_port_with_float32_inside_is_lifted_on_request():
    port, options = "tests.run.test_lifted_check:NarrowInside", ("--precision", "float64", "--case", "digits")
    assert diff(RIGHT, port, *options).exit_code == 1
    lifted = diff(RIGHT, port, *options, "--lift")
    assert lifted.exit_code == 0, lifted.output
    assert "SAME" in lifted.stdout


def test_a_precision_that_a_port_could_not_be_lifted_to_is_not_compared():
    port = "tests.run.test_lifted_check:NarrowBits"
    options = ("--precision", "float64", "--case", "digits", "--lift")
    refused(diff(RIGHT, port, *options), f"{port}: --precision float64", "expected: float32")


def test_reduced_precision_is_refused_and_compared_on_request_with_the_waiver_printed(saved):
    port = "tests.run.reducing_ports:ReducesItsScores"
    refused(diff(RIGHT, port, *FAST), f"--after {port}", "--allow-reduced-precision")
    result = diff(RIGHT, port, *FAST, "--allow-reduced-precision")
    assert result.exit_code == 0, result.output
    assert "SAME" in result.stdout
    assert "waived: float32 ran at" in result.stdout
    beside_a_file = diff(saved["right"], port, *FAST, "--allow-reduced-precision")
    assert "after: waived: " in " ".join(beside_a_file.stdout.split())


def test_in_junit_a_case_fails_exactly_where_the_exit_code_is_1(saved, tmp_path):
    better, worse = tmp_path / "better.xml", tmp_path / "worse.xml"
    assert diff(saved["rope"], saved["right"], "--junit", better).exit_code == 0
    assert diff(saved["right"], saved["rope"], "--junit", worse).exit_code == 1
    assert "<failure" not in better.read_text()
    assert 'message="broken at layers.*.k_rope (in 4 of 4 layers, replay; float32)' in worse.read_text()


def test_weights_are_those_that_were_given(tmp_path):
    refused(diff(RIGHT, RIGHT, *FAST, "--weights", tmp_path / "none"), "no checkpoint directory", "none")


def test_a_refused_diff_writes_nothing_and_an_output_that_cannot_be_written_is_refused_first(saved, tmp_path):
    refused(diff(saved["right"], saved["two-cases"], "--json", tmp_path / "diff.json"))
    assert list(tmp_path.iterdir()) == []
    refused(diff("no.such:Port", RIGHT, "--json", tmp_path / "none" / "diff.json"), "cannot be written")


@pytest.mark.parametrize("sides", [(), ("--before", RIGHT), ("--after", RIGHT)])
def test_both_sides_are_needed(sides):
    result = goldens("diff", *sides)
    assert result.exit_code == 2
    assert "Missing option" in result.stderr


CRASHES = "tests.run.ports:RaisesInForward"


def test_a_before_that_raises_is_refused_unless_the_fix_is_to_be_judged_all_the_same(tmp_path):
    refused(diff(CRASHES, RIGHT, *FAST), "--before", "the port raised TypeError")
    path = tmp_path / "diff.json"
    result = diff(CRASHES, RIGHT, *FAST, "--before-may-fail", "--json", path)
    assert result.exit_code == 0, result.output
    assert "BETTER" in result.stdout
    assert "could not run" in " ".join(result.stdout.split())
    found = read_report(path)
    assert found.verdict == "better"
    assert found.counts["fixed"] == sum(found.counts.values())


def test_an_after_that_raises_is_refused_whatever_was_before():
    refused(diff(CRASHES, CRASHES, *FAST, "--before-may-fail"), "--after", "the port raised TypeError")


def test_what_works_now_and_is_wrong_is_no_fix():
    result = diff(CRASHES, f"{CANDIDATES}:WrongRope", *FAST, "--before-may-fail")
    assert "starts at layers.0.k_rope" in result.stdout
    assert "improved" in result.stdout


def test_a_port_that_covers_none_of_the_cases_is_refused_by_its_side(tmp_path):
    spec = "tests.run.ports:Wrapped"
    result = diff(spec, RIGHT, "--precision", "float32", "--case", "decode")
    refused(result, "--before", "can run none of the cases", "init_cache")
