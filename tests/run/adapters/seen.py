"""A session without a golden file, and a port's forward pass in it."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

IDS = np.array([[5, 6, 7]])


class Seen:
    """What a port handed over, by tap.

    Args:
        goldens: what goes on in replay, by tap. Other taps are not asked for.
    """

    def __init__(self, goldens, replaying):
        self.replaying, self._goldens, self.taps = replaying, goldens, {}

    def __call__(self, name, value):
        assert name not in self.taps
        self.taps[name] = np.asarray(value)
        return jnp.asarray(self._goldens[name]) if self.replaying and name in self._goldens else value

    def goldens(self, stage):
        parts = {name: name.rpartition(".") for name in self._goldens}
        return {kind: self._goldens[name] for name, (at, _, kind) in parts.items() if at == stage}

    def judge_by(self, rounding):
        pass

    def absorb(self, stage, recorded):
        for kind, value in recorded.items():
            self(f"{stage}.{kind}" if stage else kind, value)


def seen(port, goldens, replaying=False):
    """The taps of a forward pass on three tokens, and the logits."""
    session = Seen(goldens, replaying)
    arguments = jnp.asarray(IDS), jnp.arange(3)[None], jnp.ones((1, 3), bool)
    logits, _ = port.forward(*arguments, None, session)
    return session.taps, np.asarray(logits)
