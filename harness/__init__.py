"""Golden-artifact regression harness for JAX ports of PyTorch models. API.md beside this file shows it in use.

Nothing is imported until it is used: reading a golden needs neither torch nor jax, and comparing reports neither.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError

if TYPE_CHECKING:
    from harness.labelled import LabelledGolden
    from harness.report.diff_document import Diff
    from harness.report.document import Report
    from harness.report.reading import Document
    from harness.run.dialect import Parameters
    from harness.run.question import Question
    from harness.run.tapping import Tapped

__all__ = ["HarnessError", "Parameters", "Question", "Tapped", "check", "diff", "open", "read_report", "render"]
__version__ = "0.1.0"

VIEWS = ("json", "html", "markdown", "junit")

# Classes that are imported when they are first asked for, by the modules that have them.
_CLASSES = {"Parameters": "run.dialect", "Question": "run.question", "Tapped": "run.tapping"}


def __getattr__(name: str) -> Any:
    if name not in _CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_CLASSES[name]}"), name)


def open(path: str | Path) -> LabelledGolden:
    """A golden as labelled arrays: `harness.open("a.h5")["digits"].q_rope`. See `harness.labelled`.

    Args:
        path: a file, a directory or a URL, or the name of an embedded golden.

    Raises:
        GoldenError: missing, not a golden, of another format version, damaged, or inconsistent.
    """
    from harness import embedded
    from harness.labelled import LabelledGolden

    return LabelledGolden(embedded.resolved(str(path)))


def check(
    golden: str | Path | None = None,
    port: Any = None,
    *,
    weights: str | Path | None = None,
    question: Question | None = None,
) -> Report:
    """What `goldens check` does.

    Args:
        golden: a file, a directory or a URL, or the name of an embedded golden; None is the first of those.
        port: `package.module:Name`, a class or module with `load`, or a port that is already loaded: that has one
            dtype and takes one precision. None is the built-in one.
        weights: the golden's checkpoint; None means beside the golden, by the model's name.
        question: precisions, modes, cases, limits; None is what the command asks by default.

    Raises:
        HarnessError: something could not be checked. What was checked and is wrong is in the report.
    """
    from harness import embedded
    from harness.run.check import check as checked
    from harness.run.loading import port_from_object
    from harness.run.port import BUILT_IN
    from harness.run.question import STANDARD

    asked = STANDARD if question is None else question
    spec, load = port_from_object(BUILT_IN if port is None else port, asked)
    path = embedded.resolved(None if golden is None else str(golden))
    return checked(path, None if weights is None else Path(weights), spec, asked, load=load)


def diff(before: Report, after: Report, *, intersection: bool = False) -> Diff:
    """What `goldens diff` says of two checks of one golden.

    Args:
        intersection: what only one of them was asked is left out and named, instead of refused.

    Raises:
        UsageError: the two cannot be compared: other goldens, limits, cases, precisions or modes.
    """
    from harness.report.diff_assembly import diff as difference
    from harness.report.pairing import Candidate

    return difference(Candidate("before", before), Candidate("after", after), intersection=intersection)


def read_report(path: str | Path) -> Document:
    """A check, a diff or an audit, as `--json` saved it.

    Raises:
        UsageError: it cannot be read, is no report, or contradicts itself.
    """
    from harness.report.reading import read_report as read

    return read(Path(path))


def render(document: Document, view: str) -> bytes:
    """A report as `json`, `html`, `markdown` or `junit`: the bytes that the option of that name writes.

    Raises:
        UsageError: another view; or an audit as JUnit, which judges a golden, and no port.
    """
    from harness.errors import UsageError
    from harness.report.views import render as rendered

    if view not in VIEWS:
        expected, hint = ", ".join(VIEWS), 'render(report, "html")'
        raise UsageError("a report has no such view", expected=expected, found=view, hint=hint)
    return rendered(document, view)
