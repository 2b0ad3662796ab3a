"""Equinox models that nobody edits: they match, bugs are found where they sit, and they stay as they were."""

from __future__ import annotations

import functools
import sys
import types
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import pytest

pytest.importorskip("equinox", reason="equinox is not installed: pip install -e '.[test]'")

import equinox as eqx

from harness.architecture import architecture_of, read_config
from harness.errors import PortError
from harness.run.adapters.calls import marked_call
from harness.run.adapters.table import Row
from harness.run.check import check
from harness.run.progress import SILENT
from harness.run.proposing.proposal import propose
from harness.run.question import Question
from harness.run.tapping import no_tap
from harness.run.tracing.program import tap_names
from harness.taps import CACHE_KINDS
from harness.tolerances import PRECISIONS
from tests.run.adapters import equinox_model, functions
from tests.run.adapters.equinox_model import Attention, Listed, Model, Scanned

CASES = ("digits",)


@pytest.fixture(autouse=True)
def nothing_kept():
    """What Equinox has jitted, it has traced with the functions of another test."""
    eqx.clear_caches()
    yield
    eqx.clear_caches()


def checked(golden_path, checkpoint, port, precisions, modes=("forward", "replay"), cases=CASES):
    def load(directory, config, dtype):
        return port.load(directory, config, dtype, None)

    return check(golden_path, checkpoint, "x:Port", Question(precisions, modes=modes, cases=cases), load=load)


@pytest.mark.parametrize(("port", "precisions"), [(Listed, PRECISIONS), (Scanned, ("float64",))])
def test_an_unedited_model_matches_at_every_tap(golden_path, checkpoint, port, precisions):
    report = checked(golden_path, checkpoint, port, precisions)
    assert report.verdict == "match", report.introduced
    kinds = {r.tap.rpartition(".")[2] for r in report.results if r.mode == "replay"}
    assert kinds == {name.rpartition(".")[2] for name in report.taps} - CACHE_KINDS
    assert max(r.rel_rms for r in report.results if r.precision == "float64") <= 1e-13


def _without_rotation(x, positions, theta):
    return x


def _eps_too_large(x, weight, eps):
    return functions.rms_norm(x, weight, 1e-5)


def _bidirectional(q, k, mask):
    scores = q @ k.T * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
    return jax.nn.softmax(scores.astype(jnp.float32), axis=-1).astype(q.dtype)


BUGS = {
    "rope": (_without_rotation, {"q_rope", "k_rope"}),
    "rms_norm": (_eps_too_large, {"attn_norm", "mlp_norm", "final_norm"}),
    "probabilities": (_bidirectional, {"probs"}),
}


def test_bugs_are_introduced_where_they_sit(golden_path, checkpoint, monkeypatch):
    for operation, (wrong, _) in BUGS.items():
        monkeypatch.setattr(equinox_model, operation, wrong)
    report = checked(golden_path, checkpoint, Scanned, ("float64",), ("replay",))
    introduced = [r.tap for r in report.results if r.verdict == "introduced"]
    assert {tap.rpartition(".")[2] for tap in introduced} == {kind for _, kinds in BUGS.values() for kind in kinds}
    assert {tap.split(".")[1] for tap in introduced if tap.startswith("layers.")} == {"0", "1", "2", "3"}


def test_the_model_itself_is_left_as_it_was(checkpoint):
    config = read_config(checkpoint)
    model = equinox_model.model(checkpoint, architecture_of(config), jnp.float32, Model)
    before = jax.tree_util.tree_structure(model)
    port = Listed(model, config, jnp.float32)
    jax.make_jaxpr(port._model)(jnp.array([[5, 6, 7]]), jnp.arange(3)[None], jnp.ones((1, 3), bool))
    assert type(model.layers[0].attn) is Attention
    assert jax.tree_util.tree_structure(model) == before


@pytest.mark.parametrize(
    ("path", "message", "found"),
    [
        ("layers.{i}.attention", "has nothing at a path", "input_norm, attn, post_norm, mlp"),
        ("layers.{i}.attn.rotated", "has nothing at a path", "q, k, v, o, q_rope, k_rope, arch, weights"),
        ("layers.{i}.attn.q.kernel", "cannot be called", "ArrayImpl"),
        ("layers", "cannot be called", "list"),
    ],
)
def test_a_path_that_the_model_does_not_have_is_refused_with_what_it_has(checkpoint, path, message, found):
    class Wrong(Listed):
        taps = {path: "layers.{i}.attn_out"}

    with pytest.raises(PortError, match=message) as caught:
        Wrong.load(checkpoint, read_config(checkpoint), jnp.float32, None)
    assert found in str(caught.value)


def test_a_layer_that_is_called_in_a_while_loop_is_refused(checkpoint):
    class Looping(Scanned):
        def run(self, model, input_ids, positions, mask):
            def step(carry):
                arrays, rest = eqx.partition(model.layers, eqx.is_array)
                layer = eqx.combine(jax.tree.map(lambda x: x[carry[0]], arrays), rest)
                return carry[0] + 1, layer(carry[1], positions[0], mask[0])[0]

            x = jax.lax.while_loop(lambda carry: carry[0] < 4, step, (0, model.embed(input_ids[0])))[1]
            return jax.vmap(model.head)(jax.vmap(model.norm)(x))[None]

    port = Looping.load(checkpoint, read_config(checkpoint), jnp.float32, None)
    with pytest.raises(PortError, match="cannot be handed over") as caught:
        port.forward(jnp.array([[5]]), jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool), None, no_tap)
    assert "inside while" in str(caught.value)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["array"], meta_fields=["axes"])
@dataclass(frozen=True)
class NamedArray:
    """As Haliax has it: an array and the names of its axes."""

    array: Any
    axes: tuple[str, ...]


@pytest.fixture
def haliax(monkeypatch):
    made = types.ModuleType("haliax")
    made.NamedArray = NamedArray
    monkeypatch.setitem(sys.modules, "haliax", made)


def row(item=None, argument=None, tap="embed"):
    return Row("a", item, argument, tap, None)


def test_a_named_array_stands_for_its_array(haliax):
    def layer(x, *, mask):
        assert x.axes == ("position",) and mask is None
        return (NamedArray(x.array * 2, ("out",)), {"hidden": NamedArray(x.array, ("kept",))})

    def run(x):
        found = (row(item=0), row(argument=0, tap="final_norm"))
        return marked_call(found, layer, (NamedArray(x, ("position",)),), {"mask": None})

    traced, (first, rest) = jax.make_jaxpr(run, return_shape=True)(jnp.ones(3))
    assert tap_names(traced.jaxpr) == {"a[0]", "a(0)"}
    assert (first.axes, rest["hidden"].axes) == (("out",), ("kept",))


def test_a_named_array_where_the_row_names_another_item_is_refused(haliax):
    with pytest.raises(PortError, match="does not return an array"):
        marked_call((row(item=1),), lambda x: (x, None), (NamedArray(jnp.ones(3), ("position",)),), {})


@pytest.mark.parametrize("name", ["Listed", "Scanned"])
def test_the_table_that_a_person_wrote_is_proposed(golden_path, checkpoint, name):
    """RoPE is one module at two paths there."""
    found = propose(golden_path, checkpoint, f"{equinox_model.__name__}:{name}", "digits", "float32", SILENT)
    assert found.table == getattr(equinox_model, name).taps
    assert (found.missing, found.logits) == ((), True)
