from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.architecture import read_config
from harness.run.decoder import Decoder
from harness.run.padding import PaddedSession, padded_length
from harness.run.tapping import no_tap


@pytest.mark.parametrize(
    ("length", "padded"), [(1, 1), (2, 8), (8, 8), (9, 64), (65, 128), (128, 128), (129, 256), (628, 1024)]
)
def test_lengths_are_padded_to_few(length, padded):
    assert padded_length(length) == padded


class Session:
    replaying = True

    def __init__(self):
        self.seen = {}

    def __call__(self, name, value):
        return value

    def goldens(self, stage):
        return {"probs": np.ones((1, 2, 3, 3)), "q": np.ones((1, 3, 2, 4)), "final_norm": np.ones((1, 3, 5))}

    def judge_by(self, rounding):
        raise AssertionError("nothing is lifted here")

    def absorb(self, stage, recorded):
        self.seen = {kind: value.shape for kind, value in recorded.items()}


def test_goldens_are_widened_along_positions_and_keys_and_values_cut_back():
    session = Session()
    padded = PaddedSession(session, 3, 8)
    wide = padded.goldens("layers.0")
    assert {kind: value.shape for kind, value in wide.items()} == {
        "probs": (1, 2, 8, 8),
        "q": (1, 8, 2, 4),
        "final_norm": (1, 8, 5),
    }
    padded.absorb("layers.0", wide)
    assert session.seen == {kind: value.shape for kind, value in session.goldens("layers.0").items()}


def test_a_wrong_shape_is_still_a_wrong_shape_after_cutting():
    session = Session()
    padded = PaddedSession(session, 3, 8)
    padded.absorb("layers.0", {"q": np.ones((1, 8, 8)), "probs": np.ones((1, 5, 8, 8)), "invented": np.ones(2)})
    assert session.seen == {"q": (1, 8, 8), "probs": (1, 5, 3, 3), "invented": (2,)}


class Unrecorded(Session):
    replaying = False

    def goldens(self, stage):
        return {}


def test_padding_does_not_reach_the_logits(checkpoint):
    """The same tokens, padded in a check and as they are outside one: equal to float64 rounding."""
    ids = np.arange(5, dtype=np.int32)[None] + 40
    with jax.enable_x64(True):
        decoder = Decoder.load(checkpoint, read_config(checkpoint), jnp.dtype("float64"))

        def logits(tap):
            positions, mask = jnp.arange(5, dtype=jnp.int32)[None], jnp.ones((1, 5), bool)
            return np.asarray(decoder.forward(jnp.asarray(ids), positions, mask, None, tap)[0])

        padded, plain = logits(Unrecorded()), logits(no_tap)
    assert padded.shape == plain.shape == (1, 5, 608)
    np.testing.assert_allclose(padded, plain, atol=1e-13)


def test_outside_a_check_the_decoder_can_be_jitted_as_a_whole(checkpoint):
    decoder = Decoder.load(checkpoint, read_config(checkpoint), jnp.dtype("float32"))
    positions, mask = jnp.arange(5, dtype=jnp.int32)[None], jnp.ones((1, 5), bool)
    forward = jax.jit(lambda ids: decoder.forward(ids, positions, mask, None, no_tap)[0])
    assert forward(jnp.zeros((1, 5), jnp.int32)).shape == (1, 5, 608)


def test_padding_is_not_pinned():
    class Routed(Session):
        replaying = False

        def goldens(self, stage):
            return {"routing": np.ones((1, 3, 4), np.float32)}

    wide = PaddedSession(Routed(), 3, 8).goldens("layers.0")["routing"]
    assert wide.shape == (1, 8, 4)
    assert (wide[:, :3] == 1).all() and np.isnan(wide[:, 3:]).all()
