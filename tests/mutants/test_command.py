"""`goldens audit` as a user types it."""

from __future__ import annotations

import json

import jsonschema
import pytest
from click.testing import CliRunner

from harness.cli import cli
from harness.report.audit_document import Audit
from harness.report.reading import SCHEMAS, schema

FAST = ("--precision", "float32", "--case", "one-to-five", "--mutant", "rope_m*")


def goldens(*args: str, command: str = "audit"):
    return CliRunner().invoke(cli, [command, *map(str, args)])


def test_a_golden_that_sees_every_mutant_exits_with_0_and_writes_json(tmp_path):
    path = tmp_path / "audit.json"
    result = goldens(*FAST, "--json", path)
    assert result.exit_code == 0, result.output
    assert "SEES" in result.stdout
    document = json.loads(path.read_text())
    jsonschema.validate(document, json.loads(SCHEMAS[Audit].read_text()))
    assert {m["id"] for m in document["mutants"]} == {
        "rope_missing",
        "rope_missing_on_keys",
        "rope_missing_in_last_layer",
    }
    assert all(m["results"][0]["named"] for m in document["mutants"])


def test_a_blind_golden_exits_with_1_and_says_what_it_lacks():
    result = goldens("--precision", "float32", "--case", "hello", "--mutant", "rope_missing")
    assert result.exit_code == 1
    assert "BLIND" in result.stdout
    assert "no case has 2 tokens; would be caught by a prompt of 2 tokens or more" in " ".join(
        result.stdout.split()
    )


def test_an_audit_that_is_rendered_again_gives_the_very_same_page_and_summary(tmp_path):
    first, again = ({view: tmp_path / f"{name}.{view}" for view in ("html", "markdown")} for name in ("a", "b"))

    def options(paths):
        return [part for view, path in paths.items() for part in (f"--{view}", path)]

    saved = tmp_path / "audit.json"
    asked = ("--precision", "float32", "--case", "hello", "--mutant", "rope_missing", "--mutant", "eps_1e5")
    result = goldens(*asked, "--json", saved, *options(first))
    assert result.exit_code == 1, result.output
    assert result.stdout == goldens(saved, command="report").stdout
    assert goldens(saved, *options(again), command="report").exit_code == 0
    for view in first:
        assert first[view].read_bytes() == again[view].read_bytes() != b""
    page = first["html"].read_text()
    assert page.startswith("<!doctype html>")
    assert "a prompt of 2 tokens or more" in page


def test_json_on_stdout_is_nothing_but_json():
    result = goldens(*FAST, "--json", "-")
    assert json.loads(result.stdout)["kind"] == "audit"
    assert "SEES" in result.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--mutant", "no-such"), "no mutant of the catalogue matches"),
        (("--precision", "float16"), "unknown precision"),
        (("--weights", "/no/such/dir"), "no checkpoint directory"),
        (("--json", "/no/such/dir/audit.json"), "cannot be written"),
        (("--html", "/no/such/dir/audit.html"), "cannot be written"),
        (("--json", "-", "--html", "-"), "two outputs go to one place"),
    ],
)
def test_what_cannot_be_audited_exits_with_2_and_a_hint(args, words):
    result = goldens(*args)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "hint: " in result.stderr


def test_the_committed_schema_is_the_one_that_the_classes_give():
    assert SCHEMAS[Audit].read_bytes() == schema(Audit), "run: python -m harness.report.reading"
