"""What a project configures once in pyproject.toml."""

from __future__ import annotations

import shutil

import pytest

from tests.testing.conftest import BUILT_IN

pytest_plugins = ["pytester"]

CONFIGURED = f"""
[tool.pytest.ini_options]
golden = "artifacts/golden.h5"
weights = "artifacts/weights"
port = "{BUILT_IN}"
precision = "float32"
addopts = "--golden-case digits"
"""


@pytest.fixture
def project(pytester, golden_path, checkpoint):
    """A project with a golden and its weights in a folder of its own, and one test file."""
    artifacts = pytester.mkdir("artifacts")
    shutil.copy(golden_path, artifacts / "golden.h5")
    shutil.copytree(checkpoint, artifacts / "weights")
    pytester.makepyprojecttoml(CONFIGURED)
    pytester.makepyfile(test_own="def test_own(): pass")
    return pytester


def test_a_configured_project_checks_its_golden_in_a_run_of_the_whole_suite(project, inner):
    result = inner("-v")
    assert result.ret == 0
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["goldens::digits*float32* PASSED*"])


def test_paths_are_relative_to_the_configuration_and_not_to_where_pytest_is_started(project, inner, monkeypatch):
    monkeypatch.chdir(project.mkdir("elsewhere"))
    inner("--golden", project.path / "artifacts" / "golden.h5").assert_outcomes(passed=1)


def test_files_that_somebody_picked_run_alone(project, inner):
    inner("test_own.py").assert_outcomes(passed=1)


def test_the_command_line_wins(project, inner):
    result = inner("--golden", "none.h5")
    assert result.ret == 2
    assert "none.h5" in result.stdout.str()
    assert "tests.run.ports:NoLoad" in inner("--port", "tests.run.ports:NoLoad").stdout.str()


def test_a_configured_golden_that_is_missing_is_an_error(project, inner):
    (project.path / "artifacts" / "golden.h5").unlink()
    result = inner()
    assert result.ret == 2
    assert str(project.path / "artifacts" / "golden.h5") in result.stdout.str()


def test_a_configured_checkpoint_that_is_missing_names_that_setting(project, inner):
    shutil.rmtree(project.path / "artifacts" / "weights")
    result = inner()
    assert result.ret == 2
    text = result.stdout.str()
    assert "there is no checkpoint directory" in text
    assert "`weights = artifacts/weights` in " in text
    assert "pyproject.toml" in text
    assert "--weights=none" in inner("--weights", "none").stdout.str()


def test_workers_check_what_is_configured_as_well(project, inner):
    result = inner("-p", "xdist", "-n", "2", apart=True)
    assert result.ret == 0
    result.assert_outcomes(passed=2)


def test_where_nothing_is_configured_nothing_is_collected_or_said(inner, pytester):
    pytester.makepyfile("def test_own(): pass")
    result = inner()
    result.assert_outcomes(passed=1)
    assert "goldens" not in result.stdout.str()
