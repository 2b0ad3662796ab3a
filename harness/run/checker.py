"""A golden, its checkpoint and a port, opened once; cases are then run as they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Self

from harness import embedded
from harness.architecture import Config, architecture_of
from harness.errors import HarnessError
from harness.generation import Continuation
from harness.golden import CaseEntry
from harness.report.document import Report
from harness.results import TapResult
from harness.run import precision as precisions
from harness.run.backend import refuse_no_backend
from harness.run.bounds import with_bounds
from harness.run.choices import not_judged, unpinned
from harness.run.command import Given, proposing, with_commands
from harness.run.compilations import Compilations
from harness.run.convention import NOTE, refuse_where_positions_count
from harness.run.coverage import covered, obstacle, replayable, uncovered
from harness.run.generation import continue_greedily
from harness.run.judgement import Compared, Judgement, unseen
from harness.run.matmul_audit import Inspection
from harness.run.mesh import mesh_of
from harness.run.passes import checkable, passes
from harness.run.pinning import pinned_call
from harness.run.port import (
    BUILT_IN,
    Declarations,
    Port,
    declarations,
    find_port,
    load_port,
    notes_of,
    run_sequences,
)
from harness.run.preflight import preflight
from harness.run.progress import SILENT, Progress
from harness.run.question import Question, select_cases
from harness.run.reporting import Run, assemble
from harness.run.rows import rows_not_covered
from harness.run.sequences import calls_of
from harness.run.source import GoldenSource
from harness.run.tracing.lift import CannotLift
from harness.run.tracing.lifted_port import LiftedPort
from harness.store import Golden, open_golden
from harness.taps import DIMS

Loader = Callable[[Path, Config, Any], Port]
Watch = Callable[[Compared], None]


class Checker:
    """Checks one port against one golden, a selection of cases at a time. Use it as a context manager.

    The port is loaded once per precision; only the one used last is kept.

    Args:
        golden_path: a golden, HDF5 or Zarr.
        checkpoint: the directory of its weights; None means beside the golden, by the model's name.
        spec: the port, `package.module:Name`; also what the report calls it.
        question: what is asked of it.
        load: loads the port instead of `spec`, on the question's mesh if it has one.
        inspect: whether precision settings inside the port are looked for: a trace takes longer than a short case.
            In the built-in port there are none.

    Raises:
        HarnessError: whatever can be refused before the port runs: the golden, the weights, the question, a port
            that cannot be imported, a reduced matmul precision that is configured, more devices than there are.
    """

    def __init__(
        self,
        golden_path: Path | str,
        checkpoint: Path | None,
        spec: str,
        question: Question,
        *,
        load: Loader | None = None,
        inspect: bool = True,
    ) -> None:
        self.question = question
        self._inspect = inspect and (load is not None or spec != BUILT_IN)
        question.check()
        self._spec, self._given = spec, Given(golden_path, checkpoint, spec, question)
        refuse_no_backend()
        if load is None:
            find_port(spec)  # before minutes are spent; and an import may configure precision: looked at next
        for precision in question.precisions:
            precisions.refuse_reduced(precision, question.allow_reduced_precision)
        self._mesh = mesh_of(question.mesh)
        self.exchange(
            load or (lambda directory, config, dtype: load_port(spec, directory, config, dtype, self._mesh))
        )
        self._sources: dict[tuple[str, bool], GoldenSource] = {}
        self.golden: Golden = open_golden(golden_path)
        try:
            self.question = question.carried_by(self.golden.manifest.truth_dtype)
            selected = select_cases(self.golden.manifest.cases, question.cases)
            self.cases = checkable(self.golden, selected, question.modes)
            self._outside = tuple(case.name for case in selected if case not in self.cases)
            model = self.golden.manifest.model.id
            self._checkpoint = checkpoint or embedded.checkpoint_beside(str(golden_path), model)
            self._config = preflight(self.golden, self._checkpoint, self.cases)
        except BaseException:
            self.golden.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.golden.close()

    def exchange(self, load: Loader) -> None:
        """Go on with another port: what is known of the last one is forgotten, what was verified stays so."""
        self._load = load
        self._loaded: tuple[str, Port] | None = None
        self._unloadable: dict[str, HarnessError] = {}
        self._settings: dict[str, object] = {}
        self._declared = Declarations()
        self._notes: dict[str, tuple[str, ...]] = {}
        self._inspection = Inspection()
        self._not_lifted: dict[str, None] = {}
        self._uncovered, self._not_judged = dict[str, None](), dict[str, None]()
        self._generations: dict[tuple[str, str], Continuation] = {}

    @property
    def config(self) -> Config:
        """The checkpoint's config, which is the golden's."""
        return self._config

    @property
    def checkpoint(self) -> Path:
        """The directory that the port is loaded from."""
        return self._checkpoint

    @property
    def declared(self) -> Declarations:
        """What the port said that it cannot do, when it was last loaded."""
        return self._declared

    def source(self, precision: str) -> GoldenSource:
        """The golden at a precision, by the convention that the port declared when it was last loaded."""
        key = precision, bool(self._declared.positions_from_pads)
        if key not in self._sources:
            self._sources[key] = GoldenSource(self.golden, precision, from_pads=key[1])
        return self._sources[key]

    def run(
        self,
        precision: str,
        cases: Sequence[CaseEntry] | None = None,
        progress: Progress = SILENT,
        *,
        watch: Watch | None = None,
    ) -> list[TapResult]:
        """Run cases at one precision, in every mode asked for; in replay alone where its values are watched.

        Args:
            precision: one of the question's.
            cases: some of `self.cases`; None means all.
            progress: told of every comparison as it is made.
            watch: shown what every comparison is made of.

        Returns:
            Raw results; `report` judges them. Where float64 was to be lifted and cannot be, they are of float32,
            unless that was asked for anyway.

        Raises:
            PortError: the port cannot be loaded, raises, breaks its contract, or reduces the matmul precision of
                float32 or float64 by itself.
            UsageError: a reduced matmul precision is configured.
        """
        cases = self.cases if cases is None else cases
        try:
            return self._run(precision, cases, progress, watch)
        except CannotLift as error:
            asked = "float32" in self.question.precisions
            instead = "see float32" if asked else "float32 was checked instead"
            self._not_lifted[f"precision float64: {error.operation} cannot be lifted from float32; {instead}"] = (
                None
            )
            return [] if asked else self._run("float32", cases, progress, watch)

    def _run(
        self, precision: str, cases: Sequence[CaseEntry], progress: Progress, watch: Watch | None
    ) -> list[TapResult]:
        modes = self.question.modes if watch is None else ("replay",)
        results, allow_reduced = list[TapResult](), self.question.allow_reduced_precision

        def keep(result: TapResult) -> None:
            results.append(result)
            progress.advance(f"{result.tap} in {result.case}, {result.mode}")

        progress.begin(f"{precision}: loading the port")
        with precisions.in_force(precision, allow_reduced):
            port = self._port(precision)
        # Entered anew: what loading the port has configured is looked at before it runs, and once more afterwards.
        with (
            precisions.unchanged(precision, allow_reduced),
            precisions.in_force(precision, allow_reduced) as in_force,
        ):
            self._settings[precision] = asdict(in_force)
            self._declared = declarations(port, frozenset(DIMS))
            refuse_where_positions_count(self._declared.positions_from_pads, architecture_of(self._config))
            self._uncovered = dict.fromkeys(uncovered(self.cases, port, self._declared))
            ask, runs = self.question, covered(self.cases, port, self._declared)
            if "alone" in ask.modes:
                self._uncovered |= dict.fromkeys(x for case in runs for x in rows_not_covered(self.golden, case))
            source, possible = self.source(precision), covered(cases, port, self._declared)
            judgement = Judgement(ask.limit(precision), self._declared, keep, watch or unseen, ask.limit)
            expose = proposing(self._given, self.golden.manifest.model.id)
            self._not_judged |= not_judged(source, runs, self._declared, judgement.limit, expose)
            sessions = [
                one
                for case in possible
                for one in passes(source, case, modes, replayable(case, self._declared), judgement)
            ]
            sequences = [calls_of(port, self.golden, session, precision) for session in sessions]
            progress.begin(precision, sum(session.expected for session in sessions))
            compiled = Compilations()
            for session, calls, logits in zip(sessions, sequences, run_sequences(port, sequences), strict=True):
                for call, value in zip(calls, logits, strict=True):
                    call.tap("logits", value)
                session.finish()
            for case in possible if "forward" in modes else ():
                if case.generated and unpinned(source, case, self._declared, judgement.limit).since is None:
                    tap = partial(pinned_call, source, case, self._declared)
                    found = continue_greedily(port, self.golden, case, precision, tap)
                    self._generations[case.name, precision] = found
            waived = allow_reduced and precision == "float32" and sequences
            self._notes[precision] = (
                *compiled.notes(sequences),
                *notes_of(port),
                *((NOTE,) if self._declared.positions_from_pads else ()),
                *((precisions.waiver(in_force),) if waived else ()),
                *(self._inspection.notes(precision, port, sequences, allow_reduced) if self._inspect else ()),
            )
        return results

    def report(self, results: Sequence[TapResult]) -> Report:
        """Judge the raw results of one or more runs."""
        precisions_seen = dict.fromkeys(result.precision for result in results)
        roundings = {r.rounding for r in results if r.rounding is not None}
        cases_seen = {result.case for result in results}
        run = Run(
            port=self._spec,
            question=self.question,
            limits={p: self.question.limit(p) for p in (*precisions_seen, *roundings)},
            cases=[case for case in self.cases if case.name in cases_seen],
            declared=self._declared,
            settings={p: self._settings[p] for p in precisions_seen},
            notes=tuple(dict.fromkeys(note for p in precisions_seen for note in self._notes[p])),
            not_lifted=self.not_lifted,
            mesh=self._mesh,
            uncovered=(*self._uncovered, *self._not_judged, *self._not_in_these_modes()),
            generations=tuple(
                one for (case, p), one in self._generations.items() if case in cases_seen and p in precisions_seen
            ),
        )
        report = with_commands(assemble(self.golden, run, results), self._given, self.golden.manifest.precisions)
        return with_bounds(report, self._declared, self.source, self._checkpoint)

    def _not_in_these_modes(self) -> Iterator[str]:
        if self._outside:
            yield f"cases that mode {' and '.join(self.question.modes)} cannot check: {', '.join(self._outside)}"

    def covers_any(self) -> bool:
        """Whether the port, as it was last loaded, can run any of the cases."""
        loaded = self._loaded
        return loaded is not None and any(obstacle(c, loaded[1], self._declared) is None for c in self.cases)

    @property
    def not_lifted(self) -> tuple[str, ...]:
        """Why float64 was not checked although it was asked for."""
        return tuple(self._not_lifted)

    def _port(self, precision: str) -> Port:
        if precision in self._unloadable:  # what took minutes to fail is not tried again for every case
            raise self._unloadable[precision]
        if self._loaded is None or self._loaded[0] != precision:
            self._loaded = None  # release the last one's weights before the next one's are read
            for (values_at, _), source in self._sources.items():
                if values_at != precision:
                    source.forget()
            try:
                port = self._load(self._checkpoint, self._config, precisions.jax_dtype(precision))
            except HarnessError as error:
                self._unloadable[precision] = error
                raise
            if precision == "float64" and self.question.lift and not getattr(port, "lifts", False):
                port = LiftedPort(port, self._config)
            self._loaded = precision, port
        return self._loaded[1]
