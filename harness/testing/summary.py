"""The end of a test run: which golden, how far from the limits, and what was not covered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import pytest

from harness.testing.items import ROOT
from harness.testing.settings import Settings

Said = Mapping[str, Sequence[str]]


def write_summary(reporter: pytest.TerminalReporter, settings: Settings) -> None:
    """Write the sections, from the properties of the reports: with xdist they come from the workers."""
    tests = tuple(_golden_tests(reporter))
    if not tests:
        return
    reporter.section("goldens")
    for name in ("golden", "port", "mesh", "note"):
        for value in _values(tests, name):
            reporter.line(f"{name:<8} {value}")
    closest = max((said for said in tests if "closest" in said), key=_share_of_limit, default=None)
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


def _share_of_limit(said: Said) -> float:
    return float(said["share_of_limit"][0])


def _never_ran(tests: Sequence[Said], settings: Settings) -> Iterator[str]:
    """Precisions that were asked for and of which every test was deselected, or never reached."""
    from harness.run.question import parse_precisions

    ran = set(_values(tests, "precision"))
    yield from (
        f"precision {p}: none of its tests ran" for p in parse_precisions(settings.precision) if p not in ran
    )
