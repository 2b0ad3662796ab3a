"""What is asked of a port: precisions, modes, cases, limits; and commands that ask it the same again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness import embedded
from harness.errors import UsageError
from harness.golden import CaseEntry
from harness.report.criteria import PHASE_3, PHASE_3_NAME, parse_criteria
from harness.report.document import Criteria, Report
from harness.results import MODES
from harness.selecting import select
from harness.tolerances import PRECISIONS, SMALL, Limit, is_small, limit, share

# Names for several modes. `both` are those that compare every tap of every case.
BOTH = ("forward", "replay")
SEVERAL = {"all": MODES, "both": BOTH}
# What is asked where nothing is said; of a golden that cannot carry float64, what it can.
USUAL = ("float64", "float32")

Axes = tuple[tuple[str, int], ...]  # of a mesh of devices: name and size
MESH_HINT = "for example --mesh data=2,model=4, or leave it out: the port is then given no mesh"


@dataclass(frozen=True)
class Question:
    """What is asked of a port.

    Attributes:
        precisions: any of float64, float32, bfloat16.
        modes: any of `harness.results.MODES`. A case is checked in those that it allows.
        cases: glob patterns of case names; none means all.
        limit_rms, limit_max: factors on every limit. Above 1 they miss bugs, below 1 they accuse correct ports.
        lift: in float64, lift the narrower floats that are hard-coded in the port.
        allow_reduced_precision: check float32 under the matmul precision that is configured, or else under the
            backend's default, instead of refusing a reduced one. The report says so.
        mesh: axes of the mesh of devices that the port is given; none means that it is given no mesh.
        criteria: thresholds on the logits that are reported beside the verdict, and do not decide it.
    """

    precisions: tuple[str, ...] = USUAL
    modes: tuple[str, ...] = MODES
    cases: tuple[str, ...] = ()
    limit_rms: float | None = None
    limit_max: float | None = None
    lift: bool = False
    allow_reduced_precision: bool = False
    mesh: Axes = ()
    criteria: Criteria = PHASE_3

    def check(self) -> None:
        """Refuse what cannot be asked.

        Raises:
            UsageError: nothing is asked for, an unknown precision or mode, a limit that is not a positive number,
                a mesh with one axis twice or without devices.
        """
        _check_axes(self.mesh)
        for precision in self.precisions:
            self.limit(precision)
        for mode in self.modes:
            if mode not in MODES:
                hint = "for example --mode forward,replay"
                raise UsageError("unknown mode", "--mode", ", ".join((*SEVERAL, *MODES)), mode, hint=hint)
        if not self.precisions or not self.modes:
            hint = f"--precision takes {', '.join(PRECISIONS)}, --mode {', '.join((*SEVERAL, *MODES))}"
            raise UsageError("nothing is to be checked", hint=hint)

    def carried_by(self, truth_dtype: str) -> Question:
        """The question as a golden whose truth is stored in this dtype can be asked it.

        Raises:
            UsageError: float64 is asked for by itself, and the truth is narrower; or the limits are so tight that
                the rounding of the stored truth is not small beside them (`harness.costs`).
        """
        carried = [p for p in self.precisions if is_small(truth_dtype, p, self.limit(p))]
        if len(carried) == len(self.precisions):
            return self
        for precision in self.precisions:
            if precision != "float64" and precision not in carried:
                problem = f"the limits are too tight for a truth that is stored in {truth_dtype}"
                expected = f"a rounding of at most {SMALL:.2g} of a limit"
                hint = "leave --limit-rms and --limit-max out, or record the golden with --dtype float64"
                found = f"up to {share(truth_dtype, precision, self.limit(precision)):.2g}"
                raise UsageError(problem, f"--precision {precision}", expected, found, hint=hint)
        if self.precisions != USUAL:
            problem = "this golden cannot say anything about float64"
            expected = f"precisions that a truth stored in {truth_dtype} can carry: float32, bfloat16"
            hint = "leave float64 out, or record the golden with --dtype float64"
            raise UsageError(problem, "--precision", expected, ", ".join(self.precisions), hint=hint)
        return replace(self, precisions=tuple(carried))

    def limit(self, precision: str) -> Limit:
        """The limit in force at a precision."""
        return limit(precision, self.limit_rms, self.limit_max)


STANDARD = Question()


def question_of(
    precision: str, mode: str = "both", mesh: str | None = None, criteria: str = PHASE_3_NAME, **others: Any
) -> Question:
    """What options ask for: those that are texts are parsed, the others are fields of the question.

    Raises:
        UsageError: axes or criteria of another form.
    """
    asked = parse_precisions(precision), parse_modes(mode)
    return Question(*asked, mesh=parse_mesh(mesh), criteria=parse_criteria(criteria), **others)


def parse_precisions(text: str) -> tuple[str, ...]:
    """`float64, float32` as a tuple, each once. `Question.check` refuses what is unknown."""
    return _listed(text)


def parse_modes(text: str) -> tuple[str, ...]:
    """`all`, `both`, or a list of modes, each once. `Question.check` refuses what is unknown."""
    return tuple(dict.fromkeys(mode for name in _listed(text) for mode in SEVERAL.get(name, (name,))))


def parse_mesh(text: str | None) -> Axes:
    """`data=2,model=4` as axes; none where there is no text. `Question.check` refuses what is no mesh.

    Raises:
        UsageError: text of another form.
    """
    if text is None:
        return ()
    matches = [re.fullmatch(r"\s*([^\W\d]\w*)\s*=\s*(-?[0-9]{1,9})\s*", part) for part in text.split(",")]
    for part, axis in zip(text.split(","), matches, strict=True):
        if axis is None:
            problem, where = "this is not a mesh of devices", f"--mesh {text}"
            raise UsageError(problem, where, "NAME=SIZE, several with commas", repr(part), hint=MESH_HINT)
    return tuple((axis[1], int(axis[2])) for axis in matches if axis is not None)


def shown_axes(axes: Axes) -> str:
    """Axes as `parse_mesh` reads them."""
    return ",".join(f"{name}={size}" for name, size in axes)


def _check_axes(axes: Axes) -> None:
    names = [name for name, _ in axes]
    for name, size in axes:
        if names.count(name) > 1:
            said = "a mesh has no two axes of one name", "every axis once", f"{name} {names.count(name)} times"
        elif size < 1:
            said = "an axis of a mesh has at least one device", f"{name}=1 or more", f"{size}"
        else:
            continue
        problem, expected, found = said
        where = f"--mesh {shown_axes(axes)}"
        raise UsageError(problem, where=where, expected=expected, found=found, hint=MESH_HINT)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for part in text.split(",") if (name := part.strip())))


def select_cases(cases: Sequence[CaseEntry], patterns: Sequence[str]) -> tuple[CaseEntry, ...]:
    """The cases whose names match any of the glob patterns, in the golden's order.

    Raises:
        UsageError: a pattern that matches nothing.
    """
    chosen = select(
        [case.name for case in cases],
        patterns,
        problem="no case of the golden matches",
        where="the case pattern",
        hint="`goldens show GOLDEN` lists the cases; patterns take * and ?",
    )
    return tuple(case for case in cases if case.name in chosen)


@dataclass(frozen=True)
class Given:
    """What a command was given: the golden, its checkpoint (None: beside it), the port, and the question."""

    golden: Path | str
    checkpoint: Path | None
    spec: str
    question: Question


def proposing(given: Given, model: str) -> str:
    """`goldens port` for the same port, on the same golden and checkpoint."""
    return shlex.join(["goldens", "port", given.spec, *_inputs(given, model)])


def repeated(command: str, given: Given, model: str) -> str:
    """`goldens COMMAND` on the same golden and checkpoint, of the same port, without what goes without saying.

    Args:
        command: `check` or `diagnose`. What both take is repeated: precisions, cases, the mesh, waivers.
        model: whose checkpoint lies beside the golden by its name.
    """
    words, question = ["goldens", command, *_inputs(given, model)], given.question
    if question.precisions != USUAL:
        words += ["--precision", ",".join(question.precisions)]
    for pattern in question.cases:
        words += ["--case", pattern]
    if question.mesh:
        words += ["--mesh", shown_axes(question.mesh)]
    words += ["--lift"] * question.lift + ["--allow-reduced-precision"] * question.allow_reduced_precision
    return shlex.join([*words, "--port", given.spec])


def _inputs(given: Given, model: str) -> list[str]:
    words = [] if str(given.golden) == str(embedded.golden()) else [str(given.golden)]
    usual = given.checkpoint in (None, embedded.checkpoint_beside(str(given.golden), model))
    return words if usual else [*words, "--weights", str(given.checkpoint)]


def with_commands(report: Report, given: Given, recorded: Collection[str]) -> Report:
    """The report with the command that checks a model as it is which computes in a narrower dtype everywhere.

    Args:
        recorded: the precisions of which the golden has PyTorch's own error: of others it can say nothing.
    """

    def command(dtype: str) -> str | None:
        asked = replace(given, question=replace(given.question, precisions=(dtype,), lift=False))
        return repeated("check", asked, report.golden.model) if dtype in recorded else None

    said = tuple(replace(narrow, command=command(narrow.dtype)) for narrow in report.narrower)
    return replace(report, narrower=said)
