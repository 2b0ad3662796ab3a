"""From results to findings: which operation is wrong, which tap merely inherited it, where it starts.

A verdict is a value. Raising, or exiting with 1, is the caller's choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from harness.comparison import TapResult

# Verdicts of a port that does not keep its contract: nothing could be compared there.
BROKEN = ("missing", "extra", "shape", "dtype", "nonfinite")

Graph = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Divergence:
    """The first tap, in data-flow order, that is wrong, and the case that shows it most."""

    tap: str
    case: str
    precision: str


def judge(results: Iterable[TapResult], graphs: Mapping[str, Graph]) -> tuple[TapResult, ...]:
    """Turn every `diverged` into `introduced` or `inherited`.

    Replay decides: what is wrong even on golden inputs is introduced there. A forward error at a tap that
    replays cleanly is inherited. Without replay, the data flow decides: wrong with only matching inputs
    is introduced; anything further downstream cannot be told apart and is called inherited.

    Args:
        results: raw results, all modes together.
        graphs: by case, each recorded tap's nearest recorded inputs (`taps.recorded_inputs`).
    """
    results = tuple(results)
    verdicts = {(r.case, r.precision, r.mode, r.tap): r.verdict for r in results}

    def is_inherited(result: TapResult) -> bool:
        if result.mode == "replay":
            return False
        replayed = verdicts.get((result.case, result.precision, "replay", result.tap))
        if replayed is not None:
            return replayed == "match"
        inputs = graphs[result.case].get(result.tap, ())
        return any(
            verdicts.get((result.case, result.precision, result.mode, name), "match") != "match" for name in inputs
        )

    def judged(result: TapResult) -> TapResult:
        if result.verdict not in ("diverged", "nonfinite"):
            return result
        if is_inherited(result):
            return replace(result, verdict="inherited")
        return replace(result, verdict="introduced") if result.verdict == "diverged" else result

    return tuple(judged(result) for result in results)


def introduced(results: Iterable[TapResult], order: Sequence[str]) -> tuple[str, ...]:
    """The taps that are wrong on their own, in data-flow order."""
    found = {r.tap for r in results if r.verdict in ("introduced", "nonfinite")}
    return tuple(name for name in order if name in found)


def first_divergence(results: Iterable[TapResult], order: Sequence[str]) -> Divergence | None:
    """Where it starts: introduced before inherited, then data-flow order, then the largest multiple."""
    place = {name: index for index, name in enumerate(order)}
    wrong = [r for r in results if r.verdict != "match"]
    if not wrong:
        return None
    first = min(
        wrong,
        key=lambda r: (
            r.verdict == "inherited",
            place.get(r.tap, len(place)),
            -(float("inf") if r.rms_multiple is None else r.rms_multiple),
        ),
    )
    return Divergence(first.tap, first.case, first.precision)


def overall(results: Sequence[TapResult]) -> Literal["match", "diverged"]:
    """`match` or `diverged`; nothing compared is not a pass."""
    matched = bool(results) and all(result.verdict == "match" for result in results)
    return "match" if matched else "diverged"
