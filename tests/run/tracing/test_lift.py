"""Float64 in place of hard-coded float32, form by form; what cannot be lifted is refused by name."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.run.contained import CannotLift
from harness.run.tracing.evaluate import Evaluator
from harness.run.tracing.lift import Lifted

X = np.linspace(0.3, 1.7, 12).reshape(3, 4)


def foreign():
    """The functions stand for other people's models, which promote as JAX does by default."""
    return jax.numpy_dtype_promotion("standard")


def lifted(function, *args):
    """Trace at float32 under x64, evaluate lifted."""
    with jax.enable_x64(True):
        with foreign():
            closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        outputs = Evaluator(lambda _, value: value, Lifted())(closed.jaxpr, closed.consts, args)
        return jax.tree.unflatten(jax.tree.structure(shape), outputs)


def f32(x):
    return jnp.asarray(x, jnp.float32)


def scanned(x):
    def body(carry, row):
        carry = jnp.sin(carry) + row.astype(jnp.float32)
        return carry, carry * jnp.float32(0.1)

    carry, rows = jax.lax.scan(body, f32(x[0]), x)
    return carry, rows


def reversed_scan(x):
    return jax.lax.scan(lambda c, row: (jnp.cos(c) * row, c), f32(x[0]), f32(x), reverse=True)


def looped(x):
    return jax.lax.while_loop(lambda c: c[0] < 5, lambda c: (c[0] + 1, jnp.sin(c[1]) + f32(x)), (0, f32(x)))[1]


def branched(x):
    y = f32(x)
    return jax.lax.cond(y.sum() > 0, lambda a: jnp.exp(a) * jnp.float32(0.3), lambda a: -a, y)


@jax.custom_jvp
def with_jvp(x):
    return jnp.tanh(x.astype(jnp.float32))


with_jvp.defjvps(lambda t, ans, x: t)


@jax.custom_vjp
def with_vjp(x):
    return jnp.tanh(x.astype(jnp.float32))


with_vjp.defvjp(lambda x: (with_vjp(x), x), lambda r, g: (g,))

FORMS = {
    "a cast": (lambda x: jnp.sin(f32(x)), np.sin),
    "a decimal": (lambda x: f32(x) * jnp.float32(1e-6), lambda x: x * 1e-6),
    "nested jit": (lambda x: jax.jit(lambda y: jax.jit(jnp.sin)(f32(y)))(x), np.sin),
    "scan": (lambda x: scanned(x)[0], lambda x: functools.reduce(lambda c, r: np.sin(c) + r, x, x[0])),
    "reversed scan": (
        lambda x: reversed_scan(x)[0],
        lambda x: functools.reduce(lambda c, r: np.cos(c) * r, x[::-1], x[0]),
    ),
    "while": (looped, lambda x: functools.reduce(lambda c, _: np.sin(c) + x, range(5), x)),
    "cond": (branched, lambda x: np.exp(x) * 0.3),
    "custom_jvp": (with_jvp, np.tanh),
    "custom_vjp": (with_vjp, np.tanh),
    "remat": (lambda x: jax.checkpoint(lambda y: jnp.sin(f32(y)))(x), np.sin),
    "dot_general": (lambda x: jnp.dot(x, x.T, preferred_element_type=jnp.float32), lambda x: x @ x.T),
    "a reduced preset": (
        lambda x: jnp.dot(f32(x), f32(x).T, precision=jax.lax.DotAlgorithmPreset.BF16_BF16_F32),
        lambda x: x @ x.T,
    ),
    "iota": (lambda x: x[0] * jnp.cos(jnp.arange(4, dtype=jnp.float32)), lambda x: x[0] * np.cos(np.arange(4))),
    "bfloat16": (lambda x: jnp.sin(x.astype(jnp.bfloat16)), np.sin),
    "float16": (lambda x: jnp.sin(x.astype(jnp.float16)), np.sin),
    "reduce_precision": (lambda x: jnp.sin(jax.lax.reduce_precision(x, 8, 7)), np.sin),
    "complex64": (
        lambda x: jnp.real(x.astype(jnp.complex64) * jnp.exp(1j * f32(x))),
        lambda x: x * np.cos(x),
    ),
    "scatter-add": (lambda x: f32(x).at[1].add(f32(x)[0]), lambda x: np.stack([x[0], x[0] + x[1], x[2]])),
    "vmap": (lambda x: jax.vmap(lambda r: jnp.sin(r.astype(jnp.float32)))(x), np.sin),
    "sort and reduce": (
        lambda x: jnp.sort(f32(x), axis=-1)[:, -1] + f32(x).sum(-1),
        lambda x: x[:, -1] + x.sum(-1),
    ),
    "softmax": (
        lambda x: jax.nn.softmax(x.astype(jnp.float32)),
        lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_lifted_to_float64(form):
    function, exact = FORMS[form]
    with jax.enable_x64(True):
        found = np.asarray(lifted(function, jnp.asarray(X)))
        with foreign():
            narrow = np.asarray(function(jnp.asarray(X)))
    assert found.dtype == np.float64
    error = np.abs(found - exact(X)).max() / np.abs(exact(X)).max()
    assert error < 1e-15
    assert np.abs(narrow - exact(X)).max() / np.abs(exact(X)).max() > 1e-9  # there was something to lift


def test_stacked_outputs_of_a_scan_are_lifted_too():
    with jax.enable_x64(True):
        _, rows = lifted(scanned, jnp.asarray(X))
    assert rows.dtype == np.float64
    assert rows.shape == (3, 4)


def test_integers_and_masks_stay_what_they_are():
    with jax.enable_x64(True):
        ids, mask = lifted(lambda x: (jnp.arange(3), x > 1), jnp.asarray(X))
    assert ids.dtype == np.int64
    assert mask.dtype == np.bool_


def test_captured_parameters_are_lifted():
    weight = np.float32(X)
    with jax.enable_x64(True):
        found = lifted(lambda x: x * jnp.asarray(weight), jnp.asarray(X))
    assert np.array_equal(found, X * weight.astype(np.float64))


OPAQUE = {
    "bitcast_convert_type": lambda x: jax.lax.bitcast_convert_type(f32(x), jnp.int32),
    "pure_callback": lambda x: jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, jnp.float32), f32(x)),
}


@pytest.mark.parametrize("operation", OPAQUE)
def test_what_names_bits_or_leaves_jax_is_refused_with_its_place(operation):
    with jax.enable_x64(True), pytest.raises(CannotLift) as caught:
        lifted(OPAQUE[operation], jnp.asarray(X))
    assert operation in str(caught.value)
    assert "test_lift.py" in caught.value.operation
    assert "hint: check this port in float32" in str(caught.value)


def test_an_opaque_operation_on_integers_is_no_obstacle():
    with jax.enable_x64(True):
        function = lambda x: jax.lax.bitcast_convert_type(jnp.arange(4, dtype=jnp.int32), jnp.uint32) + x  # noqa: E731
        assert lifted(function, jnp.asarray(X, jnp.float32)).dtype == np.float64
