"""`goldens diagnose` as a user types it: exit codes, messages, files."""

from __future__ import annotations

import json

from click.testing import CliRunner

from harness.cli import cli

FAST = ("--precision", "float64", "--case", "digits")


def goldens(*args):
    return CliRunner().invoke(cli, [str(arg) for arg in args])


def test_a_port_with_a_bug_exits_with_1_and_is_told_which_one_and_where_it_is_right(tmp_path):
    file = tmp_path / "diagnosis.json"
    result = goldens("diagnose", "--port", "tests.second_port.ports:Interleaved", *FAST, "--json", file)
    assert result.exit_code == 1, result.output
    assert "rope_interleaved: this port reproduces that bug to" in result.stdout
    assert "harness/run/operations.py:" in result.stdout
    assert result.stdout.index("positions") < result.stdout.index("looks like")  # the evidence comes first
    document = json.loads(file.read_text())
    assert document["kind"] == "diagnosis"
    assert document["operations"][0]["named"][0]["mutants"] == ["rope_interleaved"]
    assert document["operations"][0]["kinds"] == ["q_rope", "k_rope"]


def test_a_port_with_a_bug_of_no_catalogue_is_told_so():
    result = goldens("diagnose", "--port", "tests.second_port.ports:Mish", *FAST)
    assert result.exit_code == 1, result.output
    assert "no name" in result.stdout
    assert "rest on the evidence" in result.stdout
    assert "looks like" not in result.stdout


def test_a_right_port_exits_with_0():
    result = goldens("diagnose", "--port", "tests.second_port.port:SecondPort", *FAST)
    assert result.exit_code == 0, result.output
    assert "nothing to diagnose" in result.stdout


def test_json_on_stdout_is_nothing_but_json():
    result = goldens("diagnose", "--port", "tests.second_port.ports:Mish", *FAST, "--json", "-")
    assert json.loads(result.stdout)["operations"][0]["named"] == []
    assert "no name" in result.stderr


def test_what_cannot_be_diagnosed_exits_with_2_and_a_hint():
    assert goldens("diagnose").exit_code == 2
    result = goldens("diagnose", "--port", "no.such:Port")
    assert result.exit_code == 2
    assert "hint: " in result.stderr
    result = goldens("diagnose", "--port", "tests.run.ports:CutsTheVocabulary", *FAST)
    assert result.exit_code == 2
    assert "breaks its contract" in result.stderr
    assert "hint: mend this first" in result.stderr


def test_a_check_that_fails_ends_with_what_it_looks_like(tmp_path):
    file = tmp_path / "report.json"
    result = goldens("check", "--port", "tests.second_port.ports:Interleaved", *FAST, "--json", file)
    assert result.exit_code == 1, result.output
    assert "looks like: rope_interleaved" in result.stdout
    assert json.loads(file.read_text())["looks_like"].startswith("rope_interleaved: this port reproduces")


def test_a_check_that_passes_says_nothing_about_bugs(tmp_path):
    file = tmp_path / "report.json"
    result = goldens("check", *FAST, "--json", file)
    assert result.exit_code == 0
    assert "looks like" not in result.stdout
    assert json.loads(file.read_text())["looks_like"] is None


def test_a_diagnosis_that_breaks_does_not_take_the_report_with_it_and_says_why(monkeypatch, tmp_path):
    def breaks(*_, **__):
        raise TypeError("boom\nin a second line")

    monkeypatch.setattr("harness.mutants.diagnosis.hint.replayed_again", breaks)
    file = tmp_path / "report.json"
    result = goldens("check", "--port", "tests.second_port.ports:Interleaved", *FAST, "--json", file)
    assert result.exit_code == 1, result.output
    assert "introduced at  layers.*.q_rope" in result.stdout
    said = (
        "unknown, diagnosis failed: TypeError: boom; "
        f"`goldens diagnose {' '.join(FAST)} --port tests.second_port.ports:Interleaved` shows it"
    )
    assert f"looks like: {said}" in " ".join(result.stdout.split())
    assert json.loads(file.read_text())["looks_like"] == said


def test_a_diagnosis_that_is_interrupted_is_interrupted(monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.mutants.diagnosis.hint.replayed_again", interrupted)
    result = goldens("check", "--port", "tests.second_port.ports:Interleaved", *FAST)
    assert result.exit_code == 130, result.output
    assert "introduced at" not in result.stdout
