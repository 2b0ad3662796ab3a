"""Workflows cannot be run here, so what can be known beforehand is tested: syntax, rights, commands, options."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from harness.cli import cli
from tests.conftest import PLACES
from tests.documents import ci_commands, read

ROOT = Path(__file__).parent.parent
CI = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
IN_DOCUMENT = re.findall(r"```yaml\n(.*?)```", read(".github/TPU.md"), flags=re.DOTALL)
# Where PyYAML follows YAML 1.1, the key `on` is the boolean.
ON = True


def every_workflow() -> dict[str, dict[Any, Any]]:
    texts = {"ci.yml": CI} | {f"TPU.md {number}": text for number, text in enumerate(IN_DOCUMENT)}
    return {name: yaml.safe_load(text) for name, text in texts.items()}


WORKFLOWS = every_workflow()


def steps(workflow: dict[Any, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def scripts(workflow: dict[Any, Any]) -> list[str]:
    return [step["run"] for step in steps(workflow) if "run" in step]


def commands(script: str) -> list[list[str]]:
    """The shell commands of a script as words; lines that end in a backslash go on."""
    lines = re.sub(r"\\\n\s*", " ", script).splitlines()
    parts = [part for line in lines for part in re.split(r"&&|\|\||;", line)]
    return [shlex.split(part) for part in parts if part.strip()]


def calls_of(program: str, workflow: dict[Any, Any]) -> list[list[str]]:
    found = [words for script in scripts(workflow) for words in commands(script)]
    return [words[1:] for words in found if words and words[0].rpartition("/")[2] == program]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_has_triggers_jobs_and_steps(name):
    workflow = WORKFLOWS[name]
    assert workflow[ON]
    for job in workflow["jobs"].values():
        assert job["runs-on"]
        assert job["timeout-minutes"] <= 60
    for step in steps(workflow):
        assert ("uses" in step) != ("run" in step), step


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_may_read_and_nothing_else(name):
    assert WORKFLOWS[name]["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in WORKFLOWS[name]["jobs"].values())


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_action_is_pinned_by_its_major_version(name):
    used = [step["uses"] for step in steps(WORKFLOWS[name]) if "uses" in step]
    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", action) for action in used)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_goldens_command_and_option_of_a_workflow_exists(name):
    called = calls_of("goldens", WORKFLOWS[name])
    assert called
    for command, *words in called:
        options = {
            option
            for parameter in cli.commands[command].params
            if isinstance(parameter, click.Option)
            for option in parameter.opts
        }
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options


@pytest.mark.parametrize("name", WORKFLOWS)
def test_the_summary_is_published_and_junit_uploaded(name):
    assert any('--markdown "$GITHUB_STEP_SUMMARY"' in script for script in scripts(WORKFLOWS[name]))
    uploads = [s for s in steps(WORKFLOWS[name]) if s.get("uses", "").startswith("actions/upload-artifact@")]
    assert uploads
    assert all(step["if"] == "${{ !cancelled() }}" for step in uploads)
    written = str([step.get("env", {}) for step in steps(WORKFLOWS[name])]) + str(scripts(WORKFLOWS[name]))
    for step in uploads:
        for file in step["with"]["path"].split():
            assert file in written


def test_ci_runs_the_commands_of_the_documents_word_for_word():
    marked = ci_commands()
    assert marked.keys() == {"main", "test", "record", "tunix", "oldest"}
    assert set(marked.values()) <= set(scripts(WORKFLOWS["ci.yml"]))


def test_what_the_tests_need_has_one_version_that_they_were_seen_with():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    constraints = (ROOT / "tests" / "constraints.txt").read_text()
    pinned = {
        name.replace("_", "-").lower() for name in re.findall(r"^([\w.-]+)==", constraints, flags=re.MULTILINE)
    }
    wanted = project["dependencies"] + project["optional-dependencies"]["test"]
    # Two are pinned through `transformers`, by `record` and by `tunix`, and not alike.
    assert {re.split("[>=]", line)[0] for line in wanted} - pinned == {"safetensors", "tokenizers"}


def test_the_check_job_proves_that_torch_is_absent_and_the_record_job_installs_it():
    jobs = WORKFLOWS["ci.yml"]["jobs"]
    run = {name: " ".join(step.get("run", "") for step in job["steps"]) for name, job in jobs.items()}
    assert "! .venv/bin/python -c 'import torch'" in run["check"]
    assert "record" not in run["check"]
    assert "[test,record]" in run["record"]


def test_a_new_push_cancels_the_run_of_a_pull_request_but_not_of_main():
    assert "refs/heads/main" in WORKFLOWS["ci.yml"]["concurrency"]["cancel-in-progress"]


def test_there_is_a_workflow_for_tpus():
    assert len(IN_DOCUMENT) == 1
    for word in ("jax[tpu]", "[remote]", "gs://", "--precision float32,bfloat16", "JAX_PLATFORMS: tpu"):
        assert word in IN_DOCUMENT[0]


def test_the_files_that_start_first_exist():
    assert all((ROOT / "tests" / file).is_file() for file in PLACES)
