"""Ports before and after a fix: the built-in decoder with none, one or two planted bugs, or another rounding."""

from __future__ import annotations

import jax

from harness.errors import PortError
from harness.mutants.catalogue import CATALOGUE
from harness.mutants.mutant import Mutant
from harness.mutants.planting import load_mutants
from tests.run.ports import Wrapped

BY_ID = {mutant.id: mutant for mutant in CATALOGUE}
ROPE, BIAS = BY_ID["rope_missing_on_keys"], BY_ID["v_bias_missing"]


class _Planted:
    mutants: tuple[Mutant, ...]

    @classmethod
    def load(cls, checkpoint, config, dtype, mesh):
        return load_mutants(cls.mutants, checkpoint, config, dtype)


class WrongRope(_Planted):
    mutants = (ROPE,)


class WrongBias(_Planted):
    mutants = (BIAS,)


class WrongRopeAndBias(_Planted):
    mutants = (ROPE, BIAS)


class NotJitted(Wrapped):
    """The right port, rounded otherwise: XLA fuses nothing."""

    def forward(self, *args):
        with jax.disable_jit():
            return super().forward(*args)


class Refuses(Wrapped):
    def forward(self, *args):
        raise PortError("not today", where="forward", hint="come back tomorrow")
