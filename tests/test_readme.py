"""The documents are a contract: their commands, options, links, tree and port are tested as they are written."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from harness.cli import COMMANDS, command
from harness.run.check import check
from harness.run.question import Question
from tests.documents import ROOT, ci_commands, documents, port, read

README = read("README.md")
DOCUMENTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in documents()}
LONGEST = 200
FENCED = re.compile(r"^```.*?^```", flags=re.DOTALL | re.MULTILINE)


def test_the_first_page_is_short_and_begins_with_a_failing_report():
    lines = README.splitlines()
    assert len(lines) <= LONGEST
    assert any("introduced at" in line for line in lines[:30])


def test_the_commands_that_ci_runs_are_there():
    assert list(ci_commands()) == ["main", "test", "record", "tunix", "oldest"]
    for name in ("main", "test"):
        assert README.count(f"<!-- ci: {name} -->\n```sh\n") == 1
    for name in ("record", "tunix", "oldest"):
        assert read("tests/README.md").count(f"<!-- ci: {name} -->\n```sh\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_readme_and_in_that_of_the_commands(name):
    assert f"goldens {name}" in README
    assert f"goldens {name}" in DOCUMENTS["harness/cli/README.md"]


def options() -> set[str]:
    """Every option of every command."""
    return {"--help"} | {
        option
        for name in COMMANDS
        for parameter in command(name).params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
    }


def used(text: str) -> set[str]:
    """The options with which a document calls `goldens`."""
    lines = [line for line in text.splitlines() if line.startswith(("goldens ", "    --"))]
    return {option for line in lines for option in re.findall(r"(?<![\w-])--[a-z-]+", line)}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_option_that_a_document_uses_exists(name):
    assert used(DOCUMENTS[name]) <= options()


def test_options_are_seen_where_they_are_used():
    assert "--port" in used(README)
    assert not used("goldens check --prot my_port:Port") <= options()


def test_the_tree_names_every_module_and_nothing_else():
    text = DOCUMENTS["harness/README.md"]
    tree = text[text.index("## The tree") : text.index("Imports point one way")]
    named = set(re.findall(r"^  (\w+(?:\.py|/))", tree, flags=re.MULTILINE))
    harness = {
        p.name + ("/" if p.is_dir() else "")
        for p in (ROOT / "harness").iterdir()
        if not p.name.startswith(("_", ".")) and p.suffix in ("", ".py")
    }
    assert harness == named


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#{1,6} (.*)$", FENCED.sub("", text), flags=re.MULTILINE)
    return {slug(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)) for heading in headings}


def dead(name: str, text: str) -> list[str]:
    """The links of a document that lead nowhere, in the checkout or to a heading."""
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", FENCED.sub("", text))):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (ROOT / name).parent / target
        if not path.exists() or (anchor and anchor not in anchors(path.read_text("utf-8") if target else text)):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_somewhere(name):
    assert dead(name, DOCUMENTS[name]) == []


def test_a_dead_link_and_a_dead_anchor_would_be_seen():
    links = ("nowhere.md", "#no-such-heading", "goldens/README.md#the-tree", "#here", "README.md#not-there")
    text = "".join(f"[a]({link}) " for link in links) + "\n# Here\n"
    assert dead("README.md", text) == ["nowhere.md", "#no-such-heading", "README.md#not-there"]


def test_every_document_can_be_reached_from_the_readme():
    reached, todo = set[str](), ["README.md"]
    while todo:
        name = todo.pop()
        if name in reached:
            continue
        reached.add(name)
        links = re.findall(r"\]\(([^)\s#:]+\.md)[^)]*\)", DOCUMENTS[name])
        todo += [str(((ROOT / name).parent / link).resolve().relative_to(ROOT)) for link in links]
    assert set(DOCUMENTS) == reached


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_placeholder_is_left(name):
    assert "@@" not in DOCUMENTS[name]


def test_the_port_that_is_shown_matches_as_it_is_written(tmp_path, monkeypatch, golden_path, checkpoint):
    Path(tmp_path / "readme_port.py").write_text(port("by hand"))
    monkeypatch.syspath_prepend(tmp_path)
    question = Question(precisions=("float64", "float32"), cases=("one-to-five",))
    report = check(golden_path, checkpoint, "readme_port:Port", question)
    assert report.verdict == "match"
    worst = max(r.rel_rms for r in report.results if r.precision == "float64")
    assert worst <= 1e-13
