"""The order of the work: stage by stage, and within a stage case by case.

One stage's weights, the taps of one case and those of the case before it, which are being saved meanwhile, are in
memory, however deep the model is and however many prompts there are. What passes from stage to stage lies on disk
(see `harness.record.work`), and in memory as well while it is little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from harness.along import Case
from harness.golden import CaseEntry, Manifest
from harness.record.beside import Beside
from harness.record.model import Reference
from harness.record.unit import PRECISIONS, Replay, State, Task, compute, replays
from harness.record.work import Work
from harness.selecting import LEVELS
from harness.taps import Tap

HANDED_BYTES = 256 * 2**20


def run_units(
    model: Reference, manifest: Manifest, cases: Sequence[Case], work: Work, done: Callable[[str, str, int], None]
) -> None:
    """Do every unit of work that is not done yet.

    Args:
        done: told after each unit: stage, case, bytes.

    Raises:
        RecordError: see `harness.record.unit.compute` and `Work.save`. Units that are done stay done.
    """
    witness = witness_of(manifest.cases)
    replayed = {entry.name: replays_of(model.stages, entry, manifest.taps) for entry in manifest.cases}
    before, handed = None, Handed()
    with Beside() as saving:
        for name in model.stages:
            pending = [case for case in cases if not work.has(name, case.name)]
            if pending:
                stage = model.load(name, PRECISIONS)
                for case in pending:
                    state: State = {}
                    if before is not None:
                        state = handed.take(before, case.name) or _saved(before, case.name, model, work, saving)
                    task = _task(name, model, manifest, case, replayed[case.name][name])
                    unit = compute(stage, replace(task, repeat=case.name == witness), state)
                    handed.keep(name, case.name, unit.state)
                    saving.do(partial(work.save, name, case.name, unit), partial(done, name, case.name))
                    del unit, state  # before the next one's are made
                del stage  # before the next one's weights are read
            before = name
        saving.finish()


class Handed:
    """Hidden states on their way to the next stage: as many as memory has room for; the others are read again."""

    def __init__(self, most: int = HANDED_BYTES) -> None:
        self._most, self._bytes = most, 0
        self._states: dict[tuple[str, str], State] = {}

    def keep(self, stage: str, case: str, state: State) -> None:
        """Hold what a case hands on, if there is room."""
        size = _size(state)
        if self._bytes + size <= self._most:
            self._states[stage, case] = state
            self._bytes += size

    def take(self, stage: str, case: str) -> State | None:
        """What a case has handed on, which is let go of; None where it is not held."""
        state = self._states.pop((stage, case), None)
        self._bytes -= 0 if state is None else _size(state)
        return state


def _saved(stage: str, case: str, model: Reference, work: Work, saving: Beside) -> State:
    saving.finish()  # it may be the one that is being saved
    return work.state(stage, case, model.device)


def _size(state: State) -> int:
    return sum(value.nbytes for value in state.values())


def _task(stage: str, model: Reference, manifest: Manifest, case: Case, replay: Replay) -> Task:
    entry = manifest.case(case.name)
    return Task(
        inputs=model.inputs(case),
        spans=case.spans,
        kept=entry.kept,
        taps=recorded(stage, entry, manifest.taps),
        replay=replay,
        draws=entry.draws,
        seed=entry.name,
        top=entry.top or 0,
    )


def recorded(stage: str, entry: CaseEntry, taps: Sequence[Tap]) -> list[Tap]:
    """The taps of a stage that a case records, in data-flow order."""
    kinds = {"embed": {"embed"}, "head": {"final_norm", "logits"}}.get(stage)
    names = set(entry.taps)
    return [
        tap for tap in taps if tap.name in names and (tap.stage == stage if kinds is None else tap.kind in kinds)
    ]


def replays_of(stages: Sequence[str], entry: CaseEntry, taps: Sequence[Tap]) -> dict[str, Replay]:
    """The replay passes of a case, by stage."""
    return replays({stage: recorded(stage, entry, taps) for stage in stages})


def witness_of(entries: Sequence[CaseEntry]) -> str:
    """The case that is run twice everywhere: of median length among those that are recorded deepest."""
    depth = max(LEVELS.index(entry.level) for entry in entries)
    deepest = [entry for entry in entries if LEVELS.index(entry.level) == depth]
    return sorted(deepest, key=lambda entry: entry.shape[1])[len(deepest) // 2].name
