"""Two checks side by side: which parts of them, whether they asked the same, and what both of them compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.difference import Limits
from harness.errors import PortError, UsageError
from harness.report.document import Report
from harness.report.wording import counted
from harness.results import TapResult
from harness.selecting import select
from harness.verdict import first_divergence

Cell = tuple[str, str, str]  # precision, mode, case


@dataclass(frozen=True)
class Candidate:
    """One side of a diff.

    Attributes:
        label: what the user asked for.
        git: the commit that the port was run at, where it was run at one.
    """

    label: str
    report: Report
    git: str | None = None


@dataclass(frozen=True)
class Pair:
    """The results of both sides in the cases, precisions and modes that they share, and what was left out."""

    before: tuple[TapResult, ...]
    after: tuple[TapResult, ...]
    left_out: tuple[str, ...]


def pair(before: Candidate, after: Candidate, intersection: bool) -> Pair:
    """What both sides compared.

    Whether a port covers a tap is not part of the question: a tap that only one side has, in a case that both
    ran, stays in, and shows as lost or gained.

    Args:
        intersection: leave out what only one side was asked, instead of refusing.

    Raises:
        UsageError: another golden, other limits, other cases, precisions or modes, or nothing in common.
    """
    where = f"{before.label} and {after.label}"
    old, new = before.report.golden, after.report.golden
    if old.id != new.id:
        problem = "the two sides were checked against different goldens"
        expected = f"{old.id[:12]} on both sides ({old.path}, {old.model})"
        hint = "check both against one golden: goldens diff GOLDEN --before ... --after ..."
        raise UsageError(problem, where, expected, f"{new.id[:12]} after ({new.path}, {new.model})", hint=hint)
    cells = [frozenset(map(_cell, side.report.results)) for side in (before, after)]
    left_out = (*_left_out(before, cells[1], "before"), *_left_out(after, cells[0], "after"))
    if left_out and not intersection:
        problem, expected = "the two sides were not asked the same", "the same cases, precisions and modes"
        hint = "--intersection compares what both have; or save both with the same options of goldens check"
        raise UsageError(problem, where, expected, "; ".join(left_out), hint=hint)
    common = cells[0] & cells[1]
    if not common:
        problem, found = "the two sides have nothing in common", "; ".join(left_out) or "no results"
        expected = "at least one case at one precision in one mode on both sides"
        raise UsageError(problem, where, expected, found, hint="save both with the same options of goldens check")
    same_limits(before.report.limits, after.report.limits, where)
    return Pair(_within(before.report.results, common), _within(after.report.results, common), left_out)


def same_limits(before: Mapping[str, Limits], after: Mapping[str, Limits], where: str) -> None:
    """A verdict is made by its limits, so verdicts under other limits are never comparable.

    Raises:
        UsageError: at a precision that both sides have, the limits differ.
    """
    for precision in before:
        old, new = before[precision], after.get(precision, before[precision])
        if (old.allowance, old.single, old.rms, old.max) != (new.allowance, new.single, new.rms, new.max):
            problem = f"the two sides are judged by different limits at {precision}"
            expected = f"{_said(old)} on both sides"
            hint = "save both with the same --limit-rms and --limit-max of goldens check"
            raise UsageError(problem, where, expected, _said(new), hint=hint)


def _said(limits: Limits) -> str:
    single = f" ({limits.single:g} where a call has one token)" if limits.single else ""
    return f"allowance {limits.allowance:g}{single}, factors rms {limits.rms:g}, max {limits.max:g}"


def _cell(result: TapResult) -> Cell:
    return result.precision, result.mode, result.case


def _within(results: Sequence[TapResult], cells: frozenset[Cell]) -> tuple[TapResult, ...]:
    return tuple(result for result in results if _cell(result) in cells)


def _left_out(side: Candidate, other: frozenset[Cell], when: str) -> Iterator[str]:
    """What only this side has, named by the widest thing that explains it, with its number of comparisons."""
    results = [result for result in side.report.results if _cell(result) not in other]
    known = [{cell[axis] for cell in other} for axis in range(3)]

    def name(cell: Cell) -> str:
        for field, value, seen in zip(("precision", "mode", "case"), cell, known, strict=True):
            if value not in seen:
                return f"{field} {value}"
        return f"case {cell[2]} at {cell[0]}, {cell[1]}"

    counts = Counter(name(_cell(result)) for result in results)
    yield from (f"{label}: only {when}, {counted(count, 'comparison')}" for label, count in counts.items())


@dataclass(frozen=True)
class Selection:
    """What is compared. None (and no cases) is: whatever is there.

    Attributes:
        cases: glob patterns of case names.
    """

    precisions: tuple[str, ...] | None = None
    modes: tuple[str, ...] | None = None
    cases: tuple[str, ...] = ()


def narrowed(report: Report, selection: Selection, label: str) -> Report:
    """A check reduced to the results that are selected.

    Args:
        label: what the user calls the check.

    Raises:
        UsageError: something is selected that the check does not have.
    """
    names = (
        _chosen(report, "precision", selection.precisions or (), label),
        _chosen(report, "mode", selection.modes or (), label),
        _chosen(report, "case", selection.cases, label),
    )
    precisions, modes, cases = names
    kept = (r for r in report.results if r.precision in precisions and r.mode in modes and r.case in cases)
    return replace(report, results=tuple(kept))


def _chosen(report: Report, field: str, patterns: Sequence[str], label: str) -> frozenset[str]:
    """The names in a field of the results that match any pattern; without patterns, all of them."""
    names = list(dict.fromkeys(getattr(result, field) for result in report.results))
    chosen = select(
        names,
        patterns,
        problem="a side does not have what was selected",
        where=f"{label}: --{field}",
        hint=f"leave --{field} out, or save that check again with it",
    )
    return frozenset(chosen)


def failing(other: Report, spec: str | None, error: PortError) -> Report:
    """What a check of a port that raises would say, if it were asked what the other side was asked.

    Args:
        other: the check of the other side.
        spec: the port that raises.
        error: what it raised.
    """
    results = tuple(
        TapResult(r.case, r.precision, r.mode, r.tap, "missing", expected="a value", found=error.problem)
        for r in other.results
        if r.verdict != "extra"
    )
    return replace(
        other,
        port=spec or other.port,
        notes=(f"could not run, and counts as wrong everywhere: {error.problem}",),
        verdict="diverged",
        introduced=(),
        first_divergence=first_divergence(results, tuple(other.taps)),
        acceptance=None,
        not_covered=(),
        results=results,
        generations=(),
        looks_like=None,
    )
