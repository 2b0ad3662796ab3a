from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

# Loaded before an inner run of pytest, which forgets the modules that it was the first to import.
import scipy.special  # noqa: F401

import harness.report.pages.check
import harness.report.terminal
import harness.run.check
import harness.run.decoder
import harness.run.loading  # noqa: F401
from tests import zygote

ROOT = Path(__file__).parents[2]
BUILT_IN = "harness.run.decoder:Decoder"


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pytest.RunResult]:
    """Run pytest with the plugin, whether or not it is installed: in this process, or in one of its own."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def run(*args: object, apart: bool = False) -> pytest.RunResult:
        words = ("-p", "harness.pytest_plugin", *map(str, args))
        if not apart:
            return pytester.runpytest_inprocess(*words)
        with monkeypatch.context() as patched:
            patched.setattr(subprocess, "Popen", zygote.Popen)
            return pytester.runpytest_subprocess(*words)

    return run


@pytest.fixture
def checked(inner: Callable[..., pytest.RunResult]) -> Callable[..., pytest.RunResult]:
    """The same, against the embedded golden: the case `digits` in float32 with the built-in port, and more."""

    def run(*args: object, port: str = BUILT_IN, case: str = "digits", **how: bool) -> pytest.RunResult:
        golden = ("--golden", "embedded", "--port", port, "--precision", "float32", "--golden-case", case)
        return inner(*golden, *args, **how)

    return run
