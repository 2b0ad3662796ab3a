"""A traced model is pinned where it marks the weights of experts, also in another layout."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.run.tracing.mark import mark
from harness.run.tracing.program import Adaptation, Program, Source
from harness.run.tracing.steps import Steps
from harness.taps import DIMS, Tap

TAPS = (Tap("layers.0.routing", DIMS["routing"], ()),)
IDS, POSITIONS = jnp.asarray([[3, 5]]), jnp.asarray([[0, 1]])
OWN = np.array([[[0.75, 0.25, 0.0], [0.5, 0.0, 0.5]]], np.float32)
GOLDEN = np.array([[[0.7, 0.3, 0.0], [0.0, 0.4, 0.6]]], np.float32)
TURNED = Adaptation(lambda x, batch: jnp.swapaxes(x, 1, 2), lambda x, batch: jnp.swapaxes(x, 1, 2))


class Session:
    replaying = False

    def __init__(self, golden):
        self.golden, self.seen = golden, {}

    def __call__(self, name, value):
        raise AssertionError("a traced model must not call the session")

    def goldens(self, stage):
        return {"routing": self.golden} if stage else {}

    def judge_by(self, rounding):
        raise AssertionError("nothing is lifted here")

    def absorb(self, stage, recorded):
        self.seen |= {kind: np.asarray(value) for kind, value in recorded.items()}


@pytest.mark.parametrize("turned", [False, True], ids=["as it is", "experts first"])
@pytest.mark.parametrize("pinned", [True, False])
def test_a_traced_model_goes_on_with_the_goldens_choice(turned, pinned):
    def step(ids, positions, mask, cache):
        weights = jnp.asarray(OWN.swapaxes(1, 2) if turned else OWN) + 0 * ids.sum().astype(jnp.float32)
        gone_on = mark("layers.0.routing", weights)
        return jax.lax.stop_gradient(gone_on.swapaxes(1, 2) if turned else gone_on), None, {}

    adaptations = {"routing": TURNED} if turned else {}
    run = Steps(Program(Source(TAPS, adaptations, frozenset({"layers.0.routing"}))), step)
    session = Session(GOLDEN if pinned else np.full_like(GOLDEN, np.nan))
    found, _ = run(IDS, POSITIONS, jnp.ones((1, 2), bool), None, session)
    expected = np.stack([OWN[:, 0], GOLDEN[:, 1]], axis=1) if pinned else OWN
    assert np.array_equal(found, expected)
    assert np.array_equal(session.seen["routing"], OWN)
