"""From two checks to what changed: fixed, improved, unchanged, worse, broken, comparison by comparison.

Both sides are judged on noise multiples, the rms and the max. A change within the noise is no change:

- match to match is `unchanged`, whatever the multiples.
- wrong to match is `fixed` and match to wrong is `broken`, where a multiple moved by more than the noise. One of
  3.9 that becomes 4.1 has crossed the limit (`crosses`), and nothing has happened to the port.
- wrong to wrong is `improved` or `worse` where a multiple moved by more than the noise and by a factor as well
  (`FACTORS`). Where the rms falls and the max rises, it is `worse`.

What could not be compared (missing, extra, shape, dtype, not finite) is wrong with an infinite multiple. Tokens
that go to wrong experts are wrong by their number as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Literal, Protocol

from harness.results import TapResult, Verdict, is_wrong

# The figures in the reasons come from `python -m tests.benchmarks.bench_diff`.

# By how much noise alone moves a multiple, as a share of the limit. The built-in port at other roundings (SSE4.2,
# AVX, not jitted) moves by at most 1.9 (rms, of 4) and 2.0 (max, of 8) at any tap of the embedded golden.
NOISE = 0.5

# The factor by which an error that stays wrong has to change. In replay an operation is judged on golden inputs
# alone, so what is left of its error is its own. In forward, mending one of two bugs moves the error inherited
# from the other either way: up by 2.9 at most in 422 such mendings, by more than 2 in 11 of them.
# The other modes compare what the port computes on its own activations, as forward does.
FACTORS = {"replay": 1.1, "forward": 4.0, "prefill": 4.0, "alone": 4.0}

# `lost` was compared before and is not any more; `gained` is compared only now: the port covers other taps.
Status = Literal["fixed", "improved", "unchanged", "worse", "broken", "lost", "gained"]
STATUSES: tuple[Status, ...] = ("fixed", "improved", "unchanged", "worse", "broken", "lost", "gained")
BETTER: tuple[Status, ...] = ("fixed", "improved", "gained")
WORSE: tuple[Status, ...] = ("broken", "worse", "lost")


class Limits(Protocol):
    """What the limits at a precision follow from.

    The allowance, that of a call of one token where it is another one, and factors on the limits.
    """

    @property
    def allowance(self) -> float: ...

    @property
    def single(self) -> float | None: ...

    @property
    def rms(self) -> float: ...

    @property
    def max(self) -> float: ...


@dataclass(frozen=True)
class Outcome:
    """What one side was at one tap. A number that is not finite, or was never computed, is None."""

    verdict: Verdict
    rms_multiple: float | None
    max_multiple: float | None
    overall_multiple: float | None
    max_abs: float | None


@dataclass(frozen=True)
class Change:
    """One comparison on both sides; None where that side did not make it."""

    case: str
    precision: str
    mode: str
    tap: str
    status: Status
    before: Outcome | None
    after: Outcome | None


def compare_results(
    before: Iterable[TapResult], after: Iterable[TapResult], limits: Mapping[str, Limits]
) -> tuple[Change, ...]:
    """Every comparison that either side made, once, in the order of `before` and then of `after`.

    Args:
        before, after: judged results of the same cases, precisions and modes.
        limits: by precision, in force on both sides.
    """
    old, new = _by_key(before), _by_key(after)
    return tuple(
        Change(
            *key,
            classify(old.get(key), new.get(key), limits[key[1]]),
            _outcome(old.get(key)),
            _outcome(new.get(key)),
        )
        for key in dict.fromkeys([*old, *new])
    )


def classify(before: TapResult | None, after: TapResult | None, limits: Limits) -> Status:
    """What became of one comparison; None where that side did not make it.

    An `extra` tap, one that the golden does not have, exists only on the side that invents it.
    """
    if after is None:
        assert before is not None
        return "fixed" if before.verdict == "extra" else "lost"
    if before is None:
        return "broken" if after.verdict == "extra" else "gained"
    if "tied" in (before.verdict, after.verdict):
        # Which of the two it is, the noise decides; where nothing was compared nothing is known to have changed.
        was_right, is_right = not is_wrong(before.verdict), not is_wrong(after.verdict)
        return "unchanged" if was_right and is_right else "broken" if was_right else "fixed"
    was_right, is_right = before.verdict == "match", after.verdict == "match"
    if was_right and is_right:
        return "unchanged"
    factor = 1.0 if was_right or is_right else FACTORS[after.mode]
    # However tight the user's own limit, it does not make the noise smaller.
    moves = {
        _move(
            getattr(before, f"{name}_multiple"),
            getattr(after, f"{name}_multiple"),
            NOISE
            * max(getattr(side, f"{name}_limit") or 0.0 for side in (before, after))
            / min(1.0, limits.max if name == "max" else limits.rms),
            factor,
        )
        for name in ("rms", "max", "overall")
    }
    moves.add(_move(_wrong_choices(before), _wrong_choices(after), 0.0, factor))
    if "up" in moves and not is_right:
        return "broken" if was_right else "worse"
    if "down" in moves and not was_right:
        return "fixed" if is_right else "improved"
    return "unchanged"


def verdict_of(counts: Mapping[Status, int]) -> Literal["better", "same", "worse", "mixed"]:
    """What the counts of all changes say together."""
    better, worse = (any(counts[status] for status in group) for group in (BETTER, WORSE))
    if better and worse:
        return "mixed"
    return "better" if better else "worse" if worse else "same"


def crosses(change: Change) -> bool:
    """Whether the verdict changed and the error did not: the limit was crossed within the noise."""
    if change.status != "unchanged" or change.before is None or change.after is None:
        return False
    return is_wrong(change.before.verdict) != is_wrong(change.after.verdict)


def _move(before: float | None, after: float | None, noise: float, factor: float) -> Literal["up", "down"] | None:
    old, new = _size(before), _size(after)
    if old == new:
        return None
    smaller, larger = min(old, new), max(old, new)
    if larger - smaller <= noise or larger <= factor * smaller:
        return None
    return "up" if new > old else "down"


def _wrong_choices(result: TapResult) -> float:
    """How many tokens go to other experts than they may."""
    return 0.0 if result.choice is None else float(result.choice.wrong + result.choice.dropped)


def _size(multiple: float | None) -> float:
    return math.inf if multiple is None else multiple


def _by_key(results: Iterable[TapResult]) -> dict[tuple[str, str, str, str], TapResult]:
    return {(r.case, r.precision, r.mode, r.tap): r for r in results}


def _outcome(result: TapResult | None) -> Outcome | None:
    return None if result is None else Outcome(*(getattr(result, field.name) for field in fields(Outcome)))
