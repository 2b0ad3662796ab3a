"""Rows of functions, of one call among several, and of what runs inside something: right ones and wrong ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.architecture import architecture_of, read_config
from harness.errors import PortError
from harness.run.adapters import FunctionPort, NnxPort, To
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
    named = {getattr(tap, "tap", tap) for tap in found.values()}
    return {left: tap for left, tap in table.items() if getattr(tap, "tap", tap) not in named} | found


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
    monkeypatch.setattr(
        nnx_model, "rope", lambda x, positions, theta: right(x, positions + x.shape[2] // 6, theta)
    )
    report = checked(golden_path, checkpoint, Listed)
    assert {tap.rpartition(".")[2] for tap in report.introduced} == {"q_rope"}  # of six heads


HERE = folded_model.__name__


class Folded(NnxPort):
    """A model in which nearly nothing has a place of its own."""

    taps = {
        "embedding#0": "embed",
        "layers.{i+1}(0)": "layers.{i}.resid_post",
        "norm(0)": "layers.{last}.resid_post",
        "embedding#1(0)": "final_norm",
        "rope#1 in layers.{i}": "layers.{i}.k_rope",
        "layers.{i}.heads": To("layers.{i}.q", "batch position head (head_dim + zeros)"),
        "layers.{i}[hidden]": "layers.{i}.mlp_out",
    }
    junk, looks = 0.0, False

    def __init__(self, config):
        super().__init__(Model(architecture_of(config).layers, self.junk, self.looks), config, jnp.float32)

    def run(self, model, input_ids, positions, mask):
        return model(input_ids, positions)


def folded(config, table=None, **attributes):
    return type("Port", (Folded,), {**attributes, "taps": Folded.taps if table is None else table})(config)


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


METHODS = {
    f"{HERE}:Scale.halved#{{i}}(0)": To("layers.{i}.context", None),
    f"{HERE}:Scale.doubled#{{i}}(0)": To("layers.{i}.q_rope", None),
    f"{HERE}:Scale.negated in layers.{{i}}": To("layers.{i}.q", None),
}


def test_methods_of_a_class_are_places_and_self_is_no_argument(config):
    before = dict(vars(folded_model.Scale))
    names = {f"layers.{i}.{kind}": np.zeros((1, 3, 6, 8)) for i in range(4) for kind in ("context", "q_rope", "q")}
    taps, _ = seen(folded(config, METHODS), names)
    assert taps.keys() == names.keys()
    np.testing.assert_allclose(taps["layers.1.context"], 2 * taps["layers.1.q_rope"], rtol=1e-6)
    np.testing.assert_allclose(taps["layers.1.context"], -taps["layers.1.q"], rtol=1e-6)
    assert dict(vars(folded_model.Scale)) == before


REFUSED = {
    "called twice": ({"embedding": "embed"}, "more than once", ["embedding -> embed", "2 calls", "'embedding#0'"]),
    "called twice in its scope": (
        {"rope in layers.{i}": "layers.{i}.q_rope"},
        "more than once",
        [
            "rope in layers.0 -> layers.0.q_rope",
            "found:    2 calls",
            "'rope#0 in layers.0' to 'rope#1 in layers.0'",
        ],
    ),
    "a function called twice": (
        {f"{HERE}:rotate": "layers.0.q_rope"},
        "more than once",
        [f"{HERE}:rotate -> layers.0.q_rope", "8 calls", "rotate#7", "... in layers.{i}.attn"],
    ),
    "no such call": (
        {"embedding#2": "embed"},
        "numbers a call that is not made",
        ["call 2 of embedding", "0 to 1"],
    ),
    "one call twice": (
        {"embedding#1(0)": "final_norm", "embedding#-1(0)": "embed"},
        "two rows of the port's table name one call",
        ["call 1 of embedding(0)", "final_norm and embed"],
    ),
    "never in its scope": (
        {"norm in layers.{i}": "layers.{i}.q_rope"},
        "never makes a value",
        ["norm in layers.0 -> layers.0.q_rope", "while layers.0 runs"],
    ),
    "no such scope": ({"rope#0 in layer.{i}": "layers.{i}.q_rope"}, "has nothing at a path", ["layer.0"]),
    "imported by name": (
        {"tests.run.adapters.functions:rope#0": "layers.0.q_rope"},
        "never makes a value",
        ["the module whose own name", "from tests.run.adapters.functions import rope", "linen_model:rope"],
    ),
    "no such function": (
        {f"{HERE}:rotation": "layers.0.q_rope"},
        "a function that its module does not have",
        [f"{HERE}:rotation", f"in {HERE}: ", "rotate"],
    ),
    "no function": ({f"{HERE}:HIDDEN": "embed"}, "a function that its module does not have", ["found:    int"]),
    "no such method": ({f"{HERE}:Scale.tripled": "embed"}, "a function that its module does not have", ["halved"]),
    "no such module": ({"tests.folded:rotate": "embed"}, "cannot be imported", ["ModuleNotFoundError"]),
    "beyond the last layer": (
        {"layers.{i+1}(0)": "layers.{i}.resid_post"},
        "has nothing at a path",
        ["layers.4, at '4'", "'norm(0)' -> 'layers.{last}.resid_post'"],
    ),
    "no scan": (
        {"rope#0": "layers.{i}.q_rope"},
        "its value is not made inside a scan",
        ["rope -> layers.{i}.q_rope", "'#{i}'"],
    ),
    "no array": (
        {"layers.{i}.heads#0(0)": To("layers.{i}.q", None), "layers.{i}(1)": "layers.{i}.v"},
        "no array",
        [],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_row_is_refused_and_what_is_right_is_said(config, name):
    table, problem, facts = REFUSED[name]
    before = folded_model.rotate
    with pytest.raises(PortError, match=problem) as caught:
        seen(folded(config, table), {})
    assert [fact for fact in facts if fact not in str(caught.value)] == []
    assert folded_model.rotate is before


def test_a_function_is_put_back_where_the_model_raises(config, monkeypatch):
    def broken(x, positions):
        raise ValueError("broken")

    monkeypatch.setattr(folded_model, "rotate", broken)
    port = folded(config, {f"{HERE}:rotate#0(0)": To("layers.0.q", "batch position head (head_dim + zeros)")})
    with pytest.raises(ValueError, match="broken"):
        seen(port, {})
    assert folded_model.rotate is broken


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"scanned": "layers.0.mlp_out"}, "of one layer is made inside a scan"),
        ({"branched": "embed"}, "stands where its value cannot be handed over"),
    ],
)
def test_a_place_in_a_loop_or_a_branch_is_refused(config, table, message):
    class Port(FunctionPort):
        taps = {f"{__name__}:{name}": tap for name, tap in table.items()}

        def run(self, input_ids, positions, mask):
            x = jnp.ones((*input_ids.shape, 48))
            x, _ = jax.lax.scan(lambda x, _: (scanned(x), None), x, None, length=4)
            return jax.lax.cond(mask.all(), branched, lambda x: x, x) @ jnp.ones((48, 512)), {}

    with pytest.raises(PortError, match=message):
        seen(Port(config, jnp.float32), {})


def scanned(x):
    return x + 1


def branched(x):
    return 2 * x


def test_what_is_cut_off_has_to_be_zeros(config):
    with pytest.raises(PortError, match="cuts off a value is not zeros") as caught:
        seen(folded(config, junk=0.5), {"layers.0.q": np.zeros((1, 3, 6, 8))})
    assert "where:    layers.0.q, at [0, 0, 0, 10] of [1, 3, 6, 11]" in str(caught.value)
    assert "found:    0.5, and 17 more" in str(caught.value)


def test_a_value_that_is_not_padded_as_declared_is_refused(config):
    table = {"layers.{i}.heads": To("layers.{i}.q", "batch position (head (head_dim + zeros))")}
    with pytest.raises(PortError, match="does not have the layout") as caught:
        seen(folded(config, table), {})
    assert "(1, 3, 6, 11)" in str(caught.value)


def test_a_key_of_a_function_cannot_be_called(config):
    port = type("Port", (FunctionPort,), {"taps": {"embed#1": "embed"}})
    with pytest.raises(PortError, match="have keys, not items or arguments"):
        port(config, jnp.float32)
