"""The evidence in words with figures. A figure that means nothing is not printed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from harness.mutants.diagnosis import facts
from harness.mutants.diagnosis.observe import hard_coded, wrong_kinds
from harness.mutants.diagnosis.replay import FAULTY, Observation, StageReplay
from harness.report.diagnosis import Fact
from harness.report.document import Report
from harness.report.findings import findings
from harness.report.wording import folded, number, some, uncompared
from harness.results import TapResult
from harness.taps import kind_of

# An error that is beyond this many limits is not rounding at one head, and rounding at another.
CLEAN = 1.0
UNITS = {"float64": "half-ulps"}  # nothing recorded there: PyTorch's own error is the truth's
HEAD_AXES = ("head", "kv_head")


def about_the_port(report: Report) -> Iterator[Fact]:
    """Where it starts, what is inherited, and what the precisions say."""
    results = report.results
    if report.introduced:
        kinds = dict.fromkeys(kind_of(tap) for tap in report.introduced)
        yield Fact("introduced", ", ".join(_folded(report, kind) for kind in kinds))
    inherited = {r.tap for r in results if r.verdict == "inherited"}
    if inherited:
        yield Fact("inherited", f"{len(inherited)} taps further downstream, each right on golden inputs")
    for broken in uncompared(report):
        yield Fact("contract", f"{some(broken.taps)} could not be compared: {broken.reason} ({broken.where})")
    narrow = hard_coded(results)
    if narrow:
        yield Fact(
            "float64",
            f"{', '.join(narrow)} are off by float32's rounding alone: float32 is hard-coded there (--lift)",
        )
    checked = {r.precision for r in results}
    only = [kind for kind in wrong_kinds(results, "float32") if kind not in wrong_kinds(results, "float64")]
    if "float64" in checked and only:
        yield Fact("float64", f"{', '.join(only)} match: the formula is right there, and its arithmetic is not")


def about_the_kind(report: Report, kind: str, replays: Sequence[StageReplay]) -> Iterator[Fact]:
    """What the positions, the cases and the values say about one wrong tap."""
    here = [r for r in report.results if kind_of(r.tap) == kind and r.mode == "replay"]
    wrong = [r for r in here if r.verdict in FAULTY]
    yield from _where(report, kind, wrong)
    for finding in findings(report):
        if finding.kind == kind:
            yield from (Fact("positions", sentence) for sentence in finding.evidence)
    yield from _single_token(here)
    seen = next((s.taps[kind] for s in replays if kind in s.faulty), None)
    if seen is not None:
        yield from about_the_values(seen)


def _where(report: Report, kind: str, wrong: Sequence[TapResult]) -> Iterator[Fact]:
    worst = max(wrong, key=lambda r: float("inf") if r.rms_multiple is None else r.rms_multiple)
    cases = len({r.case for r in wrong})
    everywhere = len({r.case for r in report.results if r.tap == worst.tap and r.mode == "replay"})
    yield Fact(
        "error",
        f"{number(worst.rms_multiple)} {UNITS.get(worst.precision, 'x noise')} at {worst.precision}, "
        f"{number(worst.rel_rms)} of the tap's own rms "
        f"(case {worst.case}, {worst.tap}); wrong in {cases} of {everywhere} cases, {_folded(report, kind)}",
    )


def _single_token(here: Sequence[TapResult]) -> Iterator[Fact]:
    single = [r for r in here if len(r.profile) == 1]
    if any(r.verdict in FAULTY for r in single) and kind_of(here[0].tap) not in ("q_rope", "k_rope"):
        yield Fact("positions", "a single token is wrong: this is not RoPE, the scale, the mask or the cache")


def about_the_values(seen: Observation) -> Iterator[Fact]:
    """What one wrong array is to the golden: a factor, an offset, another order, a rounding, a part."""
    actual, golden = seen.whole_rows()
    if not np.isfinite(actual).all():
        bad = int((~np.isfinite(actual)).sum())
        yield Fact("values", f"{bad:,} of {actual.size:,} are NaN or infinite")
        return
    yield from _relation(seen, actual, golden)
    yield from _parts(seen, actual, golden)
    yield from _size(seen, actual, golden)
    if seen.tap.kind == "probs":
        yield from _attention(actual, golden)


def _relation(seen: Observation, actual: facts.Values, golden: facts.Values) -> Iterator[Fact]:
    """The simplest relation that holds; a factor that holds makes the rest of them hold as well."""
    factor = facts.factor(actual, golden)
    if factor is not None:
        yield Fact("values", f"actual = {factor.value:.6g} x golden (that leaves {factor.left:.1e} of the error)")
        return
    added = facts.offset(actual, golden)
    if added is not None:
        yield Fact("values", f"actual = golden {added:+.6g} everywhere")
        return
    if facts.same_everywhere(actual, golden, seen.tap.position_axis):
        yield Fact("values", "the same vector is added at every position: a bias, missing or one too many")
        return
    factors = facts.factor_per_feature(actual, golden)
    if factors is not None:
        yield Fact(
            "values",
            f"each feature has a factor of its own, {factors.min():.4g} to {factors.max():.4g}: a weight, missing "
            "or another one",
        )
    for axis, dim in enumerate(seen.tap.dims):
        if dim in (*HEAD_AXES, "head_dim", "hidden", "intermediate", "expert"):
            order = facts.permutation(actual, golden, axis)
            if order is not None:
                start = ", ".join(map(str, order.order[:12])) + (", ..." if len(order.order) > 12 else "")
                yield Fact("values", f"{dim} comes in another order: {start}")


def _parts(seen: Observation, actual: facts.Values, golden: facts.Values) -> Iterator[Fact]:
    """Heads, halves of the head dimension and batch rows that are clean."""
    floor = _floor(seen)
    for axis, dim in enumerate(seen.tap.dims):
        if dim not in (*HEAD_AXES, "head_dim", "batch"):
            continue
        clean = facts.clean_along(actual, golden, axis, floor)
        if clean is None:
            continue
        size = actual.shape[axis]
        wrong = [i for i in range(size) if i not in clean]
        halves = {tuple(range(size // 2)): "first", tuple(range(size // 2, size)): "second"}
        half = halves.get(tuple(wrong)) if dim == "head_dim" else None
        which = f"only the {half} half of head_dim is" if half else f"only {dim} {facts.runs(wrong)} of {size} is"
        yield Fact("where", f"{which} wrong")
    if seen.tap.kind in ("q_rope", "k_rope") and facts.lengths_kept(actual, golden):
        yield Fact("values", "every vector keeps its length: it is rotated, by other angles or in other pairs")


def _floor(seen: Observation) -> float:
    """The largest absolute error that still counts as rounding in this array."""
    far = seen.from_golden
    error = float(np.abs(np.asarray(seen.actual, np.float64) - seen.truth).max())
    return CLEAN * error / far.max if far.max > 0 else 0.0


def _size(seen: Observation, actual: facts.Values, golden: facts.Values) -> Iterator[Fact]:
    """Rounding: values that a narrower type holds exactly, or an error of its size."""
    narrower = {"float64": ("bfloat16", "float16", "float32"), "float32": ("bfloat16", "float16")}
    fits = facts.fits_in(actual)
    relative = float(np.sqrt(np.square(actual - golden).mean() / np.square(golden).mean()))
    if fits in narrower.get(seen.precision, ()):
        yield Fact("size", f"every value is exactly a {fits}: it was rounded to that type")
        return
    sized = facts.rounding_sized(relative)
    if sized is not None and seen.precision != "bfloat16" and (sized, seen.precision) != ("float32", "float32"):
        yield Fact("size", f"{relative:.1e} of the tap's rms, as large as the rounding of {sized}")


def _attention(actual: facts.Values, golden: facts.Values) -> Iterator[Fact]:
    blind = facts.without_a_key(actual, golden)
    if blind.any():
        yield Fact("values", f"{int(blind.sum())} rows give every key the same: no key was left to them")
    actual = np.where(blind[..., None], golden, actual)
    low, high = facts.sums(actual)
    if max(abs(low - 1), abs(high - 1)) > 0.02:
        yield Fact("values", f"rows of probabilities sum to {low:.3g} to {high:.3g}, not to 1")
    ahead = facts.mass_ahead(actual)
    if ahead > 1e-6 and facts.mass_ahead(golden) == 0:
        yield Fact("values", f"keys after the query receive up to {ahead:.2g}: the causal mask is not whole")


def _folded(report: Report, kind: str) -> str:
    taps = [tap for tap in report.introduced if kind_of(tap) == kind]
    layers = sum(kind_of(name) == kind for name in report.taps if name.startswith("layers."))
    return folded(taps, layers)
