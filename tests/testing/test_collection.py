"""`pytest --golden PATH --port SPEC`: the tests it collects, and what happens when it cannot."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import h5py
import pytest

from harness.layout import stack_path
from harness.report.wording import closest
from harness.results import TapResult
from tests.testing.conftest import BUILT_IN

pytest_plugins = ["pytester"]

FIGURE = "(?:rms|max) multiple(?: over all positions)?"


def test_there_is_one_test_per_case_and_precision_ordered_by_precision(inner):
    args = ("--golden-case", "digits", "--golden-case", "hello", "--precision", "float32,bfloat16")
    result = inner("--golden", "embedded", "--port", BUILT_IN, *args, "--collect-only", "-q")
    assert result.ret == 0
    assert [line for line in result.outlines if line.startswith("goldens::")] == [
        "goldens::hello[float32]",
        "goldens::digits[float32]",
        "goldens::hello[bfloat16]",
        "goldens::digits[bfloat16]",
    ]


def test_it_works_where_there_are_no_other_test_files(checked):
    result = checked("-v")
    assert result.ret == 0
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["goldens::digits*float32* PASSED*"])


def test_the_tests_of_the_project_run_beside_it(checked, pytester):
    pytester.makepyfile("def test_one(): pass")
    result = checked("-v")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*test_one PASSED*", "goldens::digits*PASSED*"])


@pytest.mark.parametrize("ci", ["", "true"])
def test_a_port_that_diverges_fails_with_the_report_and_no_traceback(checked, monkeypatch, ci):
    monkeypatch.setenv("CI", ci)
    result = checked("--golden-limit-rms", "0.001")
    assert result.ret == 1
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["introduced at layers.0.attn_norm and * more taps", "in force*float32*"])
    result.stdout.fnmatch_lines(["FAIL  * of * comparisons match, 1 case", "*introduced at*"])
    result.stdout.fnmatch_lines(["FAILED goldens::digits*float32* - introduced at layers.0.attn_norm*"])
    assert "Traceback" not in result.stdout.str()
    assert "items.py" not in result.stdout.str()
    assert result.stdout.str().count("comparisons match, 1 case") == 1


@pytest.mark.parametrize(
    ("port", "words"),
    [
        ("ForgetsProbs", ("missing   layers.0.probs", "taps could not be compared (missing)", "hint: ")),
        ("YieldsNan", ("taps could not be compared (nonfinite)", "NaN or infinity", "hint: ")),
        ("CutsTheVocabulary", ("taps could not be compared (shape)", "hint: ")),
        ("RaisesInForward", ("the port raised TypeError", "hint: ")),
    ],
)
def test_a_broken_contract_is_a_failure_that_says_so(checked, port, words):
    result = checked(port=f"tests.run.ports:{port}")
    assert result.ret == 1
    result.assert_outcomes(failed=1)
    for word in words:
        assert word in result.stdout.str()
    assert "Traceback" not in result.stdout.str()


def test_the_criteria_of_a_team_are_in_the_text_and_bad_ones_are_refused(checked):
    result = checked("--golden-criteria=max_abs=2e-30", "--golden-limit-rms=0.001", "--golden-mode=forward")
    assert "own criteria at float32: fail" in result.stdout.str()
    assert "(< 2e-30)" in result.stdout.str()
    result = checked("--golden-criteria=max=1")
    assert result.ret != 0
    assert "unknown criterion" in result.stdout.str() + result.stderr.str()


def test_a_case_that_the_port_does_not_cover_is_a_named_skip(checked):
    result = checked("--golden-case", "decode", "-rs", port="tests.run.ports:Wrapped")
    assert result.ret == 0
    result.assert_outcomes(passed=1, skipped=1)
    said = "cases with a KV cache, which the port does not have (init_cache): decode"
    result.stdout.fnmatch_lines(["*goldens: not covered*", said, f"SKIPPED*{said}"])


def test_where_the_port_covers_no_case_at_all_nothing_is_skipped(checked):
    result = checked(port="tests.run.ports:Wrapped", case="decode")
    assert result.ret == 1
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the port can run none of the cases*"])


@pytest.mark.parametrize("ci", ["", "true"])
def test_a_refusal_of_the_port_is_said_in_full_once_and_tried_once(checked, monkeypatch, ci):
    monkeypatch.setenv("CI", ci)  # where pytest does not cut the lines of its list of failures
    result = checked("--golden-case", "hello", port="tests.run.ports:RaisesInLoad")
    result.assert_outcomes(failed=2)
    text = result.stdout.str()
    assert text.count("hint: run the same command with GOLDENS_TRACEBACK=1") == 1
    assert "error: the port raised ValueError: no such layer (as in goldens::hello[float32])" in text


def test_the_traceback_is_there_for_who_asks(checked, monkeypatch):
    monkeypatch.setenv("GOLDENS_TRACEBACK", "1")
    result = checked(port="tests.run.ports:RaisesInLoad")
    assert 'raise ValueError("no such layer")' in result.stdout.str()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--golden", "no/such/golden.h5"), ("no/such/golden.h5",)),
        (("--golden", "damaged.h5"), ("damaged.h5",)),
        (("--golden", "embedded", "--weights", "no/such/dir"), ("there is no checkpoint directory",)),
        (("--golden", "embedded", "--weights", "other"), ("where:", "other")),
        (("--golden", "embedded", "--precision", "float16"), ("unknown precision",)),
        (("--golden", "embedded", "--precision", ","), ("nothing is to be checked",)),
        (("--golden", "embedded", "--golden-case", "zzz*"), ("no case of the golden matches", "zzz*")),
        (("--golden", "embedded", "--port", "no.such:Port"), ("the port cannot be imported",)),
    ],
)
@pytest.mark.parametrize("more", [(), ("--collect-only",), ("-k", "nothing_like_this")])
def test_what_cannot_be_checked_is_one_error_never_a_skip(inner, pytester, golden_path, args, words, more):
    pytester.mkdir("other")
    pytester.path.joinpath("damaged.h5").write_bytes(golden_path.read_bytes()[:1000])
    result = inner("--port", BUILT_IN, *args, *more)
    assert result.ret == 2
    text = result.stdout.str()
    for word in words:
        assert word in text
    assert text.count("hint: ") == 1
    assert "ERROR collecting goldens" in text
    assert "Traceback" not in text
    assert "skipped" not in text
    result.assert_outcomes(errors=1)


def test_a_flipped_bit_fails_the_case_whose_array_it_is_in(inner, pytester, golden_path, checkpoint):
    content = bytearray(golden_path.read_bytes())
    with h5py.File(golden_path) as file:
        q = file[stack_path("digits", "q")]
        content[q.id.get_offset() + q[0].nbytes] ^= 1  # the first byte of layer 1
    damaged = pytester.path / "damaged.h5"
    damaged.write_bytes(content)
    args = ("--precision", "float32", "--golden-case", "digits", "--golden-case", "hello")
    result = inner(f"--golden={damaged}", f"--weights={checkpoint}", "--port", BUILT_IN, *args)
    assert result.ret == 1
    result.assert_outcomes(passed=1, failed=1)
    for word in ("FAILED goldens::digits[float32]", "layers.1.q", "sha256", "hint: "):
        assert word in result.stdout.str()


@pytest.mark.parametrize("option", ["--golden", "--port", "--weights", "--precision"])
def test_an_empty_option_is_refused(inner, option):
    result = inner(option, "")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"{option} is empty" in result.stderr.str()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--golden", "embedded"), ("there is no port", "hint: pytest --port=")),
        (("--port", BUILT_IN), ("there is no golden", "hint: pytest --golden=PATH")),
    ],
)
def test_half_a_question_checks_nothing_and_is_refused(inner, pytester, args, words):
    pytester.makepyfile("def test_of_something_else(): pass")
    result = inner(*args)
    assert result.ret == 2
    for word in ("nothing would be checked", *words):
        assert word in result.stdout.str()


def test_a_golden_alone_is_fine_where_a_test_uses_it(inner, pytester):
    pytester.makepyfile("def test_it(golden): assert golden.manifest.cases")
    result = inner("--golden", "embedded")
    assert result.ret == 0
    result.assert_outcomes(passed=1)


def test_names_and_the_marker_select(checked, pytester):
    pytester.makepyfile("def test_one(): pass")
    pytester.makeini("[pytest]\naddopts = --strict-markers")
    by_name = checked("-k", "hello and float32", "--golden-case", "hello")
    by_name.assert_outcomes(passed=1, deselected=2)
    checked("-m", "golden", "--collect-only").stdout.fnmatch_lines(["*1/2 tests collected (1 deselected)*"])
    checked("-m", "not golden").assert_outcomes(passed=1, deselected=1)
    inner_markers = checked("--markers")
    inner_markers.stdout.fnmatch_lines(["@pytest.mark.golden: *"])


def test_stopping_at_the_first_failure_stops(checked):
    result = checked("--golden-case", "hello", "--golden-limit-rms", "0.001", "-x")
    assert result.ret == 1
    result.assert_outcomes(failed=1)


def test_only_the_last_failures_run_again(checked):
    checked("--golden-case", "hello", "-k", "digits", "--golden-limit-rms", "0.001").assert_outcomes(
        failed=1, deselected=1
    )
    result = checked("--golden-case", "hello", "--lf")
    assert result.ret == 0
    result.assert_outcomes(passed=1, deselected=1)


def test_junit_is_pytests_own_with_the_figures_as_properties(checked, pytester):
    checked("--junitxml", "junit.xml")
    (case,) = ET.parse(pytester.path / "junit.xml").getroot().iter("testcase")
    assert (case.get("classname"), case.get("name")) == ("goldens", "digits[float32]")
    properties = {p.get("name"): p.get("value") for p in case.iter("property")}
    assert properties["goldens.verdict"] == "match"
    assert properties["goldens.precision"] == "float32"
    said = re.fullmatch(rf"{FIGURE} (\S+) of (\S+) allowed", properties["goldens.closest"])
    multiple, limit = map(float, said.groups())
    assert 0 < multiple <= limit
    assert float(properties["goldens.share_of_limit"]) == pytest.approx(multiple / limit, rel=0.02)
    assert properties["goldens.closest_at"].startswith("float32, ")


def test_the_figure_that_is_closest_to_its_limit_is_the_one_that_is_named():
    limits = {"rms_limit": 4.0, "max_limit": 8.0, "overall_limit": 2.0}
    multiples = {"rms_multiple": 1.0, "max_multiple": 1.0, "overall_multiple": 0.5}
    at_rest = TapResult("hello", "float32", "forward", "q", "match", **multiples, **limits)
    assert closest(replace(at_rest, rms_multiple=3.9)) == "rms multiple 3.9 of 4 allowed"
    assert closest(replace(at_rest, max_multiple=7.9)) == "max multiple 7.9 of 8 allowed"
    assert closest(replace(at_rest, overall_multiple=1.9)) == "rms multiple over all positions 1.9 of 2 allowed"
    assert closest(replace(at_rest, max_multiple=None)) == "max multiple not finite of 8 allowed"
    missing = TapResult("hello", "float32", "forward", "q", "missing")
    assert closest(missing) == "a tap that could not be compared"


def test_a_failure_in_junit_is_the_report(checked, pytester):
    checked("--junitxml", "junit.xml", "--golden-limit-rms", "0.001")
    (failure,) = ET.parse(pytester.path / "junit.xml").getroot().iter("failure")
    assert "introduced at" in failure.text


def test_the_mode_is_asked_for(checked):
    result = checked("--golden-mode", "replay")
    assert result.ret == 0
    assert "mode forward: not asked for" in result.stdout.str()


def test_a_reduced_precision_inside_the_port_fails_and_is_waived_aloud(checked):
    port = "tests.run.reducing_ports:ReducesItsScores"
    assert "reduces the precision of 4 matrix products" in checked(port=port).stdout.str()
    waived = checked("--allow-reduced-precision", port=port)
    assert waived.ret == 0
    waived.stdout.fnmatch_lines(["note *waived: float32 ran at matmul precision default on cpu*"])


def test_the_golden_and_what_is_not_covered_are_named_at_the_end(checked, golden_path):
    from harness.store import open_golden

    result = checked(port="tests.run.ports:DeclaresNoProbs")
    assert result.ret == 0
    with open_golden(golden_path) as golden:
        result.stdout.fnmatch_lines(
            [
                "*= goldens =*",
                f"golden *{golden.id[:12]}*qwen2-tiny*",
                "port *tests.run.ports:DeclaresNoProbs",
                "closest *multiple * of * allowed  (float32, *: * in digits)",
                "*= goldens: not covered =*",
                "precision float64: not asked for",
                "tap probs: the port declares that it does not expose it",
                f"{len(golden.manifest.cases) - 1} of {len(golden.manifest.cases)} cases: not asked for",
            ]
        )


def test_a_precision_of_which_no_test_ran_is_not_covered(checked):
    result = checked("--precision", "float64,float32", "-k", "float32")
    result.stdout.fnmatch_lines(["precision float64: none of its tests ran"])


def test_what_cannot_be_lifted_is_a_named_skip_beside_float32_and_float32_in_its_place(checked):
    port = "tests.run.test_lifted_check:NarrowBits"
    both = checked("--golden-lift", "--precision", "float64,float32", "-rs", port=port)
    assert both.ret == 0
    both.assert_outcomes(passed=1, skipped=1)
    both.stdout.fnmatch_lines(["SKIPPED *cannot be lifted from float32; see float32"])
    both.stdout.fnmatch_lines(["precision float64: * cannot be lifted from float32; see float32"])
    alone = checked("--golden-lift", "--precision", "float64", port=port)
    alone.assert_outcomes(passed=1)
    # The limits are those of float32 as well: in float64 they would be 1e5 and 1e6.
    (line,) = (line for line in alone.outlines if line.startswith("closest"))
    assert 0 < float(re.search(rf"{FIGURE} \S+ of (\S+) allowed  \(float32, ", line)[1]) < 1000
    alone.stdout.fnmatch_lines(["*; float32 was checked instead"])


def test_two_workers_collect_the_same_tests_and_the_summary_is_complete(checked):
    args = ("-p", "xdist", "-n", "2", "--golden-case", "hello", "-v")
    result = checked(*args, port="tests.run.ports:DeclaresNoProbs", apart=True)
    assert result.ret == 0
    result.assert_outcomes(passed=2)
    text = result.stdout.str()
    assert "goldens::digits[float32]" in text
    assert "goldens::hello[float32]" in text
    assert text.count("tap probs: the port declares that it does not expose it") == 1
    assert text.count("golden   ") == 1


def test_two_workers_report_a_refusal_once(inner):
    result = inner("--golden", "none.h5", "--port", BUILT_IN, "-p", "xdist", "-n", "2", apart=True)
    assert result.ret != 0
    assert result.stdout.str().count("ERROR collecting goldens") == 1
    assert "no tests ran" not in result.stdout.str()
