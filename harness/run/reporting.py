"""From the raw results of a check to its report: verdicts, provenance, and what was not covered."""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import jax
from jax.sharding import Mesh

from harness.costs import said
from harness.golden import CaseEntry
from harness.logits import Continuation
from harness.report.criteria import acceptance
from harness.report.document import GoldenReference, LimitEntry, Report
from harness.results import MODES, TapResult
from harness.run.choices import shows_choices
from harness.run.devices import device_kinds
from harness.run.passes import not_judged
from harness.run.port import Declarations
from harness.run.precision import Settings
from harness.run.question import Question
from harness.store import Golden
from harness.store.location import shown
from harness.taps import OPTIONAL, kind_of, recorded_inputs
from harness.tolerances import PRECISIONS
from harness.verdict import first_divergence, introduced, judge, narrower, overall


@dataclass(frozen=True)
class Run:
    """What came of some cases at one precision, not yet judged.

    Attributes:
        declared: by the port, as it was loaded for this run.
        settings: what was in force while the port ran.
        results: raw.
        notes: what a reader has to know about how it was run: waivers, lifted casts.
        uncovered: cases that the port cannot run, and why.
        not_judged: what its own choices of experts leave open.
        not_lifted: why float64 was not checked, where it was asked for.
        generations: what the port wrote by itself.
    """

    precision: str
    declared: Declarations
    settings: Settings
    results: tuple[TapResult, ...] = ()
    notes: tuple[str, ...] = ()
    uncovered: tuple[str, ...] = ()
    not_judged: tuple[str, ...] = ()
    not_lifted: str | None = None
    generations: tuple[Continuation, ...] = ()


def assemble(
    golden: Golden,
    port: str,
    question: Question,
    asked: Sequence[CaseEntry],
    runs: Sequence[Run],
    mesh: Mesh | None = None,
    outside: Sequence[str] = (),
) -> Report:
    """Judge raw results and put the report together.

    Args:
        port: as the report calls it.
        asked: the cases that could have been run.
        mesh: that the port was given; None where it was given none.
        outside: names of cases that were asked for, and that no mode of the question can check.
    """
    manifest, declared = golden.manifest, runs[-1].declared
    raw = [result for run in runs for result in run.results]
    by_precision, names = {run.precision: run for run in runs}, {result.case for result in raw}
    seen = dict.fromkeys(result.precision for result in raw)
    cases = [case for case in asked if case.name in names]
    written = {(generated.case, generated.precision): generated for run in runs for generated in run.generations}
    generations = tuple(generated for (case, p), generated in written.items() if case in names and p in seen)
    limits = dict.fromkeys((*seen, *(r.rounding for r in raw if r.rounding is not None)))
    notes = dict.fromkeys(note for p in seen for note in by_precision[p].notes)
    order = tuple(tap.name for tap in manifest.taps)
    graphs = {
        case.name: recorded_inputs(manifest.taps, [n for n in case.taps if kind_of(n) not in declared.without])
        for case in cases
    }
    results = judge(
        raw,
        graphs,
        {tap.name: tap.inputs for tap in manifest.taps},
        declared.unreplaced,
        {case.name: case.taps for case in cases},
    )
    pinned = None
    if shows_choices(declared) and any(r.choice is not None for r in results):
        from harness.report.choices import pinned_note  # of a dense model there are none

        pinned = pinned_note(results)
    settings = {p: asdict(by_precision[p].settings) for p in seen}
    not_covered = (
        *_not_asked(question, manifest.truth_dtype),
        *_not_exposed(declared, {tap.kind for tap in manifest.taps}),
        *dict.fromkeys(run.not_lifted for run in runs if run.not_lifted is not None),
        *dict.fromkeys((*runs[-1].uncovered, *(line for run in runs for line in run.not_judged))),
        *(
            [f"cases that mode {' and '.join(question.modes)} cannot check: {', '.join(outside)}"]
            if outside
            else []
        ),
        *not_judged(cases, manifest.taps),
        *_partly_recorded(cases),
    )
    return Report(
        schema=1,
        kind="check",
        golden=reference(golden),
        port=port,
        environment={**environment(mesh), "precision": settings},
        notes=(*notes, *filter(None, [said(golden), pinned])),
        verdict=overall(results, generations),
        introduced=introduced(results, order),
        first_divergence=first_divergence(results, order),
        acceptance=acceptance(results, generations, question.criteria),
        limits={name: LimitEntry.of(question.limit(name)) for name in limits},
        taps={tap.name: tap.inputs for tap in manifest.taps},
        not_covered=not_covered,
        results=results,
        generations=generations,
        narrower=narrower(results),
    )


def reference(golden: Golden) -> GoldenReference:
    """Which golden it was, and where that came from."""
    manifest = golden.manifest
    provenance = {
        **manifest.environment,
        "command": manifest.command,
        "parameters": manifest.model.parameter_count,
        "level": manifest.level,
    }
    return GoldenReference(golden.id, shown(golden.path), manifest.model.id, provenance)


def _not_asked(question: Question, truth_dtype: str) -> Iterator[str]:
    for precision in (p for p in PRECISIONS if p not in question.precisions):
        narrow = precision == "float64" and truth_dtype != "float64"
        yield f"precision {precision}: {f'the truth is stored in {truth_dtype}' if narrow else 'not asked for'}"
    yield from (f"mode {mode}: not asked for" for mode in MODES if mode not in question.modes)


def _not_exposed(declared: Declarations, there: Collection[str]) -> Iterator[str]:
    """What the port does not show, or not in replay.

    Args:
        there: kinds of the golden's taps.
    """
    for kind in (kind for kind in declared.without if kind not in OPTIONAL):
        yield f"tap {kind}: the port declares that it does not expose it"
    for kind in (kind for kind in declared.without if kind in OPTIONAL and kind in there):
        yield f'tap {kind}: the port does not declare that it exposes it (also = ("{kind}",))'
    for kind in declared.recorded_only:
        yield f"replay of tap {kind}: the port records it, but does not go on with the golden in its place"


def _partly_recorded(cases: Sequence[CaseEntry]) -> Iterator[str]:
    largest = [case for case in cases if case.top]
    if largest:
        yield (
            f"logits beside the {largest[0].top} largest at each position, known to the golden as sums alone: "
            f"KL is known within bounds ({', '.join(case.name for case in largest)})"
        )
    for level, recorded in (("logits", "the logits"), ("layers", "the residual stream")):
        names = [case.name for case in cases if case.level == level and not case.partly]
        if names:
            yield f"operations inside {len(names)} cases recorded at {recorded} only: {', '.join(names)}"


def environment(mesh: Mesh | None = None) -> dict[str, Any]:
    """Libraries, backend, devices and platform of this process; of a mesh its axes, and its devices alone."""
    libraries = ("jax", "jaxlib", "flax", "numpy", "goldens")
    return {
        "libraries": {"python": platform.python_version()} | {name: version(name) for name in libraries},
        "backend": jax.default_backend(),
        "devices": device_kinds(jax.devices() if mesh is None else mesh.devices.flat),
        "platform": platform.platform(),
        **({} if mesh is None else {"mesh": dict(mesh.shape)}),
        **({"processes": jax.process_count()} if jax.process_count() > 1 else {}),
    }
