"""Ports before and after a fix: the built-in decoder with none, one or two planted bugs, or another rounding."""

from __future__ import annotations

from dataclasses import replace

import jax

from harness.errors import PortError
from tests.planted import BUGS, Bug, load_with
from tests.run.ports import Wrapped

BY_NAME = {bug.name: bug for bug in BUGS}
ROPE, BIAS = BY_NAME["rope_only_q"], BY_NAME["v_bias_missing"]


class _Planted:
    bug: Bug

    @classmethod
    def load(cls, checkpoint, config, dtype, mesh):
        return load_with(cls.bug)(checkpoint, config, dtype)


class WrongRope(_Planted):
    bug = ROPE


class WrongBias(_Planted):
    bug = BIAS


class WrongRopeAndBias(_Planted):
    bug = replace(ROPE, weights=BIAS.weights)


class NotJitted(Wrapped):
    """The right port, rounded otherwise: XLA fuses nothing."""

    def forward(self, *args):
        with jax.disable_jit():
            return super().forward(*args)


class Refuses(Wrapped):
    def forward(self, *args):
        raise PortError("not today", where="forward", hint="come back tomorrow")
