"""The views from the command line: what `check` writes, and `goldens report`."""

from __future__ import annotations

import json

import pytest

from harness.report.document import encode
from tests.report.audit_samples import BLIND
from tests.report.samples import PASSING, REPORT
from tests.report.test_diff_views import MIXED
from tests.test_cli import FAST, goldens, refused

VIEWS = ("html", "markdown", "junit")


@pytest.fixture
def saved(tmp_path):
    def save(document, name="report.json"):
        path = tmp_path / name
        path.write_bytes(encode(document))
        return path

    return save


def test_a_saved_check_renders_to_the_very_bytes_that_the_check_wrote(tmp_path):
    first = {view: tmp_path / f"check.{view}" for view in VIEWS}
    again = {view: tmp_path / f"report.{view}" for view in VIEWS}

    def options(paths):
        return [x for view, path in paths.items() for x in (f"--{view}", path)]

    assert goldens("check", *FAST, "--json", tmp_path / "a.json", *options(first)).exit_code == 0
    result = goldens("report", tmp_path / "a.json", *options(again))
    assert (result.exit_code, result.output) == (0, "")
    for view in VIEWS:
        assert first[view].read_bytes() == again[view].read_bytes() != b""
    assert len(list(tmp_path.iterdir())) == 7


def test_without_an_option_it_prints_what_the_check_printed(saved):
    for document, word in ((REPORT, "FAIL"), (PASSING, "PASS"), (MIXED, "MIXED"), (BLIND, "BLIND")):
        result = goldens("report", saved(document))
        assert result.exit_code == 0, "it renders, and does not judge again"
        assert word in result.stdout
        assert "\x1b" not in result.stdout


@pytest.mark.parametrize(
    ("view", "start"), [("html", "<!doctype html>"), ("markdown", "## goldens"), ("junit", "<?xml")]
)
def test_one_view_can_go_to_stdout_alone(saved, view, start):
    result = goldens("report", saved(REPORT), f"--{view}", "-")
    assert result.stdout.startswith(start)
    assert result.stderr == ""


def test_a_view_on_stdout_sends_what_a_person_reads_to_stderr():
    result = goldens("check", *FAST, "--markdown", "-")
    assert result.stdout.startswith("## goldens: PASS")
    assert "PASS" in result.stderr


def test_a_saved_diff_renders_too(saved, tmp_path):
    path = saved(MIXED)
    assert goldens("report", path, "--html", tmp_path / "d.html", "--markdown", tmp_path / "d.md").exit_code == 0
    assert "<title>MIXED: " in (tmp_path / "d.html").read_text()
    assert goldens("report", path, "--junit", tmp_path / "d.xml").exit_code == 0
    assert b"<failure" in (tmp_path / "d.xml").read_bytes()


def test_a_saved_audit_renders_too_and_junit_is_refused(saved, tmp_path):
    path = saved(BLIND)
    asked = ("--html", tmp_path / "a.html", "--markdown", tmp_path / "a.md")
    assert goldens("report", path, *asked).exit_code == 0
    assert "<title>BLIND: " in (tmp_path / "a.html").read_text()
    assert (tmp_path / "a.md").read_text().startswith("## goldens audit: BLIND")
    refused(goldens("report", path, "--junit", tmp_path / "a.xml"), "no JUnit view", "hint: ")
    refused(goldens("report", path, "--html", tmp_path / "b.html", "--junit", tmp_path / "a.xml"), "no JUnit view")
    assert not (tmp_path / "a.xml").exists()
    assert not (tmp_path / "b.html").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not JSON"),
        (encode(REPORT)[:-200], "not JSON"),
        (encode(REPORT).replace(b'"rms_multiple": 1.2', b'"rms_multiple": NaN', 1), "not JSON"),
        (b"[]", "not a report"),
        (json.dumps({**json.loads(encode(REPORT)), "schema": 2}).encode(), "schema"),
        (json.dumps({**json.loads(encode(REPORT)), "kind": "golden"}).encode(), "not a report"),
    ],
)
def test_what_is_not_a_report_is_refused_and_nothing_is_written(tmp_path, content, words):
    path = tmp_path / "report.json"
    path.write_bytes(content)
    refused(goldens("report", path, "--html", tmp_path / "x.html"), words, "hint: ")
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]
    refused(goldens("report", tmp_path / "none.json"), "No such file")


@pytest.mark.parametrize("command", [("check", *FAST), ("report", "no-such.json")])
def test_outputs_are_refused_before_the_work(command, tmp_path):
    for view in VIEWS:
        refused(goldens(*command, f"--{view}", "/no/such/dir/x"), "cannot be written", "mkdir -p")
    refused(goldens(*command, "--html", "-", "--markdown", "-"), "two outputs go to one place")
    same = tmp_path / "x"
    refused(goldens(*command, "--html", same, "--junit", same), "two outputs go to one place")
