"""A diagnosis: a check, the evidence in its results and arrays, then the names of the bugs."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.architecture import architecture_of
from harness.errors import PortError
from harness.golden import CaseEntry
from harness.mutants.diagnosis.answer import Answer, Explanation, Ranked
from harness.mutants.diagnosis.evidence import about_the_kind, about_the_port
from harness.mutants.diagnosis.lines import right_line
from harness.mutants.diagnosis.observe import (
    Ran,
    Watched,
    first_cases,
    observe,
    plan,
    telling,
    wrong_kinds,
)
from harness.mutants.diagnosis.prediction import Predictor
from harness.mutants.diagnosis.replay import FAULTY, StageReplay
from harness.mutants.diagnosis.search import NEAR, Search
from harness.report.contract import nothing_compared
from harness.report.diagnosis import Diagnosis, Operation, Suspect
from harness.report.document import Report
from harness.report.summary import UNCOMPARED
from harness.run.check import Checker
from harness.run.port import Declarations
from harness.run.precision import in_force
from harness.run.progress import SILENT, Progress
from harness.run.reporting import Run, reference
from harness.taps import kind_of
from harness.tolerances import PRECISIONS

# Kinds that one operation, or one like it, computes: where none of them has a name they are one finding.
ALIKE = (
    frozenset({"attn_norm", "mlp_norm", "final_norm"}),
    frozenset({"q", "k", "v"}),
    frozenset({"q_rope", "k_rope", "k_pe_rope"}),
    frozenset({"q_latent", "kv_latent", "k_pe"}),
    frozenset({"q_latent_norm", "kv_latent_norm"}),
    frozenset({"shared_gate", "shared_up"}),
    frozenset({"gate", "up"}),
    frozenset({"resid_mid", "resid_post"}),
)


@dataclass(frozen=True, eq=False)
class ReplayedPort:
    """A port that was checked and is now looked at.

    Attributes:
        report: of the check, judged.
        declared: by the port.
        precision: at which the port's values are compared with the mutants'.
        replays: what it did there.
        cases: in which.
    """

    checker: Checker
    report: Report
    declared: Declarations
    precision: str
    replays: tuple[StageReplay, ...]
    cases: tuple[CaseEntry, ...]


def diagnose(checker: Checker, spec: str, progress: Progress = SILENT) -> Diagnosis:
    """Check the cases of a checker as far as needed, and say what is wrong.

    Args:
        checker: golden, port and question; the question has to contain the mode `replay`.
        spec: the port, as the report calls it.

    Raises:
        PortError: the port breaks its contract, so that there is nothing to compare.
    """
    report, ran = checked(checker, progress)
    precision = telling(report.results)
    if precision is None:
        return _document(checker, spec, report, None, (), ())

    @functools.cache
    def looked_at(precision: str) -> tuple[ReplayedPort, Search]:
        port = replayed_again(checker, report, precision, progress=progress, ran=ran.get(precision))
        return port, searching(port)

    port, search = looked_at(precision)
    operations = []
    for answer in answers(port, search, progress):
        seen, said = port, answer
        for narrower in _narrower(port, answer):
            narrow_port, narrow_search = looked_at(narrower)
            with in_force(narrower):
                narrow_answer = narrow_search.explain(answer.kind)
            if narrow_answer.named:
                seen, said = narrow_port, narrow_answer
                break
        operations.append(operation(seen, said))
    return _document(checker, spec, report, precision, tuple(c.name for c in port.cases), tuple(operations))


def checked(checker: Checker, progress: Progress = SILENT) -> tuple[Report, dict[str, Ran]]:
    """A few telling cases first; all of them where replay finds nothing wrong in those.

    Beside the report, by precision: the latest run, and what was seen of all of them.

    Raises:
        PortError: a tap is missing, extra, or of another shape or dtype, and nothing else is wrong.
    """
    first = first_cases(checker.cases)
    rest = [case for case in checker.cases if case not in first]
    runs: list[Run] = []
    watched = {precision: Watched() for precision in checker.question.precisions}
    for cases in filter(None, (first, rest)):
        runs += [checker.run(p, cases, progress, watch=watched[p]) for p in watched]
        report = checker.report(runs)
        if telling(report.results) is not None:
            break  # what could be compared is named beside what could not
        _refuse_uncompared(report)
    if not report.results:
        raise nothing_compared(report)
    return report, {run.precision: (run, watched[run.precision]) for run in runs if run.precision in watched}


def replayed_again(
    checker: Checker,
    report: Report,
    precision: str,
    most: int | None = None,
    progress: Progress = SILENT,
    ran: Ran | None = None,
) -> ReplayedPort:
    """What the port did on the cases and layers that are to be looked at; it is run once more, where need be.

    Args:
        most: tokens of a case; None is whatever there is.
        ran: as for `observe`.
    """
    replayed = [r for r in report.results if (r.precision, r.mode) == (precision, "replay")]
    cases = [c for c in checker.cases if most is None or c.shape[1] <= most]
    arch, names = architecture_of(checker.config), {c.name for c in cases}
    sorts = tuple(zip(arch.windows, arch.ropes, map(arch.is_sparse, range(arch.layers)), strict=True))
    chosen = plan([r for r in replayed if r.case in names], cases, checker.golden.manifest.taps, sorts)
    progress.begin(f"{precision}: the port, in {len(chosen.stages)} stages")
    declared, replays = observe(checker, precision, chosen, ran)
    return ReplayedPort(checker, report, declared, precision, replays, chosen.cases)


def searching(port: ReplayedPort, thorough: bool = True) -> Search:
    """The search for what a port did in its replays.

    Args:
        thorough: also free values and pairs; otherwise the catalogue as it is.
    """
    checker, declared, results = port.checker, port.declared, port.report.results
    source = checker.source(port.precision, declared)
    replaced = frozenset(tap.kind for tap in source.taps.values()) - declared.unreplaced
    layers: dict[str, set[int]] = {}
    for r in results:
        if (r.precision, r.mode) == (port.precision, "replay") and r.verdict in FAULTY and "." in r.tap:
            layers.setdefault(kind_of(r.tap), set()).add(int(r.tap.split(".")[1]))
    with in_force(port.precision):
        return Search(
            Predictor(
                source, checker.checkpoint, checker.config, replaced, earlier=frozenset(declared.earlier_only)
            ),
            port.replays,
            {kind: frozenset(indices) for kind, indices in layers.items()},
            architecture_of(checker.config).layers,
            frozenset(declared.without),
            thorough,
        )


def answers(port: ReplayedPort, search: Search, progress: Progress = SILENT) -> Iterator[Answer]:
    """The search's answer for each wrong operation, in data-flow order."""
    wrong = wrong_kinds(port.report.results, port.precision)
    in_order = dict.fromkeys(map(kind_of, port.report.taps))
    todo = [k for k in in_order if k in wrong and any(k in replay.faulty for replay in port.replays)]
    while todo:
        progress.begin(f"{port.precision}: {len(todo)} wrong taps to explain, first {todo[0]}")
        with in_force(port.precision):
            answer = search.explain(todo[0])
        yield answer
        todo = [kind for kind in todo if kind not in _covered(answer)]


def operation(port: ReplayedPort, answer: Answer) -> Operation:
    """The document's entry for an answer, with the evidence of its first tap."""
    wrong = wrong_kinds(port.report.results, port.precision)
    kinds = tuple(kind for kind in wrong if kind in _covered(answer))
    return Operation(
        kinds=kinds,
        taps=tuple(tap for tap in port.report.introduced if kind_of(tap) in kinds),
        precision=port.precision,
        facts=tuple(about_the_kind(port.report, answer.kind, port.replays)),
        named=tuple(_named(explanation, port, kinds) for explanation in answer.named),
        others=tuple(_suspect(entry, (answer.kind,), remark=entry.reason or None) for entry in answer.others),
        tried=answer.tried,
        built_in=answer.built_in,
    )


def _narrower(port: ReplayedPort, answer: Answer) -> Iterator[str]:
    """The precisions at which to look again, where only a rounding may keep the nearest from being the bug."""
    if answer.named or not any(entry.explained > NEAR for entry in answer.others):
        return
    asked = [p for p in PRECISIONS if p in port.checker.question.precisions]
    for precision in asked[asked.index(port.precision) + 1 :]:
        if answer.kind in wrong_kinds(port.report.results, precision):
            yield precision


def _covered(answer: Answer) -> frozenset[str]:
    """The kinds that an answer is about: what the first name reproduces, or what one operation computes."""
    if answer.named:
        return answer.named[0].kinds
    return next((group for group in ALIKE if answer.kind in group), frozenset({answer.kind}))


def _named(explanation: Explanation, port: ReplayedPort, kinds: Sequence[str]) -> Suspect:
    remarks = []
    if explanation.beyond:
        remarks.append(
            f"only {', '.join(kinds)}: the bug as it is known is also at {', '.join(sorted(explanation.beyond))}"
        )
    if not explanation.every_layer:
        taps = [tap for tap in port.report.introduced if kind_of(tap) == kinds[0]]
        remarks.append(f"in {', '.join(tap.rpartition('.')[0] for tap in taps)} only")
    if explanation.only:
        remarks.append(f"in {', '.join(sorted(explanation.only))} only: in other calls the port is right")
    return _suspect(explanation, kinds, explanation.rms, "; ".join(remarks) or None)


def _suspect(
    entry: Explanation | Ranked, kinds: Sequence[str], rms_multiple: float | None = None, remark: str | None = None
) -> Suspect:
    hypothesis = entry.hypothesis
    return Suspect(
        mutants=hypothesis.ids,
        value=entry.value,
        wrong=hypothesis.wrong,
        right=tuple(m.right for m in hypothesis.mutants),
        seen=tuple(url for m in hypothesis.mutants for url in m.seen),
        line=", ".join(dict.fromkeys(right_line(change, kinds) for change in hypothesis.changes)),
        kinds=tuple(kinds),
        explained=entry.explained,
        rms_multiple=rms_multiple,
        remark=remark,
    )


def _document(
    checker: Checker,
    spec: str,
    report: Report,
    precision: str | None,
    cases: tuple[str, ...],
    operations: tuple[Operation, ...],
) -> Diagnosis:
    explained = {tap for operation in operations for tap in operation.taps}
    return Diagnosis(
        schema=1,
        kind="diagnosis",
        golden=reference(checker.golden),
        port=spec,
        verdict=report.verdict,
        precision=precision,
        cases=cases,
        facts=tuple(about_the_port(report)),
        operations=operations,
        precisions=tuple(dict.fromkeys(r.precision for r in report.results)),
        unexplained=tuple(tap for tap in report.introduced if tap not in explained),
        not_covered=report.not_covered,
    )


def _refuse_uncompared(report: Report) -> None:
    """Nothing is wrong where something was compared, and elsewhere nothing could be."""
    for result in report.results:
        if result.verdict in UNCOMPARED:
            problem = "the port breaks its contract, so that its values cannot be compared with anything"
            where = f"{result.tap} in case {result.case}, {result.precision}, {result.mode}: {result.verdict}"
            hint = "mend this first; `goldens check` lists all such taps"
            raise PortError(problem, where, result.expected, result.found, hint=hint)
