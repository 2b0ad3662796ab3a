"""Precision settings that a user configured: full precision is used, a reduced one refused or waived aloud."""

from __future__ import annotations

import os
import sys

import jax
import pytest
from click.testing import CliRunner

from harness.cli import cli
from harness.errors import UsageError
from harness.run.check import check
from harness.run.precision import in_force, is_reduced
from harness.run.question import Question
from tests import zygote

ALLOWED = Question(precisions=("float32",), cases=("digits",), allow_reduced_precision=True)
ALWAYS_FULL = ("highest", "float32", "F64_F64_F64")
ALWAYS_REDUCED = (
    *("bfloat16", "tensorfloat32", "bfloat16_3x", "BF16_BF16_F32", "BF16_BF16_BF16", "BF16_BF16_F32_X3"),
    *("TF32_TF32_F32", "TF32_TF32_F32_X3", "F16_F16_F16", "F16_F16_F32", "ANY_F8_ANY_F8_F32", "no such name"),
)


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch):
    """What a test configures ends with it."""
    monkeypatch.delenv("JAX_DEFAULT_MATMUL_PRECISION", raising=False)
    before = jax.config.jax_default_matmul_precision
    yield
    jax.config.update("jax_default_matmul_precision", before)


def configured(value):
    jax.config.update("jax_default_matmul_precision", value)


@pytest.mark.parametrize("backend", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_some_settings_mean_the_same_on_every_backend(backend, dtype):
    assert not any(is_reduced(backend, name, dtype) for name in ALWAYS_FULL)
    assert all(is_reduced(backend, name, dtype) for name in ALWAYS_REDUCED)


@pytest.mark.parametrize("name", ["default", "fastest", "high", "DEFAULT"])
def test_a_level_below_highest_is_full_precision_on_a_cpu_only(name):
    reduced = [backend for backend in ("cpu", "gpu", "tpu", "another") if is_reduced(backend, name)]
    assert reduced == ["gpu", "tpu", "another"]


@pytest.mark.parametrize("name", ["F32_F32_F32", "BF16_BF16_F32_X6", "BF16_BF16_F32_X9"])
def test_what_is_full_for_float32_is_reduced_for_float64(name):
    assert not is_reduced("tpu", name, "float32")
    assert is_reduced("tpu", name, "float64")


def test_every_setting_that_jax_knows_is_in_the_table():
    """A name that JAX adds should be thought about, and not fall under "unknown, so reduced" unseen."""
    from harness.run import precision

    known = {*ALWAYS_FULL, *ALWAYS_REDUCED, *precision._FULL_FLOAT32, *precision._BACKENDS_OWN, "DEFAULT"}
    known |= {name for name in jax.lax.DotAlgorithmPreset.__members__ if name.startswith("ANY_F8")}
    names = {*jax.lax.DotAlgorithmPreset.__members__, *(p.name.lower() for p in jax.lax.Precision)}
    assert names <= known


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_highest_is_put_in_force_where_nothing_is_configured(precision):
    with in_force(precision) as settings:
        assert settings.matmul_precision == jax.config.jax_default_matmul_precision == "highest"


@pytest.mark.parametrize("name", ["highest", "float32", "default", "high"])
def test_full_precision_is_left_as_it_is_configured(name):
    with jax.default_matmul_precision(name), in_force("float32") as settings:
        assert settings.matmul_precision == name


@pytest.mark.parametrize("backend", ["tpu", "gpu"])
@pytest.mark.parametrize("name", ["default", "high"])
def test_the_same_level_is_refused_on_an_accelerator(monkeypatch, backend, name):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    configured(name)
    with pytest.raises(UsageError, match="reduced matmul precision") as caught, in_force("float32"):
        pass
    assert f"{name} on {backend}" in str(caught.value)


def test_bfloat16_is_checked_as_it_is_deployed():
    for name, in_report in (("bfloat16", "bfloat16"), (None, "default")):
        configured(name)
        with in_force("bfloat16") as settings:
            assert settings.matmul_precision == in_report


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_a_reduced_precision_is_refused_before_any_forward_pass(golden_path, checkpoint, precision):
    configured("bfloat16")
    question = Question(precisions=("bfloat16", precision), cases=("digits",))
    loaded = []
    with pytest.raises(UsageError, match=f"would decide the {precision} check") as caught:
        check(golden_path, checkpoint, question=question, load=lambda *args: loaded.append(args))
    assert loaded == []
    for word in (
        "jax.config.update",
        "expected: highest",
        "bfloat16 on cpu",
        "--allow-reduced-precision",
        "hint:",
    ):
        assert word in str(caught.value)


def test_a_context_of_the_caller_is_refused_too(golden_path, checkpoint):
    with (
        jax.default_matmul_precision("tensorfloat32"),
        pytest.raises(UsageError, match="reduced matmul precision"),
    ):
        check(golden_path, checkpoint, question=Question(cases=("digits",)))


def test_the_environment_variable_is_named_where_it_is_the_cause():
    program = (
        "from harness.cli import cli; cli(['check', '--precision', 'float32', '--case', 'digits'])",
        "from harness.cli import cli; cli(['check', '--precision', 'float32', '--case', 'digits', "
        "'--allow-reduced-precision'])",
    )
    refused, waived = (
        zygote.run(
            [sys.executable, "-c", code],
            env={**os.environ, "JAX_DEFAULT_MATMUL_PRECISION": "BF16_BF16_F32"},
            capture_output=True,
            text=True,
        )
        for code in program
    )
    assert refused.returncode == 2
    assert "the environment variable JAX_DEFAULT_MATMUL_PRECISION" in refused.stderr
    assert "hint: unset JAX_DEFAULT_MATMUL_PRECISION" in refused.stderr
    assert refused.stdout == ""
    assert waived.returncode == 0, waived.stderr
    assert "waived: float32 ran at matmul precision BF16_BF16_F32 on cpu" in waived.stdout
    assert "full precision" not in waived.stdout


def test_a_port_that_configures_jax_as_it_is_loaded_is_refused(golden_path, checkpoint):
    spec = "tests.run.reducing_ports:ConfiguresJaxAsItIsLoaded"
    with pytest.raises(UsageError, match="reduced matmul precision") as caught:
        check(golden_path, checkpoint, spec, Question(precisions=("float32",), cases=("digits",)))
    assert "where the port is imported" in str(caught.value)


def test_a_waiver_puts_nothing_in_force_and_the_report_says_so(golden_path, checkpoint):
    report = check(golden_path, checkpoint, question=ALLOWED)
    assert report.environment["precision"]["float32"]["matmul_precision"] == "default"
    assert report.notes == (
        "waived: float32 ran at matmul precision default on cpu, which is full precision there",
    )


def test_a_waiver_on_a_backend_that_reduces_says_only_what_ran(monkeypatch, golden_path, checkpoint):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    report = check(golden_path, checkpoint, question=ALLOWED)
    assert report.notes == ("waived: float32 ran at matmul precision default on tpu",)


def test_a_waiver_is_for_float32_alone(golden_path, checkpoint):
    with in_force("float64", allow_reduced=True) as settings:
        assert settings.matmul_precision == "highest"
    configured("bfloat16")
    question = Question(precisions=("float64",), cases=("digits",), allow_reduced_precision=True)
    with pytest.raises(UsageError, match="would decide the float64 check") as caught:
        check(golden_path, checkpoint, question=question)
    assert "--precision float32 --allow-reduced-precision" in str(caught.value)


def test_the_option_is_printed_by_the_command():
    args = ["check", "--precision", "float32", "--case", "digits", "--allow-reduced-precision"]
    result = CliRunner().invoke(cli, args)
    assert result.exit_code == 0
    assert "waived: float32 ran at matmul precision default on cpu" in " ".join(result.stdout.split())
