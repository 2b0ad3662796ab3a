"""The order of the work: stage by stage, and within a stage case by case.

One stage's weights and one case's taps are in memory, however deep the model is and however many prompts there
are. What passes from stage to stage lies on disk (see `harness.record.work`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.corpus import Case
from harness.golden import CaseEntry, Manifest
from harness.record.model import Reference
from harness.record.replaying import Replay, replays
from harness.record.unit import PRECISIONS, State, Task, compute
from harness.record.work import Work
from harness.selected import LEVELS
from harness.taps import Tap


def run_units(
    model: Reference,
    manifest: Manifest,
    cases: Sequence[Case],
    work: Work,
    done: Callable[[str, str, int], None],
) -> None:
    """Do every unit of work that is not done yet.

    Args:
        done: told after each unit: stage, case, bytes.

    Raises:
        RecordError: see `harness.record.unit.compute` and `Work.save`. Units that are done stay done.
    """
    witness = witness_of(manifest.cases)
    replayed = {entry.name: replays_of(model.stages, entry, manifest.taps) for entry in manifest.cases}
    before = None
    for name in model.stages:
        pending = [case for case in cases if not work.has(name, case.name)]
        if pending:
            stage = model.load(name, PRECISIONS)
            for case in pending:
                entry = manifest.case(case.name)
                task = Task(
                    inputs=model.inputs(case),
                    spans=case.spans,
                    kept=entry.kept,
                    taps=recorded(name, entry, manifest.taps),
                    replay=replayed[entry.name][name],
                    draws=entry.draws,
                    seed=entry.name,
                    repeat=case.name == witness,
                    top=entry.top or 0,
                )
                state: State = work.state(before, case.name, model.device) if before else {}
                done(name, case.name, work.save(name, case.name, compute(stage, task, state)))
            del stage  # before the next one's weights are read
        before = name


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
