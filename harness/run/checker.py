"""A golden, its checkpoint and a port, opened once; cases are then run as they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import jax.numpy as jnp

from harness.architecture import Architecture, Config
from harness.comparison import TapResult
from harness.golden import CaseEntry
from harness.report.document import Report
from harness.run import precision as precisions
from harness.run.port import Call, Declarations, Port, declarations, load_port, run_calls
from harness.run.preflight import preflight
from harness.run.progress import SILENT, Progress
from harness.run.question import Question, select_cases
from harness.run.reporting import Run, assemble
from harness.run.session import CaseSession, GoldenSource, Judgement
from harness.run.tracing.lift import CannotLift
from harness.run.tracing.lifted_port import LiftedPort
from harness.store import Golden, open_golden

Loader = Callable[[Path, Config, Any], Port]


class Checker:
    """Checks one port against one golden, a selection of cases at a time. Use it as a context manager.

    The port is loaded once per precision; only the one used last is kept.

    Args:
        golden_path: a golden, HDF5 or Zarr.
        checkpoint: the directory of the weights that it was recorded with.
        spec: the port, `package.module:Name`; also what the report calls it.
        question: what is asked of it.
        load: loads the port instead of `spec`.

    Raises:
        HarnessError: whatever can be refused before the port runs.
    """

    def __init__(
        self,
        golden_path: Path | str,
        checkpoint: Path,
        spec: str,
        question: Question,
        *,
        load: Loader | None = None,
    ) -> None:
        self.question = question
        question.check()
        self._spec = spec
        self._checkpoint = checkpoint
        self._load = load or (lambda directory, config, dtype: load_port(spec, directory, config, dtype))
        self._loaded: tuple[str, Port] | None = None
        self._sources: dict[str, GoldenSource] = {}
        self._settings: dict[str, object] = {}
        self._declared = Declarations()
        self._notes: dict[str, None] = {}
        self._not_lifted: dict[str, None] = {}
        self.golden: Golden = open_golden(golden_path)
        try:
            self.cases = select_cases(self.golden.manifest.cases, question.cases)
            self._config = preflight(self.golden, checkpoint, self.cases)
        except BaseException:
            self.golden.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.golden.close()

    def run(
        self, precision: str, cases: Sequence[CaseEntry] | None = None, progress: Progress = SILENT
    ) -> list[TapResult]:
        """Run cases at one precision, in every mode asked for.

        Args:
            precision: one of the question's.
            cases: some of `self.cases`; None means all.
            progress: told of every comparison as it is made.

        Returns:
            Raw results; `report` judges them. Where float64 was to be lifted and cannot be, they are of float32,
            unless that was asked for anyway.

        Raises:
            PortError: the port cannot be loaded, raises, or breaks its contract.
        """
        cases = self.cases if cases is None else cases
        try:
            return self._run(precision, cases, progress)
        except CannotLift as error:
            asked = "float32" in self.question.precisions
            instead = "see float32" if asked else "float32 was checked instead"
            reason = f"precision float64: {error.operation} cannot be lifted from float32; {instead}"
            self._not_lifted[reason] = None
            return [] if asked else self._run("float32", cases, progress)

    def _run(self, precision: str, cases: Sequence[CaseEntry], progress: Progress) -> list[TapResult]:
        results: list[TapResult] = []

        def keep(result: TapResult) -> None:
            results.append(result)
            progress.advance(f"{result.tap} in {result.case}, {result.mode}")

        progress.begin(f"{precision}: loading the port")
        with precisions.in_force(precision) as in_force:
            self._settings[precision] = asdict(in_force)
            port = self._port(precision)
            self._declared = declarations(port, Architecture.kinds())
            judgement = Judgement(self.question.limit(precision), self._declared, keep)
            source = self._sources.setdefault(precision, GoldenSource(self.golden, precision))
            sessions = [
                CaseSession(source, case, mode, judgement) for case in cases for mode in self.question.modes
            ]
            calls = [
                _call(self.golden, case, session)
                for case, session in zip((c for c in cases for _ in self.question.modes), sessions, strict=True)
            ]
            progress.begin(precision, sum(session.expected for session in sessions))
            for session, logits in zip(sessions, run_calls(port, calls), strict=True):
                session("logits", logits)
                session.finish()
            self._notes |= dict.fromkeys(getattr(port, "notes", ()))
        return results

    def report(self, results: Sequence[TapResult]) -> Report:
        """Judge the raw results of one or more runs."""
        precisions_seen = dict.fromkeys(result.precision for result in results)
        cases_seen = {result.case for result in results}
        run = Run(
            port=self._spec,
            question=self.question,
            limits={precision: self.question.limit(precision) for precision in precisions_seen},
            cases=[case for case in self.cases if case.name in cases_seen],
            declared=self._declared,
            settings={p: self._settings[p] for p in precisions_seen},
            notes=tuple(self._notes),
            not_lifted=tuple(self._not_lifted),
        )
        return assemble(self.golden, run, results)

    def _port(self, precision: str) -> Port:
        if self._loaded is None or self._loaded[0] != precision:
            self._loaded = None  # release the last one's weights before the next one's are read
            port = self._load(self._checkpoint, self._config, precisions.jax_dtype(precision))
            if precision == "float64" and self.question.lift and not getattr(port, "lifts", False):
                port = LiftedPort(port, self._config)
            self._loaded = (precision, port)
        return self._loaded[1]


def _call(golden: Golden, entry: CaseEntry, session: CaseSession) -> Call:
    case = golden.case(entry.name)
    ids, positions = jnp.asarray(case.input_ids, jnp.int32), jnp.asarray(case.positions, jnp.int32)
    return Call(ids, positions, jnp.asarray(case.mask), None, session)
