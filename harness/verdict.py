"""From results to findings: which operation is wrong, which tap merely inherited it, where it starts.

A verdict is a value. Raising, or exiting with 1, is the caller's choice.

A model that computes in a narrower dtype than it is asked for, as its values and the size of its errors tell, is
wrong at every tap, by the rounding of that dtype, and none of that is a bug of a formula. Where the whole model is
like that it is said once; what is wrong by more than that rounding stays a finding of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

from harness.logits import Continuation
from harness.metrics import NARROW, UNIT_ROUNDOFF
from harness.results import AGREEMENT_MODES, TapResult, is_wrong
from harness.taps import CACHE_KINDS, kind_of

FEWEST = 3  # kinds: one or two operations in a narrower dtype are operations, and not the model
# Unit roundoffs: a few operations leave this much in most cases, and this much where values cancel.
USUAL, LARGEST = 5, 20

# Verdicts of a port that does not keep its contract: nothing could be compared there.
BROKEN = ("missing", "extra", "shape", "dtype", "nonfinite")

Graph = Mapping[str, Sequence[str]]
NO_TAPS: Graph = {}
NOT_KNOWN: Mapping[str, Collection[str]] = {}


@dataclass(frozen=True)
class Divergence:
    """The first tap, in data-flow order, that is wrong, and the case that shows it most."""

    tap: str
    case: str
    precision: str


def breaks_contract(result: TapResult) -> bool:
    """Whether a tap was not what it had to be, whatever its values are."""
    return result.verdict in BROKEN or result.expected is not None


def was_compared(result: TapResult) -> bool:
    """Whether there were values to compare: a tap of a wider dtype has some, and one that is tied has none."""
    return (
        result.verdict not in (*BROKEN, "tied") or result.verdict == "nonfinite" or result.rms_multiple is not None
    )


def judge(
    results: Iterable[TapResult],
    graphs: Mapping[str, Graph],
    taps: Graph = NO_TAPS,
    unreplaced: Collection[str] = (),
    recorded: Mapping[str, Collection[str]] = NOT_KNOWN,
) -> tuple[TapResult, ...]:
    """Turn every `diverged` into `introduced` or `inherited`.

    Replay decides: what is wrong even on golden inputs is introduced there. A forward error at a tap that
    replays cleanly is inherited. Without replay, the data flow decides: wrong with only matching inputs
    is introduced; anything further downstream cannot be told apart and is called inherited.

    Where two ways of running the same tokens disagree (`AGREEMENT_MODES`), an error that forward sees as well is
    the one that replay has judged. One that it does not see is in the other way, which was never replayed: the
    data flow decides.

    Where a case recorded nothing between a tap and what feeds it, an error of any operation in between shows at
    that tap, on golden inputs too. Where another comparison says which operation it is, the tap has inherited it.
    And where the same unrecorded tap feeds several, an error in it shows at all of them: it is introduced at the
    first, and those that come later may have inherited it.

    Args:
        results: raw results, all modes together.
        graphs: by case, each recorded tap's nearest recorded inputs (`taps.recorded_inputs`).
        taps: what feeds each tap, recorded or not.
        unreplaced: kinds in whose place replay does not put the golden.
        recorded: by case, the taps that the golden has.
    """
    results = tuple(results)
    # Values of a wider dtype that match have not misled what they feed.
    verdicts = {
        (r.case, r.precision, r.mode, r.tap): "match" if r.verdict == "dtype" and was_compared(r) else r.verdict
        for r in results
        if r.verdict != "tied"
    }

    def known(result: TapResult, mode: str, tap: str) -> str | None:
        return verdicts.get((result.case, result.precision, mode, tap))

    def wrong_inputs(result: TapResult, tap: str) -> bool:
        """Whether any of the nearest taps upstream that were compared in this mode is wrong."""
        nearest = ((name, known(result, result.mode, name)) for name in graphs[result.case].get(tap, ()))
        return any(wrong_inputs(result, name) if v is None else v != "match" for name, v in nearest)

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

    first = _first_of_those_that_share([judged(result) for result in results], taps, recorded)
    return _explained(first, taps, frozenset(unreplaced))


def _first_of_those_that_share(
    results: Sequence[TapResult], taps: Graph, recorded: Mapping[str, Collection[str]]
) -> list[TapResult]:
    """What is introduced where an unrecorded tap that feeds it also feeds an earlier such one is inherited."""
    wrong: dict[tuple[str, str], set[str]] = {}
    for r in results:
        if r.verdict in ("introduced", "nonfinite") and r.case in recorded:
            wrong.setdefault((r.case, r.precision), set()).add(r.tap)
    later: dict[tuple[str, str], set[str]] = {}
    cached = {r.case for r in results if r.calls}
    for key, names in wrong.items():
        seen: set[str] = set()
        for tap in (name for name in taps if name in names):
            inside = span(taps, tap, recorded[key[0]])
            if key[0] not in cached:  # what would go into a cache goes on as it is
                inside = {name for name in inside if kind_of(name) not in CACHE_KINDS}
            if inside & seen:
                later.setdefault(key, set()).add(tap)
            seen |= inside
    return [
        replace(r, verdict="inherited")
        if r.verdict == "introduced" and r.tap in later.get((r.case, r.precision), ())
        else r
        for r in results
    ]


def _explained(results: Sequence[TapResult], taps: Graph, unreplaced: frozenset[str]) -> tuple[TapResult, ...]:
    """What is introduced over a span of operations is inherited where one inside the span is introduced itself."""
    located = {r.tap for r in results if r.verdict in ("introduced", "nonfinite")}
    compared: dict[str, set[str]] = {}
    for r in results:
        if was_compared(r) and kind_of(r.tap) not in unreplaced:
            compared.setdefault(r.case, set()).add(r.tap)

    def spans_a_located_one(r: TapResult) -> bool:
        inside = span(taps, r.tap, compared.get(r.case, set()))
        # In a case of one call there is no cache between rotation and probabilities.
        return any(name in located and (r.calls or kind_of(name) not in CACHE_KINDS) for name in inside)

    return tuple(
        replace(r, verdict="inherited") if r.verdict == "introduced" and spans_a_located_one(r) else r
        for r in results
    )


def span(taps: Graph, tap: str, known: Collection[str]) -> set[str]:
    """The taps strictly between a tap and the nearest known ones upstream."""
    between: set[str] = set()
    waiting = list(taps.get(tap, ()))
    while waiting:
        name = waiting.pop()
        if name not in known and name not in between:
            between.add(name)
            waiting += taps.get(name, ())
    return between


def introduced(results: Iterable[TapResult], order: Sequence[str]) -> tuple[str, ...]:
    """The taps that are wrong on their own, in data-flow order."""
    names = {r.tap for r in results if r.verdict in ("introduced", "nonfinite")}
    return tuple(name for name in order if name in names)


def first_divergence(results: Iterable[TapResult], order: Sequence[str]) -> Divergence | None:
    """Where it starts: introduced before inherited, then data-flow order, then the largest multiple."""
    place = {name: index for index, name in enumerate(order)}
    wrong = [r for r in results if is_wrong(r.verdict)]
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


def overall(results: Sequence[TapResult], written: Iterable[Continuation] = ()) -> Literal["match", "diverged"]:
    """`match` or `diverged`; nothing compared is not a pass."""
    matched = any(r.verdict == "match" for r in results) and not any(is_wrong(r.verdict) for r in results)
    matched = matched and all(continuation.verdict == "match" for continuation in written)
    return "match" if matched else "diverged"


@dataclass(frozen=True)
class Narrower:
    """What a model computes in at one precision.

    Attributes:
        precision: what it was asked for.
        dtype: whose numbers its values are.
        kinds: of taps whose values are such numbers in all cases of whole prompts.
        of: how many kinds there are.
        rounding: kinds that are wrong, by no more than the rounding of that dtype.
        command: the check of the port as it is.
    """

    precision: str
    dtype: str
    kinds: tuple[str, ...]
    of: int
    rounding: tuple[str, ...]
    command: str | None = None


def narrower(results: Sequence[TapResult]) -> tuple[Narrower, ...]:
    """What the whole model computes in, at every precision at which that is narrower than what was asked for."""
    narrowest: dict[str, Narrower] = {}
    for precision in dict.fromkeys(r.precision for r in results):
        for dtype in tuple(NARROW)[: [*NARROW, "float64"].index(precision)]:
            if precision not in narrowest and (seen := _narrower(results, precision, dtype)):
                narrowest[precision] = seen
    return tuple(narrowest.values())


def _narrower(results: Sequence[TapResult], precision: str, dtype: str) -> Narrower | None:
    """Whether half of the kinds of taps are wrong, and hold numbers of a dtype alone."""
    by_kind: dict[str, list[TapResult]] = {}
    for result in results:
        if result.precision == precision:
            by_kind.setdefault(kind_of(result.tap), []).append(result)
    wrong = {kind: [r for r in rs if r.verdict in ("introduced", "dtype")] for kind, rs in by_kind.items()}
    holding = tuple(NARROW)[: tuple(NARROW).index(dtype) + 1]
    # A cache is as wide as the check asks for, and what is computed from it: whole prompts say more.
    whole = {kind: [r for r in rs if not r.calls] or rs for kind, rs in by_kind.items()}
    held = tuple(kind for kind, rs in whole.items() if all(r.held_by in holding for r in rs))
    if sum(bool(wrong[kind]) for kind in held) < max(FEWEST, len(by_kind) / 2):
        return None
    rounding = tuple(kind for kind, rs in wrong.items() if _is_rounding(rs, dtype))
    return Narrower(precision, dtype, held, len(by_kind), rounding)


def _is_rounding(results: Sequence[TapResult], dtype: str) -> bool:
    """Whether errors are of the size of a dtype's rounding; of values that were not compared nothing is known.

    Replay says it of the operation alone: a forward error holds what came in from upstream as well.
    """
    compared = [r for r in results if r.verdict == "introduced"]
    compared = [r for r in compared if r.mode == "replay"] or compared
    sizes = [float("inf") if r.rel_rms is None else r.rel_rms for r in compared]
    unit = UNIT_ROUNDOFF[dtype]
    return bool(sizes) and median(sizes) <= USUAL * unit and max(sizes) <= LARGEST * unit


def explained(models: Sequence[Narrower]) -> Mapping[str, frozenset[str]]:
    """By precision, the kinds of taps of which it is enough to say that."""
    return {model.precision: frozenset(model.rounding) for model in models}
