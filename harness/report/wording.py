"""What the views say in words, said once: plain text that each view sets in its own way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from harness.report.document import LimitEntry, Report
from harness.report.summary import UNCOMPARED
from harness.results import TapResult, Worst, unit_of
from harness.taps import kind_of
from harness.verdict import BROKEN, was_compared

if TYPE_CHECKING:
    from harness.report.findings import Finding

NOT_FINITE = "NaN or infinity where the golden is finite"
# By mode, what a finding rests on.
BASIS = {
    "replay": "wrong even on golden inputs",
    "forward": "first to be wrong; not replayed",
    "prefill": "where the calls through the cache and the port's own prefill part",
    "alone": "where rows of a batch and their prompts alone part",
}


@dataclass(frozen=True)
class Uncompared:
    """The taps that could not be compared for one reason; `where` is the first of them."""

    reason: str
    taps: tuple[str, ...]
    expected: str | None
    found: str | None
    where: str


def headline(report: Report) -> tuple[str, str]:
    """PASS or FAIL, and how much was compared."""
    cases = len({r.case for r in report.results})
    matched, tied = (sum(r.verdict == verdict for r in report.results) for verdict in ("match", "tied"))
    made = f"{len(report.results):,} comparisons match" + f", {tied:,} tied" * bool(tied)
    return "PASS" if report.verdict == "match" else "FAIL", f"{matched:,} of {made}, {counted(cases, 'case')}"


def mesh_of(report: Report) -> str | None:
    """The axes of the mesh that the port was given, and its kinds of devices; None where it was given none."""
    axes = report.environment.get("mesh")
    if axes is None:
        return None
    sizes = ",".join(f"{name}={size}" for name, size in axes.items())
    processes = report.environment.get("processes", 1)
    several = f" in {processes:,} processes" if processes > 1 else ""
    kinds = ", ".join(report.environment["devices"])
    return f"{sizes} of {counted(prod(axes.values()), 'device')} ({kinds}){several}"


def uncompared(report: Report) -> Iterator[Uncompared]:
    """What could not be compared at all, one entry a reason."""
    broken = [r for r in report.results if r.verdict in UNCOMPARED or r.expected is not None]
    for reason in dict.fromkeys(map(breach, broken)):
        of_kind = [r for r in broken if breach(r) == reason]
        first = of_kind[0]
        yield Uncompared(
            reason,
            tuple(dict.fromkeys(r.tap for r in of_kind)),
            first.expected,
            first.found,
            f"case {first.case}, {first.precision}, {first.mode}",
        )


def breach(result: TapResult) -> str:
    """What is wrong with a tap itself, whatever the verdict on its values."""
    return result.verdict if result.verdict in BROKEN else "dtype"


def place(finding: Finding) -> str:
    """The taps of a finding."""
    return folded(finding.taps, finding.layers)


def folded(taps: Sequence[str], layers: int) -> str:
    """Taps of one kind in one word, `layers.*.q_rope`, where they are all that the model's `layers` have."""
    if len(taps) > 1 and len(taps) == layers:
        return f"layers.*.{kind_of(taps[0])}"
    return some(taps)


def title(finding: Finding) -> str:
    """What a finding says of its taps: that they are where the bug is, or only that it shows there."""
    if not finding.located:
        return "not located, shows at"
    return "introduced on the way to" if finding.since else "introduced at"


def extent(finding: Finding) -> str:
    """In how many layers, on whose inputs, at which precisions."""
    where = f"in {len(finding.taps)} of {finding.layers} layers, " if finding.layers else ""
    basis = BASIS[finding.worst.mode] if finding.located else "nothing before it was recorded in these cases"
    return f"{where}{basis}; {', '.join(finding.precisions)}"


def facts(finding: Finding, report: Report) -> Iterator[tuple[str, str]]:
    """A finding's figures and evidence: (label, text)."""
    from harness.report.choices import evidence  # what a check that passes does not need

    worst = finding.worst
    if worst.verdict == "nonfinite":
        yield "value", NOT_FINITE
    else:
        yield "rms error", times_noise(worst)
    if worst.worst is not None:
        at = f"case {worst.case}, {worst.tap}, {index(worst)}"
        yield "worst at", f"{at}:  actual {actual(worst.worst)}, {expected(worst)} {worst.worst.golden:.6g}"
    yield from (*_certainty(worst), *evidence(finding, report.results))
    if finding.since:
        yield "operation", f"any after {some(finding.since)}: what is between was not compared in these cases"
    for sentence in finding.evidence:
        yield "positions", sentence
    if finding.matched:
        yield "fed by", f"{', '.join(finding.matched)}, which matched"


def _certainty(result: TapResult) -> Iterator[tuple[str, str]]:
    """Whether the error cannot be rounding, or only hardly ever is."""
    beyond = result.beyond_rounding
    if result.mode != "replay" or result.verdict != "introduced":
        return
    if beyond is not None and beyond > 1:
        times = f"{number(beyond)} times the most that all roundings of this operation can add up to"
        yield "proven", f"no rounding: {times}"
    elif result.chance is not None:
        rarely = f"once in {power(1 / result.chance)} comparisons" if result.chance > 1e-300 else "never"
        yield "unusual", f"roundings could add up to this, but in a correct port they do {rarely}"


def times_noise(result: TapResult) -> str:
    """The multiple with its unit, its limit, and the relative error; of the rms unless that is within."""
    relative = "" if result.rel_rms is None else f"; {result.rel_rms:.1e} of the tap's own rms"
    which = 0 if result.shares[0] > 1 else result.shares.index(result.share)
    _, multiple, limit = _figures(result)[which]
    said = f"{number(multiple)} x {unit(result.rounding or result.precision, result.mode)}"
    said += ("", ", of the largest error", ", over all positions")[which]
    return f"{said}   (up to {allowed(limit)} allowed{relative})"


def closest(result: TapResult) -> str:
    """Of its three figures the one that is nearest to its limit, and that limit."""
    name, multiple, limit = _figures(result)[result.shares.index(result.share)]
    if limit is None:
        return "a tap that could not be compared"
    return f"{name} {number(multiple, '.3g')} of {number(limit, '.3g')} allowed"


def _figures(result: TapResult) -> tuple[tuple[str, float | None, float | None], ...]:
    """Name, multiple and limit, in the order of `TapResult.shares`."""
    return (
        ("rms multiple", result.rms_multiple, result.rms_limit),
        ("max multiple", result.max_multiple, result.max_limit),
        ("rms multiple over all positions", result.overall_multiple, result.overall_limit),
    )


def unit(precision: str, mode: str = "forward") -> str:
    """What a noise multiple of 1 is."""
    twice = unit_of(mode) == 2
    if precision == "float64":
        return "an ulp" if twice else "half an ulp"
    return f"{'twice ' if twice else ''}PyTorch's own {precision} error"


def index(result: TapResult) -> str:
    """The index of the worst element, dimension by dimension; its row where the case has several."""
    assert result.worst is not None
    places = {"row" if dim == "batch" else dim: i for dim, i in result.worst.index.items()}
    return ", ".join(f"{dim} {i}" for dim, i in places.items() if dim != "row" or result.row is not None)


def expected(result: TapResult) -> str:
    """What the worst element was compared with."""
    if result.mode == "prefill":
        return "own prefill"
    prompt = result.against[result.worst.index["batch"]] if result.worst and result.against else None
    return f"golden of {prompt}" if prompt else "golden"


def actual(worst: Worst) -> str:
    return number(worst.actual, ".6g")


def inherited(report: Report) -> str | None:
    """What is wrong only because something upstream is; None where nothing is."""
    taps = {r.tap for r in report.results if r.verdict == "inherited"}
    if not taps:
        return None
    if report.introduced:
        replayed = [r for r in report.results if r.mode == "replay" and r.tap in taps]
        wrong = {r.tap for r in replayed} - {r.tap for r in replayed if r.verdict == "match"}
        how = "each right on golden inputs"
        if wrong:
            how = f"{some(tuple(sorted(wrong)))} through what is not in the golden, others right on golden inputs"
        return f"inherited: {counted(len(taps), 'tap')} further downstream, {how}"
    first = report.first_divergence
    where = f"first {first.tap} (case {first.case}, {first.precision})" if first else ""
    unknown = dict.fromkeys(r.tap for r in report.results if not was_compared(r))
    if unknown:
        return (
            f"not located: {counted(len(taps), 'tap')} beyond the limit in the forward pass; what could not be\n"
            f"compared ({some(tuple(unknown))}) may be where it starts"
        )
    return (
        f"no operation is wrong on golden inputs, yet {len(taps)} taps are beyond the limit in the forward "
        f"pass,\n{where}: small errors add up; look at the arithmetic, not the formula"
    )


def in_a_narrower_dtype(report: Report) -> Iterator[str]:
    """That the whole model computes in another dtype than it is asked for, a sentence for each such dtype."""
    for dtype in dict.fromkeys(narrow.dtype for narrow in report.narrower):
        alike = [narrow for narrow in report.narrower if narrow.dtype == dtype]
        asked, first = " and ".join(narrow.precision for narrow in alike), alike[0]
        kinds = tuple(dict.fromkeys(kind for narrow in alike for kind in narrow.rounding))
        held = f"the values of {len(first.kinds)} of {counted(first.of, 'kind')} of taps are {dtype} numbers"
        sized = f", and the errors at {some(kinds)} are of the size of that rounding" if kinds else ""
        command = f"; `{first.command}` checks it as it is" if first.command else ""
        yield f"this model computes in {dtype} whatever it is asked for (here {asked}): {held}{sized}{command}"


def looks_like(report: Report) -> tuple[str, ...]:
    """What the diagnosis says, line by line; none where there is none."""
    return tuple(line for line in (report.looks_like or "").splitlines() if line.strip())


def number(value: float | None, form: str = ".2g") -> str:
    """A figure in two digits, or as asked; 381 stays 381, not 3.8e+02."""
    if value is None:
        return "not finite"
    return f"{value:.0f}" if form == ".2g" and 99.5 <= abs(value) < 999.5 else format(value, form)


def between(low: float | None, high: float | None) -> str:
    """A figure that is known within bounds, or that is known: `low` is None then."""
    return number(high) if low is None else f"{number(low)} to {number(high)}"


def allowed(limit: float | None) -> str:
    """The limit of a place, in two digits: 2.4, 14, 1e5; empty where nothing was compared."""
    return "" if limit is None else bound(float(f"{limit:.2g}"))


def rule(limits: LimitEntry) -> str:
    """What the limits of a precision follow from."""
    factors = [f"{name} limits times {x:g}" for name, x in (("rms", limits.rms), ("max", limits.max)) if x != 1]
    if limits.budget is None:
        return ", ".join(["one limit everywhere, in half-ulps", *factors])
    single = f" ({limits.single:g} x where a call has one token)" if limits.single else ""
    who = f"a correct port, up to {limits.allowance:g} x as noisy as PyTorch{single}"
    return ", ".join([f"{who}, is beyond one in {power(1 / limits.budget)} comparisons", *factors])


def bound(limit: float) -> str:
    """A limit: 4, 0.01, 1e5."""
    short = power(limit)
    return short if limit >= 1e4 and float(short) == limit else f"{limit:g}"


def power(value: float) -> str:
    """A power of ten as people write it: 1e-4, not 0.0001 or 1e-04."""
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def counted(count: int, noun: str) -> str:
    """`1 case`, `2 cases`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def escaped(character: str) -> str:
    """A character that cannot be shown, as its escape: \\x1b."""
    return character.encode("unicode_escape").decode()


def some(names: Sequence[str], shown: int = 4) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
