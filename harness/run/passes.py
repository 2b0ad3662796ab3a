"""Which cases of a golden a port is checked on, in which passes, what is compared in each, and its calls.

What cannot be checked is named, with the reason, and never counts as passed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from harness.errors import PortError, UsageError
from harness.golden import CaseEntry
from harness.run.comparing import Judgement, Reference
from harness.run.contained import blaming_the_port
from harness.run.port import Call, Declarations, Port
from harness.run.precision import jax_dtype
from harness.run.references import AloneGolden, OwnPrefill, prompts_of
from harness.run.session import CaseSession
from harness.run.source import GoldenSource
from harness.selecting import folded
from harness.store import Golden
from harness.taps import ATTENDED, CACHE_KINDS, CACHED, LATENTS, Tap, kind_of, name_of


def checkable(golden: Golden, cases: Sequence[CaseEntry], modes: Sequence[str]) -> tuple[CaseEntry, ...]:
    """The cases that can be checked in any of the modes.

    Raises:
        UsageError: none of them.
    """
    always = {*modes} - {"prefill", "alone"}
    possible = tuple(
        case
        for case in cases
        if always or ("prefill" in modes and case.cached) or ("alone" in modes and any(prompts_of(golden, case)))
    )
    if not possible:
        problem = "no case that was asked for can be checked in this mode"
        expected = "prefill: a case with a KV cache; alone: a batch of prompts that the golden also has alone"
        hint = "`goldens show GOLDEN` lists the cases; leave --mode out for all that a case allows"
        found = ", ".join(case.name for case in cases)
        raise UsageError(problem, f"--mode {','.join(modes)}", expected, found, hint=hint)
    return possible


def passes(
    source: GoldenSource, case: CaseEntry, modes: Sequence[str], replayable: bool, judgement: Judgement
) -> Iterator[CaseSession]:
    """The passes of one case; its own prefill comes just before the calls that are compared with it.

    Args:
        replayable: whether replay says anything about this case.
    """
    references: list[Reference] = []
    if "prefill" in modes and case.cached:
        own = OwnPrefill(source, case, judgement)
        references.append(own)
        yield own
    # Looked for only where it is asked for: an audit comes here for every mutant, and asks for neither.
    prompts = prompts_of(source.golden, case) if "alone" in modes else ()
    if any(prompts):
        references.append(AloneGolden(source, case, prompts, judgement))
    if "forward" in modes or references:
        yield CaseSession(source, case, "forward", judgement, references, golden_too="forward" in modes)
    if "replay" in modes and replayable:
        yield CaseSession(source, case, "replay", judgement)


class NotCovered(PortError):  # noqa: N818 - an outcome: a test of such a case is skipped
    """The port can run none of the cases that were asked for.

    Attributes:
        cases: these.
        reasons: what it lacks, one line a reason.
    """

    def __init__(self, cases: Sequence[CaseEntry], reasons: Sequence[str]) -> None:
        self.cases, self.reasons = tuple(cases), tuple(reasons)
        super().__init__(
            "the port can run none of the cases that were asked for",
            where=", ".join(case.name for case in cases),
            found="; ".join(reasons),
            hint="ask for other cases (--case), or give the port what it lacks: see harness/run/port.py",
        )


def covered(cases: Sequence[CaseEntry], port: Port, declared: Declarations) -> tuple[CaseEntry, ...]:
    """The cases that the port can run.

    Raises:
        NotCovered: none of them.
    """
    left = tuple(case for case in cases if obstacle(case, port, declared) is None)
    if cases and not left:
        raise NotCovered(cases, tuple(uncovered(cases, port, declared)))
    return left


def uncovered(cases: Sequence[CaseEntry], port: Port, declared: Declarations) -> Iterator[str]:
    """One line for each reason why cases, or their replay, are left out."""
    reasons: dict[str, list[str]] = {}
    unread = "replay: what attention reads at positions that are not stored"
    for case in cases:
        reason = obstacle(case, port, declared) or (None if replayable(case, declared) else unread)
        if reason is not None:
            reasons.setdefault(reason, []).append(case.name)
    for reason, names in reasons.items():
        yield f"{reason}: {', '.join(names)}"
    for case in cases:
        if case.kept and obstacle(case, port, declared) is None:
            yield f"positions of {case.name} beside the {len(case.kept)} of {case.shape[1]} that are stored"


def replayable(case: CaseEntry, declared: Declarations) -> bool:
    """Whether replay judges operations on golden inputs alone: attention reads all positions, stored or not."""
    if not case.kept or case.taps == ("logits",):
        return True
    return case.complete and ATTENDED & {*declared.without, *declared.recorded_only} < LATENTS


def not_judged(cases: Sequence[CaseEntry], taps: Sequence[Tap]) -> Iterator[str]:
    """What replay cannot judge by itself, since it, or what feeds it, is not in the golden: one line for all cases
    of which the same is true, with how many operations that are of how many.

    Args:
        taps: of the model.
    """
    groups: dict[tuple[str, ...], list[CaseEntry]] = {}
    for case in (case for case in cases if case.partly):
        groups.setdefault((*case.taps, str(case.cached)), []).append(case)
    for alike in groups.values():
        of_case = [tap for tap in taps if alike[0].cached or tap.kind not in CACHE_KINDS]
        alone = judged_alone(alike[0], taps)
        left = [tap.name for tap in of_case if tap.name not in alone]
        yield (
            f"{len(left):,} of {len(of_case):,} operations, each by itself, in {_some(alike)}: they, or what "
            f"feeds them, are not in the golden ({folded(left, of_case)})"
        )


def judged_alone(case: CaseEntry, taps: Iterable[Tap]) -> frozenset[str]:
    """The recorded taps of which all that feeds them is recorded; without a cache, what would go into it."""
    held = set(case.taps)
    if not case.cached:
        held |= {
            name_of(tap.rpartition(".")[0], cache)
            for tap in case.taps
            for cache, kind in CACHED.items()
            if kind_of(tap) == kind
        }
    return frozenset(tap.name for tap in taps if tap.name in case.taps and held.issuperset(tap.inputs))


def _some(cases: Sequence[CaseEntry]) -> str:
    names = ", ".join(case.name for case in cases)
    return f"{len(cases)} cases ({names})" if len(cases) > 1 else names


def obstacle(case: CaseEntry, port: Port, declared: Declarations) -> str | None:
    """Why the port cannot run a case; None where it can."""
    if case.kind in declared.cannot:
        return f"{case.kind} cases, which the port declares that it does not take"
    if case.cached and not callable(getattr(port, "init_cache", None)):
        return "cases with a KV cache, which the port does not have (init_cache)"
    return None


def calls_of(port: Any, golden: Golden, session: CaseSession, precision: str) -> list[Call]:
    """The calls of a pass; the first has the cache, which is as long as the case and not a token longer.

    One call is all tokens at once, without a cache.

    Raises:
        PortError: `init_cache` raises.
    """
    case, taps, cache = golden.case(session.case.name), session.calls(), None
    ids, positions = case.input_ids.astype(np.int32), case.positions.astype(np.int32)
    spans = case.spans if len(taps) > 1 else [slice(0, case.length)]
    if len(taps) > 1:
        with blaming_the_port("init_cache"):
            cache = port.init_cache(case.batch, case.length, jax_dtype(precision))
    return [
        Call(
            jax.device_put(ids[:, span]),
            jax.device_put(positions[:, span]),
            filled(case.mask, span),
            None if span.start else cache,
            tap,
        )
        for span, tap in zip(spans, taps, strict=True)
    ]


def filled(mask: np.ndarray, span: slice) -> jax.Array:
    """The mask over all slots of a cache once a call's tokens are in it."""
    return jax.device_put(mask & (np.arange(mask.shape[1]) < span.stop))
