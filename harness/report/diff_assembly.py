"""Two checks -> their diff."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from harness.difference import NOISE, STATUSES, Change, compare_results, crosses, verdict_of
from harness.report import diff_document as document
from harness.report.choices import by_mode, figures
from harness.report.criteria import acceptance, criteria_of_both
from harness.report.diff_document import Counts, Diff, LogitFigures
from harness.report.document import Criteria
from harness.report.pairing import Candidate, pair
from harness.report.summary import forward_logits, grouped, logit_summary
from harness.report.wording import counted
from harness.results import TapResult, is_wrong
from harness.taps import kind_of
from harness.verdict import first_divergence, introduced, overall


def diff(before: Candidate, after: Candidate, *, intersection: bool = False) -> Diff:
    """What changed from one check to another.

    Args:
        intersection: where only one side was asked something, leave it out and name it, instead of refusing.

    Raises:
        UsageError: the two cannot be compared (see `harness.report.pairing.pair`).
    """
    both = pair(before, after, intersection)
    report = after.report
    precisions = dict.fromkeys(result.precision for result in both.after)
    limits = {precision: report.limits[precision] for precision in precisions}
    order = {name: place for place, name in enumerate(report.taps)}
    changes = sorted(
        compare_results(both.before, both.after, limits), key=lambda change: order.get(change.tap, len(order))
    )
    kinds = dict.fromkeys([*map(kind_of, report.taps), *(kind_of(change.tap) for change in changes)])
    counts, criteria = _counts(changes), criteria_of_both(before.report, report)
    return Diff(
        schema=1,
        kind="diff",
        golden=report.golden,
        before=_side(before, both.before, criteria),
        after=_side(after, both.after, criteria),
        verdict=verdict_of(counts),
        notes=tuple(_notes(before, after, changes)),
        left_out=both.left_out,
        limits=limits,
        taps=report.taps,
        counts=counts,
        operations=_tallies(changes, kinds, lambda change: kind_of(change.tap)),
        cases=_tallies(changes, dict.fromkeys(result.case for result in both.before), lambda change: change.case),
        largest=tuple(_largest(both.before, both.after)),
        logits=tuple(_logits(both.before, both.after)),
        changes=tuple(change for change in changes if change.status != "unchanged"),
        choices=tuple(_choices(both.before, both.after)),
        still_wrong=tuple(
            c for c in changes if c.after and is_wrong(c.after.verdict) and c.after.verdict != "inherited"
        ),
    )


def _side(candidate: Candidate, results: Sequence[TapResult], criteria: Criteria) -> document.Side:
    report, order = candidate.report, tuple(candidate.report.taps)
    return document.Side(
        label=candidate.label,
        port=report.port,
        git=candidate.git,
        environment=report.environment,
        notes=report.notes,
        not_covered=report.not_covered,
        verdict=overall(results),
        wrong=sum(is_wrong(result.verdict) for result in results),
        introduced=introduced(results, order),
        first_divergence=first_divergence(results, order),
        acceptance=acceptance(results, criteria=criteria),
    )


def _counts(changes: Iterable[Change]) -> Counts:
    occurring = Counter(change.status for change in changes)
    return {status: occurring[status] for status in STATUSES}


def _tallies(
    changes: Sequence[Change], names: Iterable[str], name_of: Callable[[Change], str]
) -> dict[str, Counts]:
    """Counts by name, for the names that occur."""
    groups = grouped(changes, name_of)
    return {name: _counts(groups[name]) for name in names if name in groups}


def _notes(before: Candidate, after: Candidate, changes: Iterable[Change]) -> Iterator[str]:
    old, new = _flat(before.report.environment), _flat(after.report.environment)
    for name in dict.fromkeys([*old, *new]):
        if name.startswith("precision ") and not (name in old and name in new):
            continue  # what only one side was asked is left out, and said there
        if old.get(name) != new.get(name):
            yield f"another {name}: {old.get(name, 'none')} before, {new.get(name, 'none')} after"
    crossed = [change for change in changes if crosses(change)]
    if crossed:
        example = crossed[0]
        yield (
            f"{counted(len(crossed), 'comparison')} crossed a limit by less than the noise, {NOISE:g} of it: no "
            f"change; first {example.tap} in case {example.case}, {example.precision}, {example.mode}"
        )


def _flat(environment: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Nested settings by their full names: `libraries jax`."""
    flat: dict[str, object] = {}
    for name, value in environment.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name} ")
        else:
            flat[f"{prefix}{name}"] = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
    return flat


def _largest(before: Sequence[TapResult], after: Sequence[TapResult]) -> Iterator[document.Largest]:
    for precision, mode in dict.fromkeys((r.precision, r.mode) for r in before):
        sides = ([r for r in side if (r.precision, r.mode) == (precision, mode)] for side in (before, after))
        worst = [max(results, key=lambda r: r.share) for results in sides]
        old, new = (document.Extreme(r.tap, r.case, r.rms_multiple, r.rms_limit) for r in worst)
        yield document.Largest(precision, mode, old, new)


def _logits(before: Sequence[TapResult], after: Sequence[TapResult]) -> Iterator[document.LogitsEntry]:
    old, new = _logit_figures(before), _logit_figures(after)
    yield from (
        document.LogitsEntry(precision, old[precision], new[precision]) for precision in old if precision in new
    )


def _choices(before: Sequence[TapResult], after: Sequence[TapResult]) -> Iterator[document.ChoicesEntry]:
    for precision, mode in dict.fromkeys([*by_mode(before), *by_mode(after)]):
        old, new = (
            figures(r for r in side if (r.precision, r.mode) == (precision, mode)) for side in (before, after)
        )
        yield document.ChoicesEntry(precision, mode, old, new)


def _logit_figures(results: Iterable[TapResult]) -> dict[str, LogitFigures]:
    """By precision, where the forward logits could be compared."""
    summaries = {precision: logit_summary(group) for precision, group in forward_logits(results).items()}
    return {
        precision: LogitFigures(s.max_abs, s.max_kl, s.positions, s.flips, s.ties, s.max_kl_low)
        for precision, s in summaries.items()
    }
