"""What a report says in words: the introduced taps, gathered by operation, with their evidence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.report.agreement import call_evidence
from harness.report.document import Report
from harness.report.summary import READABLE
from harness.results import TapResult
from harness.taps import CACHE_KINDS, kind_of
from harness.verdict import explained, was_compared

CLEAN_POSITION_TEXT = "position 0 is clean"
GROWTH_P = 0.01
TOKEN_IDS = ("the token ids",)  # all that is upstream where a case recorded nothing else


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
        since: where what feeds it was not compared in any case that shows it, the taps before that: the operation
            may be any one in between.
    """

    kind: str
    taps: tuple[str, ...]
    layers: int
    precisions: tuple[str, ...]
    worst: TapResult
    matched: tuple[str, ...]
    evidence: tuple[str, ...]
    since: tuple[str, ...] = ()

    @property
    def located(self) -> bool:
        """Whether anything upstream was replaced or compared, so that the taps say where it is."""
        return self.since != TOKEN_IDS


def findings(report: Report) -> tuple[Finding, ...]:
    """One finding per kind of introduced tap, in data-flow order; those that name no single operation come last.

    Such a one is `resid_post` in a case that recorded the residual stream only: the whole layer is in it.
    """
    wrong = [r for r in report.results if r.verdict in ("introduced", "nonfinite")]
    kinds = dict.fromkeys(kind_of(tap) for tap in report.introduced)
    by_kind = [_finding(report, kind, [r for r in wrong if kind_of(r.tap) == kind]) for kind in kinds]
    return tuple(sorted(by_kind, key=lambda finding: bool(finding.since)))


def unexplained(report: Report) -> tuple[Finding, ...]:
    """The findings but for those that one sentence says: a model that computes in a narrower dtype everywhere."""
    rounding = explained(report.narrower)
    return tuple(
        finding
        for finding in findings(report)
        if finding.worst.verdict == "nonfinite"
        or not all(finding.kind in rounding.get(precision, ()) for precision in finding.precisions)
    )


def worst_first(report: Report) -> tuple[Finding, ...]:
    """The same by how far they are beyond their limit; those that name no single operation come last."""
    return tuple(sorted(unexplained(report), key=lambda f: (bool(f.since), -f.worst.share)))


def _finding(report: Report, kind: str, results: Sequence[TapResult]) -> Finding:
    # Replay speaks about the operation alone; forward figures hold what came in from upstream as well.
    # How two ways of running the same tokens differ says which operation it is only where nothing else does.
    results = next(
        filter(None, ([r for r in results if r.mode == mode] for mode in ("replay", "forward"))), results
    )
    # Where its inputs were compared, a tap names its operation; elsewhere everything since the last one is in it.
    compared = _compared(report)
    results = [r for r in results if _names_operation(report, compared, r)] or results
    taps = tuple(tap for tap in report.introduced if kind_of(tap) == kind)
    worst = max(results, key=lambda r: (r.precision == READABLE, r.share))
    alike = _names_operation(report, compared, results[0])
    peers = [
        r for r in report.results if kind_of(r.tap) == kind and _names_operation(report, compared, r) == alike
    ]
    return Finding(
        kind=kind,
        taps=taps,
        layers=sum(kind_of(name) == kind for name in report.taps if name.startswith("layers.")),
        precisions=tuple(dict.fromkeys(r.precision for r in results)),
        worst=worst,
        matched=_matched_inputs(report, taps[0], worst),
        evidence=tuple(_evidence(report, peers, results)),
        since=() if alike else _nearest_compared(report, results[0].tap, compared.get(results[0].case, set())),
    )


def _compared(report: Report) -> dict[str, set[str]]:
    """By case, the taps that were compared."""
    compared: dict[str, set[str]] = {}
    for r in report.results:
        if was_compared(r):
            compared.setdefault(r.case, set()).add(r.tap)
    return compared


def _names_operation(report: Report, compared: Mapping[str, set[str]], result: TapResult) -> bool:
    """Whether all that feeds a tap was compared; in a case of one call no cache comes in between."""
    feeds = report.taps.get(result.tap, ())
    if not result.calls:
        feeds = tuple(
            name for tap in feeds for name in (report.taps.get(tap, ()) if kind_of(tap) in CACHE_KINDS else (tap,))
        )
    return compared.get(result.case, set()).issuperset(feeds)


def _nearest_compared(report: Report, tap: str, compared: set[str]) -> tuple[str, ...]:
    """The nearest taps upstream that were compared, in data-flow order."""
    nearest: set[str] = set()
    waiting = list(report.taps.get(tap, ()))
    while waiting:
        name = waiting.pop()
        if name in compared:
            nearest.add(name)
        else:
            waiting += report.taps.get(name, ())
    return tuple(name for name in report.taps if name in nearest) or TOKEN_IDS


def _matched_inputs(report: Report, tap: str, like: TapResult) -> tuple[str, ...]:
    verdicts = {
        r.tap: r.verdict
        for r in report.results
        if (r.case, r.precision, r.mode) == (like.case, like.precision, like.mode)
    }
    return tuple(name for name in _nearest_compared(report, tap, set(verdicts)) if verdicts.get(name) == "match")


def _evidence(report: Report, peers: Sequence[TapResult], results: Sequence[TapResult]) -> Iterable[str]:
    """What the positions rule in or out. Each sentence rests on results of this kind alone, wrong or right."""
    several = [r for r in results if len(r.profile) > 1]
    if several and all(_clean_at_0(r) for r in results):
        yield f"{CLEAN_POSITION_TEXT} in every case"
    same = {(r.precision, r.mode) for r in results}
    single = [r for r in peers if len(r.profile) == 1 and (r.precision, r.mode) in same]
    if single and all(r.verdict in ("match", "inherited") for r in single):
        yield "every single-token case is clean: rotation by 0 and a softmax over one key change nothing"
    yield from call_evidence(results)
    growing = [r for r in several if r.growth_p is not None]
    if growing and sum(r.growth_p < GROWTH_P for r in growing if r.growth_p is not None) > len(growing) / 2:
        yield f"the error grows with position (permutation test, p < {GROWTH_P:g} in most cases)"


def _clean_at_0(result: TapResult) -> bool:
    first, limit = next(zip(result.profile, result.limits, strict=True), (None, None))
    return first is not None and limit is not None and first <= limit
