"""What is imported where, seen from outside: in a fresh process that refuses the forbidden packages.

The imports themselves are refused, whatever is installed. Tried once is enough, so it is where everything is.
"""

from __future__ import annotations

import importlib.util
import json
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


EACH = """
import contextlib, io, json
from harness.cli import cli
outputs = []
for args in {commands}:
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8")) as out:
        code = cli.main(args, prog_name="goldens", standalone_mode=False)
    out.flush()
    outputs.append(out.buffer.getvalue().decode())
    assert not code, (args, code, outputs[-1])
print(json.dumps(outputs))
"""


def outputs(commands: list[list[str]], *forbidden: str) -> list[str]:
    """What commands print, one after the other in one process that refuses these packages for all of them."""
    result = run(EACH.format(commands=commands), *forbidden)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


TORCH = ("torch", "transformers")
MODELS = ("harness.mutants", "equinox", "haliax", "keras")
ZARR = ("zarr", "numcodecs", "fsspec")
JAX = ("jax", "jaxlib", "flax")


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """A check in a process that refuses all that a check of an HDF5 golden must not import, and its report."""
    path = tmp_path_factory.mktemp("checked") / "report.json"
    code = "import harness.run.adapters; "
    code += command("check", "--precision", "float32", "--case", "hello", "--json", str(path))
    return run(code, *TORCH, *MODELS, *ZARR), path


@pytest.fixture(scope="module")
def read():
    """`show` and `verify` of the embedded golden, in a process that refuses all that these must not import."""
    return run(EACH.format(commands=[["show"], ["verify"]]), *TORCH, *JAX, *ZARR)


def test_a_check_never_imports_torch_nor_the_catalogue_where_it_passes_nor_models_that_no_port_has(checked):
    result, _ = checked
    assert result.returncode == 0, result.stderr
    assert "PASS" in result.stdout


@pytest.mark.parametrize("name", ["show", "verify"])
def test_reading_a_golden_needs_neither_torch_nor_jax(read, name):
    assert read.returncode == 0, read.stderr
    assert {"show": "qwen2-tiny", "verify": "verified"}[name] in read.stdout


@pytest.mark.parametrize("args", [("show",), ("verify",), ("check", "--precision", "float32", "--case", "hello")])
def test_an_hdf5_golden_needs_no_zarr(read, checked, args):
    result = checked[0] if args[0] == "check" else read
    assert result.returncode == 0, result.stderr


def test_comparing_saved_checks_needs_neither_torch_nor_jax(checked):
    saving, path = checked
    assert saving.returncode == 0, saving.stderr
    args = ("diff", "--before", str(path), "--after", str(path))
    result = run(command(*args), *TORCH, *JAX)
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
    each = [["report", str(saved)], *(["report", str(saved), f"--{view}", "-"] for view in views)]
    for text in outputs(each, *TORCH, *JAX):
        assert word in text


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
    for text in outputs([["--help"], *([name, "--help"] for name in COMMANDS)], *HEAVY):
        assert "Usage: " in text


def pytest_with_the_plugin(*args: str) -> str:
    """pytest with no other plugin: some of those import numpy."""
    argv = ["-p", "harness.pytest_plugin", "-p", "no:cacheprovider", *args]
    return (
        "import os, pytest; os.environ['PYTEST_DISABLE_PLUGIN_AUTOLOAD'] = '1'\n"
        f"raise SystemExit(pytest.main({argv!r}))"
    )


def test_the_pytest_plugin_imports_nothing_heavy_until_a_golden_is_used(tmp_path):
    (tmp_path / "test_own.py").write_text("def test_own(): pass")
    shown = run(
        "import harness.pytest_plugin\n"
        + pytest_with_the_plugin("--rootdir", str(tmp_path), str(tmp_path), "--help"),
        *HEAVY,
    )
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
