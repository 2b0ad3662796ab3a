"""One test per case and precision: collected from the golden, with the report as failure text.

And what the terminal says at the end: which golden, the result nearest to the limits, and what was not covered.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import HarnessError, UsageError
from harness.testing.settings import GOLDEN_HINT, PORT_HINT, Settings, settings_of

if TYPE_CHECKING:
    from harness.golden import CaseEntry
    from harness.report.document import Report
    from harness.run.check import Checker

ROOT = "goldens"
MARKER = "golden"
FIXTURES = frozenset({"golden", "check_golden"})
WIDTH = 110
Said = Mapping[str, Sequence[str]]


class DivergedError(AssertionError):
    """A port does not match; the message is the report."""


class GoldenCases(pytest.Collector):
    """All cases of a golden at all precisions. What cannot be checked at all is one collection error."""

    def collect(self) -> Iterator[GoldenTest]:
        """The tests, precision by precision, so that a process loads the port once for each.

        Raises:
            HarnessError: whatever can be refused before the port runs.
        """
        settings = settings_of(self.config)
        if settings.golden is None or settings.port is None:
            refuse_unused(settings, self.session)
            return
        from harness.run.check import Checker

        checker = Checker(settings.golden_path(), settings.checked_weights(), settings.port, settings.question())
        self.config.add_cleanup(checker.golden.close)
        said: dict[str, str] = {}
        for precision in checker.question.precisions:
            for case in checker.cases:
                name = f"{case.name}[{precision}]"
                shared = {"checker": checker, "case": case, "precision": precision, "said": said}
                # As text: pytest takes an id that it composes itself for a name without parameters, and --lf would
                # not find it again.
                yield GoldenTest.from_parent(self, name=name, nodeid=f"{self.nodeid}::{name}", **shared)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, HarnessError) and not wants_traceback():
            return f"error: {excinfo.value}"  # a string: xdist tells by it that all workers report the same
        return super().repr_failure(excinfo)


class GoldenTest(pytest.Item):
    """One case at one precision.

    Args:
        checker: shared by all tests of this process.
        said: shared as well: refusals that were printed in full, and by which test.
    """

    def __init__(
        self, *, checker: Checker, case: CaseEntry, precision: str, said: dict[str, str], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._checker, self._case, self._precision, self._said = checker, case, precision, said
        self.add_marker(MARKER)

    def runtest(self) -> None:
        """Run the port on this case.

        Raises:
            DivergedError: it does not match, or breaks its contract.
            HarnessError: it could not be checked.
        """
        from harness.run.passes import NotCovered
        from harness.store.location import shown

        golden = self._checker.golden
        self._say("golden", f"{golden.id[:12]}  {golden.manifest.model.id}  ({shown(golden.path)})")
        self._say("precision", self._precision)
        try:
            run = self._checker.run(self._precision, [self._case])
        except NotCovered as error:
            if error.cases == self._checker.cases:
                raise
            for reason in error.reasons:
                self._say("not_covered", reason)
            pytest.skip("; ".join(error.reasons))
        report = self._checker.report([run])
        self._describe(report)
        if run.not_lifted is not None and not run.results:
            pytest.skip(run.not_lifted)
        refuse_divergence(report)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        error = excinfo.value
        if wants_traceback():
            return super().repr_failure(excinfo)
        if isinstance(error, DivergedError):
            return _said_once(excinfo, str(error))
        if isinstance(error, HarnessError):
            first = self._said.setdefault(str(error), self.nodeid)
            whole = first == self.nodeid
            return _said_once(excinfo, f"error: {error}" if whole else f"error: {error.problem} (as in {first})")
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, self.nodeid

    def _describe(self, report: Report) -> None:
        """What JUnit and the terminal summary are told; as properties they reach xdist's controller."""
        from harness.report.wording import closest, mesh_of

        self._say("port", report.port)
        if report.results:
            worst = max(report.results, key=lambda r: r.share)
            self._say("verdict", report.verdict)
            self._say("introduced", ", ".join(report.introduced) or "none")
            self._say("closest", closest(worst))
            self._say("closest_at", f"{worst.precision}, {worst.mode}: {worst.tap} in {worst.case}")
            self._say("share_of_limit", f"{worst.share:.3g}")
        mesh = mesh_of(report)
        if mesh is not None:
            self._say("mesh", mesh)
        for note in report.notes:
            self._say("note", note)
        for line in report.not_covered:
            self._say("not_covered", line)
        known, asked = len(self._checker.golden.manifest.cases), len(self._checker.cases)
        if asked < known:
            self._say("not_covered", f"{known - asked} of {known} cases: not asked for")

    def _say(self, name: str, value: str) -> None:
        self.user_properties.append((f"{ROOT}.{name}", value))


def refuse_divergence(report: Report) -> None:
    """Turn an outcome into a failed test.

    Raises:
        DivergedError: the port does not match, or something could not be compared; the message is the report.
    """
    __tracebackhide__ = True
    from harness.report.contract import broken_contract
    from harness.report.views import report_text

    broken = broken_contract(report)
    if broken is None and report.verdict == "match":
        return
    text = f"{_headline(report) if broken is None else broken.problem}\n\n{report_text(report, WIDTH)}"
    raise DivergedError(text if broken is None else f"{text}\n\nerror: {broken}")


def _headline(report: Report) -> str:
    """One line, which pytest repeats in its list of failures."""
    from harness.report.findings import findings, unexplained
    from harness.report.wording import title

    if report.narrower and not unexplained(report):
        return f"this model computes in {report.narrower[0].dtype} whatever it is asked for"
    if report.introduced:
        first, more = findings(report)[0], len(report.introduced) - 1
        return f"{title(first)} {first.taps[0]}{f' and {more} more taps' if more else ''}"
    if report.first_divergence is None:
        return "nothing was compared"
    return f"no operation is wrong on golden inputs; forward is, first at {report.first_divergence.tap}"


def refuse_unused(settings: Settings, session: pytest.Session) -> None:
    """A golden without a port (or the reverse) collects nothing: fine where tests of the project use it.

    Raises:
        UsageError: no test does, so nothing would be checked.
    """
    used = any(FIXTURES & set(getattr(item, "fixturenames", ())) for item in session.items)
    if used:
        return
    lacks_port = settings.port is None
    problem = f"nothing would be checked: there is no {'port' if lacks_port else 'golden'}"
    where = f"pytest --golden={settings.golden}" if lacks_port else f"pytest --port={settings.port}"
    expected = f"a {'port' if lacks_port else 'golden'}, or tests that use the fixtures golden or check_golden"
    raise UsageError(problem, where, expected, hint=PORT_HINT if lacks_port else GOLDEN_HINT)


def _said_once(excinfo: pytest.ExceptionInfo[BaseException], text: str) -> Any:
    """A failure that is `text` and no traceback, and its first line alone in the list of failures.

    pytest repeats a plain string there as a whole when it finds itself in CI, and so does JUnit as the message.
    """
    shown = excinfo.getrepr(style="value", chain=False)
    shown.reprtraceback.reprentries[0].lines = text.split("\n")
    if shown.reprcrash is not None:
        shown.reprcrash.message = text.partition("\n")[0]
    return shown


def wants_traceback() -> bool:
    """Whether somebody asked for tracebacks, as on the command line."""
    return bool(os.environ.get("GOLDENS_TRACEBACK"))


def write_summary(reporter: pytest.TerminalReporter, settings: Settings) -> None:
    """Write the sections, from the properties of the reports: with xdist they come from the workers."""
    tests = tuple(_golden_tests(reporter))
    if not tests:
        return
    reporter.section("goldens")
    for name in ("golden", "port", "mesh", "note"):
        for value in _values(tests, name):
            reporter.line(f"{name:<8} {value}")
    compared = (said for said in tests if "closest" in said)
    closest = max(compared, key=lambda said: float(said["share_of_limit"][0]), default=None)
    if closest is not None:
        reporter.line(f"{'closest':<8} {closest['closest'][0]}  ({closest['closest_at'][0]})")
    gaps = (*_never_ran(tests, settings), *_values(tests, "not_covered"))
    if gaps:
        reporter.section("goldens: not covered")
        for line in gaps:
            reporter.line(line)


def _golden_tests(reporter: pytest.TerminalReporter) -> Iterator[Said]:
    for reports in reporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) != "call":
                continue
            said: dict[str, list[str]] = {}
            for name, value in report.user_properties:
                if name.startswith(f"{ROOT}."):
                    said.setdefault(name.removeprefix(f"{ROOT}."), []).append(str(value))
            if said:
                yield said


def _values(tests: Iterable[Said], name: str) -> Iterator[str]:
    yield from dict.fromkeys(value for said in tests for value in said.get(name, ()))


def _never_ran(tests: Sequence[Said], settings: Settings) -> Iterator[str]:
    """Precisions that were asked for and of which every test was deselected, or never reached."""
    from harness.run.question import parse_precisions

    ran = set(_values(tests, "precision"))
    yield from (
        f"precision {p}: none of its tests ran" for p in parse_precisions(settings.precision) if p not in ran
    )
