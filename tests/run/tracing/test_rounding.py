"""What cannot be lifted is followed to the taps that hold it, and named with its line."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.run.contained import CannotLift
from harness.run.tapping import no_tap
from harness.run.tracing.mark import mark
from harness.run.tracing.program import Program, Source
from harness.run.tracing.rounding import rounding, rounding_notes
from harness.run.tracing.steps import Steps
from tests.small_decoder import decoder_taps

ODD = 0.5100697
X = np.ones((1, 3, 4))


def followed(model, *arguments):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        return rounding(jax.make_jaxpr(model)(*arguments), [None])


def test_a_number_is_followed_to_every_tap_until_a_golden_goes_on():
    def model(x):
        y = mark("embed", x)
        y = mark("layers.0.q", y.astype(jnp.float32) * jnp.float32(ODD))
        return mark("final_norm", y + 1)

    found = followed(model, X)
    assert found.precisions(()) == dict.fromkeys(("layers.0.q", "final_norm", "logits"), "float32")
    assert found.precisions(("embed", "layers.0.q", "final_norm")) == {"layers.0.q": "float32"}
    # A case that records the residual stream alone has no golden for q.
    assert found.precisions(("embed", "final_norm")) == dict.fromkeys(("layers.0.q", "final_norm"), "float32")


def test_the_number_and_its_line_are_said():
    found = followed(lambda x: mark("embed", x.astype(jnp.float32) * jnp.float32(ODD)), X)
    (note,) = rounding_notes([found])
    assert note.startswith("float64: 0.5100697 at ")
    assert "test_rounding.py" in note
    assert "embed" in note


def test_a_closed_form_is_exact_and_said():
    found = followed(lambda x: mark("embed", x.astype(jnp.float32) * jnp.float32(128**-0.5)), X)
    assert found.precisions(()) == {}
    assert next(rounding_notes([found])).startswith("float64: read as 0.088388346 as 128 ** -0.5 at ")


def test_a_mask_holds_no_rounding():
    def model(x):
        hidden = x.astype(jnp.float32) > jnp.float32(ODD)
        return mark("embed", jnp.where(hidden, x, jnp.finfo(jnp.float32).min))

    assert followed(model, X).precisions(()) == {}


def test_numbers_in_nested_code_and_tables_are_found():
    table = np.asarray([ODD, 2 * ODD, 3 * ODD, 0.7654321], np.float32)

    @jax.jit
    def inner(x):
        return jax.lax.fori_loop(0, 2, lambda _, y: y * jnp.float32(ODD), x) * jnp.asarray(table)

    found = followed(lambda x: mark("embed", inner(x.astype(jnp.float32))), X)
    said = "\n".join(rounding_notes([found]))
    assert "0.5100697 at " in said
    assert "a float32 table of 4 numbers at " in said


def test_a_number_of_bfloat16_is_judged_by_bfloat16():
    found = followed(lambda x: mark("embed", x.astype(jnp.bfloat16) * jnp.bfloat16(0.7109375)), X)
    assert found.precisions(("embed",)) == {"embed": "bfloat16"}


def test_taps_in_a_scan_are_followed_one_by_one():
    def model(x):
        def step(y, n):
            return mark("layers.{i}.q", y * jnp.float32(ODD)), n

        return jax.lax.scan(step, x.astype(jnp.float32), jnp.arange(3))[0]

    taps = [f"layers.{i}.q" for i in range(3)]
    assert followed(model, X).precisions(taps) == dict.fromkeys(taps, "float32")


def ran(model):
    ids = jnp.zeros((1, 3), jnp.int32)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        run = Steps(Program(Source(decoder_taps(1)), lift=True), lambda ids, *_: (model(ids), None, {}))
        return run(ids, ids, ids, None, no_tap)[0]


def test_an_array_inside_a_nested_jit_is_lifted():
    @jax.jit
    def inner(x):
        return x * (jnp.asarray(np.asarray([0.1, 0.2, 0.3, 0.4], np.float32)) / 8.0)

    found = ran(lambda ids: inner(jnp.ones((*ids.shape, 4), jnp.float32)))
    assert found.dtype == jnp.float64
    np.testing.assert_allclose(found[0, 0], np.asarray([0.1, 0.2, 0.3, 0.4]) / 8, rtol=1e-15)


def test_what_breaks_in_lifted_code_is_the_liftings_failure(monkeypatch):
    monkeypatch.setattr("harness.run.tracing.lift.Lifted.literal", lambda self, literal: literal.val)
    with pytest.raises(CannotLift, match=r"mul at .*test_rounding.py"):
        ran(lambda ids: ids[..., None].astype(jnp.float32) * np.float32(ODD))
