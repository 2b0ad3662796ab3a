"""A check: golden + port -> report. The only module that knows the whole order of events."""

from __future__ import annotations

import fnmatch
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from harness.architecture import Architecture, Config
from harness.comparison import TapResult
from harness.errors import UsageError
from harness.golden import CaseEntry
from harness.report.acceptance import acceptance
from harness.report.document import GoldenReference, LimitEntry, Report
from harness.run import precision as precisions
from harness.run.port import BUILT_IN, Call, Declarations, Port, declarations, load_port, run_calls
from harness.run.preflight import preflight
from harness.run.session import CaseSession, GoldenSource, Judgement
from harness.store import Golden, open_golden
from harness.taps import recorded_inputs
from harness.tolerances import PRECISIONS, Limit, limit
from harness.verdict import first_divergence, introduced, judge, overall

MODES = ("forward", "replay")
Loader = Callable[[Path, Config, Any], Port]


@dataclass(frozen=True)
class Question:
    """What is asked of a port.

    Attributes:
        precisions: any of float64, float32, bfloat16.
        modes: `forward`, `replay` or both.
        cases: glob patterns of case names; none means all.
        limit_rms, limit_max: the user's own limits, in noise multiples.
    """

    precisions: tuple[str, ...] = ("float64", "float32")
    modes: tuple[str, ...] = MODES
    cases: tuple[str, ...] = ()
    limit_rms: float | None = None
    limit_max: float | None = None


def check(
    golden_path: Path | str,
    checkpoint: Path,
    spec: str = BUILT_IN,
    question: Question = Question(),
    *,
    load: Loader | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Check a port against a golden.

    Args:
        golden_path: a golden, HDF5 or Zarr.
        checkpoint: the directory of the weights that it was recorded with.
        spec: the port, `package.module:Name`; also what the report calls it.
        question: what is asked of it.
        load: loads the port instead of `spec` (tests plant bugs this way).
        progress: told what is being done.

    Raises:
        HarnessError: something could not be checked. What was checked and is wrong is in the report.
    """
    limits = {p: limit(p, question.limit_rms, question.limit_max) for p in question.precisions}
    if not limits or not question.modes:
        raise UsageError("nothing is to be checked", hint=f"--precision takes {', '.join(PRECISIONS)}")
    with open_golden(golden_path) as golden:
        cases = select_cases(golden.manifest.cases, question.cases)
        progress("config, weights, token ids")
        config = preflight(golden, checkpoint, cases)
        results: list[TapResult] = []
        settings: dict[str, object] = {}
        declared = Declarations((), {})
        for precision in question.precisions:
            progress(f"{precision}: {len(cases)} cases")
            with precisions.in_force(precision) as in_force:
                settings[precision] = asdict(in_force)
                dtype = precisions.jax_dtype(precision)
                port = load(checkpoint, config, dtype) if load else load_port(spec, checkpoint, config, dtype)
                declared = declarations(port, Architecture.kinds())
                judgement = Judgement(limits[precision], declared, results.append)
                _run(port, golden, cases, question.modes, precision, judgement)
        return _report(golden, spec, settings, limits, question, cases, declared, results)


def select_cases(cases: Sequence[CaseEntry], patterns: Sequence[str]) -> tuple[CaseEntry, ...]:
    """The cases whose names match any of the glob patterns, in the golden's order.

    Raises:
        UsageError: a pattern that matches nothing.
    """
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(case.name, pattern) for case in cases):
            raise UsageError(
                "no case of the golden matches",
                where=f"--case {pattern}",
                expected=", ".join(case.name for case in cases),
                hint="`goldens show GOLDEN` lists the cases; patterns take * and ?",
            )
    return tuple(
        case for case in cases if not patterns or any(fnmatch.fnmatchcase(case.name, p) for p in patterns)
    )


def _run(
    port: Port,
    golden: Golden,
    cases: Sequence[CaseEntry],
    modes: Sequence[str],
    precision: str,
    judgement: Judgement,
) -> None:
    source = GoldenSource(golden, precision)
    sessions = [CaseSession(source, case, mode, judgement) for case in cases for mode in modes]
    calls = [
        _call(golden, case, session)
        for case, session in zip((c for c in cases for _ in modes), sessions, strict=True)
    ]
    for session, logits in zip(sessions, run_calls(port, calls), strict=True):
        session("logits", logits)
        session.finish()


def _call(golden: Golden, entry: CaseEntry, session: CaseSession) -> Call:
    case = golden.case(entry.name)
    ids, positions = jnp.asarray(case.input_ids, jnp.int32), jnp.asarray(case.positions, jnp.int32)
    return Call(ids, positions, jnp.asarray(case.mask), None, session)


def _report(
    golden: Golden,
    spec: str,
    settings: Mapping[str, object],
    limits: Mapping[str, Limit],
    question: Question,
    cases: Sequence[CaseEntry],
    declared: Declarations,
    raw: Sequence[TapResult],
) -> Report:
    manifest = golden.manifest
    order = tuple(tap.name for tap in manifest.taps)
    graphs = {
        case.name: recorded_inputs(
            manifest.taps, [n for n in case.taps if n.rpartition(".")[2] not in declared.without]
        )
        for case in cases
    }
    results = judge(raw, graphs)
    return Report(
        schema=1,
        golden=GoldenReference(golden.id, golden.path),
        port=spec,
        environment={**_environment(), "precision": dict(settings)},
        verdict=overall(results),
        introduced=introduced(results, order),
        first_divergence=first_divergence(results, order),
        acceptance=acceptance(results),
        limits={name: LimitEntry(value.rms, value.max, value.why) for name, value in limits.items()},
        taps={tap.name: tap.inputs for tap in manifest.taps},
        not_covered=tuple(_not_covered(question, cases, declared)),
        results=results,
    )


def _not_covered(question: Question, cases: Sequence[CaseEntry], declared: Declarations) -> Iterator[str]:
    yield from (f"precision {p}: not asked for" for p in PRECISIONS if p not in question.precisions)
    yield from (f"mode {mode}: not asked for" for mode in MODES if mode not in question.modes)
    yield from (f"tap {kind}: the port declares that it does not expose it" for kind in declared.without)
    for level, what in (("logits", "the logits"), ("layers", "the residual stream")):
        names = [case.name for case in cases if case.level == level]
        if names:
            yield f"operations inside {len(names)} cases recorded at {what} only: {', '.join(names)}"


def _environment() -> dict[str, Any]:
    libraries = ("jax", "jaxlib", "flax", "numpy", "goldens")
    return {
        "libraries": {"python": platform.python_version()} | {name: version(name) for name in libraries},
        "backend": jax.default_backend(),
        "devices": sorted({device.device_kind for device in jax.devices()}),
        "platform": platform.platform(),
    }
