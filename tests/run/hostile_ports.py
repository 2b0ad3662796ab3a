"""Ports that do what no port should: end the process, print, interrupt, wrap what the harness raises."""

from __future__ import annotations

import os
import signal
import sys

from tests.run.ports import Wrapped


class ExitsInLoad(Wrapped):
    @classmethod
    def load(cls, *args):
        sys.exit(0)


class ExitsInForward(Wrapped):
    def forward(self, *args):
        raise SystemExit(0)


class ExitsWithoutAsking(Wrapped):
    def forward(self, *args):
        os._exit(0)


class ExitsInInitCache(Wrapped):
    def init_cache(self, batch, length, dtype):
        sys.exit(0)


class ExitsInItsDeclarations(Wrapped):
    @property
    def without(self):
        sys.exit(0)


class InterruptsInForward(Wrapped):
    def forward(self, *args):
        raise KeyboardInterrupt


class SkipsItself(Wrapped):
    def forward(self, *args):
        import pytest

        pytest.skip("no need to look")


class IsInterrupted(Wrapped):
    """Somebody presses Ctrl-C while it runs."""

    def forward(self, *args):
        signal.raise_signal(signal.SIGINT)
        return super().forward(*args)


class SwallowsTheInterrupt(IsInterrupted):
    def forward(self, *args):
        try:
            return super().forward(*args)
        except BaseException:
            sys.exit(0)


class WrapsWhatTheHarnessRaises(Wrapped):
    def forward(self, input_ids, positions, mask, cache, tap):
        try:
            logits, cache = super().forward(input_ids, positions, mask, cache, tap)
            return tap("embed", logits), cache
        except Exception as error:
            raise RuntimeError("something went wrong in my model") from error


class RaisesALongMessage(Wrapped):
    def forward(self, *args):
        raise ValueError("x" * 300_000)


class RaisesWhatCannotBeShown(Wrapped):
    def forward(self, *args):
        class UnspeakableError(Exception):
            def __str__(self):
                raise RuntimeError("no words")

        raise UnspeakableError


class InventsALongName(Wrapped):
    def forward(self, input_ids, positions, mask, cache, tap):
        tap("x" * 300_000, input_ids)
        return super().forward(input_ids, positions, mask, cache, tap)


class ComparesNothing(Wrapped):
    """It exposes nothing at all."""

    @property
    def without(self):
        from harness.taps import DIMS

        return tuple(DIMS)


class Prints(Wrapped):
    def forward(self, *args):
        print("hello from Python")  # noqa: T201
        os.write(1, b"hello from below\n")
        return super().forward(*args)
