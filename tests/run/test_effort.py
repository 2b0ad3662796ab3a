"""The built-in decoder is compiled quickly where that saves time, and computes the same."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.architecture import architecture_of, read_config
from harness.run import decoder
from harness.run.check import check
from harness.run.decoder import Decoder
from harness.run.padding import FEW, QUICKLY, are_known, elements, is_small
from harness.run.port import Call
from harness.run.question import Question
from harness.run.tapping import no_tap
from tests.store.small_golden import CONFIG

REAL = {"hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14, "num_key_value_heads": 2}
REAL |= {"num_hidden_layers": 24, "vocab_size": 151_936}


def call(tokens, keys=None, batch=1):
    ids = jnp.zeros((batch, tokens), jnp.int32)
    return Call(ids, ids, jnp.ones((batch, keys or tokens), bool), None, no_tap)


@pytest.mark.parametrize(
    ("config", "given", "small"),
    [
        ({}, call(600), True),
        ({}, call(1, 600), True),
        ({}, call(3000), False),  # its probabilities
        ({}, call(1, 3000, batch=4), True),
        (REAL, call(1), False),  # its weights
    ],
)
def test_what_is_small_goes_by_tokens_keys_and_weights(config, given, small):
    assert is_small(architecture_of({**CONFIG, **config}), given) is small


def test_the_elements_of_a_pass_are_those_of_its_weights_and_activations():
    # hidden 6, 3 heads of 2, 1 KV head, intermediate 10, 2 layers
    weights = 6 * 6 + 2 * 6 * 2 + 6 * 6 + 3 * 6 * 10
    assert elements(architecture_of(CONFIG), 5, 7) == 2 * (weights + 5 * (6 + 10 + 3 * 7))


def test_within_another_program_nothing_is_compiled_by_itself(checkpoint):
    port = Decoder.load(checkpoint, read_config(checkpoint), jnp.dtype("float32"))
    ids = jnp.arange(4, dtype=jnp.int32)[None]
    mask = jnp.ones((1, 4), bool)
    whole = jax.jit(lambda ids: port.forward(ids, ids, mask, None, no_tap)[0])
    assert np.allclose(whole(ids), port.forward(ids, ids, mask, None, no_tap)[0], atol=1e-4)


@pytest.mark.parametrize("few", [FEW, 0])
def test_both_ways_match_and_each_is_taken(golden_path, monkeypatch, few):
    taken = []

    def seen(*args):
        taken.append(is_small(*args))
        return taken[-1]

    monkeypatch.setattr("harness.run.padding.FEW", few)
    monkeypatch.setattr(decoder, "is_small", seen)
    report = check(golden_path, None, question=Question(precisions=("float32", "bfloat16"), cases=("digits",)))
    assert report.verdict == "match", report.introduced
    assert set(taken) == {few > 0}


def test_the_options_are_those_of_the_compiler_and_one_that_it_does_not_know_is_noticed():
    assert float(jax.jit(lambda x: x + 1, compiler_options=QUICKLY)(1.0)) == 2.0
    with pytest.raises(Exception, match="No such compile option"):
        jax.jit(lambda x: x + 2, compiler_options={**QUICKLY, "xla_cpu_no_such_option": True})(1.0)


def test_a_compiler_without_these_options_is_not_given_them(monkeypatch):
    """They are XLA's own, and another version may not have them."""
    assert are_known(tuple(QUICKLY.items()))
    monkeypatch.setitem(QUICKLY, "xla_cpu_no_such_option", True)
    assert not is_small(architecture_of(CONFIG), call(4))


def test_where_only_constants_are_traced_nothing_is_compiled_by_itself_either():
    """As precision settings are looked for: nothing of the input is an argument of the trace."""
    found = []
    jax.make_jaxpr(lambda: found.append(is_small(architecture_of(CONFIG), call(4))) or jnp.ones(()))()
    assert found == [False] and is_small(architecture_of(CONFIG), call(4))
