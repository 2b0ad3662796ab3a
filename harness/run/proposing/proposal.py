"""`goldens port`: the proposed table of a port, as plain data."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from harness import embedded
from harness.architecture import Config, architecture_of
from harness.errors import UsageError
from harness.golden import CaseEntry
from harness.run import precision as precisions
from harness.run.adapters.table import To, is_function
from harness.run.contained import CannotLift
from harness.run.loading import load_port
from harness.run.preflight import preflight
from harness.run.progress import Progress
from harness.run.proposing.dataflow import DataFlow
from harness.run.proposing.flat import flattened
from harness.run.proposing.matching import Matcher
from harness.run.proposing.places import Places
from harness.run.proposing.rows import Absent, Module, ProposedRow, Rows, modules
from harness.run.proposing.values import Values
from harness.run.proposing.watched import Watched, through_cache
from harness.run.question import Question, select_cases
from harness.run.source import GoldenSource
from harness.store import Golden, open_golden

FEWEST_TOKENS = 4  # with fewer, what is turned by its position differs little from what is not


@dataclass(frozen=True)
class Proposal:
    """What was found.

    Attributes:
        modules: all that was called, in the order of the first calls.
        missing: taps that no row was found for, each with what could be tried.
        functions: those that were called.
        logits: whether they were those of the golden, when golden values had gone on; None if unknown.
        discovered: whether it was looked among all variables of the program, and how many these were.
        absent: taps in whose place what they should be computed from goes on as it is.
        note: why it was looked at another precision than the best one.
    """

    case: str
    tokens: int
    precision: str
    rows: tuple[ProposedRow, ...]
    modules: tuple[Module, ...]
    missing: tuple[str, ...]
    functions: tuple[str, ...]
    logits: bool | None
    discovered: int | None = None
    absent: tuple[Absent, ...] = ()
    note: str = ""

    @property
    def table(self) -> dict[str, str | To]:
        """As a port has it."""
        return {row.left: row.target for row in self.rows}


def propose(
    golden_path: str | Path,
    checkpoint: Path | None,
    spec: str,
    case: str | None,
    precision: str | None,
    progress: Progress,
    discover: bool = False,
) -> Proposal:
    """Propose the table of an adapted port.

    Args:
        case: its name; None is the shortest that tells taps apart.
        precision: None is float32; of all variables float64, or float32 where the golden's truth or the model is
            no wider.
        discover: look among all variables of its program, and not only what calls are given and return.

    Raises:
        HarnessError: the golden, the weights or the port cannot be used, or no case is a prompt alone.
    """
    look = discovered if discover else functools.partial(discovered, among_variables=False)

    def at(precision: str) -> Proposal:
        precisions.refuse_reduced(precision)
        with open_golden(golden_path) as golden:
            Question((precision,)).carried_by(golden.manifest.truth_dtype)
            entry = _case(golden, case)
            directory = checkpoint or embedded.checkpoint_beside(str(golden_path), golden.manifest.model.id)
            config = preflight(golden, directory, [entry])
            progress.begin(f"{precision}: loading the port")
            with precisions.in_force(precision):
                port = load_port(spec, directory, config, precisions.jax_dtype(precision), None)
                return look(port, golden, entry, config, precision, progress)

    if precision is not None or not discover:
        return at(precision or "float32")
    try:
        return at("float64")
    except CannotLift as error:
        return replace(at("float32"), note=f"float64: {error.problem}, {error.where}")
    except UsageError:
        return at("float32")  # which says the same if it was anything else


def discovered(
    port: Any,
    golden: Golden,
    case: CaseEntry,
    config: Config,
    precision: str,
    progress: Progress,
    among_variables: bool = True,
) -> Proposal:
    """Propose the table of a port that is loaded, at the precision that is in force.

    Args:
        among_variables: look among all variables of its program, and not only what calls are given and return.

    Raises:
        PortError: the port is no adapted one, or its model cannot be traced.
        CannotLift: in float64, an operation stays narrow.
    """
    arch, given = architecture_of(config), golden.case(case.name)
    given_arrays = given.input_ids.astype(np.int32), given.positions.astype(np.int32), given.mask
    arguments = [jax.device_put(value) for value in given_arrays]
    progress.begin(f"{precision}: tracing the model")
    watched = Watched(port, arguments)
    arithmetic = watched.port._program.arithmetic()
    flat = flattened(watched, arch.layers, precision, arithmetic, among_variables)
    matcher = Matcher(GoldenSource(golden, precision), case, arch)
    progress.begin(f"{precision}: comparing {len(flat.shapes):,} variables")
    with watched.port.context():
        values = Values(flat, arithmetic, matcher.golden)
        known = DataFlow(flat, values, matcher, progress.advance)(arch.layers)
    cached = through_cache(port, arguments, precisions.jax_dtype(precision))
    rows = Rows(flat, known, matcher, Places(flat.marks, watched.methods), watched.shapes, cached)
    proposed, absent = rows(), tuple(rows.absent())
    covered = rows.covered | {gap.tap for gap in absent}
    return Proposal(
        case=case.name,
        tokens=case.shape[1],
        precision=precision,
        rows=proposed,
        modules=modules(flat),
        missing=tuple(tap for tap in matcher.taps if tap not in covered),
        functions=tuple(dict.fromkeys(m.site.path for m in watched.marks if is_function(m.site.path))),
        logits=known.logits,
        discovered=len(flat.shapes) if among_variables else None,
        absent=absent,
    )


def _case(golden: Golden, name: str | None) -> CaseEntry:
    """The case that is looked at.

    Raises:
        UsageError: it is no prompt alone, or there is none.
    """
    cases = select_cases(golden.manifest.cases, () if name is None else (name,))
    alone = [c for c in cases if c.shape[0] == 1 and not c.calls and not c.kept and c.level == "ops"]
    if not alone:
        hint, found = "`goldens show GOLDEN` lists the cases and their levels", name or f"{len(cases)} others"
        problem = "a table is proposed from a prompt alone, with every operation recorded"
        expected = "a case of one row, one call and all positions, of level ops"
        raise UsageError(problem, "--case" if name is not None else "the golden", expected, found, hint=hint)
    return min(alone, key=lambda c: (c.shape[1] < FEWEST_TOKENS, abs(c.shape[1] - FEWEST_TOKENS)))
