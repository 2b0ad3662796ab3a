"""What is imported where, seen from outside: in a fresh process that refuses the forbidden packages.

The imports themselves are refused, whatever is installed. Tried once is enough, so it is where everything is.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from harness.cli import COMMANDS
from harness.report.document import encode
from tests.report.audit_samples import BLIND
from tests.report.samples import REPORT
from tests.report.test_diff_views import MIXED

pytestmark = [
    pytest.mark.imports,
    pytest.mark.skipif(
        importlib.util.find_spec("torch") is None, reason="tried where torch is installed: -m 'record or imports'"
    ),
]

REFUSE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if any(name == one or name.startswith(one + ".") for one in {forbidden}):
            raise ImportError("forbidden import: " + name)
sys.meta_path.insert(0, Refuse())
{code}
"""


def run(code: str, *forbidden: str) -> subprocess.CompletedProcess[str]:
    program = REFUSE.format(forbidden=set(forbidden), code=code)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)


def command(*args: str) -> str:
    return f"from harness.cli import cli; cli({list(args)!r})"


def test_a_check_never_imports_torch_nor_the_catalogue_where_it_passes_nor_models_that_no_port_has():
    code = "import harness.run.adapters; " + command("check", "--precision", "float32", "--case", "hello")
    result = run(code, "torch", "transformers", "harness.mutants", "equinox", "haliax", "keras")
    assert result.returncode == 0, result.stderr
    assert "PASS" in result.stdout


@pytest.mark.parametrize("name", ["show", "verify"])
def test_reading_a_golden_needs_neither_torch_nor_jax(name):
    result = run(command(name), "torch", "transformers", "jax", "jaxlib", "flax")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("args", [("show",), ("verify",), ("check", "--precision", "float32", "--case", "hello")])
def test_an_hdf5_golden_needs_no_zarr(args):
    result = run(command(*args), "zarr", "numcodecs", "fsspec")
    assert result.returncode == 0, result.stderr


def test_comparing_saved_checks_needs_neither_torch_nor_jax(tmp_path):
    path = tmp_path / "report.json"
    saving = run(command("check", "--precision", "float32", "--case", "hello", "--json", str(path)))
    assert saving.returncode == 0, saving.stderr
    args = ("diff", "--before", str(path), "--after", str(path))
    result = run(command(*args), "torch", "transformers", "jax", "jaxlib", "flax")
    assert result.returncode == 0, result.stderr
    assert "SAME" in result.stdout


@pytest.mark.parametrize(
    ("document", "word", "views"),
    [
        (REPORT, "q_rope", ("html", "markdown", "junit")),
        (MIXED, "attn_norm", ("html", "markdown", "junit")),
        (BLIND, "no position beyond 256", ("html", "markdown")),
    ],
    ids=["check", "diff", "audit"],
)
def test_rendering_a_saved_report_needs_neither_torch_nor_jax(document, word, views, tmp_path):
    saved = tmp_path / "report.json"
    saved.write_bytes(encode(document))
    for args in ((), *((f"--{view}", "-") for view in views)):
        result = run(command("report", str(saved), *args), "torch", "transformers", "jax", "jaxlib", "flax")
        assert result.returncode == 0, result.stderr
        assert word in result.stdout


HEAVY = (
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


def test_help_imports_nothing_heavy():
    for args in (["--help"], *([name, "--help"] for name in COMMANDS)):
        result = run(command(*args), *HEAVY)
        assert result.returncode == 0, result.stderr
        assert "Usage: " in result.stdout


def pytest_with_the_plugin(*args: str) -> str:
    """pytest with no other plugin: some of those import numpy."""
    argv = ["-p", "harness.pytest_plugin", "-p", "no:cacheprovider", *args]
    return (
        "import os, pytest; os.environ['PYTEST_DISABLE_PLUGIN_AUTOLOAD'] = '1'\n"
        f"raise SystemExit(pytest.main({argv!r}))"
    )


def test_the_pytest_plugin_imports_nothing_heavy_until_a_golden_is_used(tmp_path):
    (tmp_path / "test_own.py").write_text("def test_own(): pass")
    result = run("import harness.pytest_plugin", *HEAVY)
    assert result.returncode == 0, result.stderr
    shown = run(pytest_with_the_plugin("--rootdir", str(tmp_path), str(tmp_path), "--help"), *HEAVY)
    assert shown.returncode == 0, shown.stderr
    assert "--golden=PATH" in shown.stdout
    ran = run(pytest_with_the_plugin("--rootdir", str(tmp_path), str(tmp_path)), *HEAVY)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "1 passed" in ran.stdout


def test_the_same_run_with_a_golden_would_be_noticed(tmp_path):
    args = (
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
        "--golden",
        "embedded",
        "--port",
        "harness.run.decoder:Decoder",
    )
    result = run(pytest_with_the_plugin(*args), *HEAVY)
    assert result.returncode == 2
    assert "forbidden import: " in result.stdout


def test_checking_through_pytest_never_imports_torch(tmp_path):
    golden = ("--golden", "embedded", "--port", "harness.run.decoder:Decoder", "--golden-case", "digits")
    args = ("--rootdir", str(tmp_path), str(tmp_path), *golden, "--precision", "float32")
    result = run(pytest_with_the_plugin(*args), "torch", "transformers")
    assert result.returncode == 0, result.stdout + result.stderr


def test_these_tests_would_notice():
    result = run("import harness.run.check", "jax")
    assert result.returncode == 1
    assert "forbidden import: jax" in result.stderr


def test_the_import_contracts_hold():
    from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

    assert lint_imports(no_cache=True) == EXIT_STATUS_SUCCESS
