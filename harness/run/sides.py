"""The two sides of a diff: saved checks, ports, and ports as they stand at a git revision."""

from __future__ import annotations

import contextlib
import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness import embedded
from harness.errors import HarnessError, PortError, UsageError, shortened
from harness.report.diff_assembly import diff
from harness.report.diff_document import Diff
from harness.report.document import Report
from harness.report.pairing import Candidate, Selection, failing, narrowed, same_limits
from harness.report.reading import read_report
from harness.run.progress import SILENT, Prefixed, Progress
from harness.run.question import STANDARD, Axes, Question
from harness.run.revision import check_at
from harness.run.worktree import Revision, resolve
from harness.store import open_golden
from harness.store.location import local_of, url_of

GIT = "git:"


@dataclass(frozen=True)
class Request:
    """A diff as it was asked for.

    Attributes:
        golden: None is the embedded one.
        weights: None is the golden's own checkpoint beside it.
        before, after: `package.module:Name`, `git:REV[:package.module:Name]`, or a saved check, `report.json`.
        intersection: leave out what only one side was asked, and name it.
        lift: in float64, lift the float32 that is hard-coded in a port that is checked now.
        allow_reduced_precision: check it in float32 under the matmul precision that is configured.
        before_may_fail: judge the fix also where the port of `before` raises: what it did not compute is wrong.
        mesh: axes of the mesh that a port which is checked now is given.
    """

    golden: str | None
    weights: Path | None
    before: str
    after: str
    selection: Selection
    intersection: bool
    lift: bool = False
    allow_reduced_precision: bool = False
    before_may_fail: bool = False
    mesh: Axes = ()


@dataclass(frozen=True)
class _Side:
    """One side, read as far as it can be without running anything. Either `saved` or `spec` is there."""

    option: str
    label: str
    saved: Report | None = None
    revision: Revision | None = None
    spec: str | None = None

    @property
    def sha(self) -> str | None:
        """The commit that it is of."""
        return None if self.revision is None else self.revision.sha


def diff_of(request: Request, progress: Progress = SILENT) -> Diff:
    """Check what has to be checked, and compare.

    Args:
        progress: told which side is at work, and of its comparisons where it is a port of this checkout.

    Raises:
        HarnessError: a side cannot be read or checked, or the two cannot be compared.
    """
    sides = _parse(request)
    _same_golden(request, sides)
    question = _question(request, [side.saved for side in sides if side.saved is not None])
    question.check()
    _same_limits(question, sides)
    candidates: dict[str, Candidate] = {}
    failed: PortError | None = None
    # Revisions first: their process needs the accelerator that a port in this one would hold on to.
    for side in sorted(sides, key=lambda side: side.revision is None):
        progress.begin(side.label)
        try:
            with _blaming(side):
                report = side.saved or _check(side, request, question, Prefixed(progress, side.label))
        except PortError as error:
            if not (request.before_may_fail and side.option == "--before"):
                raise
            failed = error
            continue
        report = narrowed(report, request.selection, side.label)
        candidates[side.option] = Candidate(side.label, report, side.sha)
    if failed is not None:
        before = next(side for side in sides if side.option == "--before")
        report = failing(candidates["--after"].report, before.spec, failed)
        candidates["--before"] = Candidate(before.label, report, before.sha)
    return diff(candidates["--before"], candidates["--after"], intersection=request.intersection)


def _parse(request: Request) -> list[_Side]:
    """Both sides; one at a revision takes its port from the other where it does not name one."""
    given = {"--before": request.before, "--after": request.after}
    sides = [_side(option, text) for option, text in given.items()]
    specs = [side.saved.port if side.saved is not None else side.spec for side in sides]
    for index, side in enumerate(sides):
        if side.saved is None and side.spec is None:
            spec = specs[1 - index]
            if spec is None:
                problem = "neither side says which port it is"
                where = f"--before {request.before} --after {request.after}"
                hint = f"for example {side.option} {side.label}:my_package.my_port:Port"
                raise UsageError(problem, where, "git:REV:package.module:Name on one side at least", hint=hint)
            sides[index] = replace(side, spec=spec)
    live = {
        "--weights": request.weights is not None,
        "--lift": request.lift,
        "--allow-reduced-precision": request.allow_reduced_precision,
        "--mesh": bool(request.mesh),
    }
    for option, asked in live.items():
        if asked and all(side.saved is not None for side in sides):
            problem = f"both sides are saved checks: nothing is run that could use {option}"
            hint = f"leave {option} out"
            raise UsageError(problem, f"--before {request.before} --after {request.after}", hint=hint)
    return sides


def _side(option: str, text: str) -> _Side:
    if text.startswith(GIT):
        name, _, spec = text.removeprefix(GIT).partition(":")
        return _Side(option, f"{GIT}{name}", revision=resolve(name), spec=spec or None)
    if text.endswith(".json") or Path(text).is_file():
        report = read_report(Path(text))
        if not isinstance(report, Report):
            problem = f"a saved {report.kind} cannot be a side of a diff"
            hint = "save the check itself: goldens check --json FILE"
            raise UsageError(problem, f"{option} {text}", "a saved check", f"kind {report.kind}", hint=hint)
        return _Side(option, text, saved=report)
    return _Side(option, text, spec=text)


def _golden(request: Request) -> str:
    return request.golden or str(embedded.golden())


def _same_golden(request: Request, sides: Sequence[_Side]) -> None:
    """Refuse a saved check of another golden before anything runs."""
    if request.golden is None and all(side.saved is not None for side in sides):
        return
    with open_golden(_golden(request)) as golden:
        for side in sides:
            if side.saved is not None and side.saved.golden.id != golden.id:
                problem = "the saved check was made against another golden"
                expected = f"{golden.id[:12]} ({golden.path})"
                hint = f"name its golden: goldens diff {side.saved.golden.path} --before ... --after ..."
                found = f"{side.saved.golden.id[:12]} ({side.saved.golden.path})"
                raise UsageError(problem, f"{side.option} {side.label}", expected, found, hint=hint)


def _question(request: Request, saved: Sequence[Report]) -> Question:
    """What a port is asked: what was selected, or what the saved side was asked."""
    selection = request.selection
    results = [result for report in saved for result in report.results]
    return Question(
        precisions=selection.precisions
        if selection.precisions is not None
        else tuple(dict.fromkeys(r.precision for r in results)) or STANDARD.precisions,
        modes=selection.modes or tuple(dict.fromkeys(r.mode for r in results)) or STANDARD.modes,
        cases=selection.cases or tuple(dict.fromkeys(glob.escape(r.case) for r in results)),
        lift=request.lift,
        allow_reduced_precision=request.allow_reduced_precision,
        mesh=request.mesh,
    )


def _same_limits(question: Question, sides: Sequence[_Side]) -> None:
    """Refuse limits that a port which is checked now will not be judged by, before it runs."""
    limits = {precision: question.limit(precision) for precision in question.precisions}
    live = [side.label for side in sides if side.saved is None]
    for side in sides:
        if side.saved is not None and live:
            same_limits(side.saved.limits, limits, f"{side.label} and {live[0]}")


def _check(side: _Side, request: Request, question: Question, progress: Progress) -> Report:
    assert side.spec is not None
    golden = _golden(request)
    weights = request.weights
    if weights is None:
        with open_golden(golden) as opened:
            weights = embedded.checkpoint_beside(golden, opened.manifest.model.id)
    if side.revision is None:
        from harness.run.check import check  # saved checks are compared without jax

        return check(golden, weights, side.spec, question, progress=progress)
    place = golden if url_of(golden) else str(local_of(golden))
    return check_at(side.revision, side.spec, place, weights.resolve(), question)


@contextlib.contextmanager
def _blaming(side: _Side) -> Iterator[None]:
    """Say which side a refusal is about."""
    try:
        yield
    except HarnessError as error:
        commit = f" ({side.sha[:12]})" if side.sha else ""
        where = f"{side.option} {side.label}{commit}"
        error.where = shortened(where if error.where is None else f"{where}: {error.where}")
        raise
