"""The README is a contract: its commands, its tree and its port are tested as they are written there."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from harness.cli import cli
from harness.run.check import check
from harness.run.question import Question

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_commands_that_ci_runs_are_there():
    for name in ("main", "test", "record", "tunix", "oldest"):
        assert README.count(f"<!-- ci: {name} -->\n```sh\n") == 1


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_is_in_the_readme(name):
    assert f"goldens {name}" in README


def test_every_option_that_the_readme_uses_exists():
    known = {"--help"} | {
        option
        for command in cli.commands.values()
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
    }
    lines = [line for line in README.splitlines() if line.startswith(("goldens ", "    --"))]
    used = {option for line in lines for option in re.findall(r"(?<![\w-])--[a-z-]+", line)}
    assert used <= known


def test_the_tree_names_every_module_and_nothing_else():
    tree = README[README.index("## The tree") : README.index("Imports point one way")]
    named = set(re.findall(r"^  (\w+(?:\.py|/))", tree, flags=re.MULTILINE))
    harness = {
        p.name + ("/" if p.is_dir() else "")
        for p in (ROOT / "harness").iterdir()
        if not p.name.startswith(("_", ".")) and p.suffix in ("", ".py")
    }
    assert harness <= named
    for name in named:
        assert any((ROOT / folder / name).exists() for folder in ("harness", "tests")), name


def test_every_linked_file_exists():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_no_placeholder_is_left():
    assert "@@" not in README


def test_the_port_in_the_readme_matches_as_it_is_written(tmp_path, monkeypatch, golden_path, checkpoint):
    section = README[README.index("<!-- port: by hand -->") :]
    code = re.search(r"```python\n(.*?)```", section, flags=re.DOTALL).group(1)
    (tmp_path / "readme_port.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    question = Question(precisions=("float64", "float32"), cases=("one-to-five",))
    report = check(golden_path, checkpoint, "readme_port:Port", question)
    assert report.verdict == "match"
    worst = max(r.rel_rms for r in report.results if r.precision == "float64")
    assert worst <= 1e-13
