"""Rows of variables: what no call is given or returns, marked in the finished program by their primitives."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.architecture import architecture_of
from harness.errors import PortError
from harness.run.adapters import FunctionPort, To
from harness.run.adapters.table import rows
from tests.run.adapters import nnx_model
from tests.run.adapters.seen import IDS, seen

HERE = __name__
HIDDEN = 48


@pytest.fixture(scope="module")
def config(checkpoint):
    return json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))


def halved(x):
    return x / 2


def layer(x, weight):
    """Two sums and two products, one of them of a number, and one in a function that is a library's."""
    y = x * weight + 1.0
    low, high = jnp.split(jax.nn.silu(y), [32], axis=-1)
    padded = jnp.pad(high.reshape(*high.shape[:2], 2, 8), [(0, 0)] * 3 + [(0, 3)])  # as a kernel wants them
    high = padded[..., :8].reshape(high.shape)
    return x + halved(jnp.concatenate([high, low], -1)) * weight


class Port(FunctionPort):
    taps = {}
    scanned = False

    def run(self, input_ids, positions, mask):
        x = jnp.broadcast_to(input_ids[..., None] / 7, (*input_ids.shape, HIDDEN))
        weights = 1 + jnp.arange(self.arch.layers, dtype=x.dtype)
        if self.scanned:
            return jax.lax.scan(lambda x, w: (jax.checkpoint(layer)(x, w), None), x, weights)[0], {}
        for weight in weights:
            x = jax.jit(layer)(x, weight)
        return x, {}


def port(config, table, scanned=False):
    made = type("Made", (Port,), {"taps": table, "scanned": scanned})
    return made(config, jnp.float32)


def expected(goldens=None):
    """The model in numpy, with goldens in the place of some of its values."""
    goldens, found = goldens or {}, {}

    def tap(name, value):
        found[name] = value
        return goldens.get(name, value)

    x = np.broadcast_to(IDS[..., None] / 7, (*IDS.shape, HIDDEN)).astype(np.float32)
    for i, weight in enumerate(np.arange(1, 5, dtype=np.float32)):
        y = tap(f"layers.{i}.attn_norm", x * weight + 1)
        y = y / (1 + np.exp(-y))
        high = tap(f"layers.{i}.v", y[..., 32:].reshape(*y.shape[:2], 2, 8)).reshape(*y.shape[:2], 16)
        y = tap(f"layers.{i}.attn_out", np.concatenate([high, y[..., :32]], -1))
        x = tap(f"layers.{i}.resid_post", x + tap(f"layers.{i}.mlp_out", y / 2 * weight))
    return x, found


TABLE = {
    f"{HERE}:layer/add#{{2i}}": "layers.{i}.attn_norm",
    f"{HERE}:layer/mul#{{3i+2}}": "layers.{i}.mlp_out",  # the second is silu's, which has no code of the model's
    f"{HERE}:halved/div#{{i}}(0)": "layers.{i}.attn_out",
    f"{HERE}:layer/add#{{2i+1}}": "layers.{i}.resid_post",
}
SCANNED = {
    f"{HERE}:layer/add#0": "layers.{i}.attn_norm",
    f"{HERE}:layer/mul#2": "layers.{i}.mlp_out",
    f"{HERE}:halved/div(0)": "layers.{i}.attn_out",
    f"{HERE}:layer/add#-1": "layers.{i}.resid_post",
}


@pytest.mark.parametrize(("table", "scanned"), [(TABLE, False), (SCANNED, True)])
def test_variables_are_recorded_and_replaced_in_nested_code(config, table, scanned):
    made = port(config, table, scanned)
    taps, logits = seen(made, {name: value for name, value in expected()[1].items() if not name.endswith(".v")})
    x, own = expected()
    assert set(taps) == {name for name in own if not name.endswith(".v")}
    for name, value in taps.items():
        np.testing.assert_allclose(value, own[name], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(logits, x, rtol=1e-5)
    goldens = {f"layers.{i}.{kind}": np.full_like(x, i + 2) for i in range(4) for kind in ("attn_out", "mlp_out")}
    taps, logits = seen(made, goldens, replaying=True)
    np.testing.assert_allclose(logits, expected(goldens)[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("left", "layout"),
    [
        (f"{HERE}:layer/split#{{i}}[1]", "batch position (kv_head head_dim)"),  # the second of two results
        (f"{HERE}:layer/pad#{{i}}", "batch position kv_head (head_dim + zeros)"),
    ],
)
def test_one_of_several_results_and_padded_values_are_recorded_and_replaced(config, left, layout):
    made = port(config, {left: To("layers.{i}.v", layout)})
    own = {name: value for name, value in expected()[1].items() if name.endswith(".v")}
    taps, _ = seen(made, own)
    for name, value in own.items():
        np.testing.assert_allclose(taps[name], value, rtol=1e-5)
    goldens = {name: value + 1 for name, value in own.items()}
    _, logits = seen(made, goldens, replaying=True)
    np.testing.assert_allclose(logits, expected(goldens)[0], rtol=1e-5)


def test_variables_while_a_sub_module_runs(config, checkpoint):
    """Without numbers that count through all layers, and in code that is jitted or rematerialized."""

    class Summed(nnx_model.Listed):
        taps = {
            "layers.{i}.attn[out]": "layers.{i}.attn_out",
            "tests.run.adapters.nnx_model:Block.__call__/add#0 in layers.{i}": "layers.{i}.resid_mid",
            "tests.run.adapters.nnx_model:Block.__call__/add#1 in layers.{i}": "layers.{i}.resid_post",
            "tests.run.adapters.nnx_model:Embedder.encode/gather": "embed",
        }

    names = [
        "embed",
        *(f"layers.{i}.{kind}" for i in range(4) for kind in ("attn_out", "resid_mid", "resid_post")),
    ]
    taps, _ = seen(Summed.load(checkpoint, config, jnp.float32, None), dict.fromkeys(names, np.zeros((1, 3, 48))))
    assert set(taps) == set(names)
    for i in range(4):
        before = taps[f"layers.{i - 1}.resid_post"] if i else taps["embed"]
        np.testing.assert_allclose(taps[f"layers.{i}.resid_mid"], before + taps[f"layers.{i}.attn_out"], rtol=1e-6)


@pytest.mark.parametrize(
    ("left", "problem", "found"),
    [
        (f"{HERE}:layer/tanh#{{i}}", "does not have a variable", "add x 8"),
        (f"{HERE}:lost/add#{{i}}", "does not have a variable", f"{HERE}:layer"),
        (f"{HERE}:layer/add#{{2i+9}}", "numbers a call that is not made", "8 calls"),
    ],
)
def test_a_variable_that_the_program_does_not_have_is_refused(config, left, problem, found):
    with pytest.raises(PortError, match=problem) as caught:
        seen(port(config, {left: "layers.{i}.mlp_out"}), {})
    assert found in caught.value.found


def test_several_variables_need_a_number(config):
    with pytest.raises(PortError, match="called more than once") as caught:
        seen(port(config, {f"{HERE}:layer/add": "final_norm"}), {})
    assert f"'{HERE}:layer/add#0' to '{HERE}:layer/add#7'" in caught.value.hint


@pytest.mark.parametrize("left", ["pkg:f/", "pkg:/add", "pkg:f/add[x]", "pkg:f/add(x)", "pkg:f in pkg:g/add"])
def test_malformed_rows_of_variables_are_refused(config, left):
    with pytest.raises(PortError, match="malformed"):
        rows({left: "embed"}, architecture_of(config))
