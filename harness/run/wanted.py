"""Which taps of a case a port has to hand over, and which of them span several operations in it."""

from __future__ import annotations

from harness.golden import CaseEntry
from harness.run.port import Declarations
from harness.run.source import GoldenSource
from harness.taps import Tap, recorded_inputs


def wanted_taps(source: GoldenSource, case: CaseEntry, declared: Declarations) -> dict[str, Tap]:
    """The taps of a case that the port has to hand over."""
    return {n: source.taps[n] for n in case.taps if source.taps[n].kind not in declared.without}


def spanning(source: GoldenSource, case: CaseEntry, declared: Declarations) -> frozenset[str]:
    """Taps that span several recorded operations in this port, since taps between are not exposed or not replaced.

    Their replay error is the rounding of all those operations; PyTorch's replay noise is of the last one alone.
    The forward noise, rounding gathered from the first layer on, is the recorded figure that holds them all.
    """
    if not declared.own:
        return frozenset()
    inputs = recorded_inputs(tuple(source.taps.values()), case.taps)
    return frozenset(tap for tap in case.taps if any(source.taps[n].kind in declared.own for n in inputs[tap]))
