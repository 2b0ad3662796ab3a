"""What of a golden a port can be checked on: the rest is named, with the reason, and never counts as passed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.errors import PortError
from harness.golden import CaseEntry
from harness.run.port import Declarations, Port
from harness.run.source import GoldenSource
from harness.taps import FULL_KINDS, Tap, recorded_inputs


class NotCovered(PortError):  # noqa: N818 - an outcome: a test of such a case is skipped
    """The port can run none of the cases that were asked for.

    Attributes:
        reasons: what it lacks, one line a reason.
    """

    def __init__(self, cases: Sequence[CaseEntry], reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__(
            "the port can run none of the cases that were asked for",
            where=", ".join(case.name for case in cases),
            found="; ".join(reasons),
            hint="ask for other cases (--case), or give the port what it lacks: see harness/run/port.py",
        )


def covered(cases: Sequence[CaseEntry], port: Port, declared: Declarations) -> tuple[CaseEntry, ...]:
    """The cases that the port can run.

    Raises:
        NotCovered: none of them.
    """
    left = tuple(case for case in cases if obstacle(case, port, declared) is None)
    if cases and not left:
        raise NotCovered(cases, tuple(uncovered(cases, port, declared)))
    return left


def uncovered(cases: Sequence[CaseEntry], port: Port, declared: Declarations) -> Iterator[str]:
    """One line for each reason why cases, or their replay, are left out."""
    reasons: dict[str, list[str]] = {}
    for case in cases:
        reason = obstacle(case, port, declared)
        if reason is not None:
            reasons.setdefault(reason, []).append(case.name)
        elif not replayable(case, declared):
            reasons.setdefault("replay: what attention reads at positions that are not stored", []).append(
                case.name
            )
    for reason, names in reasons.items():
        yield f"{reason}: {', '.join(names)}"
    for case in cases:
        if case.kept and obstacle(case, port, declared) is None:
            yield f"positions of {case.name} beside the {len(case.kept)} of {case.shape[1]} that are stored"


def replayable(case: CaseEntry, declared: Declarations) -> bool:
    """Whether replay judges operations on golden inputs alone: attention reads all positions, stored or not."""
    if not case.kept or case.level == "logits":
        return True
    return case.level == "ops" and not FULL_KINDS & {*declared.without, *declared.recorded_only}


def obstacle(case: CaseEntry, port: Port, declared: Declarations) -> str | None:
    """Why the port cannot run a case; None where it can."""
    if case.kind in declared.cannot:
        return f"{case.kind} cases, which the port declares that it does not take"
    if case.cached and not callable(getattr(port, "init_cache", None)):
        return "cases with a KV cache, which the port does not have (init_cache)"
    return None


def wanted_taps(source: GoldenSource, case: CaseEntry, declared: Declarations) -> dict[str, Tap]:
    """The taps of a case that the port has to hand over."""
    return {n: source.taps[n] for n in case.taps if source.taps[n].kind not in declared.without}


def spanning(source: GoldenSource, case: CaseEntry, declared: Declarations) -> frozenset[str]:
    """Taps that span several recorded operations in this port, since taps between are not exposed or not replaced.

    Their replay error is the rounding of all those operations; PyTorch's replay noise is of the last one alone.
    The forward noise, rounding gathered from the first layer on, is the recorded figure that holds them all.
    """
    unreplaced = {*declared.without, *declared.recorded_only}
    if not unreplaced:
        return frozenset()
    inputs = recorded_inputs(tuple(source.taps.values()), case.taps)
    return frozenset(tap for tap in case.taps if any(source.taps[n].kind in unreplaced for n in inputs[tap]))
