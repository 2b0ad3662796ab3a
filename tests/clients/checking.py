"""What the tests of strangers' models have in common: a check of a port that need not be importable by name."""

from __future__ import annotations

import inspect
import sys
import textwrap

from harness import embedded
from harness.run.check import check
from harness.run.progress import SILENT
from harness.run.proposing.proposal import propose
from harness.run.question import Question

MODES = ("forward", "replay")


def checked(golden, port, precisions, modes=MODES, cases=()):
    """The report on a port, on an embedded golden by name."""

    def load(directory, config, dtype):
        return port.load(directory, config, dtype, None)

    directory = embedded.directory()
    question = Question(precisions, modes=modes, cases=cases)
    return check(directory / f"{golden}.h5", directory / golden, port.__qualname__, question, load=load)


def proposed(monkeypatch, golden, port):
    """What `goldens port` proposes for a port without its table, and the share of its rows that are among it."""
    written = port.taps
    monkeypatch.setattr(port, "taps", {})
    directory, spec = embedded.directory(), f"{port.__module__}:{port.__qualname__}"
    found = propose(directory / f"{golden}.h5", directory / golden, spec, None, "float32", SILENT)
    return found, sum(found.table.get(left) == tap for left, tap in written.items()) / len(written)


def introduced(report):
    """What is wrong even on golden inputs: kinds of taps, and layers."""
    found = [r.tap for r in report.results if r.verdict == "introduced" and r.mode == "replay"]
    return {tap.rpartition(".")[2] for tap in found}, {tap.split(".")[1] for tap in found if "." in tap}


def largest(report, precision="float64"):
    """The largest relative error at a precision; far positions, where float64 itself rounds angles, aside."""
    return max(r.rel_rms for r in report.results if r.precision == precision and r.case not in ("far", "offset"))


def repaired(monkeypatch, owner, name, *lines):
    """A function of theirs, with lines of its source replaced."""
    function = getattr(owner, name)
    source = textwrap.dedent(inspect.getsource(function))
    for old, new in lines:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    made = {}
    exec(compile(source, f"{name}, repaired", "exec"), sys.modules[function.__module__].__dict__, made)
    monkeypatch.setattr(owner, name, made[name])
