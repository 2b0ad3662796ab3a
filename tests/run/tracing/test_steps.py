"""A model call by call: any arrays in any cache, one compilation a shape; what cannot be written is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.errors import PortError
from harness.run.cache import causal, first_slot
from harness.run.tapping import no_tap
from harness.run.tracing.mark import mark
from harness.run.tracing.program import Program, Source
from harness.run.tracing.steps import Access, Steps
from harness.taps import Tap

SLOTS, RANK = 4, 3
LATENT = "layers.0.cache_latent"  # of no family yet: what a cache holds has any name and shape
TAPS = (Tap("layers.0.latent", ("batch", "position", "latent"), ()), Tap(LATENT, ("batch", "slot", "latent"), ()))
IDS = jnp.asarray([[3, 5]])


class Recording:
    """A session with goldens for the cache, which keeps what it is given."""

    def __init__(self, golden, replaying=True):
        self._golden, self.replaying, self.seen = golden, replaying, {}

    def __call__(self, name, value):
        return value

    def goldens(self, stage):
        return {"cache_latent": self._golden, "latent": np.full((1, 2, RANK), 7, np.float32)} if stage else {}

    def judge_by(self, rounding):
        self.rounding = rounding

    def absorb(self, stage, recorded):
        self.seen |= {kind: np.asarray(value) for kind, value in recorded.items()}


def step(ids, positions, mask, cache):
    """Logits are the sum of what is kept; a token's latent is its id."""
    new = mark("layers.0.latent", jnp.broadcast_to(ids[..., None].astype(jnp.float32), (*ids.shape, RANK)))
    kept = jax.lax.dynamic_update_slice(cache["kept"], new, (0, first_slot(mask, ids.shape[1]), 0))
    return kept.sum((1, 2), keepdims=True), {"kept": kept, "calls": cache["calls"] + 1}, {}


READ = Access(lambda cache: {LATENT: cache["kept"]}, lambda cache, values: {**cache, "kept": values[LATENT]})


def steps(access=READ, model=step, lift=False):
    source = Source(TAPS, expected=frozenset({"layers.0.latent"}))
    return Steps(Program(source, lift=lift), model, access)


def empty(dtype=jnp.float32):
    return {"kept": jnp.zeros((1, SLOTS, RANK), dtype), "calls": 0}


def filled(tokens):
    return (jnp.arange(SLOTS) < tokens)[None]


def golden(tokens):
    """100, 101, ... in the slots up to the call's last token."""
    value = np.full((1, SLOTS, RANK), np.nan, np.float32)
    value[:, :tokens] = 100 + np.arange(tokens, dtype=np.float32)[:, None]
    return value


def test_in_replay_the_golden_is_in_the_slots_of_earlier_calls_and_this_calls_come_from_its_taps():
    run = steps()
    first, second = Recording(golden(2)), Recording(golden(4))
    _, cache = run(IDS, IDS, filled(2), empty(), first)
    logits, cache = run(IDS, IDS, filled(4), cache, second)
    assert first.seen["cache_latent"][0, :, 0].tolist() == [7, 7, 0, 0]
    assert second.seen["cache_latent"][0, :, 0].tolist() == [100, 101, 7, 7]
    assert second.seen["latent"][0, :, 0].tolist() == [3, 5]
    assert logits.item() == RANK * (100 + 101 + 7 + 7)
    assert cache["calls"] == 2


def test_on_its_own_values_nothing_is_written_into_it():
    run = steps()
    _, cache = run(IDS, IDS, filled(2), empty(), no_tap)
    session = Recording(golden(4), replaying=False)
    _, cache = run(IDS, IDS, filled(4), cache, session)
    assert cache["kept"][0, :, 0].tolist() == session.seen["cache_latent"][0, :, 0].tolist() == [3, 5, 3, 5]


def test_a_cache_that_the_model_keeps_in_float32_is_lifted_and_stays_one_compilation():
    traced, read = [], []

    def counted(*arguments):
        traced.append(arguments[0].shape)
        return step(*arguments)

    def reading(cache):
        read.append(cache["kept"].dtype.name)
        return READ.read(cache)

    with jax.enable_x64(True):
        run, cache = steps(Access(reading, READ.write), counted, lift=True), empty()
        for call in (1, 2):
            _, cache = run(IDS, IDS, filled(2 * call), cache, no_tap)
    assert cache["kept"].dtype == jnp.float64 and cache["kept"][0, :, 0].tolist() == [3, 5, 3, 5]
    assert traced == [(1, 2)]
    assert read.count("float64") == 2  # of one compilation: what comes in, and what goes out


def halved(cache, values):
    return {**cache, "kept": values[LATENT] / 2}


@pytest.mark.parametrize(
    ("access", "cache", "message", "where"),
    [
        (Access(READ.read, halved), empty(), "does not write what read_cache", LATENT),
        (
            Access(READ.read, lambda c, v: {"kept": v[LATENT]}),
            empty(),
            "of the form that it was given",
            "write_cache",
        ),
        (Access(READ.read, lambda c, v: {**c, "kept": c["kept"][:, :3]}), empty(), "of the form", "write_cache"),
        (Access(lambda c: {LATENT: c["calls"]}, READ.write), empty(), "with slots", LATENT),
        (READ, {**empty(), "of": "latents"}, "something that is no array", "cache['of']"),
    ],
)
def test_a_cache_that_cannot_be_read_and_written_is_refused(access, cache, message, where):
    run = steps(access)
    with pytest.raises(PortError, match=message) as caught:
        _, after = run(IDS, IDS, filled(2), cache, Recording(golden(2)))
        run(IDS, IDS, filled(4), after, Recording(golden(4)))
    assert f"where:    {where}" in str(caught.value)


def test_a_tap_that_never_comes_in_a_step_is_refused():
    with pytest.raises(PortError, match="never makes a value"):
        steps(model=lambda ids, positions, mask, cache: (jnp.zeros((1, 1, 1)), cache, {}))(
            IDS, IDS, filled(2), empty(), no_tap
        )


def test_each_token_sees_the_slots_up_to_its_own():
    padded = jnp.asarray([[False, True, True, True, True, False], [True, True, True, True, True, False]])
    assert first_slot(padded, 2) == 3
    seen = causal(padded, 2)
    assert seen[0].astype(int).tolist() == [[0, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0]]
    assert seen[1].astype(int).tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0]]
    whole = jnp.asarray([[True, True, False]])  # a prompt that is padded on the right, and no cache
    assert causal(whole, 3)[0].astype(int).tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 0]]
