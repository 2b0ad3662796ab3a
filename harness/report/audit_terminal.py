"""An audit as a person reads it in a terminal: the score, the blind spots with their reasons, the cases needed."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness.report.audit_document import BLIND, Audit, AuditedMutant, AuditResult
from harness.report.layout import print_parts, spaced, table

WEAKEST = 5


def print_audit(audit: Audit, console: Console) -> None:
    print_parts(_parts(audit), console)


def _parts(audit: Audit) -> Iterator[RenderableType]:
    grid = Table.grid(padding=(0, 2))
    grid.add_row("golden", f"{audit.golden.path}  {audit.golden.id[:12]}")
    libraries = audit.environment["libraries"]
    grid.add_row("ran on", f"{audit.environment['backend']}, jax {libraries['jax']}, flax {libraries['flax']}")
    for precision, score in audit.scores.items():
        grid.add_row(
            "sanity",
            f"{precision}: the right decoder passes {score.comparisons:,} comparisons (at most {score.right:.2g} "
            f"of the limit), a forced failure fails all of {score.forced:,}",
        )
    yield grid
    yield spaced(_verdict(audit))
    yield spaced(_scores(audit))
    yield spaced(_families(audit))
    yield from _section("blind spots: caught at no precision", _unseen(audit, audit.blind))
    for precision in audit.scores:
        rest = [name for name in _missed(audit, precision) if name not in audit.blind]
        yield from _section(f"not caught at {precision}", _unseen(audit, rest, precision))
        yield from _section(f"caught at {precision}, but not named", _unnamed(audit, precision))
    yield from _section("weakest catches", _weakest(audit))
    yield from _section("equivalent or refused", _no_bugs(audit))
    yield spaced(
        Text(
            f"cases: these {len(audit.needed)} catch and name all that is caught and named: "
            f"{', '.join(audit.needed) or 'none'}\n"
            f"the other {len(audit.spare)} add nothing for the arithmetic (they may be there for their tokens): "
            f"{', '.join(audit.spare) or 'none'}"
        )
    )
    yield spaced(Text("\n".join(["not covered", *(f"  {line}" for line in audit.not_covered)])))


def _verdict(audit: Audit) -> Text:
    count = len(audit.mutants)
    if audit.verdict == "sees":
        return Text.assemble(
            ("SEES", "bold green"), f"  every mutant that is a bug here, of {count} in the catalogue"
        )
    return Text.assemble(("BLIND", "bold red"), f"  to {len(audit.blind)} of {count} mutants")


def _scores(audit: Audit) -> Table:
    grid = table("mutants", *audit.scores)
    scores = list(audit.scores.values())
    grid.add_row("that are bugs here", *(f"{score.visible}" for score in scores))
    grid.add_row("caught by the goldens", *(_share(score.caught, score.visible) for score in scores))
    grid.add_row("  and the operation named", *(_share(score.named, score.visible) for score in scores))
    for name in scores[0].criteria:
        label = f"caught by logits: {name}"
        grid.add_row(
            label,
            *(
                f"{_share(score.criteria[name], score.visible)}"
                f"{', rejects the right decoder too' if name in score.false_alarms else ''}"
                for score in scores
            ),
        )
    return grid


def _families(audit: Audit) -> Table:
    grid = table("family: caught, named, of", *audit.scores)
    for family in dict.fromkeys(mutant.family for mutant in audit.mutants):
        cells = []
        for precision in audit.scores:
            found = [_at(mutant, precision) for mutant in audit.mutants if mutant.family == family]
            visible = sum(r.outcome in (*BLIND, "caught") for r in found)
            cells.append(f"{sum(r.outcome == 'caught' for r in found)}, {sum(r.named for r in found)}, {visible}")
        grid.add_row(family, *cells)
    return grid


def _missed(audit: Audit, precision: str) -> list[str]:
    return [mutant.id for mutant in audit.mutants if _at(mutant, precision).outcome in BLIND]


def _unseen(audit: Audit, names: Collection[str], precision: str | None = None) -> Iterator[tuple[str, str]]:
    for mutant in audit.mutants:
        if mutant.id not in names:
            continue
        results = [r for r in mutant.results if r.outcome in BLIND and precision in (None, r.precision)]
        worst = results[-1]
        remedy = f"; would be caught by {worst.remedy}" if worst.remedy else ""
        yield mutant.id, f"{worst.outcome}: {worst.reason}{remedy}"


def _unnamed(audit: Audit, precision: str) -> Iterator[tuple[str, str]]:
    for mutant in audit.mutants:
        result = _at(mutant, precision)
        if result.outcome == "caught" and not result.named:
            found = (
                f"introduced at {', '.join(result.introduced)}"
                if result.introduced
                else "in the forward pass only"
            )
            yield mutant.id, f"{found}, by {_some(result.cases)}; it is in {', '.join(mutant.expected)}"


def _weakest(audit: Audit) -> Iterator[tuple[str, str]]:
    for precision in audit.scores:
        caught = [(m, r) for m in audit.mutants if (r := _at(m, precision)).outcome == "caught"]
        finite = sorted((r.margin, m.id) for m, r in caught if r.margin is not None)
        yield precision, ", ".join(f"{name} {margin:.2g} x the limit" for margin, name in finite[:WEAKEST])


def _no_bugs(audit: Audit) -> Iterator[tuple[str, str]]:
    for mutant in audit.mutants:
        found = [r for r in mutant.results if r.outcome in ("equivalent", "refused")]
        for reason in dict.fromkeys(r.reason for r in found):
            where = [r.precision for r in found if r.reason == reason]
            at = "" if len(where) == len(mutant.results) else f" at {', '.join(where)}"
            yield mutant.id, f"{found[0].outcome}{at}: {reason}"


def _at(mutant: AuditedMutant, precision: str) -> AuditResult:
    return next(result for result in mutant.results if result.precision == precision)


def _share(part: int, whole: int) -> str:
    return f"{part} ({part / whole:.0%})" if whole else f"{part}"


def _some(names: tuple[str, ...], shown: int = 3) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _section(title: str, rows: Iterator[tuple[str, str]]) -> Iterator[RenderableType]:
    grid = Table.grid(padding=(0, 2))
    for name, text in rows:
        grid.add_row(f"  {name}", text)
    if grid.row_count:
        yield spaced(Group(Text(title), grid))
