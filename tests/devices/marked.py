"""Values replaced on a mesh with explicit axes: by an adapter's traced program, by `Tapped`, outside a trace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from harness.run.adapters.layout import adaptation
from harness.run.tapping import Tapped, handed_on
from harness.run.tracing.mark import mark
from harness.run.tracing.program import Program, Source
from harness.run.tracing.steps import Steps
from tests.small_decoder import decoder_taps

PARTS, FEATURES = 4, 8  # two heads of four features: the heads have no place on four devices
GOLDEN = 7.0


class OneTap:
    """A session that knows of `layers.0.q` alone."""

    def __init__(self, replaying: bool) -> None:
        self.replaying, self.seen = replaying, {}

    def __call__(self, name, value):
        raise AssertionError("all taps are inside a trace")

    def goldens(self, stage):
        return {"q": np.full((1, 3, 2, FEATURES // 2), GOLDEN, np.float32)} if stage == "layers.0" else {}

    def judge_by(self, rounding):
        pass

    def absorb(self, stage, recorded):
        self.seen |= {kind: np.asarray(value) for kind, value in recorded.items()}


def facts() -> Mapping[str, Any]:
    """For each way: what was recorded, what went on, and where that was, in forward and in replay."""
    mesh = jax.make_mesh((PARTS,), ("model",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:PARTS])
    return {
        f"{way.__name__} {'replay' if replaying else 'forward'}": way(mesh, OneTap(replaying))
        for way in (traced, tapped, eager)
        for replaying in (False, True)
    }


def _facts(session, out) -> list[Any]:
    recorded = sorted(set(session.seen["q"].ravel().tolist()))
    return [recorded, sorted(set(np.asarray(out).ravel().tolist())), list(out.sharding.spec)]


def traced(mesh, session):
    table = jax.device_put(np.ones((5, FEATURES), np.float32), NamedSharding(mesh, P()))

    def step(ids, positions, mask, cache):
        q = table.at[ids[0]].get(out_sharding=P(None, "model"))  # [position, head * head_dim]
        return 2 * mark("layers.0.q", q), None, {}

    with jax.set_mesh(mesh):
        q = next(tap for tap in decoder_taps(1) if tap.kind == "q")
        way = adaptation("position (head head_dim)", q, {"head": 2, "head_dim": FEATURES // 2})
        tokens = np.zeros((1, 3), np.int32)
        run = Steps(Program(Source(decoder_taps(1), {"q": way})), step)
        return _facts(session, run(tokens, tokens, tokens == 0, None, session)[0])


def tapped(mesh, session):
    x = jax.device_put(np.ones((1, 3, 2, 4), np.float32), NamedSharding(mesh, P(None, None, None, "model")))
    run = Tapped(lambda tap, x: 2 * tap("q", x), frozenset({"q"}))
    return _facts(session, run(session, "layers.0", x))


def eager(mesh, session):
    x = jax.device_put(np.ones((1, 3, 2, 4), np.float32), NamedSharding(mesh, P(None, None, None, "model")))
    session.absorb("layers.0", {"q": x})
    golden = session.goldens("layers.0")["q"]
    return _facts(session, 2 * (handed_on("layers.0.q", golden, x) if session.replaying else jnp.asarray(x)))
