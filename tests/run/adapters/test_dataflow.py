"""The search for taps by data flow, on programs of a few operations: ties, neighbouring bugs, what is hidden."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.run.proposing.dataflow import DataFlow
from harness.run.proposing.flat import flattened
from harness.run.proposing.matching import Match
from harness.run.proposing.values import Values
from harness.run.tracing.evaluate import Native
from harness.taps import Tap

X = np.linspace(1.0, 2.0, 6, dtype=np.float32).reshape(2, 3)
FED = {"a": (), "b": ("a",), "c": ("b",), "d": ("a", "c"), "logits": ("d",)}


class Exactly:
    """A matcher of arrays of one shape, in one layout."""

    def __init__(self, goldens):
        self._logits = goldens["logits"]
        self._goldens = {name: value for name, value in goldens.items() if name != "logits"}
        self.graph = tuple(Tap(name, ("position",), inputs) for name, inputs in FED.items() if name in goldens)
        self.taps = {tap.name: tap for tap in self.graph if tap.name != "logits"}

    def fitting(self, shape):
        yield from [(("position",), None)] * (shape == X.shape)

    def matches(self, value):
        return [Match(tap, None, 0.0, 1.0) for tap, one in self._goldens.items() if self._is(value, one)]

    def golden(self, tap, layout, shape):
        return self._goldens[tap]

    def distance(self, value, tap, layout):
        return float(np.linalg.norm(value - self._goldens[tap]) / np.linalg.norm(self._goldens[tap]))

    def same(self, tap, other):
        return self._is(self._goldens[tap], self._goldens[other])

    def are_logits(self, value):
        return self._is(value, self._logits)

    def _is(self, one, other):
        return np.allclose(one, other, rtol=1e-5)


def discovered(model, goldens):
    """What is found of a model, by tap the primitives of its variables; and by tap what stands there."""
    closed = jax.make_jaxpr(model)(X)
    watched = SimpleNamespace(marks=[], closed=closed, arguments=(X,), names=[None])
    flat = flattened(watched, 1, "float32", Native())
    matcher = Exactly(goldens)
    found = DataFlow(flat, Values(flat, Native(), matcher.golden), matcher, lambda _: None)(1)

    def primitive(variable):
        return flat.step_of(variable).equation.primitive.name

    at = {tap: [primitive(variable) for variable, _ in every] for tap, every in found.matched.items()}
    return found, at, {tap: (primitive(one.variable), one) for tap, one in found.standing.items()}


def goldens(model):
    """Of a model that returns its taps by name."""
    return {name: np.asarray(value) for name, value in model(X).items()}


def right(x, scale=3.0):
    a = jnp.sin(x)
    b = a * scale
    c = jnp.tanh(b)
    d = a + c
    return {"a": a, "b": b, "c": c, "d": d, "logits": jnp.cumsum(d)}


def test_what_is_right_is_found_in_the_order_of_the_program():
    found, at, standing = discovered(lambda x: right(x)["logits"], goldens(right))
    assert at == {"a": ["sin"], "b": ["mul"], "c": ["tanh"], "d": ["add"]}
    assert (standing, found.logits) == ({}, True)


def test_equal_values_are_told_apart_by_what_they_are_computed_from():
    """`b` is `a` unchanged, and so is `d`: the residual passes through."""

    def still(x, nothing=0.0):
        a = jnp.sin(x)
        b = a + nothing
        c = b * nothing
        d = a + c
        return {"a": a, "b": b, "c": c, "d": d, "logits": jnp.cumsum(d)}

    found, at, standing = discovered(lambda x: still(x)["logits"], goldens(still))
    assert {tap: primitives[0] for tap, primitives in at.items()} == {
        "a": "sin",
        "b": "add",
        "c": "mul",
        "d": "add",
    }
    variables = {tap: [variable for variable, _ in every] for tap, every in found.matched.items()}
    assert variables["b"][0] < variables["c"][0] < variables["d"][0]
    assert found.also["d"] == {"a", "b"} and standing == {}


def test_bugs_beside_each_other_are_each_told():
    def wrong(x):
        a = jnp.sin(x)
        c = jnp.exp(a * 2.0)
        return jnp.cumsum(a + c)

    found, at, standing = discovered(wrong, goldens(right))
    assert at == {"a": ["sin"], "d": ["add"]}
    assert {tap: primitive for tap, (primitive, _) in standing.items()} == {"b": "mul", "c": "exp"}
    assert [standing[tap][1].is_sure for tap in "bc"] == [False, True]
    assert standing["b"][1].far == pytest.approx(1 / 3, rel=1e-3)
    assert standing["c"][1].computed_from == ("b",)
    assert found.logits


def test_an_operation_that_is_missing_and_one_that_reads_the_wrong_value():
    def wrong(x):
        a = jnp.sin(x)
        return jnp.cumsum(a + jnp.tanh(a))  # nothing is scaled

    _, at, standing = discovered(wrong, goldens(right))
    assert at == {"a": ["sin"], "c": ["tanh"], "d": ["add"]}
    assert standing["b"][1].is_input and standing["b"][1].computed_from == ("a",)


def test_what_is_in_no_variable_is_passed_over_and_the_next_bug_is_told():
    def hidden(x):
        a = jnp.sin(x)
        c = jnp.exp(jnp.concatenate([a, a], 0) * 3.0)[:2]  # `b` is a part of something larger
        return jnp.cumsum(a + c)

    found, at, standing = discovered(hidden, goldens(right))
    assert at == {"a": ["sin"], "d": ["add"]}
    assert list(standing) == ["c"]
    assert standing["c"][0] == "slice" and standing["c"][1].is_sure
    assert standing["c"][1].computed_from == ("a",) and found.logits


def test_a_wrong_last_operation_leaves_the_logits_wrong():
    found, at, standing = discovered(lambda x: right(x)["logits"] * 2, goldens(right))
    assert (sorted(at), standing, found.logits) == (["a", "b", "c", "d"], {}, False)
