"""Taps anywhere in traced code: found, named, replaced; and refused where they cannot be handed over."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.errors import PortError
from harness.run.tracing.evaluate import Evaluator, Native
from harness.run.tracing.mark import mark
from harness.run.tracing.program import goes_on, tap_names

X = jnp.arange(6.0).reshape(2, 3)


def run(function, *args, replace=None, watched=()):
    """The outputs, and the taps in the order in which they came."""
    seen = []

    def on_tap(name, value):
        seen.append((name, np.asarray(value)))
        return value if replace is None or name not in replace else replace[name]

    closed = jax.make_jaxpr(function)(*args)
    outputs = Evaluator(on_tap, Native())(closed.jaxpr, closed.consts, args, watched)
    return outputs, dict(seen), [name for name, _ in seen]


def test_a_mark_is_the_identity_wherever_it_runs():
    assert jnp.array_equal(mark("a", X), X)
    assert jnp.array_equal(jax.jit(lambda x: mark("a", x) + 1)(X), X + 1)
    assert jnp.array_equal(jax.vmap(lambda x: mark("a", x))(X), X)


@pytest.mark.parametrize(
    "around",
    [
        jax.jit,
        jax.checkpoint,
        lambda f: jax.jit(jax.checkpoint(jax.jit(f))),
        lambda f: lambda x: jax.vmap(f)(x),
    ],
)
def test_a_tap_in_nested_code_is_recorded_and_replaced(around):
    function = around(lambda x: mark("a", x * 2) + 1)
    outputs, seen, _ = run(function, X)
    assert np.array_equal(seen["a"], X * 2)
    assert np.array_equal(outputs[0], X * 2 + 1)
    outputs, seen, _ = run(function, X, replace={"a": jnp.zeros_like(X)})
    assert np.array_equal(seen["a"], X * 2)
    assert np.array_equal(outputs[0], np.ones_like(X))


def test_under_vmap_the_mapped_axis_is_the_batch_wherever_it_was():
    _, seen, _ = run(lambda x: jax.vmap(lambda row: mark("a", row * 2), in_axes=1)(x), X)
    assert seen["a"].shape == (3, 2)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_counts_and_each_iteration_has_its_own_tap(reverse):
    def function(x):
        return jax.lax.scan(lambda c, r: (mark("layers.{i}.q", c + r), c), x[0], x, reverse=reverse)

    outputs, _, order = run(function, X)
    plain = function(X)
    assert np.array_equal(outputs[0], plain[0])
    assert np.array_equal(outputs[1], plain[1])
    assert order == (["layers.1.q", "layers.0.q"] if reverse else ["layers.0.q", "layers.1.q"])
    outputs, _, _ = run(function, X, replace={order[0]: jnp.zeros(3)})
    assert np.array_equal(outputs[0], X[0 if reverse else 1])


def test_code_without_taps_is_left_whole():
    def function(x):
        y = jax.lax.scan(lambda c, r: (jnp.sin(c + r), None), x[0], x)[0]
        return mark("a", jax.jit(jnp.cos)(y))

    closed = jax.make_jaxpr(function)(X)
    again = jax.make_jaxpr(lambda x: Evaluator(lambda _, v: v, Native())(closed.jaxpr, closed.consts, [x]))(X)
    names = [eqn.primitive.name for eqn in again.jaxpr.eqns]
    assert "scan" in names
    assert "sin" not in names


def test_whoever_reads_a_marked_value_later_reads_what_replaced_it():
    """The argument of a norm is also what the residual path adds."""
    function = lambda x: (lambda y: mark("resid_mid", y) * 0 + y)(x + 1)  # noqa: E731
    outputs, _, _ = run(function, X, replace={"resid_mid": jnp.full_like(X, 7)})
    assert np.array_equal(outputs[0], np.full_like(X, 7))


def test_a_watched_output_is_replaced_where_it_is_made():
    @jax.jit
    def inner(x):
        y = x * 2
        return y + 1, y

    function = lambda x: (lambda z, y: (z, y))(*inner(x))  # noqa: E731
    outputs, seen, _ = run(function, X, replace={"a": jnp.zeros_like(X)}, watched=[None, "a"])
    assert np.array_equal(seen["a"], X * 2)
    assert np.array_equal(outputs[0], np.ones_like(X))


def test_one_value_that_is_two_taps_is_handed_over_twice():
    _, seen, order = run(lambda x: (x + 1,) * 3, X, watched=[None, "a", "b"])
    assert order == ["a", "b"]
    assert np.array_equal(seen["a"], seen["b"])


def test_what_a_scan_stacks_is_watched_iteration_by_iteration():
    function = lambda x: jax.lax.scan(lambda c, r: (c + r, c * 2), x[0], x)  # noqa: E731
    _, seen, order = run(function, X, watched=[None, "layers.{i}.q"])
    assert order == ["layers.0.q", "layers.1.q"]
    assert np.array_equal(seen["layers.0.q"], X[0] * 2)


@pytest.mark.parametrize(
    ("function", "place"),
    [
        (lambda x: jax.lax.while_loop(lambda c: c.sum() < 9, lambda c: mark("a", c + 1), x), "while"),
        (lambda x: jax.lax.cond(x.sum() > 0, lambda a: mark("a", a), lambda a: a, x), "cond"),
    ],
)
def test_a_tap_that_cannot_be_handed_over_is_refused_with_its_place(function, place):
    with pytest.raises(PortError, match="cannot be handed over") as caught:
        run(function, X)
    assert f"inside {place}" in str(caught.value)
    assert "leave this tap out" in str(caught.value)


def test_an_iteration_outside_a_scan_is_refused():
    with pytest.raises(PortError, match="not made inside a scan"):
        run(lambda x: mark("layers.{i}.q", x), X)


def test_the_names_of_taps_are_known_before_anything_runs():
    function = jax.jit(lambda x: mark("b", jax.lax.scan(lambda c, r: (mark("{i}", c), r), x[0], x)[0]))
    assert tap_names(jax.make_jaxpr(function)(X).jaxpr) == {"b", "{i}"}


GOES_ON = {
    "used after": (lambda x: (lambda y: (y * 2, y))(x + 1), True),
    "made for the dictionary": (lambda x: (x * 2, x + 1), False),
    "the logits themselves": (lambda x: (x + 1,) * 2, False),
    "used inside a jit": (jax.jit(lambda x: (lambda y: (y * 2, y))(x + 1)), True),
    "dead inside a jit": (jax.jit(lambda x: (x * 2, x + 1)), False),
    "the same as an output that goes on": (
        lambda x: (lambda y, z: (y * 2, z))(*jax.jit(lambda x: (lambda y: (y, y))(x + 1))(x)),
        True,
    ),
    "the carry of a scan": (lambda x: jax.lax.scan(lambda c, r: (c + r, c + r), x[0], x), False),
    "reread in a scan": (lambda x: jax.lax.scan(lambda c, r: (lambda y: (y, y))(c + r), x[0], x), True),
    "a constant": (lambda x: (x * 2, 3.0), False),
}


@pytest.mark.parametrize("form", GOES_ON)
def test_whether_replay_can_replace_a_value_is_known_before_it_runs(form):
    function, expected = GOES_ON[form]
    jaxpr = jax.make_jaxpr(function)(X).jaxpr
    # Two outputs that are one value: where both are logits, replacing one replaces the other.
    assert goes_on(jaxpr, 1) is (True if form == "the logits themselves" else expected)
