"""Models that nobody edits, in every form that the adapters know: they match, and a bug in them is localised."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from harness.run.check import Checker, check
from harness.run.question import Question
from harness.run.tracing import steps
from harness.taps import CACHE_KINDS
from harness.tolerances import PRECISIONS
from tests.run.adapters import functions

ALL = frozenset()
NO_ROPE = frozenset({"q_rope", "k_rope", "probs"})  # an nnx model without sub-modules for them
PORTS = {
    "linen_model:Unrolled": ALL,
    "linen_model:Scanned": ALL,
    "nnx_model:Listed": NO_ROPE,
    "nnx_model:Scanned": NO_ROPE,
    "function_model:ByLayer": ALL,
    "function_model:Stacked": ALL,
}


def checked(golden_path, checkpoint, name, *precisions):
    """What is wrong at each precision; precision settings, which no bug here has, are not looked for."""
    question = Question(precisions=precisions, modes=("replay",), cases=("digits",))
    with Checker(golden_path, checkpoint, f"tests.run.adapters.{name}", question, inspect=False) as checker:
        report = checker.report([checker.run(precision) for precision in precisions])
    introduced = [r for r in report.results if r.verdict == "introduced"]
    return {p: {r.tap.rpartition(".")[2] for r in introduced if r.precision == p} for p in precisions}


@functools.cache
def right(golden_path, checkpoint, name):
    """The report on a port without a bug, made once."""
    question = Question(precisions=PRECISIONS, cases=("digits",))
    return check(golden_path, checkpoint, f"tests.run.adapters.{name}", question)


@pytest.mark.parametrize(("name", "hidden"), PORTS.items())
def test_an_unedited_model_matches_at_every_precision(golden_path, checkpoint, name, hidden):
    report = right(golden_path, checkpoint, name)
    assert report.verdict == "match"
    kinds = {r.tap.rpartition(".")[2] for r in report.results if r.mode == "replay"}
    every = {name.rpartition(".")[2] for name in report.taps}
    assert kinds == every - hidden - CACHE_KINDS  # a prompt has no cache
    assert {line.split()[1].rstrip(":") for line in report.not_covered if line.startswith("tap ")} == hidden


@pytest.mark.parametrize("name", PORTS)
def test_float64_is_lifted_far_below_the_noise_of_float32(golden_path, checkpoint, name):
    report = right(golden_path, checkpoint, name)
    assert max(r.rel_rms for r in report.results if r.precision == "float64") <= 1e-13
    assert "were lifted" in report.notes[0]


def _without_rotation(x, positions, theta):
    return x


def _interleaved(x, positions, theta):
    half = x.shape[-1] // 2
    frequencies = jnp.float32(theta) ** (-jnp.arange(half, dtype=jnp.float32) / jnp.float32(half))
    angles = positions[..., None, None].astype(jnp.float32) * frequencies[None, None, None]
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    even, odd = x[..., ::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1).reshape(x.shape)


def _eps_outside(x, weight, eps):
    y = x.astype(jnp.float32)
    y = y / (jnp.sqrt(jnp.mean(y * y, axis=-1, keepdims=True)) + jnp.float32(eps))
    return jnp.expand_dims(weight, range(x.ndim - 1)) * y.astype(x.dtype)


def _eps_too_large(x, weight, eps):
    return RIGHT["rms_norm"](x, weight, 1e-5)


def _bidirectional(q, k, mask):
    scores = jnp.einsum("btkgd,bskd->bkgts", q, k) * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
    return jax.nn.softmax(scores.astype(jnp.float32), axis=-1).astype(q.dtype)


RIGHT = {name: getattr(functions, name) for name in ("rope", "rms_norm", "probabilities")}
BUGS = {
    "rope_missing": ("rope", _without_rotation, {"q_rope", "k_rope"}),
    "rope_interleaved": ("rope", _interleaved, {"q_rope", "k_rope"}),
    "eps_outside": ("rms_norm", _eps_outside, {"attn_norm", "mlp_norm", "final_norm"}),
    "eps_too_large": ("rms_norm", _eps_too_large, {"attn_norm", "mlp_norm", "final_norm"}),
    "causal_mask_missing": ("probabilities", _bidirectional, {"probs"}),
}
# Where a model does not expose what was rotated or masked, the first tap that spans it is named.
SPANNED_BY = {"q_rope": "context", "k_rope": "context", "probs": "context"}

# An eps of 1e-6 beside the root is a few roundings of float32: it need not show at every norm, but nowhere else.
NEAR_ROUNDING = {("eps_outside", "float32")}


@pytest.fixture
def operation_by_operation(monkeypatch):
    """The opened program is not compiled as a whole, as it is above where the ports are right."""

    def uncompiled(run):
        run.trace = lambda *_: SimpleNamespace(jaxpr=SimpleNamespace(jaxpr=None))  # which nobody looks into here
        return run

    monkeypatch.setattr(steps, "jax", SimpleNamespace(**{**vars(jax), "jit": uncompiled}))


@pytest.mark.usefixtures("operation_by_operation")
@pytest.mark.parametrize("bug", BUGS)
@pytest.mark.parametrize("name", PORTS)
def test_a_planted_bug_is_introduced_where_it_sits(golden_path, checkpoint, name, bug, monkeypatch):
    operation, wrong, kinds = BUGS[bug]
    module = __import__(f"tests.run.adapters.{name.partition(':')[0]}", fromlist=["_"])
    monkeypatch.setattr(module, operation, wrong)
    if hasattr(module, "block"):
        module.block.clear_cache()
    expected = {SPANNED_BY.get(kind, kind) if kind in PORTS[name] else kind for kind in kinds}
    for precision, found in checked(golden_path, checkpoint, name, "float64", "float32").items():
        if (bug, precision) in NEAR_ROUNDING:
            assert found and found <= expected, precision
        else:
            assert found == expected, precision
    if hasattr(module, "block"):
        module.block.clear_cache()


def test_the_same_model_gives_the_same_logits_outside_a_check(golden_path, checkpoint):
    from harness.architecture import read_config
    from harness.run.tapping import no_tap
    from tests.run.adapters.nnx_model import Listed

    port = Listed.load(checkpoint, read_config(checkpoint), jnp.float32, None)
    ids, positions, mask = jnp.array([[5, 6, 7]]), jnp.arange(3)[None], jnp.ones((1, 3), bool)
    logits, cache = port.forward(ids, positions, mask, None, no_tap)
    from flax import nnx

    model = nnx.merge(port._graph, port._state, copy=True)
    assert cache is None
    assert jnp.allclose(logits, model(ids, positions, mask), atol=1e-5)


def test_the_model_itself_is_left_as_it_was(checkpoint):
    from harness.architecture import architecture_of, read_config
    from harness.run.tapping import no_tap
    from tests.run.adapters.nnx_model import Attention, Listed, Model

    config = read_config(checkpoint)
    model = Model(functions.parameters(checkpoint, jnp.float32), architecture_of(config))
    port = Listed(model, config, jnp.float32)
    port.forward(jnp.array([[5]]), jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool), None, no_tap)
    assert type(model.layers[0].attn) is Attention
    assert not hasattr(model.layers[0].attn, "golden_rows")
