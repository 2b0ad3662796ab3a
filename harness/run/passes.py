"""Which passes a port has to make for a case, and what is compared in each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from harness.errors import UsageError
from harness.golden import CaseEntry
from harness.results import MODES
from harness.run.choices import pins, unpinned
from harness.run.comparing import Judgement, Reference, wanted_taps
from harness.run.own_prefill import OwnPrefill
from harness.run.rows import AloneGolden, prompts_of
from harness.run.session import CaseSession
from harness.run.source import GoldenSource
from harness.run.tapping import TapFunction
from harness.store import Golden


class Pass(Protocol):
    """One pass over a case: the taps of its calls, in order."""

    case: CaseEntry

    @property
    def expected(self) -> int:
        """How many comparisons are made in it."""
        ...

    def calls(self) -> list[TapFunction]: ...

    def finish(self) -> None:
        """Report what never came."""
        ...


def allowed(golden: Golden, case: CaseEntry) -> tuple[str, ...]:
    """The modes in which a case can be checked."""
    possible = {"prefill": case.cached, "alone": any(prompts_of(golden, case))}
    return tuple(mode for mode in MODES if possible.get(mode, True))


def checkable(golden: Golden, cases: Sequence[CaseEntry], modes: Sequence[str]) -> tuple[CaseEntry, ...]:
    """The cases that can be checked in any of the modes.

    Raises:
        UsageError: none of them.
    """
    possible = tuple(case for case in cases if set(modes) & set(allowed(golden, case)))
    if not possible:
        raise UsageError(
            "no case that was asked for can be checked in this mode",
            where=f"--mode {','.join(modes)}",
            expected="prefill: a case with a KV cache; alone: a batch of prompts that the golden also has alone",
            found=", ".join(case.name for case in cases),
            hint="`goldens show GOLDEN` lists the cases; leave --mode out for all that a case allows",
        )
    return possible


def passes(
    source: GoldenSource, case: CaseEntry, modes: Sequence[str], replayable: bool, judgement: Judgement
) -> Iterator[Pass]:
    """The passes of one case; its own prefill comes just before the calls that are compared with it.

    Args:
        replayable: whether replay says anything about this case.
    """
    references: list[Reference] = []
    if "prefill" in modes and case.cached:
        own = OwnPrefill(
            source,
            case,
            wanted_taps(source, case, judgement.declared),
            judgement.limit,
            judgement.limit_at,
            unpinned(source, case, judgement.declared, judgement.limit).forward,
            pins(source, judgement.declared),
        )
        references.append(own)
        yield own
    # Looked for only where it is asked for: an audit comes here for every mutant, and asks for neither.
    prompts = prompts_of(source.golden, case) if "alone" in modes else ()
    if any(prompts):
        references.append(AloneGolden(source, case, prompts, judgement.limit, judgement.limit_at))
    if "forward" in modes or references:
        yield CaseSession(source, case, "forward", judgement, references, golden_too="forward" in modes)
    if "replay" in modes and replayable:
        yield CaseSession(source, case, "replay", judgement)
