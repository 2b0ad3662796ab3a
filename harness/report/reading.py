"""Saved reports, read back strictly: what contradicts itself is refused, never repaired.

The JSON Schemas beside this file are generated from the classes (`python -m harness.report.reading`), and tests
compare the two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from harness.difference import STATUSES, verdict_of
from harness.errors import UsageError
from harness.foreign import is_deeper
from harness.report import audit_contradictions
from harness.report.audit_document import Audit
from harness.report.criteria import acceptance, criteria_of, is_threshold
from harness.report.diagnosis import Diagnosis
from harness.report.diff_document import Diff
from harness.report.document import Acceptance, Report
from harness.results import MODES, TapResult, is_wrong
from harness.tolerances import PRECISIONS
from harness.verdict import first_divergence, introduced, overall

SCHEMA = 1
DEEPEST = 24  # levels of nesting; reports have 8
Document = Report | Diff | Audit | Diagnosis
KINDS: dict[str, type[Document]] = {"check": Report, "diff": Diff, "audit": Audit, "diagnosis": Diagnosis}
SCHEMAS: dict[type[Document], Path] = {
    kind: Path(__file__).with_name(name)
    for kind, name in ((Report, "schema.json"), (Diff, "diff_schema.json"), (Audit, "audit_schema.json"))
}
_SAVE = "save one with `goldens check --json FILE`, or with that option of `diff`, `audit` or `diagnose`"
_AGAIN = "the file is incomplete or was edited: save it again with the command that made it"


def read_report(path: Path) -> Document:
    """Read what `--json` of `goldens check`, `diff`, `audit` or `diagnose` has saved.

    Raises:
        UsageError: the file cannot be read, is not JSON (truncated, NaN), is of another kind or schema version,
            lacks a field or has a wrong one, or contradicts itself.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"the report cannot be read: {error.strerror}", where=path, hint=_SAVE) from None
    document = _json(content, path)
    kind = document.get("kind") if isinstance(document, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        kinds, named = f"kind {' or '.join(KINDS)}", "no kind" if kind is None else f"kind {kind!r}"
        raise UsageError("this is not a report", path, kinds, named, hint=_SAVE)
    if document.get("schema") != SCHEMA:
        problem = "this report has a schema version that this release does not read"
        hint = "upgrade this package, or save the report again with this release"
        raise UsageError(problem, path, SCHEMA, document.get("schema"), hint=hint)
    try:
        report = msgspec.convert(document, KINDS[kind])
    except msgspec.ValidationError as error:
        raise UsageError(f"the report is malformed: {error}", where=path, hint=_AGAIN) from None
    for where, expected, found in _contradictions(report):
        raise UsageError("the report contradicts itself", f"{path}: {where}", expected, found, hint=_AGAIN)
    return report


def _json(content: bytes, path: Path) -> Any:
    problem, expected = "this is not a report: it is nested too deep", f"at most {DEEPEST} levels"
    too_deep = UsageError(problem, path, expected, "more", hint=_SAVE)
    try:
        document = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the report is not JSON: {error}", where=path, hint=_AGAIN) from None
    except RecursionError:
        raise too_deep from None
    if is_deeper(document, DEEPEST):
        raise too_deep
    return document


def _contradictions(document: Document) -> Iterable[tuple[str, object, object]]:
    match document:
        case Report():
            return _of_check(document)
        case Diff():
            return _of_diff(document)
        case Audit():
            return audit_contradictions.contradictions(document)
        case Diagnosis():
            return _of_diagnosis(document)


def _of_check(report: Report) -> Iterable[tuple[str, object, object]]:
    """Where a check's report says two things: (where, expected, found)."""
    seen = Counter((r.case, r.precision, r.mode, r.tap) for r in report.results)
    for (case, precision, mode, tap), count in seen.items():
        place = f"{tap} in case {case}, {precision}, {mode}"
        if count > 1:
            yield place, "one result", f"{count} results"
        if mode not in MODES:
            yield place, f"mode {', '.join(MODES)}", mode
        if precision not in PRECISIONS or precision not in report.limits:
            yield place, "a known precision with its limits", f"limits for {', '.join(report.limits) or 'none'}"
    for r in report.results:
        place = f"{r.tap} in case {r.case}, {r.precision}, {r.mode}"
        if r.verdict == "diverged":
            yield place, "a judged verdict", "diverged"
        if r.verdict != "extra" and r.tap not in report.taps:
            yield place, "a tap of the golden", f"verdict {r.verdict} for a tap that is not in `taps`"
        for name, multiple, allowed in (
            ("rms_multiple", r.rms_multiple, r.rms_limit),
            ("max_multiple", r.max_multiple, r.max_limit),
            ("overall_multiple", r.overall_multiple, r.overall_limit),
        ):
            if multiple is not None and multiple < 0:
                yield place, f"{name} of 0 or more", multiple
            if r.verdict == "match" and (multiple is None or allowed is None or multiple > allowed):
                yield place, f"{name} up to its limit, {allowed}, since it is a match", multiple
        yield from ((f"{place}: choice", expected, found) for expected, found in _of_choices(r))
        if len(r.profile) != len(r.limits):
            yield place, f"a limit for each of the {len(r.profile)} positions of its profile", len(r.limits)
    yield from _of_judgement(report)
    yield from _of_environment(report)


def _of_choices(r: TapResult) -> Iterator[tuple[object, object]]:
    """Where the choices of experts contradict each other, or the verdict: (expected, found)."""
    if r.choice is None:
        if r.verdict == "tied":
            yield "how many choices are ties", "none"
        return
    counts = {name: getattr(r.choice, name) for name in ("ties", "wrong", "dropped", "unseen")}
    if min(counts.values()) < 0 or sum(counts.values()) > r.choice.tokens:
        yield f"parts of {r.choice.tokens} choices", counts
    for choice, tie in ((r.choice.tie, True), (r.choice.worst, False)):
        if choice is not None and (choice.gap is not None and choice.gap <= choice.allowed) != tie:
            yield f"a gap {'up to' if tie else 'beyond'} what is allowed, {choice.allowed}", choice.gap
    if not is_wrong(r.verdict) and r.choice.wrong + r.choice.dropped:
        yield f"no wrong choice, since it is {r.verdict}", counts
    if r.verdict == "tied" and r.choice.ties + r.choice.unseen != r.choice.tokens:
        yield f"that all of {r.choice.tokens} choices are ties", counts


def _of_judgement(report: Report) -> Iterator[tuple[str, object, object]]:
    """What follows from the results, and is said beside them."""
    order, criteria = tuple(report.taps), criteria_of(report.acceptance)
    thresholds = [value for value in asdict(criteria).values() if value is not None]
    if not thresholds or not all(map(is_threshold, thresholds)):
        yield "acceptance: criteria", "at least one, each above 0", criteria
    judged = acceptance(report.results, report.generations, criteria)
    for name, expected, said in (
        ("verdict", overall(report.results, report.generations), report.verdict),
        ("introduced", introduced(report.results, order), report.introduced),
        ("first_divergence", first_divergence(report.results, order), report.first_divergence),
        ("acceptance", _figures(judged), _figures(report.acceptance)),
    ):
        if expected != said:
            yield f"{name}, which follows from the results", expected, said


def _of_environment(report: Report) -> Iterator[tuple[str, object, object]]:
    """What every view of a check shows of the environment: (where, expected, found)."""
    environment = report.environment
    libraries, in_force = environment.get("libraries"), environment.get("precision")
    if not isinstance(libraries, dict) or not {"jax", "flax"} <= set(libraries):
        yield "environment: libraries", "versions of jax and flax at least", libraries
    devices = environment.get("devices")
    if not isinstance(devices, list) or not all(isinstance(device, str) for device in devices):
        yield "environment: devices", "a list of names", devices
    mesh = environment.get("mesh", {})
    if not isinstance(mesh, dict) or not all(type(size) is int and size > 0 for size in mesh.values()):
        yield "environment: mesh", "sizes of axes by name", mesh
    processes = environment.get("processes", 1)
    if type(processes) is not int or processes < 1:
        yield "environment: processes", "how many", processes
    if "backend" not in environment:
        yield "environment: backend", "a name", "nothing"
    for name, settings in in_force.items() if isinstance(in_force, dict) else ((str(in_force), None),):
        if not isinstance(settings, dict) or not {"x64", "matmul_precision"} <= set(settings):
            yield f"environment: precision {name}", "x64 and matmul_precision", settings


def _figures(judged: Acceptance | None) -> tuple[object, ...] | None:
    """An acceptance without its remarks, whose words a release may change."""
    if judged is None:
        return None
    return judged.precision, judged.max_abs, judged.mean_abs, judged.position_correlation, judged.passed


def _of_diff(diff: Diff) -> Iterable[tuple[str, object, object]]:
    """Where a diff says two things: (where, expected, found)."""
    changed = Counter(change.status for change in diff.changes)
    for status in STATUSES:
        count = diff.counts.get(status)
        if count is None or (status != "unchanged" and count != changed[status]):
            yield f"counts: {status}", changed[status], count
    if diff.verdict != (expected := verdict_of(diff.counts)):
        yield "verdict", f"{expected}, by the counts", diff.verdict
    if changed["unchanged"]:
        yield "changes", "only what changed", f"{changed['unchanged']} of status unchanged"
    for name, tallies in (("operations", diff.operations), ("cases", diff.cases)):
        for status in STATUSES:
            total = sum(counts.get(status, 0) for counts in tallies.values())
            if total != diff.counts[status]:
                yield f"{name}: {status}", f"{diff.counts[status]} in all", total


def _of_diagnosis(diagnosis: Diagnosis) -> Iterable[tuple[str, object, object]]:
    """Where a diagnosis says two things: (where, expected, found)."""
    wrong = len(diagnosis.operations) + len(diagnosis.unexplained)
    if diagnosis.verdict == "match" and wrong:
        yield "operations, unexplained", "nothing that is wrong, since it is a match", wrong
    for operation in diagnosis.operations:
        place = f"operation {', '.join(operation.kinds)}"
        if operation.built_in and operation.named:
            yield place, "no name, since the built-in decoder computes the same", len(operation.named)
        for suspect in (*operation.named, *operation.others):
            formulas = len(suspect.wrong), len(suspect.right)
            if formulas != (len(suspect.mutants),) * 2:
                yield f"{place}: {' + '.join(suspect.mutants)}", "a formula for each, wrong and right", formulas


def schema(document: type[Document]) -> bytes:
    """The JSON Schema of a kind of document."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(document)), indent=2) + b"\n"


if __name__ == "__main__":
    for kind, file in SCHEMAS.items():
        file.write_bytes(schema(kind))
