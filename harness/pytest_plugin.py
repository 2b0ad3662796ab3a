"""The pytest plugin: `pytest --golden=PATH --port=SPEC` collects one test per case and precision.

Registered by entry point, so it is imported at every start of pytest: it imports pytest and the standard library
only, until a golden is used. For tests that a project writes itself there are two fixtures, `golden` and
`check_golden`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest

from harness.errors import HarnessError
from harness.testing.fixtures import CheckGolden
from harness.testing.items import MARKER, ROOT, GoldenCases, write_summary
from harness.testing.settings import add_options, collects, decide_collection, refuse_empty, settings_of

if TYPE_CHECKING:
    from harness.store import Golden

__all__ = ["CheckGolden"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options and the settings of the project's configuration."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and decide whether the golden is collected from.

    Raises:
        pytest.UsageError: an option is given and empty.
    """
    config.addinivalue_line("markers", f"{MARKER}: a case of a golden, checked against the port (goldens)")
    refuse_empty(config)
    decide_collection(config)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Add the golden's tests to those of the session, last: files and folders were collected before."""
    report = yield
    if isinstance(collector, pytest.Session) and collects(collector.config) and report.passed:
        report.result.append(GoldenCases.from_parent(collector, name=ROOT, nodeid=ROOT))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which golden it was and what was not covered."""
    write_summary(terminalreporter, settings_of(config))


@pytest.fixture
def golden(pytestconfig: pytest.Config) -> Iterator[Golden]:
    """The golden of `--golden` or of pytest's configuration, open for reading (`harness.store.Golden`).

    A project may override it with a fixture of its own that gives another open golden. Where none is configured
    the test fails; it is never skipped.
    """
    from harness.store import open_golden

    try:
        opened = open_golden(settings_of(pytestconfig).golden_path())
    except HarnessError as error:
        pytest.fail(f"error: {error}", pytrace=False)
    with opened:
        yield opened


@pytest.fixture
def check_golden(golden: Golden, pytestconfig: pytest.Config) -> CheckGolden:
    """Check a port in a test of your own: `check_golden(port)`, see `harness.testing.fixtures.CheckGolden`."""
    return CheckGolden(golden, settings_of(pytestconfig))
