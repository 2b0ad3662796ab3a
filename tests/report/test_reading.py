"""Saved reports come back as they were; whatever is not one, or contradicts itself, is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from harness.errors import UsageError
from harness.logits import Continuation
from harness.report.criteria import acceptance
from harness.report.diff_assembly import diff
from harness.report.document import encode
from harness.report.pairing import Candidate
from harness.report.reading import read_report
from harness.results import Flip
from tests.report.audit_samples import BLIND, KL, SEES
from tests.report.samples import PASSING, REPORT


@pytest.fixture
def saved(tmp_path):
    """Saves a document (or bytes) and gives back its path."""

    def save(content):
        path = tmp_path / "report.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return save


def refusal(path):
    with pytest.raises(UsageError) as caught:
        read_report(path)
    assert str(path) in str(caught.value)
    assert "hint: " in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("report", [REPORT, PASSING, BLIND, SEES])
def test_a_saved_report_comes_back_as_it_was(saved, report):
    assert read_report(saved(encode(report))) == report


def test_a_report_from_before_there_were_rows_and_own_prefills_is_read(saved):
    document = json.loads(encode(REPORT))
    for found in document["results"]:
        for name in ("row", "wrong_rows", "against"):
            del found[name]
    assert read_report(saved(document)) == REPORT


@pytest.mark.parametrize("content", [b"", b"not json", b"\xff\xfe", encode(REPORT)[:-100], encode(REPORT) + b"}"])
def test_what_is_not_whole_json_is_refused(saved, content):
    assert "the report is not JSON" in refusal(saved(content))


def test_nan_is_refused(saved):
    content = encode(REPORT).replace(b'"rms_multiple": 1.2', b'"rms_multiple": NaN', 1)
    assert content != encode(REPORT)
    assert "the report is not JSON" in refusal(saved(content))


@pytest.mark.parametrize("content", [[], 5, None, {}, {"kind": "golden"}, {"kind": ["check"]}])
def test_json_of_something_else_is_refused(saved, content):
    message = refusal(saved(content))
    assert "this is not a report" in message
    assert "expected: kind check or diff or audit" in message


@pytest.mark.parametrize("version", [2, 0, None, "1"])
def test_another_schema_version_is_refused(saved, version):
    document = json.loads(encode(REPORT)) | {"schema": version}
    assert "a schema version that this release does not read" in refusal(saved(document))


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    assert "No such file" in refusal(tmp_path / "none.json")
    assert "Is a directory" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (lambda d: d.pop("results"), "results"),
        (lambda d: d.update(verdict="ok"), "$.verdict"),
        (lambda d: d["results"][0].update(verdict="fine"), "$.results[0].verdict"),
        (lambda d: d["results"][0].update(rms_multiple="4"), "$.results[0].rms_multiple"),
        (lambda d: d["golden"].pop("id"), "$.golden"),
    ],
)
def test_a_missing_or_wrong_field_is_refused_by_name(saved, spoil, field):
    document = json.loads(encode(REPORT))
    spoil(document)
    message = refusal(saved(document))
    assert "the report is malformed" in message
    assert field in message


def contradiction(saved, report, spoil, words):
    document = json.loads(encode(report))
    spoil(document)
    message = refusal(saved(document))
    assert "the report contradicts itself" in message
    for word in words:
        assert word in message


MATCHING = next(i for i, r in enumerate(REPORT.results) if r.verdict == "match")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: d["results"].append(d["results"][0]), ("expected: one result", "found:    2 results")),
        (lambda d: d.update(verdict="match"), ("verdict", "expected: diverged", "found:    match")),
        (lambda d: d.update(results=[], verdict="match"), ("expected: diverged",)),
        (lambda d: d.update(limits={}), ("a known precision with its limits",)),
        (lambda d: d["results"][0].update(precision="float8"), ("a known precision with its limits",)),
        (lambda d: d["results"][0].update(mode="backward"), ("mode forward, replay, prefill, alone",)),
        (lambda d: d["results"][0].update(verdict="diverged"), ("a judged verdict",)),
        (lambda d: d["results"][0].update(tap="layers.9.q"), ("layers.9.q", "a tap of the golden")),
        (
            lambda d: d["results"][MATCHING].update(rms_multiple=4.01),
            ("rms_multiple up to its limit, 4.0", "found:    4.01"),
        ),
        (
            lambda d: d["results"][MATCHING].update(max_multiple=8.01),
            ("max_multiple up to its limit, 8.0", "found:    8.01"),
        ),
        (lambda d: d["results"][MATCHING].update(rms_multiple=None), ("rms_multiple up to its limit",)),
        (
            lambda d: d["results"][MATCHING].update(overall_multiple=3.01),
            ("overall_multiple up to its limit, 3.0",),
        ),
        (lambda d: d["results"][MATCHING].update(rms_limit=None), ("rms_multiple up to its limit, None",)),
        (lambda d: d["results"][MATCHING].update(limits=[]), ("a limit for each of the",)),
        (lambda d: d["results"][0].update(rms_multiple=-1.0), ("rms_multiple of 0 or more",)),
    ],
)
def test_a_report_that_contradicts_itself_is_refused(saved, spoil, words):
    contradiction(saved, REPORT, spoil, words)


def of(name, d):
    """A mutant of an audit, by its id."""
    return next(mutant for mutant in d["mutants"] if mutant["id"] == name)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: d["mutants"].append(d["mutants"][0]), ("mutant interleaved", "one entry", "2 entries")),
        (lambda d: d["mutants"][0]["results"].pop(), ("mutant interleaved", "results at float32, bfloat16")),
        (lambda d: d["scores"].pop("bfloat16"), ("results at float32, bfloat16",)),
        (lambda d: d["limits"].pop("bfloat16"), ("limits: bfloat16", "found:    none")),
        (lambda d: d.update(blind=[]), ("blind", "expected: far", "found:    none")),
        (lambda d: d.update(verdict="sees"), ("verdict", "expected: blind", "found:    sees")),
        (lambda d: d.update(spare=["code"]), ("needed, spare", "no case in both", "code")),
        (lambda d: d.update(needed=["long"]), ("mutant shifted at float32", "a needed case among those", "code")),
        (lambda d: of("layers_as_text", d)["results"][0].update(outcome="caught"), ("cases that catch it",)),
        (lambda d: of("far", d)["results"][0].update(reason=None), ("mutant far at float32", "a reason")),
        (lambda d: of("far", d)["results"][0].update(named=True), ("nothing named, since it is not caught",)),
        (lambda d: of("far", d)["results"][1].update(margin=1.5), ("a margin of at most 1", "it is survived")),
        (lambda d: of("shifted", d)["results"][0].update(margin=0.5), ("a margin above 1", "found:    0.5")),
        (lambda d: of("shifted", d)["results"][0].update(naming=["long"]), ("naming cases among", "long")),
        (lambda d: d["scores"]["float32"].update(caught=4), ("score at float32: caught", "expected: 3")),
        (lambda d: d["scores"]["float32"].update(visible=6), ("score at float32: visible", "expected: 4")),
        (lambda d: d["scores"]["float32"].update(right=1.5), ("score at float32: right", "at most 1")),
        (lambda d: d["scores"]["float32"]["criteria"].update({KL: 3}), (f"score at float32: {KL}", "expected: 1")),
    ],
)
def test_an_audit_that_contradicts_itself_is_refused(saved, spoil, words):
    contradiction(saved, BLIND, spoil, words)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("introduced", ["layers.0.attn_norm"]),
        ("introduced", []),
        ("first_divergence", None),
        ("first_divergence", {"tap": "logits", "case": "code", "precision": "float32"}),
        ("acceptance", None),
        ("verdict", "match"),
    ],
)
def test_what_follows_from_the_results_is_worked_out_again(saved, field, value):
    document = json.loads(encode(REPORT))
    assert document[field] != value
    message = refusal(saved({**document, field: value}))
    assert "the report contradicts itself" in message
    assert f"{field}, which follows from the results" in message


@pytest.mark.parametrize(("figure", "value"), [("pass", True), ("max_abs", 1e-9), ("position_correlation", 0.0)])
def test_an_acceptance_whose_figures_were_edited_is_refused(saved, figure, value):
    document = json.loads(encode(REPORT))
    assert document["acceptance"][figure] != value
    document["acceptance"][figure] = value
    assert "acceptance, which follows from the results" in refusal(saved(document))


def test_a_port_that_wrote_something_else_has_a_report_that_can_be_read(saved):
    wrote = Continuation("greedy", "float32", 4, 1, None, Flip(3, 1, 2, 5.0, 1e-6, tie=False))
    report = replace(PASSING, generations=(wrote,), verdict="diverged")
    report = replace(report, acceptance=acceptance(report.results, report.generations))
    assert read_report(saved(encode(report))) == report
    assert "verdict, which follows" in refusal(saved(encode(replace(report, verdict="match"))))


@pytest.mark.parametrize("depth", [30, 900, 100_000])
def test_json_that_is_nested_too_deep_is_refused(saved, depth):
    deep = b"[" * depth + b"]" * depth
    whole = encode(REPORT).replace(b'"notes": []', b'"notes": [' + deep + b"]")
    for content in (deep, whole, b'{"kind": "check", "environment": ' + deep + b"}"):
        assert "nested too deep" in refusal(saved(content))


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"libraries": 5},
        {"libraries": {"jax": "1"}},
        {"devices": "cpu"},
        {"devices": [1]},
        {"mesh": "data=2"},
        {"processes": "2"},
        {"mesh": {"data": 0}},
        {"mesh": {"data": "2"}},
        {"precision": []},
        {"precision": {"a": 1}},
    ],
)
def test_an_environment_that_no_view_could_show_is_refused(saved, environment):
    document = json.loads(encode(REPORT))
    document["environment"] = {**document["environment"], **environment} if environment else {}
    assert "environment: " in refusal(saved(document))


def test_a_diff_whose_verdict_its_counts_contradict_is_refused(saved):
    found = diff(Candidate("before.json", PASSING), Candidate("after.json", PASSING))
    assert read_report(saved(encode(found))) == found
    assert "verdict" in refusal(saved(encode(replace(found, verdict="better"))))
