"""Trials and failures by claim: an answer, or a refusal in few words, in bounded time and memory."""

from __future__ import annotations

import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy
from rich.console import Console
from rich.table import Table

from harness.errors import HarnessError

SECONDS, KIBIBYTES, CHARACTERS = 10, 500 * 1024, 5000


class TooLong(BaseException):
    """A trial has run for longer than it may."""


class BrokenClaimError(AssertionError):
    """A trial ended in a way that the claim excludes."""


@dataclass(frozen=True)
class Tried:
    """What a claim is tried on.

    Attributes:
        inputs: drawn at random; or all there are, of which as many as were asked for are tried, evenly spread.
        action: returns where the claim holds; where the input was refused, it returns True or raises HarnessError.
        share: of the trials that were asked for.
        seconds: that one trial may take.
    """

    name: str
    inputs: SearchStrategy[Any] | Sequence[Any]
    action: Callable[[Any], bool | None]
    share: float = 1.0
    seconds: int = SECONDS


@dataclass
class Claim:
    """What is claimed, and how often it was tried."""

    name: str
    trials: int = 0
    refused: int = 0
    slowest: float = 0.0
    failures: list[str] = field(default_factory=list)


@dataclass
class Campaign:
    """The claims of one run.

    Attributes:
        until: the time, as `time.monotonic` has it, after which nothing is tried any more.
    """

    trials: int
    seed: int
    until: float
    claims: list[Claim] = field(default_factory=list)

    def run(self, part: Sequence[Tried]) -> None:
        """Try claims one after the other; each has an equal part of the time that is left."""
        for number, tried in enumerate(part):
            left = self.until - time.monotonic()
            self.try_all(tried, time.monotonic() + left / (len(part) - number))

    def try_all(self, tried: Tried, until: float = float("inf")) -> Claim:
        """Try a claim on as many inputs as were asked for."""
        claim = Claim(tried.name)
        self.claims.append(claim)
        until, trials = min(until, self.until), max(1, round(self.trials * tried.share))

        def once(value: Any) -> None:
            if time.monotonic() < until:
                attempt(claim, lambda: tried.action(value), value, tried.seconds)

        if not isinstance(tried.inputs, SearchStrategy):
            every = len(tried.inputs)
            for index in np.unique(np.linspace(0, every - 1, min(trials, every)).astype(int)):
                once(tried.inputs[index])
            return claim
        quiet = settings(
            max_examples=trials,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        seed(self.seed)(quiet(given(tried.inputs)(once)))()
        return claim

    def show(self, console: Console) -> None:
        """The table, and what failed."""
        table = Table("claim", "trials", "refused", "slowest", "failures")
        for claim in self.claims:
            row = (f"{claim.trials:,}", f"{claim.refused:,}", f"{claim.slowest:.1f} s", f"{len(claim.failures):,}")
            table.add_row(claim.name, *row)
        console.print(table)
        for claim in self.claims:
            for text in claim.failures[:5]:
                console.print(f"{claim.name}: {text}", markup=False, highlight=False)

    @property
    def failures(self) -> int:
        return sum(len(claim.failures) for claim in self.claims)


def attempt(claim: Claim, action: Callable[[], bool | None], value: object, seconds: int = SECONDS) -> None:
    """One trial, counted."""
    claim.trials += 1
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with bounded(seconds):
            claim.refused += bool(action())
    except HarnessError as refusal:
        claim.refused += 1
        if len(str(refusal)) > CHARACTERS:
            claim.failures.append(f"a message of {len(str(refusal)):,} characters: {str(refusal)[:200]}")
        if not refusal.hint:
            claim.failures.append(f"no hint: {refusal}")
    except TooLong:
        claim.failures.append(f"longer than {seconds} s: {_short(value)}")
    except KeyboardInterrupt:
        raise
    except BaseException:
        claim.failures.append(f"{traceback.format_exc(limit=-3)[-1500:]}\n{_short(value)}")
    claim.slowest = max(claim.slowest, time.monotonic() - started)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if grown > KIBIBYTES:
        claim.failures.append(f"memory grew by {grown:,} KiB: {_short(value)}")


@contextmanager
def bounded(seconds: int) -> Iterator[None]:
    """Raise TooLong where the block takes longer; in the main thread alone."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 600 else f"{text[:600]}..."
