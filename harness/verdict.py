"""From results to findings: which operation is wrong, which tap merely inherited it, where it starts.

A verdict is a value. Raising, or exiting with 1, is the caller's choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from harness.comparison import TapResult
from harness.modes import AGREEMENT_MODES

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

    Where two ways of running the same tokens disagree (`AGREEMENT_MODES`), an error that forward sees as well is
    the one that replay has judged. One that it does not see is in the other way, which was never replayed: the
    data flow decides.

    Args:
        results: raw results, all modes together.
        graphs: by case, each recorded tap's nearest recorded inputs (`taps.recorded_inputs`).
    """
    results = tuple(results)
    verdicts = {(r.case, r.precision, r.mode, r.tap): r.verdict for r in results}

    def known(result: TapResult, mode: str, tap: str) -> str | None:
        return verdicts.get((result.case, result.precision, mode, tap))

    def wrong_inputs(result: TapResult, tap: str) -> bool:
        """Whether any of the nearest taps upstream that were compared in this mode is wrong."""
        found = ((name, known(result, result.mode, name)) for name in graphs[result.case].get(tap, ()))
        return any(wrong_inputs(result, name) if v is None else v != "match" for name, v in found)

    def is_inherited(result: TapResult) -> bool:
        if result.mode == "replay":
            return False
        replayed, forward = known(result, "replay", result.tap), known(result, "forward", result.tap)
        unseen = result.mode in AGREEMENT_MODES and replayed == "match" and forward in (None, "match")
        if replayed is None or unseen:
            return wrong_inputs(result, result.tap)
        return replayed == "match"

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
