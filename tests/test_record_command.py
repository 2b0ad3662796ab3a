"""`goldens record` where recording is not installed, and its help everywhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import harness
from harness.errors import UsageError
from harness.record import command as record_command
from tests.test_imports import command, run

ROOT = Path(harness.__file__).parents[1]
OPTIONS = (
    "--model",
    "--corpus",
    "--out",
    "--level",
    "--taps",
    "--layers",
    "--logits",
    "--dtype",
    "--case",
    "--device",
)


def assert_is_the_help(text):
    assert "Usage: goldens record" in text
    for option in OPTIONS:
        assert option in text
    assert "Examples:" in text and "Exit codes:" in text


def test_help_names_every_option_and_imports_no_torch():
    done = run(command("record", "--help"), "torch", "transformers", "jax", "numpy")
    assert done.returncode == 0, done.stderr
    assert "goldens record" in done.stdout
    for option in OPTIONS:
        assert option in done.stdout


def test_the_script_of_a_checkout_is_the_same_command():
    script = ROOT / "generate_goldens.py"
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert_is_the_help(done.stdout)


def test_without_torch_it_says_what_to_install_and_writes_nothing(checkpoint, tmp_path):
    out = tmp_path / "a.h5"
    done = run(command("record", "--model", str(checkpoint), "--out", str(out)), "torch", "transformers")
    assert done.returncode == 2, done.stderr
    assert "recording needs libraries that are not installed here" in done.stderr
    assert "no torch, no transformers" in done.stderr and "goldens[record]" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_bad_corpus_is_refused_before_that(tmp_path):
    done = run(
        command("record", "--corpus", str(tmp_path / "none.toml"), "--out", str(tmp_path / "a.h5")), "torch"
    )
    assert done.returncode == 2
    assert "the corpus file does not exist" in done.stderr


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"layers": "all", "out": "a.h5"}, "no rule for layers"),
        ({"logits": "64", "out": "a.h5"}, "no choice of logits"),
        ({"taps": ("logits",)}, "only recorded as a whole"),
        ({"layers": "first"}, "only recorded as a whole"),
        ({"logits": "top-8"}, "only recorded as a whole"),
    ],
)
def test_what_cannot_be_selected_is_refused_before_torch_is_looked_for(asked, problem, monkeypatch):
    monkeypatch.setattr(record_command, "require_torch", lambda: pytest.fail("it went on"))
    with pytest.raises(UsageError, match=problem) as caught:
        record_command.run(record_command.Request(**asked), Console())
    assert str(caught.value.where).startswith(f"--{next(iter(asked))}")
