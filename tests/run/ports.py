"""Ports that break their contract, each in one way."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from harness.run.decoder import Decoder


class Wrapped:
    """The built-in decoder as a foreign port: plain `forward`, no `forward_sequences`."""

    def __init__(self, inner):
        self._inner = inner

    @classmethod
    def load(cls, checkpoint, config, dtype, mesh):
        return cls(Decoder.load(checkpoint, config, dtype, mesh))

    def forward(self, input_ids, positions, mask, cache, tap):
        return self._inner.forward(input_ids, positions, mask, cache, tap)


class LayerMajor(Wrapped):
    """The built-in decoder as it is: every case is pushed through a layer before the next one is loaded."""

    def forward_sequences(self, sequences):
        return self._inner.forward_sequences(sequences)


class ForgetsACase(LayerMajor):
    def forward_sequences(self, sequences):
        return super().forward_sequences(sequences)[:-1]


class RaisesInLoad(Wrapped):
    @classmethod
    def load(cls, checkpoint, config, dtype, mesh):
        raise ValueError("no such layer")


class RaisesInForward(Wrapped):
    def forward(self, input_ids, positions, mask, cache, tap):
        return jnp.zeros(3) @ jnp.zeros(4), None


class NoForward:
    @classmethod
    def load(cls, checkpoint, config, dtype, mesh):
        return object()


class NoLoad:
    pass


class ReturnsLogitsAlone(Wrapped):
    def forward(self, *args):
        return super().forward(*args)[0]


class CutsTheVocabulary(Wrapped):
    def forward(self, *args):
        logits, cache = super().forward(*args)
        return logits[..., :-8], cache


class LogitsInHalfPrecision(Wrapped):
    def forward(self, *args):
        logits, cache = super().forward(*args)
        return logits.astype(jnp.float16), cache


class DeclaredHalfPrecision(LogitsInHalfPrecision):
    dtypes = {"logits": "float16"}


class _Hiding:
    """A tap that never passes one kind on."""

    def __init__(self, tap, kind):
        self._tap, self._kind, self.replaying = tap, kind, tap.replaying

    def __call__(self, name, value):
        return self._tap(name, value)

    def goldens(self, stage):
        return {k: v for k, v in self._tap.goldens(stage).items() if k != self._kind}

    def judge_by(self, rounding):
        self._tap.judge_by(rounding)

    def absorb(self, stage, recorded):
        self._tap.absorb(stage, recorded)


class ForgetsProbs(Wrapped):
    def forward(self, input_ids, positions, mask, cache, tap):
        return super().forward(input_ids, positions, mask, cache, _Hiding(tap, "probs"))


class DeclaresNoProbs(ForgetsProbs):
    without = ("probs",)


class DeclaresNonsense(Wrapped):
    without = ("attention",)


class InventsATap(Wrapped):
    def forward(self, input_ids, positions, mask, cache, tap):
        tap("layers.0.scores", jnp.zeros((1, 2)))
        return super().forward(input_ids, positions, mask, cache, tap)


class TapsTwice(Wrapped):
    def forward(self, input_ids, positions, mask, cache, tap):
        logits, cache = super().forward(input_ids, positions, mask, cache, tap)
        return tap("embed", logits), cache


class TapsInsideItsOwnJit(Wrapped):
    def forward(self, input_ids, positions, mask, cache, tap):
        jax.jit(lambda x: tap("embed", x))(jnp.zeros((1, 3, 48)))
        raise AssertionError("not reached")


class YieldsNan(Wrapped):
    def forward(self, *args):
        logits, cache = super().forward(*args)
        return logits.at[0, -1, 5].set(jnp.nan), cache
