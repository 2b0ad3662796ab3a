"""The wheel, without a checkout beside it: it holds the embedded goldens, checks them, and says its version."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import harness
from tests.documents import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as opened:
        yield opened


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory) -> Path:
    """Where it is installed: nothing in it is built or run as it is, so it is unpacked."""
    folder = tmp_path_factory.mktemp("site")
    wheel.extractall(folder)
    return folder


def test_it_holds_every_embedded_golden_its_checkpoint_and_no_tests(wheel):
    names = set(wheel.namelist())
    goldens = {
        f"harness/_embedded/{path.relative_to(ROOT / 'goldens')}" for path in (ROOT / "goldens").rglob("*.*")
    }
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "harness").rglob("*.*") if path.suffix != ".pyc"}
    assert len(goldens) > 40
    assert goldens | files == {name for name in names if name.startswith("harness/")}
    assert {name.partition("/")[0] for name in names} == {"harness", f"goldens-{harness.__version__}.dist-info"}


def test_its_version_is_the_one_of_the_package(wheel):
    folder = f"goldens-{harness.__version__}.dist-info"
    metadata = Parser().parsestr(wheel.read(f"{folder}/METADATA").decode())
    assert metadata["Version"] == harness.__version__
    entry_points = wheel.read(f"{folder}/entry_points.txt").decode()
    assert "goldens = harness.cli:cli" in entry_points
    assert "goldens = harness.pytest_plugin" in entry_points


def test_it_checks_an_embedded_golden_without_a_checkout(site, tmp_path):
    arguments = ["check", "--precision", "float32", "--case", "hello", "--mode", "forward"]
    program = f"from harness.cli import cli; cli({arguments})"
    checked = subprocess.run(
        [sys.executable, "-P", "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site), "COLUMNS": "300"},
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "PASS" in checked.stdout
    assert str(site / "harness" / "_embedded" / "qwen2-tiny.h5") in checked.stdout
