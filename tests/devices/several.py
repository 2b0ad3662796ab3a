"""Ports for a check in two processes; they compute on the devices of their own process alone."""

from __future__ import annotations

import os
import signal

import jax

from tests.run.ports import Wrapped


class Local(Wrapped):
    """Makes nothing of its mesh."""

    @classmethod
    def load(cls, checkpoint, config, dtype, mesh):
        return super().load(checkpoint, config, dtype, None)


class KilledInTheSecond(Local):
    """As by a kernel that is out of memory."""

    def forward(self, *args):
        if jax.process_index() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(*args)


class RaisesInTheSecond(Local):
    def forward(self, *args):
        if jax.process_index() == 1:
            raise ValueError("no room here")
        return super().forward(*args)


class AnotherInTheSecond(Local):
    """What should be the same in all processes is not."""

    def forward(self, *args):
        logits, cache = super().forward(*args)
        return logits + jax.process_index(), cache
