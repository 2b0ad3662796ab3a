"""From the raw results of a check to its report: verdicts, provenance, and what was not covered."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import jax
from jax.sharding import Mesh

from harness.generation import Continuation
from harness.golden import CaseEntry
from harness.loss import said
from harness.modes import MODES
from harness.narrower import narrower
from harness.report.choices import pinned_note
from harness.report.criteria import acceptance
from harness.report.document import GoldenReference, LimitEntry, Report
from harness.results import TapResult
from harness.run.choices import shows_choices
from harness.run.coverage import not_judged
from harness.run.mesh import device_kinds
from harness.run.port import Declarations
from harness.run.question import Question
from harness.store import Golden
from harness.store.location import shown
from harness.taps import OPTIONAL, Tap, kind_of, recorded_inputs
from harness.tolerances import PRECISIONS, Limit
from harness.verdict import first_divergence, introduced, judge, overall


@dataclass(frozen=True)
class Run:
    """What a check was, apart from its results.

    Attributes:
        port: the port as the report calls it.
        settings: by precision, what was in force while the port ran.
        notes: what a reader has to know about how it was run: waivers, lifted casts.
        generations: what the port wrote by itself.
        uncovered: cases that the port cannot run, and why.
        not_lifted: why float64 was not checked, where it was asked for.
        mesh: that the port was given; None where it was given none.
    """

    port: str
    question: Question
    limits: Mapping[str, Limit]
    cases: Sequence[CaseEntry]
    declared: Declarations
    settings: Mapping[str, object]
    notes: Sequence[str] = ()
    not_lifted: Sequence[str] = ()
    uncovered: Sequence[str] = ()
    generations: Sequence[Continuation] = ()
    mesh: Mesh | None = None


def assemble(golden: Golden, run: Run, raw: Sequence[TapResult]) -> Report:
    """Judge raw results and put the report together."""
    manifest = golden.manifest
    order = tuple(tap.name for tap in manifest.taps)
    without = run.declared.without
    graphs = {
        case.name: recorded_inputs(manifest.taps, [n for n in case.taps if kind_of(n) not in without])
        for case in run.cases
    }
    results = judge(
        raw,
        graphs,
        {tap.name: tap.inputs for tap in manifest.taps},
        run.declared.unreplaced,
        {case.name: case.taps for case in run.cases},
    )
    pinned = [pinned_note(results)] if shows_choices(run.declared) else []
    return Report(
        schema=1,
        kind="check",
        golden=reference(golden),
        port=run.port,
        environment={**environment(run.mesh), "precision": dict(run.settings)},
        notes=(*run.notes, *filter(None, [said(golden), *pinned])),
        verdict=overall(results, run.generations),
        introduced=introduced(results, order),
        first_divergence=first_divergence(results, order),
        acceptance=acceptance(results, run.generations, run.question.criteria),
        limits={name: LimitEntry.of(value) for name, value in run.limits.items()},
        taps={tap.name: tap.inputs for tap in manifest.taps},
        not_covered=tuple(_not_covered(run, manifest.truth_dtype, manifest.taps)),
        results=results,
        generations=tuple(run.generations),
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


def _not_covered(run: Run, truth_dtype: str, taps: Sequence[Tap]) -> Iterator[str]:
    question = run.question
    for precision in (p for p in PRECISIONS if p not in question.precisions):
        narrow = precision == "float64" and truth_dtype != "float64"
        yield f"precision {precision}: {f'the truth is stored in {truth_dtype}' if narrow else 'not asked for'}"
    yield from (f"mode {mode}: not asked for" for mode in MODES if mode not in question.modes)
    there = {tap.kind for tap in taps}
    yield from (
        f"tap {kind}: the port declares that it does not expose it"
        for kind in run.declared.without
        if kind not in OPTIONAL
    )
    yield from (
        f'tap {kind}: the port does not declare that it exposes it (also = ("{kind}",))'
        for kind in run.declared.without
        if kind in OPTIONAL & there
    )
    yield from (
        f"replay of tap {kind}: the port records it, but does not go on with the golden in its place"
        for kind in run.declared.recorded_only
    )
    yield from run.not_lifted
    yield from run.uncovered
    yield from not_judged(run.cases, taps)
    largest = [case for case in run.cases if case.top]
    if largest:
        yield (
            f"logits beside the {largest[0].top} largest at each position, known to the golden as sums alone: "
            f"KL is known within bounds ({', '.join(case.name for case in largest)})"
        )
    for level, what in (("logits", "the logits"), ("layers", "the residual stream")):
        names = [case.name for case in run.cases if case.level == level and not case.partly]
        if names:
            yield f"operations inside {len(names)} cases recorded at {what} only: {', '.join(names)}"


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
