"""A check: golden + port -> report. All that it needs is opened once; cases are then run as they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self

from harness import embedded
from harness.architecture import architecture_of
from harness.golden import CaseEntry
from harness.report.document import Report
from harness.results import TapResult
from harness.run import precision as precisions
from harness.run.choices import not_judged, unpinned
from harness.run.comparing import Judgement, Watch, unseen
from harness.run.contained import CannotLift
from harness.run.devices import mesh_of, refuse_no_backend
from harness.run.generation import continue_greedily, pinned_call
from harness.run.loading import Loader, Ports, find_port, load_port
from harness.run.padding import Compilations
from harness.run.passes import calls_of, checkable, covered, passes, replayable, uncovered
from harness.run.port import (
    BUILT_IN,
    NOTE,
    Declarations,
    Port,
    declarations,
    notes_of,
    refuse_where_positions_count,
    run_sequences,
)
from harness.run.preflight import preflight
from harness.run.progress import SILENT, Progress
from harness.run.question import STANDARD, Given, Question, proposing, select_cases, with_commands
from harness.run.references import rows_not_covered
from harness.run.reporting import Run, assemble
from harness.run.source import GoldenSource
from harness.store import Golden, open_golden
from harness.taps import DIMS


def check(
    golden_path: Path | str,
    checkpoint: Path | None,
    spec: str = BUILT_IN,
    question: Question = STANDARD,
    *,
    load: Loader | None = None,
    progress: Progress = SILENT,
) -> Report:
    """Check a port against a golden: every case, at every precision and in every mode asked for.

    Args:
        golden_path, checkpoint, spec, question, load: as `Checker` takes them.
        progress: told what is being done, comparison by comparison.

    Raises:
        HarnessError: something could not be checked. What was checked and is wrong is in the report.
    """
    progress.begin("config, weights, token ids")
    with Checker(golden_path, checkpoint, spec, question, load=load) as checker:
        return checked(checker, progress)


def checked(checker: Checker, progress: Progress = SILENT) -> Report:
    """All that is asked of the port of a checker, precision by precision."""
    return checker.report([checker.run(p, progress=progress) for p in checker.question.precisions])


class Checker:
    """Checks one port against one golden, a selection of cases at a time. Use it as a context manager.

    What it holds is opened and verified once, and what was loaded or read last; what a run found is in its value.

    Args:
        golden_path: a golden, HDF5 or Zarr.
        checkpoint: the directory of its weights; None means beside the golden, by the model's name.
        spec: the port, `package.module:Name`; also what the report calls it.
        question: what is asked of it.
        load: loads the port instead of `spec`, on the question's mesh if it has one.
        inspect: whether precision settings inside the port are looked for: a trace takes longer than a short case.
            In the built-in port there are none.

    Attributes:
        given: what all of this was asked with, as a command would repeat it.
        question: without what the golden cannot say.
        cases: those that can be checked in any of the modes.
        config: the checkpoint's, which is the golden's.
        checkpoint: the directory that the port is loaded from.

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
        question.check()
        self.given = Given(golden_path, checkpoint, spec, question)
        refuse_no_backend()
        if load is None:
            find_port(spec)  # before minutes are spent; and an import may configure precision: looked at next
        for precision in question.precisions:
            precisions.refuse_reduced(precision, question.allow_reduced_precision)
        self._mesh = mesh_of(question.mesh)
        self._sources: dict[tuple[str, bool], GoldenSource] = {}
        self.golden: Golden = open_golden(golden_path)
        try:
            self.question = question.carried_by(self.golden.manifest.truth_dtype)
            selected = select_cases(self.golden.manifest.cases, question.cases)
            self.cases = checkable(self.golden, selected, question.modes)
            self._outside = tuple(case.name for case in selected if case not in self.cases)
            model = self.golden.manifest.model.id
            self.checkpoint = checkpoint or embedded.checkpoint_beside(str(golden_path), model)
            self.config = preflight(self.golden, self.checkpoint, self.cases)
        except BaseException:
            self.golden.close()
            raise
        looked_into = inspect and (load is not None or spec != BUILT_IN)
        load = load or (lambda directory, config, dtype: load_port(spec, directory, config, dtype, self._mesh))
        self._ports = Ports(load, self.checkpoint, self.config, self.question.lift)
        self._inspection = None
        if looked_into:
            from harness.run.matmul_audit import Inspection  # in the built-in port there is nothing to find

            self._inspection = Inspection()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.golden.close()

    def source(self, precision: str, declared: Declarations | None = None) -> GoldenSource:
        """The golden at a precision, by the convention that a port declares."""
        key = precision, bool(declared and declared.positions_from_pads)
        if key not in self._sources:
            self._sources[key] = GoldenSource(self.golden, precision, from_pads=key[1])
        return self._sources[key]

    def run(
        self,
        precision: str,
        cases: Sequence[CaseEntry] | None = None,
        progress: Progress = SILENT,
        *,
        watch: Watch = unseen,
        modes: tuple[str, ...] | None = None,
    ) -> Run:
        """Run cases at one precision.

        Args:
            precision: one of the question's.
            cases: some of `self.cases`; None means all.
            progress: told of every comparison as it is made.
            watch: shown what every comparison is made of.
            modes: some of the question's; None means all.

        Returns:
            What came of it; `report` judges it. Where float64 was to be lifted and cannot be, that is of float32,
            or of nothing where float32 was asked for anyway.

        Raises:
            PortError: the port cannot be loaded, raises, breaks its contract, or reduces the matmul precision of
                float32 or float64 by itself.
            UsageError: a reduced matmul precision is configured.
        """
        cases, allow_reduced = self.cases if cases is None else cases, self.question.allow_reduced_precision
        for (values_at, _), source in self._sources.items():
            if values_at != precision:
                source.forget()
        progress.begin(f"{precision}: loading the port")
        with precisions.in_force(precision, allow_reduced):
            port = self._ports.at(precision)
        try:
            # Entered anew: what loading the port has configured is looked at before it runs, and again afterwards.
            with (
                precisions.unchanged(precision, allow_reduced),
                precisions.in_force(precision, allow_reduced) as in_force,
            ):
                before = self._before(precision, port, in_force)
                return self._compared(before, port, cases, progress, watch, modes or self.question.modes)
        except CannotLift as error:
            asked = "float32" in self.question.precisions
            instead = "see float32" if asked else "float32 was checked instead"
            why = f"precision float64: {error.operation} cannot be lifted from float32; {instead}"
        ran = before if asked else self.run("float32", cases, progress, watch=watch, modes=modes)
        return replace(ran, not_lifted=why)

    def _before(self, precision: str, port: Port, in_force: precisions.Settings) -> Run:
        """What is known of a run before the port runs."""
        declared = declarations(port, frozenset(DIMS))
        refuse_where_positions_count(declared.positions_from_pads, architecture_of(self.config))
        possible, limit = covered(self.cases, port, declared), self.question.limit(precision)
        left_out = [*uncovered(self.cases, port, declared)]
        if "alone" in self.question.modes:
            left_out += [line for case in possible for line in rows_not_covered(self.golden, case)]
        expose = proposing(self.given, self.golden.manifest.model.id)
        return Run(
            precision,
            declared,
            in_force,
            uncovered=tuple(dict.fromkeys(left_out)),
            not_judged=(*not_judged(self.source(precision, declared), possible, declared, limit, expose),),
        )

    def _compared(
        self,
        before: Run,
        port: Port,
        cases: Sequence[CaseEntry],
        progress: Progress,
        watch: Watch,
        modes: tuple[str, ...],
    ) -> Run:
        """The run with its results, and what they were made of and with."""
        precision, declared, ask = before.precision, before.declared, self.question
        source, cases = self.source(precision, declared), covered(cases, port, declared)
        results: list[TapResult] = []

        def keep(result: TapResult) -> None:
            results.append(result)
            progress.advance(f"{result.tap} in {result.case}, {result.mode}")

        judgement = Judgement(ask.limit(precision), declared, keep, watch, ask.limit)
        sessions = [
            session
            for case in cases
            for session in passes(source, case, modes, replayable(case, declared), judgement)
        ]
        sequences = [calls_of(port, self.golden, session, precision) for session in sessions]
        progress.begin(precision, sum(session.expected for session in sessions))
        compiled = Compilations()
        for session, calls, logits in zip(sessions, sequences, run_sequences(port, sequences), strict=True):
            for call, value in zip(calls, logits, strict=True):
                call.tap("logits", value)
            session.finish()
        written = []
        for case in cases if "forward" in modes else ():
            if case.generated and unpinned(source, case, declared, judgement.limit).since is None:
                tap = partial(pinned_call, source, case, declared)
                written.append(continue_greedily(port, self.golden, case, precision, tap))
        allow_reduced = ask.allow_reduced_precision
        waived = allow_reduced and precision == "float32" and sequences
        notes = (
            *compiled.notes(sequences),
            *notes_of(port),
            *((NOTE,) if declared.positions_from_pads else ()),
            *((precisions.waiver(before.settings),) if waived else ()),
            *(self._inspection.notes(precision, port, sequences, allow_reduced) if self._inspection else ()),
        )
        return replace(before, results=tuple(results), notes=notes, generations=tuple(written))

    def report(self, runs: Sequence[Run]) -> Report:
        """Judge what came of one or more runs."""
        declared = runs[-1].declared
        report = assemble(self.golden, self.given.spec, self.question, self.cases, runs, self._mesh, self._outside)
        report = with_commands(report, self.given, self.golden.manifest.precisions)
        if report.verdict == "match":
            return report
        from harness.run.bounds import with_bounds  # of what is wrong alone

        return with_bounds(report, declared, partial(self.source, declared=declared), self.checkpoint)
