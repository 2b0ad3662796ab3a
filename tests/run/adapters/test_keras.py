"""Keras models that nobody edits, on the JAX backend: they match, a bug in them is found where it sits.

Run where Keras is installed (tests/clients/README.md). KERAS_BACKEND is read when Keras is first imported.
"""

from __future__ import annotations

import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras", reason="Keras is not installed: see tests/clients/README.md")

from harness.architecture import read_config
from harness.errors import PortError
from harness.run.adapters import KerasPort
from harness.run.check import check
from harness.run.progress import SILENT
from harness.run.proposing.proposal import propose
from harness.run.question import Question
from harness.run.tapping import no_tap
from harness.taps import CACHE_KINDS
from harness.tolerances import PRECISIONS
from tests.run.adapters import functions, keras_model
from tests.run.adapters.keras_model import Functional, Subclassed
from tests.run.adapters.seen import seen


@pytest.fixture(autouse=True)
def default_promotion():
    """Keras promotes ranks as JAX does by default."""
    with jax.numpy_rank_promotion("allow"):
        yield


pytestmark = pytest.mark.filterwarnings("ignore")  # other people's deprecations


def checked(golden_path, checkpoint, port, precisions, modes=("forward", "replay"), cases=("digits",)):
    def load(directory, config, dtype):
        return port.load(directory, config, dtype, None)

    return check(golden_path, checkpoint, "x:Port", Question(precisions, modes=modes, cases=cases), load=load)


def forward(port):
    ids = jnp.array([[5, 6]])
    return port.forward(ids, jnp.arange(2)[None], jnp.ones((1, 2), bool), None, no_tap)[0]


@pytest.mark.parametrize("port", [Subclassed, Functional])
def test_an_unedited_model_matches_at_every_tap_and_precision(golden_path, checkpoint, port):
    report = checked(golden_path, checkpoint, port, PRECISIONS)
    assert report.verdict == "match", report.introduced
    kinds = {r.tap.rpartition(".")[2] for r in report.results if r.mode == "replay"}
    assert kinds == {name.rpartition(".")[2] for name in report.taps} - CACHE_KINDS
    assert max(r.rel_rms for r in report.results if r.precision == "float64") <= 1e-13


BUGS = {
    "rope": (lambda x, positions, theta: x, {"q_rope", "k_rope"}),
    "rms_norm": (
        lambda x, weight, eps: functions.rms_norm(x, weight, 1e-5),
        {"attn_norm", "mlp_norm", "final_norm"},
    ),
}


@pytest.mark.parametrize("operation", BUGS)
def test_a_planted_bug_is_introduced_where_it_sits(golden_path, checkpoint, operation, monkeypatch):
    wrong, kinds = BUGS[operation]
    monkeypatch.setattr(keras_model, "functions", _With(functions, operation, wrong))
    report = checked(golden_path, checkpoint, Functional, ("float64",), ("replay",))
    assert {r.tap.rpartition(".")[2] for r in report.results if r.verdict == "introduced"} == kinds


class _With:
    """A module with one of its functions replaced."""

    def __init__(self, module, name, value):
        self._module = module
        setattr(self, name, value)

    def __getattr__(self, name):
        return getattr(self._module, name)


def test_weights_in_float32_that_are_computed_with_in_bfloat16_match(golden_path, checkpoint):
    class Mixed(Subclassed):
        policy = "mixed_bfloat16"

    assert checked(golden_path, checkpoint, Mixed, ("bfloat16",)).verdict == "match"


def test_a_model_of_another_compute_dtype_is_said_to_be_one(golden_path, checkpoint):
    class Narrow(Subclassed):
        policy = "bfloat16"

    report = checked(golden_path, checkpoint, Narrow, ("float32",), ("forward",))
    assert report.verdict == "diverged"
    assert any("computes in bfloat16" in note for note in report.notes)


def test_the_layers_have_their_own_call_again_also_after_a_failure(checkpoint):
    port = Subclassed.load(checkpoint, read_config(checkpoint), jnp.float32, None)
    model = port.model
    logits = forward(port)
    assert "call" not in vars(model.blocks[0].attn)
    inputs = {"ids": np.array([[5, 6]]), "positions": np.arange(2)[None], "mask": np.ones((1, 2), bool)}
    assert np.allclose(logits, model(inputs), atol=1e-5)
    port.run = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        port._model(None, None, None)
    assert "call" not in vars(model.blocks[0].attn)


@pytest.mark.parametrize(
    ("path", "message", "found"),
    [
        ("blocks.{i}.attention", "has nothing at a path", "attn, down, gate, input_norm, post_norm, up"),
        ("blocks.{i}.attn.rotate", "has nothing at a path", "key, out, query, rope, softmax, value"),
        ("block.{i}.attn", "has nothing at a path", "block_0, block_1, block_2, block_3, blocks, embedding"),
        ("blocks.{i}.attn.arch", "is no Keras layer", "Architecture"),
        ("blocks", "is no Keras layer", "TrackedList"),
    ],
)
def test_a_path_that_the_model_does_not_have_is_refused_with_what_it_has(checkpoint, path, message, found):
    class Wrong(Subclassed):
        taps = {path: "layers.{i}.attn_out"}

    with pytest.raises(PortError, match=message) as caught:
        Wrong.load(checkpoint, read_config(checkpoint), jnp.float32, None)
    assert found in str(caught.value)


def test_a_result_that_is_not_what_the_row_says_is_refused_in_our_own_words(checkpoint):
    class Wrong(Subclassed):
        taps = {"blocks.{i}.attn[1]": "layers.{i}.attn_out"}

    port = Wrong.load(checkpoint, read_config(checkpoint), jnp.float32, None)
    with pytest.raises(PortError, match="does not return an array"):
        forward(port)


def test_an_operation_of_a_functional_model_has_a_name(checkpoint):
    ids = keras.Input((None,), dtype="int32", name="ids")
    embedded = keras.layers.Embedding(512, 48, name="table")(ids)
    total = keras.ops.add(embedded, embedded)
    model = keras.Model(ids, keras.layers.Dense(512, name="head")(total))

    class Port(KerasPort):
        taps = {model.operations[2].name: "embed"}

        def run(self, model, input_ids, positions, mask):
            return model(input_ids)

    taps, _ = seen(Port(model, read_config(checkpoint), jnp.float32), {"embed": np.zeros((1, 3, 48))})
    assert list(taps) == ["embed"]


@pytest.mark.parametrize(
    ("patched", "message"),
    [({"keras": None}, "cannot be imported"), ({}, "another backend")],
)
def test_without_keras_or_on_another_backend_it_is_refused(checkpoint, monkeypatch, patched, message):
    monkeypatch.setattr(keras.config, "backend", lambda: "tensorflow")
    for name, module in patched.items():
        monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(PortError, match=message) as caught:
        KerasPort(object(), read_config(checkpoint), jnp.float32)
    assert "KERAS_BACKEND=jax" in str(caught.value)


@pytest.mark.parametrize("name", ["Subclassed", "Functional"])
def test_the_table_that_a_person_wrote_is_proposed(golden_path, checkpoint, name):
    found = propose(golden_path, checkpoint, f"{keras_model.__name__}:{name}", "digits", "float32", SILENT)
    assert found.table == getattr(keras_model, name).taps
    assert (found.missing, found.logits) == ((), True)
