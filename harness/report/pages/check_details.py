"""What only a page has room for: a check's worst elements, ladders, heat maps, and every case."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from harness.report import summary, wording
from harness.report.blocks import Block, Prose, Section
from harness.report.document import Report
from harness.report.findings import Finding
from harness.report.pages import LOGITS, figures_of, heatmap, scales
from harness.report.pages.scales import Measured, ladder
from harness.report.summary import READABLE, UNCOMPARED, grouped, has_figures
from harness.report.tables import BEYOND, BROKEN, NOT_COMPARED, Table, Text, code, numbers, strong
from harness.report.wording import between, number
from harness.results import Flip, TapResult, is_wrong

SHOWN_ELEMENTS, SHOWN_FLIPS = 8, 20
LADDER = (
    "A noise multiple is the port's error divided by PyTorch's own at that precision, tap and position (in "
    "prefill by twice that: two runs of the port are compared). How far is this port from the noise, and how far "
    "from the weakest known bug?"
)
MAPS = (
    "Replay judges each operation on golden inputs: what is beyond the limit there is wrong there. Forward shows "
    "how far it spreads. Prefill compares calls through a KV cache with the port's own single call without one, "
    "alone rows of a batch with their prompts: they show which way of running is to blame."
)
SCALE = (
    "Number: the rms noise multiple. Colour: the share of the limit of its place, on a logarithmic scale with the "
    f"limit on an edge. {BEYOND} and a frame: beyond the limit (of rms or of max-abs). {BROKEN}: could not be "
    f"compared. {NOT_COMPARED}: not compared. NaN: not finite."
)
CASES = (
    f"Largest rms multiple of each case. {BEYOND}: beyond the limit, at how many of its taps. {BROKEN}: could not "
    "be compared."
)
FLIPS = "Positions where another token is the most likely, largest margin first; a tie is within PyTorch's noise"


def worst_elements(finding: Finding, report: Report) -> tuple[Table]:
    """One a result, worst first."""
    wrong = [r for r in report.results if r.tap in finding.taps and r.verdict in ("introduced", "nonfinite")]
    wrong = [r for r in wrong if r.mode == finding.worst.mode]
    wrong.sort(key=lambda r: (r.precision != finding.worst.precision, -r.share))
    golden = "own prefill" if finding.worst.mode == "prefill" else "golden"
    heads = ("tap", "case", "precision", *numbers("rms ×", "max ×"), "element", *numbers("actual", golden))
    rows = tuple(
        (
            *(code(r.tap), r.case, r.precision, number(r.rms_multiple), number(r.max_multiple)),
            *(
                ("", "", "")
                if r.worst is None
                else (wording.index(r), wording.actual(r.worst), number(r.worst.golden, ".6g"))
            ),
        )
        for r in wrong[:SHOWN_ELEMENTS]
    )
    label = f"worst elements of {finding.kind}"
    return (Table(heads, rows, label, "Worst elements", rest=len(wrong) - len(rows)),)


def ladders(report: Report) -> Iterator[Block]:
    """One ladder per precision that was checked."""
    yield Prose(LADDER)
    for precision, limits in report.limits.items():
        measured = [
            Measured(
                f"this port, {g.mode}", g.worst.rms_multiple, f"{g.worst.tap} in {g.worst.case}", g.worst.rms_limit
            )
            for g in summary.groups(report)
            if g.precision == precision and has_figures(g.worst)
        ]
        yield ladder(precision, wording.unit(precision), limits, measured)


def maps(report: Report) -> Iterator[Block]:
    """The heat maps of every precision; only those of the most readable one are open."""
    yield Prose(MAPS)
    checked = list(dict.fromkeys(r.precision for r in report.results))
    opened = READABLE if READABLE in checked else next(iter(checked), None)
    for precision in checked:
        modes = (
            Section(
                f"{precision}, {mode}",
                (heatmap.by_tap(report, precision, mode), heatmap.by_position(report, precision, mode)),
            )
            for mode in heatmap.modes(report, precision)
        )
        yield Section(precision, (Prose(SCALE, "quiet"), scales.legend(), *modes), folded=precision != opened)


def cases(report: Report) -> Table:
    """Each case with what it is at every precision."""
    by_case = grouped(report.results, lambda r: r.case)
    rows = tuple(
        (case, *(_at([r for r in results if r.precision == precision]) for precision in report.limits))
        for case, results in by_case.items()
    )
    return Table(("case", *report.limits), rows, "cases", CASES)


def _at(results: Sequence[TapResult]) -> Text:
    """What could not be compared, what is beyond the limit, the largest multiple."""
    if not results:
        return "not checked"
    broken = sum(r.verdict in UNCOMPARED for r in results)
    beyond = sum(is_wrong(r.verdict) for r in results) - broken
    worst = max((r for r in results if has_figures(r)), key=lambda r: r.share, default=None)
    missing = (strong(f"{BROKEN} {broken} of {len(results)}"),) if broken else ()
    if worst is None:
        return missing
    largest = scales.short(math.inf if worst.rms_multiple is None else worst.rms_multiple)
    figure = (strong(f"{BEYOND} {largest}"), f" at {beyond} of {len(results)}") if beyond else (largest,)
    return (*missing, "; ", *figure) if broken else figure


def logits(report: Report) -> Iterator[Section]:
    """The forward logits of every precision: all cases together, each case, and the largest flips."""
    for place, (precision, results) in enumerate(summary.forward_logits(report.results).items()):
        total = summary.logit_summary(results)
        note = (
            f"max abs {number(total.max_abs)}, max KL {between(total.max_kl_low, total.max_kl)}, top-1 agrees at "
            f"{total.agreed:,} of {total.positions:,} positions, {total.flips} flips, {total.ties} ties"
        )
        flips = [(r.case, flip) for r in results if r.logits is not None for flip in r.logits.flips]
        flips.sort(key=lambda pair: (pair[1].tie, -pair[1].margin))
        shown = (_flips(precision, flips),) if flips else ()
        yield Section(precision, (_by_case(precision, results), *shown), note, folded=place > 0)


def _by_case(precision: str, results: Sequence[TapResult]) -> Table:
    rows = []
    for r in results:
        x = summary.logit_summary([r])
        rows.append((r.case, *figures_of(x).values(), between(x.mean_kl_low, x.mean_kl)))
    about = "The port's own logits (forward), by case"
    return Table(("case", *numbers(*LOGITS, "mean KL")), tuple(rows), f"logits at {precision}", about)


def _flips(precision: str, flips: Sequence[tuple[str, Flip]]) -> Table:
    names = ("position", "golden token", "actual token", "margin", "noise")
    rows = tuple(
        (
            *(case, f"{flip.position}", f"{flip.golden}", f"{flip.actual}"),
            f"{'at least ' if flip.at_least else ''}{number(flip.margin)}",
            number(flip.noise),
            "tie" if flip.tie else "flip",
        )
        for case, flip in flips[:SHOWN_FLIPS]
    )
    rest = len(flips) - len(rows)
    return Table(("case", *numbers(*names), "what"), rows, f"flips at {precision}", FLIPS, rest=rest)
