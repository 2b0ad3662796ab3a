"""Rows of functions, of one call among several, and of what runs inside something: right ones and wrong ones."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from harness.architecture import architecture_of, read_config
from harness.errors import PortError
from harness.run.adapters import NnxPort, To
from harness.run.adapters.table import Row, rows
from harness.run.check import check
from harness.run.question import Question
from harness.taps import CACHE_KINDS
from tests.run.adapters import folded_model, function_model, functions, linen_model, nnx_model
from tests.run.adapters.folded_model import Model
from tests.run.adapters.function_model import PROBS, ByLayer
from tests.run.adapters.seen import seen


def with_functions(module, scope, table):
    """A table with RoPE and softmax as functions, in the place of sub-modules that it has for them."""
    at, inside = module.__name__, scope and f" in {scope}"
    found = {
        f"{at}:rope#0{inside}": "layers.{i}.q_rope",
        f"{at}:rope#1{inside}": "layers.{i}.k_rope",
        f"{at}:probabilities{inside}": To("layers.{i}.probs", PROBS),
    }
    kept = {left: tap for left, tap in table.items() if not {"q_rope", "k_rope", "softmax[weights]"} & {left[13:]}}
    named = {tap.tap if isinstance(tap, To) else tap for tap in found.values()}
    return {left: tap for left, tap in kept.items() if getattr(tap, "tap", tap) not in named} | found


class Listed(nnx_model.Listed):
    taps = with_functions(nnx_model, "layers.{i}.attn", nnx_model.Listed.taps)


class LinenScanned(linen_model.Scanned):
    taps = with_functions(linen_model, "", linen_model.Scanned.taps)


AT = function_model.__name__


class Plain(ByLayer):
    """Functions alone: a jitted block that JAX traces once, and calls in the order of the layers."""

    taps = {
        f"{AT}:rms_norm#{{2i}} in {AT}:block": "layers.{i}.attn_norm",
        f"{AT}:rms_norm#{{2i+1}}(0)": "layers.{i}.resid_mid",
        f"{AT}:rms_norm#{{2i+1}}": "layers.{i}.mlp_norm",
        f"{AT}:rms_norm#-1": "final_norm",
        f"{AT}:rope#{{2i}}": "layers.{i}.q_rope",
        f"{AT}:rope#{{2i+1}}": "layers.{i}.k_rope",
        f"{AT}:probabilities#{{i}}": To("layers.{i}.probs", PROBS),
        f"{AT}:block#0(2)": "embed",
        f"{AT}:block#{{i+1}}(2)": "layers.{i}.resid_post",
        f"{AT}:rms_norm#-1(0)": "layers.{last}.resid_post",
        "layers.{i}.mlp_out": "layers.{i}.mlp_out",
    }


def checked(golden_path, checkpoint, port, precision="float32", mode="replay"):
    def load(directory, config, dtype):
        return port.load(directory, config, dtype, None)

    question = Question((precision,), modes=(mode,), cases=("digits",))
    return check(golden_path, checkpoint, f"tests:{port.__name__}", question, load=load)


@pytest.mark.parametrize("port", [Listed, LinenScanned, Plain], ids=lambda port: port.__name__)
def test_what_is_a_function_is_covered(golden_path, checkpoint, port):
    report = checked(golden_path, checkpoint, port)
    assert report.verdict == "match", report.introduced
    kinds = {r.tap.rpartition(".")[2] for r in report.results}
    every = {name.rpartition(".")[2] for name in report.taps} - CACHE_KINDS
    assert kinds == (every if port is not Plain else every - set("qkv") - {"context", "attn_out", *GATED})
    assert functions.rope is function_model.rope is nnx_model.rope is linen_model.rope


GATED = ("gate", "up", "act")


def test_a_bug_in_a_function_is_introduced_there(golden_path, checkpoint, monkeypatch):
    right = nnx_model.rope
    monkeypatch.setattr(nnx_model, "rope", lambda x, positions, theta: right(x, positions + x.shape[2] // 6, theta))
    report = checked(golden_path, checkpoint, Listed)
    assert {tap.rpartition(".")[2] for tap in report.introduced} == {"q_rope"}  # of six heads


class Folded(NnxPort):
    """A model in which nearly nothing has a place of its own."""

    taps = {
        "embedding#0": "embed",
        "layers.{i+1}(0)": "layers.{i}.resid_post",
        "norm(0)": "layers.{last}.resid_post",
        "embedding#1(0)": "final_norm",
        "rope#1 in layers.{i}": "layers.{i}.k_rope",
        "layers.{i}.heads": To("layers.{i}.q", "batch position head (head_dim + zeros)"),
        f"{folded_model.__name__}:rotate#0(0) in layers.{{i}}": To(
            "layers.{i}.q_norm", "batch position head (head_dim + zeros)"
        ),
        "layers.{i}[hidden]": "layers.{i}.mlp_out",
    }
    kept = frozenset(taps)
    junk, looks = 0.0, False

    def __init__(self, config):
        self.taps = {left: tap for left, tap in self.taps.items() if left in self.kept}
        layers = architecture_of(config).layers
        super().__init__(Model(layers, self.junk, self.looks), config, jnp.float32)

    def run(self, model, input_ids, positions, mask):
        return model(input_ids, positions)


def folded(config, table=None, **attributes):
    table = {left: tap for left, tap in Folded.taps.items() if "q_norm" not in str(tap)} if table is None else table
    return type("Port", (Folded,), {"taps": table, "kept": frozenset(table), **attributes})(config)


@pytest.fixture(scope="module")
def config(checkpoint):
    return read_config(checkpoint)


def by_hand(layers, goldens=None):
    """The folded model's values, in numpy."""
    goldens, found = goldens or {}, {}
    table = np.random.default_rng(0).standard_normal((folded_model.VOCAB, folded_model.HIDDEN)).astype(np.float32)

    def tap(name, value):
        found[name] = value
        return goldens.get(name, value)

    cos = np.cos(np.arange(3, dtype=np.float32))[None, :, None, None]
    x = tap("embed", table[[[5, 6, 7]]])
    for i in range(layers):
        q = tap(f"layers.{i}.q", x.reshape(1, 3, 6, 8))
        k = tap(f"layers.{i}.k_rope", 2 * q[:, :, :2] * cos)
        y = tap(f"layers.{i}.mlp_out", -(0.5 + i) * (q * cos * np.tile(k, (1, 1, 3, 1))).reshape(x.shape))
        x = tap(f"layers.{i}.resid_post", x + y)
    return found, tap("final_norm", x / (1 + np.abs(x))) @ table.T


@pytest.mark.parametrize("looks", [False, True])
def test_calls_next_arguments_zeros_and_fields_are_found_and_replaced(config, looks):
    """The same table serves a model that can be traced, and one that looks at values while it is."""
    port = folded(config, looks=looks)
    layers = architecture_of(config).layers
    own, _ = by_hand(layers)
    for goldens in ({}, {name: value + 0.25 for name, value in own.items()}):
        expected, logits = by_hand(layers, goldens)
        taps, found = seen(port, goldens or own, bool(goldens))
        assert taps.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(taps[name], value, rtol=2e-5, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(found, logits, rtol=2e-5, atol=1e-4)
