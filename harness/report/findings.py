"""What a report says in words: the introduced taps, gathered by operation, with their evidence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.comparison import TapResult
from harness.report.document import Report
from harness.taps import kind_of

CLEAN_POSITION_TEXT = "position 0 is clean"
GROWTH_P = 0.01
# "x PyTorch's own float32 error" says more to a person than half-ulps of float64 do.
READABLE = "float32"


@dataclass(frozen=True)
class Finding:
    """One operation that is wrong, in however many layers.

    Attributes:
        kind: the tap without its layer.
        taps: the taps of that kind that are introduced, in data-flow order.
        layers: in how many layers the kind exists at all (0 for embed, final_norm, logits).
        precisions: where it shows.
        worst: the result with the largest multiple, in float32 where it shows there.
        matched: the taps that feed the first of them and matched there.
        evidence: what the positions say.
    """

    kind: str
    taps: tuple[str, ...]
    layers: int
    precisions: tuple[str, ...]
    worst: TapResult
    matched: tuple[str, ...]
    evidence: tuple[str, ...]


def findings(report: Report) -> tuple[Finding, ...]:
    """One finding per kind of introduced tap, in data-flow order."""
    wrong = [r for r in report.results if r.verdict in ("introduced", "nonfinite")]
    kinds = dict.fromkeys(kind_of(tap) for tap in report.introduced)
    return tuple(_finding(report, kind, [r for r in wrong if kind_of(r.tap) == kind]) for kind in kinds)


def _finding(report: Report, kind: str, results: Sequence[TapResult]) -> Finding:
    # Replay speaks about the operation alone; forward figures hold what came in from upstream as well.
    results = [r for r in results if r.mode == "replay"] or results
    taps = tuple(tap for tap in report.introduced if kind_of(tap) == kind)
    worst = max(results, key=lambda r: (r.precision == READABLE, multiple(r)))
    return Finding(
        kind=kind,
        taps=taps,
        layers=sum(kind_of(name) == kind for name in report.taps if name.startswith("layers.")),
        precisions=tuple(dict.fromkeys(r.precision for r in results)),
        worst=worst,
        matched=_matched_inputs(report, taps[0], worst),
        evidence=tuple(_evidence(report, kind, results)),
    )


def _matched_inputs(report: Report, tap: str, like: TapResult) -> tuple[str, ...]:
    matched = {
        r.tap
        for r in report.results
        if (r.case, r.precision, r.mode, r.verdict) == (like.case, like.precision, like.mode, "match")
    }
    return tuple(name for name in report.taps.get(tap, ()) if name in matched)


def _evidence(report: Report, kind: str, results: Sequence[TapResult]) -> Iterable[str]:
    """What the positions rule in or out. Each sentence rests on results of this kind alone."""
    limits = report.limits
    several = [r for r in results if len(r.profile) > 1]
    if several and all(r.profile[0] is not None and r.profile[0] <= limits[r.precision].rms for r in several):
        yield f"{CLEAN_POSITION_TEXT} in every case"
    same = {(r.precision, r.mode) for r in results}
    single = [
        r
        for r in report.results
        if kind_of(r.tap) == kind and len(r.profile) == 1 and (r.precision, r.mode) in same
    ]
    if single and all(r.verdict in ("match", "inherited") for r in single):
        yield "every single-token case is clean: rotation by 0 and a softmax over one key change nothing"
    growing = [r for r in several if r.growth_p is not None]
    if growing and sum(r.growth_p < GROWTH_P for r in growing if r.growth_p is not None) > len(growing) / 2:
        yield f"the error grows with position (permutation test, p < {GROWTH_P:g} in most cases)"


def multiple(result: TapResult) -> float:
    """The rms multiple for ranking: what is not finite ranks highest."""
    return float("inf") if result.rms_multiple is None else result.rms_multiple


def largest_of(values: Iterable[float | None]) -> float | None:
    """The largest of some figures; None where one of them is not finite, or there are none."""
    found = list(values)
    return None if any(v is None for v in found) else max((v for v in found if v is not None), default=None)
