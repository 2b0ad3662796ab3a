"""Precision settings inside a port: found wherever they hide in the program, and refused."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import pytest
from click.testing import CliRunner
from jax.sharding import Mesh, PartitionSpec

from harness.cli import cli
from harness.errors import PortError
from harness.run.check import Checker, check
from harness.run.matmul_audit import reduced_matmuls
from harness.run.question import Question

QUESTION = Question(precisions=("float32",), cases=("digits",))
X = jnp.ones((4, 4), jnp.float32)


def found(function, backend="cpu", *args):
    return reduced_matmuls(jax.make_jaxpr(function)(*(args or (X,))).jaxpr, backend)


def reduced(x):
    return jnp.dot(x, x, precision="BF16_BF16_F32")


@jax.custom_jvp
def with_jvp(x):
    return reduced(x)


@jax.custom_vjp
def with_vjp(x):
    return reduced(x)


with_jvp.defjvp(lambda primals, tangents: (with_jvp(*primals), tangents[0]))
with_vjp.defvjp(lambda x: (with_vjp(x), None), lambda _, g: (g,))


def in_shard_map(x):
    mesh = Mesh(jax.devices()[:1], ("x",))
    return jax.shard_map(reduced, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec())(x)


NESTED = {
    "plain": reduced,
    "jit": jax.jit(reduced),
    "jit in jit": jax.jit(lambda x: jax.jit(reduced)(x) + 1),
    "scan": lambda x: jax.lax.scan(lambda c, _: (reduced(c), None), x, None, length=3)[0],
    "while": lambda x: jax.lax.while_loop(lambda c: c.sum() < 9, reduced, x),
    "while condition": lambda x: jax.lax.while_loop(lambda c: reduced(c).sum() < 9, lambda c: c + 1, x),
    "cond": lambda x: jax.lax.cond(x.sum() > 0, reduced, lambda c: c, x),
    "remat": jax.checkpoint(reduced),
    "custom_jvp": with_jvp,
    "custom_vjp": with_vjp,
    "vmap": lambda x: jax.vmap(reduced)(x[None]),
    "shard_map": in_shard_map,
}


@pytest.mark.parametrize("name", NESTED)
def test_a_reduced_product_is_found_wherever_it_is_nested(name):
    (matmul,) = found(NESTED[name])
    assert matmul.primitive == "dot_general"
    assert matmul.asks_for == "precision BF16_BF16_F32"
    line = inspect.getsourcelines(reduced)[1] + 1
    assert f"test_matmul_audit.py:{line}" in matmul.where


@pytest.mark.parametrize(
    ("precision", "on_cpu", "on_gpu", "on_tpu"),
    [
        (None, None, "default", "default"),
        ("default", None, "default", "default"),
        ("bfloat16", None, "default", "default"),
        ("high", None, "high", "high"),
        ("tensorfloat32", None, "high", "high"),
        ("highest", None, None, None),
        (("highest", "default"), None, "default", "default"),
        ("F32_F32_F32", None, None, None),
        ("BF16_BF16_F32_X3", *["BF16_BF16_F32_X3"] * 3),
        ("BF16_BF16_F32_X6", None, None, None),
        ("TF32_TF32_F32", *["TF32_TF32_F32"] * 3),
        (jax.lax.DotAlgorithmPreset.DEFAULT, None, "DEFAULT", "DEFAULT"),
        (jax.lax.DotAlgorithm(jnp.bfloat16, jnp.bfloat16, jnp.float32), *["BF16_BF16_F32"] * 3),
        (jax.lax.DotAlgorithm(jnp.float32, jnp.float32, jnp.float32), None, None, None),
    ],
)
def test_what_counts_as_reduced_depends_on_the_backend(precision, on_cpu, on_gpu, on_tpu):
    for backend, expected in (("cpu", on_cpu), ("gpu", on_gpu), ("tpu", on_tpu)):
        matmuls = found(lambda x: jax.lax.dot(x, x, precision=precision), backend)
        assert [m.asks_for for m in matmuls] == ([] if expected is None else [f"precision {expected}"])


def test_a_narrow_accumulation_is_found():
    (matmul,) = found(lambda x: jnp.dot(x, x, precision="highest", preferred_element_type=jnp.bfloat16))
    assert matmul.asks_for == "preferred_element_type bfloat16"


def test_convolutions_and_ragged_products_are_products_too():
    def convolve(x):
        return jax.lax.conv(x, x, (1,), "SAME", precision="default")

    def ragged(x, w, sizes):
        return jax.lax.ragged_dot(x, w, sizes, precision="default")

    assert [m.primitive for m in found(convolve, "tpu", jnp.ones((1, 4, 4)))] == ["conv_general_dilated"]
    ragged_args = (X, jnp.ones((2, 4, 4)), jnp.array([2, 2]))
    assert [m.primitive for m in found(ragged, "tpu", *ragged_args)] == ["ragged_dot_general"]


def test_bfloat16_operands_have_nothing_to_lose():
    assert found(lambda x: jnp.dot(x, x, precision="default"), "tpu", X.astype(jnp.bfloat16)) == ()


def test_levels_say_nothing_about_float64_but_presets_do():
    with jax.enable_x64(True):
        x = jnp.ones((4, 4), jnp.float64)
        assert found(lambda x: jnp.dot(x, x, precision="default"), "tpu", x) == ()
        matmuls = found(lambda x: jnp.dot(x, x, precision="F32_F32_F32"), "cpu", x)
    assert [m.asks_for for m in matmuls] == ["precision F32_F32_F32"]


def test_a_port_that_reduces_its_precision_is_refused_with_the_line(golden_path, checkpoint):
    with pytest.raises(PortError, match="reduces the precision of 4 matrix products") as caught:
        check(golden_path, checkpoint, "tests.run.reducing_ports:ReducesItsScores", QUESTION)
    message = str(caught.value)
    for word in (
        "dot_general at ",
        "reducing_ports.py:",
        "_bfloat16_scores",
        "expected: highest",
        "on cpu",
        "hint:",
    ):
        assert word in message


def test_the_refusal_reaches_the_command_line_and_the_waiver_is_printed():
    args = ["check", "--port", "tests.run.reducing_ports:ReducesItsScores", "--case", "digits", "--precision"]
    refused = CliRunner().invoke(cli, [*args, "float32"])
    assert refused.exit_code == 2
    assert "precision BF16_BF16_F32 on cpu" in refused.stderr
    waived = CliRunner().invoke(cli, [*args, "float32", "--allow-reduced-precision"])
    assert waived.exit_code == 0, waived.output
    printed = " ".join(waived.stdout.split())
    assert "waived: float32 ran at matmul precision default on cpu" in printed
    assert "waived: 4 matrix products of the port ran at precision BF16_BF16_F32, set inside it" in printed


def test_a_context_around_the_forward_pass_is_seen_where_it_matters(monkeypatch, golden_path, checkpoint):
    spec = "tests.run.reducing_ports:ReducesAroundItsForward"
    assert check(golden_path, checkpoint, spec, QUESTION).verdict == "match"
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    with pytest.raises(PortError, match="reduces the precision") as caught:
        check(golden_path, checkpoint, spec, QUESTION)
    assert "precision default on tpu" in str(caught.value)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_port_that_configures_jax_as_it_runs_is_refused_and_the_setting_is_put_back(
    golden_path, checkpoint, precision
):
    spec = "tests.run.reducing_ports:ConfiguresJaxAsItRuns"
    question = Question(precisions=(precision,), modes=("forward",), cases=("digits",))
    with pytest.raises(PortError, match="configures a reduced matmul precision while it runs") as caught:
        check(golden_path, checkpoint, spec, question)
    assert "bfloat16 on cpu" in str(caught.value)
    assert jax.config.jax_default_matmul_precision is None


@pytest.mark.parametrize(
    ("name", "case"), [("ReducesBatches", "batch-left"), ("ReducesLongPrompts", "multi-token")]
)
def test_more_than_the_shortest_case_is_looked_into(golden_path, checkpoint, name, case):
    question = Question(precisions=("float32",), modes=("forward",), cases=("digits", case))
    with pytest.raises(PortError, match="reduces the precision of 1 matrix product ") as caught:
        check(golden_path, checkpoint, f"tests.run.reducing_ports:{name}", question)
    assert "reducing_ports.py:" in str(caught.value)


def test_float64_is_not_waived(golden_path, checkpoint):
    question = Question(precisions=("float64",), cases=("digits",), allow_reduced_precision=True)
    with pytest.raises(PortError, match="in the float64 check"):
        check(golden_path, checkpoint, "tests.run.reducing_ports:ReducesItsScores", question)


@pytest.mark.parametrize("name", ["ConvertsToNumpy", "ReducesAndConverts"])
def test_a_port_that_cannot_be_traced_is_checked_and_the_report_says_so(golden_path, checkpoint, name):
    report = check(golden_path, checkpoint, f"tests.run.reducing_ports:{name}", QUESTION)
    assert report.verdict == "match"
    (note,) = report.notes
    assert note.startswith("precision settings inside the port could not be inspected: TracerArrayConversionError")


def test_the_trace_leaves_nothing_behind_in_the_port(golden_path, checkpoint):
    spec = "tests.run.reducing_ports:KeepsATableForLater"
    with Checker(
        golden_path, checkpoint, spec, Question(precisions=("float32",), cases=("digits", "hello"))
    ) as both:
        runs = [both.run("float32", [case]) for case in both.cases]
        assert both.report(runs).verdict == "match"
        assert both.report(runs).notes == ()


def test_a_refused_port_stays_refused_on_every_later_run(golden_path, checkpoint):
    spec = "tests.run.reducing_ports:ReducesItsScores"
    with Checker(golden_path, checkpoint, spec, QUESTION) as checker:
        for _ in range(2):
            with pytest.raises(PortError, match="reduces the precision"):
                checker.run("float32")


def test_a_port_without_weights_is_traced_in_place_of_the_port(golden_path, checkpoint, monkeypatch):
    """The built-in decoder reads its weights as it runs: a trace must not read them all again."""
    from harness.run.weights import Weights

    read = []
    monkeypatch.setattr(Weights, "read", _recording(read, Weights.read))
    assert check(golden_path, checkpoint, question=QUESTION).notes == ()
    assert len(read) == len(set(read))


def _recording(names, read):
    def recorded(self, name):
        names.append(name)
        return read(self, name)

    return recorded
