"""What is imported where, seen from outside: in a fresh process that refuses the forbidden packages.

Where torch is not installed its absence would prove nothing, so the imports themselves are refused; the same
tests run in both environments.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness.cli import cli
from harness.report.document import encode
from tests.report.samples import REPORT

REFUSE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {forbidden}:
            raise ImportError("forbidden import: " + name)
sys.meta_path.insert(0, Refuse())
{code}
"""


def run(code: str, *forbidden: str) -> subprocess.CompletedProcess[str]:
    program = REFUSE.format(forbidden=set(forbidden), code=code)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)


def command(*args: str) -> str:
    return f"from harness.cli import cli; cli({list(args)!r})"


def test_a_check_never_imports_torch():
    args = ("check", "--precision", "float32", "--case", "hello")
    result = run(command(*args), "torch", "transformers")
    assert result.returncode == 0, result.stderr
    assert "PASS" in result.stdout


@pytest.mark.parametrize("name", ["show", "verify"])
def test_reading_a_golden_needs_neither_torch_nor_jax(name):
    result = run(command(name), "torch", "transformers", "jax", "jaxlib", "flax")
    assert result.returncode == 0, result.stderr


def test_comparing_saved_checks_needs_neither_torch_nor_jax(tmp_path):
    path = tmp_path / "report.json"
    saving = run(command("check", "--precision", "float32", "--case", "hello", "--json", str(path)))
    assert saving.returncode == 0, saving.stderr
    args = ("diff", "--before", str(path), "--after", str(path))
    result = run(command(*args), "torch", "transformers", "jax", "jaxlib", "flax")
    assert result.returncode == 0, result.stderr
    assert "SAME" in result.stdout


def test_rendering_a_saved_check_needs_neither_torch_nor_jax(tmp_path):
    saved = tmp_path / "report.json"
    saved.write_bytes(encode(REPORT))
    for args in ((), ("--html", "-"), ("--markdown", "-"), ("--junit", "-")):
        result = run(command("report", str(saved), *args), "torch", "transformers", "jax", "jaxlib", "flax")
        assert result.returncode == 0, result.stderr
        assert "q_rope" in result.stdout


def test_help_imports_nothing_heavy():
    heavy = (
        "torch",
        "transformers",
        "jax",
        "flax",
        "numpy",
        "h5py",
        "zarr",
        "rich",
        "msgspec",
        "jinja2",
        "tokenizers",
    )
    for args in (["--help"], *([name, "--help"] for name in cli.commands)):
        result = run(command(*args), *heavy)
        assert result.returncode == 0, result.stderr
        assert "Usage: " in result.stdout


def test_these_tests_would_notice():
    result = run("import harness.run.check", "jax")
    assert result.returncode == 1
    assert "forbidden import: jax" in result.stderr


def test_the_import_contracts_hold():
    from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

    assert lint_imports(no_cache=True) == EXIT_STATUS_SUCCESS
