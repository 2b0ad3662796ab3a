"""Rows of functions, of one call among several, and of what runs inside something: right ones and wrong ones."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import pytest

from harness.errors import PortError
from harness.run.adapters import FunctionPort, NnxPort, To
from harness.run.check import check
from harness.run.question import Question
from harness.taps import CACHE_KINDS
from harness.tolerances import PRECISIONS
from tests.run.adapters import function_model, functions, linen_model, nnx_model
from tests.run.adapters.function_model import PROBS, ByLayer
from tests.run.adapters.test_table import forward

FUNCTIONS = {
    "{module}:rope#0{scope}": "layers.{i}.q_rope",
    "{module}:rope#1{scope}": "layers.{i}.k_rope",
    "{module}:probabilities{scope}": To("layers.{i}.probs", PROBS),
}


def with_functions(module, scope, table):
    """A table with RoPE and softmax as functions, where the model has no sub-modules for them."""
    name = module.__name__
    rows = {left.format(module=name, scope=scope and f" in {scope}"): right for left, right in FUNCTIONS.items()}
    named = {right.tap if isinstance(right, To) else right for right in rows.values()}
    kept = {left: tap for left, tap in table.items() if (tap.tap if isinstance(tap, To) else tap) not in named}
    return kept | rows


class Listed(nnx_model.Listed):
    taps = with_functions(nnx_model, "layers.{i}.attn", nnx_model.Listed.taps)


class Scanned(nnx_model.Scanned):
    taps = with_functions(nnx_model, "layers.attn", nnx_model.Scanned.taps)


class Linen(linen_model.Unrolled):
    taps = with_functions(linen_model, "layers_{i}", linen_model.Unrolled.taps)


class LinenScanned(linen_model.Scanned):
    taps = with_functions(linen_model, "", linen_model.Scanned.taps)


AT = function_model.__name__


class Plain(ByLayer):
    """Functions alone: a jitted block that JAX traces once, and calls in the order of the layers."""

    taps = {
        f"{AT}:rms_norm#{{2i}}": "layers.{i}.attn_norm",
        f"{AT}:rms_norm#{{2i+1}}(0)": "layers.{i}.resid_mid",
        f"{AT}:rms_norm#{{2i+1}}": "layers.{i}.mlp_norm",
        f"{AT}:rms_norm#-1": "final_norm",
        f"{AT}:rope#{{2i}}": "layers.{i}.q_rope",
        f"{AT}:rope#{{2i+1}} in {AT}:block": "layers.{i}.k_rope",
        f"{AT}:probabilities#{{i}}": To("layers.{i}.probs", PROBS),
        f"{AT}:block#0(2)": "embed",
        f"{AT}:block#{{i+1}}(2)": "layers.{i}.resid_post",
        f"{AT}:rms_norm#-1(0)": "layers.{last}.resid_post",
        "layers.{i}.mlp_out": "layers.{i}.mlp_out",
    }


PORTS = {port.__name__: port for port in (Listed, Scanned, Linen, LinenScanned, Plain)}


def checked(golden_path, checkpoint, port, *precisions, cases=("digits",)):
    question = Question(precisions or ("float32",), modes=("forward", "replay"), cases=cases)
    load = lambda directory, config, dtype: port.load(directory, config, dtype, None)  # noqa: E731
    return check(golden_path, checkpoint, f"tests:{port.__name__}", question, load=load)


@pytest.mark.parametrize("name", PORTS)
def test_what_is_a_function_is_covered(golden_path, checkpoint, name):
    report = checked(golden_path, checkpoint, PORTS[name], *(PRECISIONS if name == "Listed" else ("float64",)))
    assert report.verdict == "match", report.introduced
    kinds = {r.tap.rpartition(".")[2] for r in report.results}
    assert {"q_rope", "k_rope", "probs"} <= kinds
    if name != "Plain":
        assert kinds == {name.rpartition(".")[2] for name in report.taps} - CACHE_KINDS
    assert functions.rope is function_model.rope is nnx_model.rope is linen_model.rope
