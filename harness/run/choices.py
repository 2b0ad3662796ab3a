"""Mixtures of experts in a check: what choices are judged by, where they are pinned, and what cannot be judged.

At float32 and bfloat16 a correct port may choose other experts than the truth does. Where it shows its choice
(`routing`) and goes on with what it is given there, it is pinned to the golden's (`harness.run.tapping`), as
PyTorch was for its noise floors. Where it does not, what follows from a choice that may be a tie says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float

from harness.calibration import Floor
from harness.choice import Choosing, margins
from harness.golden import CaseEntry
from harness.metrics import UNIT_ROUNDOFF, noise_floor
from harness.results import TapResult
from harness.run.port import Declarations
from harness.run.source import GoldenSource
from harness.taps import PINNED, kind_of, name_of
from harness.tolerances import Limit

PerToken = Bool[np.ndarray, "batch position"]


@dataclass(frozen=True, eq=False)
class Unpinned:
    """What of a case a port's own choice leaves unjudged.

    Attributes:
        since: the first tap at which a choice is not pinned and may be a tie; None where there is none.
        forward: the taps that are not judged where the port runs on its own values.
        replay: those that are not judged in replay either.
        tokens: by tap, which tokens are not judged in replay.
    """

    since: str | None = None
    forward: frozenset[str] = frozenset()
    replay: frozenset[str] = frozenset()
    tokens: Mapping[str, PerToken] = field(default_factory=dict)

    def silent(self, mode: str) -> frozenset[str]:
        """The taps of which a mode says nothing."""
        return self.replay if mode == "replay" else self.forward


def with_expert(source: GoldenSource, result: TapResult) -> TapResult:
    """The result, with the number of the worst expert in place of its place among those of its token."""
    if result.worst is None or "chosen" not in result.worst.index:
        return result
    at = result.worst.index
    routing = source.truth(result.case, name_of(result.tap.rpartition(".")[0], "routing"))
    experts = np.flatnonzero(routing[at["batch"], at["position"]])
    named = {"expert" if dim == "chosen" else dim: index for dim, index in at.items()}
    return replace(result, worst=replace(result.worst, index={**named, "expert": int(experts[at["chosen"]])}))


def pins(source: GoldenSource, declared: Declarations) -> bool:
    """Whether a port is pinned at this precision."""
    return source.experts is not None and source.precision != "float64" and shows_choices(declared)


def shows_choices(declared: Declarations) -> bool:
    """Whether a port hands over its choices, and goes on with what it is given there."""
    return not PINNED & {*declared.without, *declared.recorded_only}


def scores_of(source: GoldenSource, routing: str) -> str:
    """The tap by which the experts of a layer are chosen."""
    stage = routing.rpartition(".")[0]
    corrected = name_of(stage, "router_scores")
    return corrected if corrected in source.taps else name_of(stage, "router_logits")


def choosing_by(
    source: GoldenSource,
    scores: Float[np.ndarray, "batch position expert"] | None,
    floor: Floor | None,
    limit: Limit,
    counted: PerToken,
    rounding: str | None = None,
) -> Choosing:
    """What choices are judged by: each score may be as wrong as the limit allows the largest error of a token.

    Args:
        scores: the golden's; None where it has none.
        floor: PyTorch's own error of them; None in float64, where none may move.
        rounding: the precision that they are judged by, where that is not the source's.
    """
    assert source.experts is not None
    allowed = np.zeros(counted.shape)
    if scores is not None and floor is not None and counted.any():
        sizes = np.abs(scores).max(axis=-1)
        unit = UNIT_ROUNDOFF[rounding or source.precision]
        allowed = limit.of(floor, counted).max * noise_floor(floor.max, sizes, unit)
    return Choosing(source.experts, scores, allowed)


def choosing(
    source: GoldenSource, case: CaseEntry, routing: str, mode: str, limit: Limit, rounding: str | None = None
) -> Choosing:
    """What the choices of a case at a layer are judged by.

    Args:
        mode: `forward` or `replay`, of the noise.
    """
    name, counted = scores_of(source, routing), source.scope(case.name).counted
    if name not in case.taps:
        return choosing_by(source, None, None, limit, counted)
    floor = source.at(rounding).noise(case, mode, name)
    return choosing_by(source, source.truth(case.name, name), floor, limit, counted, rounding)


def may_tie(source: GoldenSource, case: CaseEntry, routing: str, mode: str, limit: Limit) -> PerToken:
    """The tokens for which a correct port may choose other experts than the golden; all where it has no scores."""
    judged_by = choosing(source, case, routing, mode, limit)
    counted = source.scope(case.name).counted
    if judged_by.scores is None:
        return counted
    return np.asarray(counted & (margins(judged_by.experts, judged_by.scores) <= 2 * judged_by.allowed))


def unpinned(source: GoldenSource, case: CaseEntry, declared: Declarations, limit: Limit) -> Unpinned:
    """What a port's own choices leave unjudged of a case, at the source's precision."""
    if source.experts is None or source.precision == "float64":
        return Unpinned()
    layers = [tap for tap in source.taps.values() if tap.kind in PINNED]
    # Whether another choice is a tie, only scores say.
    unknown = frozenset(
        tap.name for tap in layers if tap.name in case.taps and scores_of(source, tap.name) not in case.taps
    )
    own = [tap for tap in layers if tap.name not in case.taps or not shows_choices(declared)]
    # Elsewhere than at the kept positions the golden has no scores, and all positions are attended to.
    since = next((t.name for t in own if case.kept or may_tie(source, case, t.name, "forward", limit).any()), None)
    forward = unknown | (_downstream(source, since) if since else frozenset())
    replay, tokens = set(unknown), dict[str, PerToken]()
    for tap in own:
        tied = may_tie(source, case, tap.name, "replay", limit)
        if not tied.any():
            continue
        for name in _reached(source, case, declared, tap.name):
            if source.taps[name].stage == tap.stage:
                tokens[name] = tokens[name] | tied if name in tokens else tied
            else:
                replay.add(name)  # other tokens attend to those that may be ties
    return Unpinned(since, forward, frozenset(replay), tokens)


def _downstream(source: GoldenSource, start: str) -> frozenset[str]:
    """Every tap that follows from one."""
    reached = {start}
    for tap in source.taps.values():  # in data-flow order
        if reached.intersection(tap.inputs):
            reached.add(tap.name)
    return frozenset(reached - {start})


def _reached(source: GoldenSource, case: CaseEntry, declared: Declarations, start: str) -> Iterator[str]:
    """The taps of a case that the port's own value of one gets to in replay, before a golden is in the way."""
    going_on = {start}
    for tap in source.taps.values():
        if not going_on.intersection(tap.inputs):
            continue
        if tap.name not in case.taps or tap.kind in declared.own:
            going_on.add(tap.name)
        if tap.name in case.taps:
            yield tap.name


def not_judged(
    source: GoldenSource, cases: Sequence[CaseEntry], declared: Declarations, limit: Limit, command: str
) -> dict[str, None]:
    """What a report says of what is not judged, one line for all cases of which the same is true.

    Args:
        command: what proposes the place where a port could show its choice.
    """
    if shows_choices(declared):
        why = "the golden does not have it (record router_logits, router_scores and routing)"
    else:
        why = f"the port does not show it and go on with it (tap routing; `{command}` proposes where)"
    lines: dict[str, list[str]] = {}
    for case in cases:
        unjudged = unpinned(source, case, declared, limit)
        if unjudged.since:
            where = f"{source.precision} in all modes but replay, after {unjudged.since}"
            lines.setdefault(f"{where}: the choice may be a tie there, and {why}", []).append(case.name)
        if unjudged.replay:
            where = f"{source.precision} replay of {', '.join(sorted({kind_of(tap) for tap in unjudged.replay}))}"
            lines.setdefault(f"{where}: the choice before it may be a tie, and {why}", []).append(case.name)
    return dict.fromkeys(f"{line}: {', '.join(names)}" for line, names in lines.items())
