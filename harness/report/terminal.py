"""The report as a person reads it in a terminal: the verdict, what is wrong and where, then the figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.comparison import TapResult
from harness.report.document import Acceptance, Report
from harness.report.findings import Finding, findings, largest_of, multiple
from harness.report.layout import counted, folded, number, some, spaced, table

SHOWN_FINDINGS = 6


def print_report(report: Report, console: Console) -> None:
    console.print(Group(*_parts(report)), highlight=False)


def _parts(report: Report) -> Iterator[RenderableType]:
    yield _head(report)
    yield Text()
    yield _verdict(report)
    yield from _broken(report)
    found = findings(report)
    for finding in found[:SHOWN_FINDINGS]:
        yield spaced(_finding(finding, report), indent=2)
    if len(found) > SHOWN_FINDINGS:
        rest = ", ".join(f.kind for f in found[SHOWN_FINDINGS:])
        yield spaced(Text(f"also introduced at: {rest}"), indent=2)
    if any(r.verdict == "inherited" for r in report.results):
        yield spaced(_inherited(report), indent=2)
    yield _summary(report.results, report)
    yield _logits(report.results)
    if report.acceptance is not None:
        yield spaced(_acceptance(report.acceptance))
    if report.not_covered:
        yield spaced(Text("\n".join(["not covered", *(f"  {x}" for x in report.not_covered)])))


def _head(report: Report) -> Table:
    environment = report.environment
    grid = Table.grid(padding=(0, 2))
    grid.add_row("golden", f"{report.golden.path}  {report.golden.id[:12]}")
    grid.add_row("port", report.port)
    libraries = environment["libraries"]
    grid.add_row(
        "ran on",
        f"{environment['backend']} ({', '.join(environment['devices'])}), jax {libraries['jax']}, "
        f"flax {libraries['flax']}",
    )
    for name, settings in environment["precision"].items():
        x64 = "on" if settings["x64"] else "off"
        grid.add_row("in force", f"{name}: x64 {x64}, matmul precision {settings['matmul_precision']}")
    for note in report.notes:
        grid.add_row("note", note)
    return grid


def _verdict(report: Report) -> Text:
    cases = {r.case for r in report.results}
    matched = sum(r.verdict == "match" for r in report.results)
    counts = f"{matched:,} of {len(report.results):,} comparisons match, {counted(len(cases), 'case')}"
    if report.verdict == "match":
        return Text.assemble(("PASS", "bold green"), f"  {counts}")
    return Text.assemble(("FAIL", "bold red"), f"  {counts}")


def _broken(report: Report) -> Iterator[RenderableType]:
    """Taps that could not be compared at all."""
    broken = [r for r in report.results if r.verdict in ("missing", "extra", "shape", "dtype")]
    for verdict in dict.fromkeys(r.verdict for r in broken):
        of_kind = [r for r in broken if r.verdict == verdict]
        first = of_kind[0]
        taps = list(dict.fromkeys(r.tap for r in of_kind))
        text = (
            f"{some(taps)}\n  expected  {first.expected}\n  found     {first.found}   "
            f"(case {first.case}, {first.precision}, {first.mode})"
        )
        yield spaced(Text.assemble((f"{verdict}: ", "bold red"), text), indent=2)


def _finding(finding: Finding, report: Report) -> Table:
    worst = finding.worst
    limit = report.limits[worst.precision]
    grid = Table.grid(padding=(0, 2))
    where = f"in {len(finding.taps)} of {finding.layers} layers, " if finding.layers else ""
    how = "wrong even on golden inputs" if worst.mode == "replay" else "first to be wrong; not replayed"
    grid.add_row(
        Text("introduced at", "bold red"),
        Text.assemble(
            (folded(finding.taps, finding.layers), "bold"), f"   ({where}{how}; {', '.join(finding.precisions)})"
        ),
    )
    if worst.verdict == "nonfinite":
        grid.add_row("value", "NaN or infinity where the golden is finite")
    else:
        grid.add_row("rms error", _times_noise(worst, limit.rms))
    if worst.worst is not None:
        place = ", ".join(f"{dim} {i}" for dim, i in worst.worst.index.items() if dim != "batch")
        actual = "not finite" if worst.worst.actual is None else f"{worst.worst.actual:.6g}"
        grid.add_row(
            "worst at",
            f"case {worst.case}, {worst.tap}, {place}:  actual {actual}, golden {worst.worst.golden:.6g}",
        )
    for sentence in finding.evidence:
        grid.add_row("positions", sentence)
    if finding.matched:
        grid.add_row("fed by", f"{', '.join(finding.matched)}, which matched")
    return grid


def _times_noise(result: TapResult, limit: float) -> str:
    relative = "" if result.rel_rms is None else f"; {result.rel_rms:.1e} of the tap's own rms"
    against = "half an ulp" if result.precision == "float64" else f"PyTorch's own {result.precision} error"
    return f"{result.rms_multiple:.2g} x {against}   (up to {limit:g} allowed{relative})"


def _inherited(report: Report) -> Text:
    inherited = {r.tap for r in report.results if r.verdict == "inherited"}
    if report.introduced:
        return Text(f"inherited: {len(inherited)} taps further downstream, each right on golden inputs")
    first = report.first_divergence
    assert first is not None
    return Text(
        f"no operation is wrong on golden inputs, yet {len(inherited)} taps are beyond the limit in the forward "
        f"pass,\nfirst {first.tap} (case {first.case}, {first.precision}): small errors add up; look at the "
        "arithmetic, not the formula"
    )


def _summary(results: Sequence[TapResult], report: Report) -> Padding:
    figures = table(
        "precision", "mode", "taps", "match", "largest rms multiple", "largest max", "largest rel. rms"
    )
    for precision, mode in dict.fromkeys((r.precision, r.mode) for r in results):
        group = [r for r in results if (r.precision, r.mode) == (precision, mode)]
        worst, limit = max(group, key=multiple), report.limits[precision]
        largest = max((r.max_multiple for r in group if r.max_multiple is not None), default=None)
        relative = max((r.rel_rms for r in group if r.rel_rms is not None), default=None)
        figures.add_row(
            precision,
            mode,
            f"{len(group):,}",
            f"{sum(r.verdict == 'match' for r in group):,}",
            f"{number(worst.rms_multiple)} of {limit.rms:g}  {worst.tap} in {worst.case}",
            f"{number(largest)} of {limit.max:g}",
            number(relative),
        )
    return spaced(figures)


def _logits(results: Iterable[TapResult]) -> RenderableType:
    logits = [r for r in results if r.logits is not None and r.mode == "forward"]
    if not logits:
        return Text()
    columns = ("max abs", "mean abs", "max KL", "NMSE", "lowest PCC", "top-1 agreement", "flips", "ties")
    figures = table("logits", *columns)
    for precision in dict.fromkeys(r.precision for r in logits):
        group = [r for r in logits if r.precision == precision]
        statistics = [r.logits for r in group if r.logits is not None]
        flips = [flip for s in statistics for flip in s.flips]
        positions = sum(len(r.profile) for r in group)
        figures.add_row(
            precision,
            number(largest_of(r.max_abs for r in group)),
            number(largest_of(r.mean_abs for r in group)),
            number(largest_of(s.max_kl for s in statistics)),
            number(largest_of(s.nmse for s in statistics)),
            number(min((s.pcc for s in statistics if s.pcc is not None), default=None), ".9g"),
            f"{positions - len(flips):,} of {positions:,}",
            str(sum(not flip.tie for flip in flips)),
            str(sum(flip.tie for flip in flips)),
        )
    return spaced(figures)


def _acceptance(acceptance: Acceptance) -> Text:
    r = acceptance.position_correlation
    correlation = (
        "means nothing here (fewer than 4 positions, or an error within the noise)"
        if r is None
        else f"{r:+.2f} (|r| < 0.1)"
    )
    word = ("pass", "green") if acceptance.passed else ("fail", "red")
    text = Text.assemble(
        f"acceptance at {acceptance.precision}: ",
        word,
        f"   max abs {number(acceptance.max_abs)} (< 1e-4), mean abs {number(acceptance.mean_abs)} (< 1e-5), "
        f"position correlation {correlation}",
    )
    return text.append(f"\n  {acceptance.remark}") if acceptance.remark else text
