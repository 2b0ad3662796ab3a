"""Ports with a KV cache, in every layout: they match call by call, and a bug in the cache is found there."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from harness.architecture import read_config
from harness.errors import PortError
from harness.run.adapters import first_slot
from harness.run.check import Checker
from harness.run.port import Declarations, declarations
from harness.run.question import Question
from harness.taps import DIMS, kind_of
from tests.run.adapters import function_model, linen_model, nnx_model


def checked(golden_path, checkpoint, port, modes=("forward", "replay")):
    """The report on a port, by class or as it was loaded; its precision settings are not looked for."""
    question = Question(("float32",), modes=modes, cases=("decode",))

    def load(directory, config, dtype):
        return port.load(directory, config, dtype, None) if isinstance(port, type) else port

    with Checker(golden_path, checkpoint, "port", question, load=load, inspect=False) as checker:
        return checker.report([checker.run("float32")])


def introduced(report):
    """The kinds of taps that are wrong on golden inputs, and from which call on."""
    found = [r for r in report.results if r.verdict == "introduced"]
    return {kind_of(r.tap) for r in found}, {r.since_call for r in found}


class FaultyAttention(nnx_model.Attention):
    """It keeps keys and values as its cache says: a bug is data, so one compilation serves all of them."""

    def keep(self, cache, k, v, mask):
        from_here = cache["calls"] >= cache["since"]
        slot = first_slot(mask, k.shape[1]) + jnp.where(from_here, cache["slots_off"], 0)
        k, v = (
            jax.lax.dynamic_update_slice(
                cache[name], new * jnp.where(from_here, cache[f"share_{name}"], 1), (0, slot, 0, 0)
            )
            for name, new in (("k", k), ("v", v))
        )
        return {**cache, "k": k, "v": v, "calls": cache["calls"] + 1}


class Faulty(nnx_model.Cached):
    """The right port, until it is told otherwise. It counts how often it is traced."""

    bug = {}

    @classmethod
    def load(cls, directory, config, dtype, mesh):
        port = super().load(directory, config, dtype, mesh)
        for layer in port.model.layers:
            layer.attn.__class__ = FaultyAttention
        return cls(port.model, config, dtype)

    def init_cache(self, batch, length, dtype):
        told = {"since": 0, "slots_off": 0, "share_k": 1.0, "share_v": 1.0} | self.bug
        bug = {
            name: jnp.asarray(value, dtype if isinstance(value, float) else int) for name, value in told.items()
        }
        return {name: {**layer, **bug} for name, layer in super().init_cache(batch, length, dtype).items()}

    def run(self, model, input_ids, positions, mask, cache):
        self.traced.append(input_ids.shape[1])
        return super().run(model, input_ids, positions, mask, cache)

    def write_cache(self, cache, values):
        self.written.append(1)
        return super().write_cache(cache, values)


@pytest.fixture(scope="module")
def faulty(checkpoint):
    with jax.numpy_dtype_promotion("strict"):
        port = Faulty.load(checkpoint, read_config(checkpoint), jnp.dtype("float32"), None)
    port.traced, port.written = [], []
    return port


@pytest.mark.parametrize("port", [function_model.Cached, linen_model.Cached], ids=["function", "linen"])
def test_a_cache_of_any_layout_is_read_and_in_replay_written(golden_path, checkpoint, port):
    report = checked(golden_path, checkpoint, port, ("replay",))
    assert report.verdict == "match", report.introduced
    assert {"cache_k", "cache_v"} < {kind_of(r.tap) for r in report.results}


def test_all_calls_of_one_shape_in_all_modes_are_one_compilation(golden_path, checkpoint, faulty):
    report = checked(golden_path, checkpoint, faulty, ("forward", "replay", "prefill"))
    assert report.verdict == "match", report.introduced
    assert faulty.traced == [64, 9, 1]  # its own prefill of 17 tokens is padded; then 9 tokens, and 8 times one
    assert len(faulty.written) == 2 * 2  # as it is traced, and as it is compiled


@pytest.mark.parametrize(
    ("bug", "kinds", "call"),
    [
        ({"slots_off": -1, "since": 3}, {"cache_k", "cache_v"}, 3),
        ({"share_k": 0.99}, {"cache_k"}, 0),
        ({"share_v": 0.99, "since": 2}, {"cache_v"}, 2),
    ],
)
def test_a_bug_in_the_cache_is_found_in_the_cache_itself(
    golden_path, checkpoint, faulty, monkeypatch, bug, kinds, call
):
    monkeypatch.setattr(faulty, "bug", bug)
    found = checked(golden_path, checkpoint, faulty)
    assert introduced(found) == (kinds, {call})
    assert len(faulty.traced) <= 3


@pytest.mark.parametrize(("hidden", "own"), [((), set()), (("k_rope",), {"k_rope", "cache_k"})])
def test_a_cache_that_replay_writes_up_to_a_call_is_golden_where_what_the_call_puts_into_it_is(hidden, own):
    declared = Declarations(without=hidden, earlier_only=("cache_k", "cache_v"))
    assert declared.own == own
    assert declared.unreplaced == {*hidden, "cache_k", "cache_v"}


def test_only_a_cache_has_earlier_calls():
    class Wrong(nnx_model.Cached):
        earlier_only = ("probs",)

        def __init__(self):
            pass

    with pytest.raises(PortError, match="a kind of cache that does not exist"):
        declarations(Wrong(), frozenset(DIMS))
