"""A float64 check of ports with numbers that no rule lifts: right ones pass, wrong ones are still placed."""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness import embedded
from harness.run.check import check
from harness.run.question import Question
from tests.run.adapters import function_model, functions

LOG2E = float(np.log2(np.e))
PRECISIONS = ("float64", "float32")


@pytest.fixture(autouse=True)
def default_promotion_of_ranks(strict_promotion):
    """The ports here are as users write them: they promote ranks as JAX does by default."""
    with jax.numpy_rank_promotion("allow"):
        yield


def narrow(q, k, mask, factor):
    """Attention in hard-coded float32, its scale a number of float32."""
    wide = partial(jnp.asarray, dtype=jnp.float32)
    scores = jnp.einsum("btkgd,bskd->bkgts", wide(q), wide(k)) * jnp.float32(factor * q.shape[-1] ** -0.5)
    length = mask.shape[1]
    seen = jnp.tril(jnp.ones((length, length), bool)) & mask[:, None, None, None, :]
    return jnp.where(seen, scores, jnp.finfo(jnp.float32).min)


def by_exp(q, k, mask):
    return jax.nn.softmax(narrow(q, k, mask, 1.0), axis=-1).astype(q.dtype)


def by_exp2(q, k, mask, factor=LOG2E):
    power = jnp.exp2((scores := narrow(q, k, mask, factor)) - scores.max(axis=-1, keepdims=True))
    return (power / power.sum(axis=-1, keepdims=True)).astype(q.dtype)


def made_by_numpy(x, positions, theta):
    """RoPE with a table that numpy made in float32."""
    half = x.shape[-1] // 2
    speeds = (np.float32(theta) ** (-np.arange(half, dtype=np.float32) / np.float32(half))).astype(np.float32)
    turn = jax.jit(lambda at: at[..., None, None].astype(jnp.float32) * jnp.asarray(speeds))
    angles = turn(positions)
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


@cache
def checked(name, function):
    """The report on the port with another function in it, made once."""
    with pytest.MonkeyPatch.context() as patched:
        for module in (functions, function_model):
            patched.setattr(module, name, function, raising=False)
        # Another function, and so compiled anew: what it was traced with before is kept otherwise.
        block = function_model.block.__wrapped__
        patched.setattr(function_model, "block", jax.jit(lambda *args: block(*args), static_argnums=0))
        question = Question(PRECISIONS, cases=("batch-left",))
        load = lambda *args: function_model.ByLayer.load(*args, None)  # noqa: E731
        return check(embedded.golden(), None, "narrow", question, load=load)


@pytest.mark.parametrize(
    ("name", "function", "said"),
    [
        ("probabilities", by_exp, "0.35355338 as 8 ** -0.5 at "),
        ("probabilities", by_exp2, "0.5100697 at "),
        ("rope", made_by_numpy, "a float32 table of 4 numbers at "),
    ],
)
def test_a_right_port_passes_in_float64_and_the_number_is_named(name, function, said):
    report = checked(name, function)
    assert report.verdict == "match"
    assert {r.precision for r in report.results} == set(PRECISIONS)
    assert any(said in note and "test_lifted_constants.py" in note for note in report.notes)


def test_only_what_holds_the_number_is_judged_by_float32():
    report = checked("probabilities", by_exp2)
    replayed = [r for r in report.results if (r.precision, r.mode) == ("float64", "replay")]
    assert {r.tap.rpartition(".")[2] for r in replayed if r.rounding == "float32"} == {"probs"}
    assert max(r.rel_rms for r in replayed if r.rounding is None) < 1e-13
    forward = [r for r in report.results if (r.precision, r.mode) == ("float64", "forward")]
    assert {r.rounding for r in forward if r.tap in ("embed", "layers.0.q_rope")} == {None}
    assert {r.rounding for r in forward if r.tap in ("layers.1.q", "logits")} == {"float32"}


def test_a_bug_beyond_that_rounding_is_still_introduced():
    report = checked("probabilities", partial(by_exp2, factor=LOG2E * 1.0001))
    assert {tap.rpartition(".")[2] for tap in report.introduced} == {"probs"}
    assert {r.precision for r in report.results if r.verdict == "introduced"} == set(PRECISIONS)


def test_a_failure_of_lifting_costs_float32_nothing(monkeypatch):
    monkeypatch.setattr("harness.run.tracing.lift.Lifted.literal", lambda self, literal: literal.val)
    report = checked.__wrapped__("probabilities", by_exp)  # not the one that was lifted
    assert report.verdict == "match"
    assert {r.precision for r in report.results} == {"float32"}
    assert any("cannot be lifted from float32; see float32" in line for line in report.not_covered)
