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

from harness.cli import command
from tests.conftest import PLACES
from tests.documents import ci_commands, read

ROOT = Path(__file__).parent.parent
IN_FOLDER = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / ".github/workflows").glob("*.yml")}
IN_DOCUMENT = re.findall(r"```yaml\n(.*?)```", read(".github/TPU.md"), flags=re.DOTALL)
# Where PyYAML follows YAML 1.1, the key `on` is the boolean.
ON = True


def every_workflow() -> dict[str, dict[Any, Any]]:
    texts = IN_FOLDER | {f"TPU.md {number}": text for number, text in enumerate(IN_DOCUMENT)}
    return {name: yaml.safe_load(text) for name, text in texts.items()}


WORKFLOWS = every_workflow()
PUBLISHING = "publish.yml"
CHECKING = [name for name in WORKFLOWS if name != PUBLISHING]
# What may be run beside GitHub's own actions: PyPI's, by the branch that PyPI names.
TRUSTED = {"pypa/gh-action-pypi-publish@release/v1"}


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
    allowed = {"publish"} if name == PUBLISHING else set()
    assert {job for job, what in WORKFLOWS[name]["jobs"].items() if "permissions" in what} == allowed


def test_publishing_has_no_secret_and_runs_what_was_built_and_checked():
    workflow = WORKFLOWS[PUBLISHING]
    assert workflow[ON] == {"push": {"tags": ["v*"]}}
    assert "secrets." not in IN_FOLDER[PUBLISHING]
    publish = workflow["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["environment"] == "pypi"
    assert publish["needs"] == "build"
    assert not any("run" in step for step in publish["steps"])
    built = " ".join(step.get("run", "") for step in workflow["jobs"]["build"]["steps"])
    for word in ("-m build", "twine check --strict", "GITHUB_REF_NAME#v", "goldens check"):
        assert word in built


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_action_is_pinned_by_its_major_version(name):
    used = [step["uses"] for step in steps(WORKFLOWS[name]) if "uses" in step]
    assert used
    assert all(action in TRUSTED or re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in used)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_goldens_command_and_option_of_a_workflow_exists(name):
    called = calls_of("goldens", WORKFLOWS[name])
    assert called
    for called_name, *words in called:
        options = {
            option
            for parameter in command(called_name).params
            if isinstance(parameter, click.Option)
            for option in parameter.opts
        }
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options


@pytest.mark.parametrize("name", CHECKING)
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


def test_lint_is_one_command_wherever_it_is_run():
    assert ".ci/lint" in scripts(WORKFLOWS["ci.yml"])
    assert "&& .ci/lint)" in read(".ci/run")
    hooks = [hook for repo in yaml.safe_load(read(".pre-commit-config.yaml"))["repos"] for hook in repo["hooks"]]
    assert ".ci/lint" in [hook["entry"] for hook in hooks]
    for tool in ('ruff" format --check', 'ruff" check', "mypy", "lint-imports"):
        assert tool in read(".ci/lint")
    for hook in hooks:
        for file in re.findall(r"tests/\w+\.py", hook["entry"]):
            assert (ROOT / file).is_file()


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda path: path.stem
)
def test_an_issue_template_is_a_form_as_github_reads_it(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert form.keys() == {"name", "description", "labels", "body"}
    ids = [field["id"] for field in form["body"]]
    assert len(set(ids)) == len(ids)
    for field in form["body"]:
        assert field["type"] in ("input", "textarea")
        assert field["attributes"]["label"]
    required = {field["id"]: field.get("validations", {}).get("required", False) for field in form["body"]}
    if path.stem in ("verdict", "failure"):
        assert required["report"]
        assert "--json report.json" in path.read_text(encoding="utf-8")
