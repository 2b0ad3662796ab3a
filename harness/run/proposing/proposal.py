"""The proposed table of a port, as plain data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from harness.run.adapters.watching import Site
from harness.run.loading import load_port
from harness.run.preflight import preflight
from harness.run.progress import Progress
from harness.run.proposing.matching import Matcher
from harness.run.proposing.patterns import Option, Pattern, chosen
from harness.run.proposing.search import Found, Search
from harness.run.proposing.watched import Watched
from harness.run.proposing.with_cache import with_cache
from harness.run.question import Question, select_cases
from harness.run.source import GoldenSource
from harness.store import Golden, open_golden
from harness.taps import kind_of, name_of

FEWEST_TOKENS = 4  # with fewer, what is turned by its position differs little from what is not


@dataclass(frozen=True)
class ProposedRow:
    """A row of the table.

    Attributes:
        noise: the largest error of the taps that it equals, in PyTorch's own, and the limit there.
        wrong: the taps that its value does not equal: it stands in their place by data flow.
        far: by how much it does not, as a share of the tap's size.
        also: other kinds whose golden values are the same, so that it could as well be those.
        place: of a variable, its shape and the line that computes it.
        told: of what is wrong, what else data flow says.
    """

    left: str
    tap: str
    layout: str | None
    noise: tuple[float, float] | None
    wrong: tuple[str, ...] = ()
    far: float = 0.0
    also: tuple[str, ...] = ()
    place: str = ""
    told: str = ""

    @property
    def target(self) -> str | To:
        return self.tap if self.layout is None else To(self.tap, self.layout)


@dataclass(frozen=True)
class Absent:
    """A tap whose operation the program does not have: what it should be computed from is read in its place.

    Attributes:
        place: the line that reads it.
    """

    tap: str
    instead: tuple[str, ...]
    place: str


@dataclass(frozen=True)
class Module:
    """A sub-module or function that was called: its path, what it was given and what it returned."""

    path: str
    values: tuple[tuple[str, str], ...]  # field, and dtype[shape]


@dataclass(frozen=True)
class Proposal:
    """What was found.

    Attributes:
        modules: all that was called, in the order of the first calls.
        missing: taps that no row was found for, each with what could be tried.
        functions: those that were called.
        logits: whether they were those of the golden, when golden values had gone on; None if unknown.
        gave_up: whether the search ended before it was through.
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
    gave_up: bool
    discovered: int | None = None
    absent: tuple[Absent, ...] = ()
    note: str = ""

    @property
    def table(self) -> dict[str, str | To]:
        """As a port has it."""
        return {row.left: row.target for row in self.rows}


Look = Callable[[Any, Golden, CaseEntry, Config, str, Progress], Proposal]


def propose(
    golden_path: str | Path,
    checkpoint: Path | None,
    spec: str,
    case: str | None,
    precision: str | None,
    progress: Progress,
    look: Look | None = None,
) -> Proposal:
    """Propose the table of an adapted port.

    Args:
        case: its name; None is the shortest that tells taps apart.
        precision: None is float32.
        look: how taps are looked for, in a port that is loaded, at the precision that is in force; None is
            `proposed`.

    Raises:
        HarnessError: the golden, the weights or the port cannot be used, or no case is a prompt alone.
    """
    precision = precision or "float32"
    precisions.refuse_reduced(precision)
    with open_golden(golden_path) as golden:
        Question((precision,)).carried_by(golden.manifest.truth_dtype)
        entry = _case(golden, case)
        directory = checkpoint or embedded.checkpoint_beside(str(golden_path), golden.manifest.model.id)
        config = preflight(golden, directory, [entry])
        progress.begin(f"{precision}: loading the port")
        with precisions.in_force(precision):
            port = load_port(spec, directory, config, precisions.jax_dtype(precision), None)
            return (look or proposed)(port, golden, entry, config, precision, progress)


def proposed(
    port: Any, golden: Golden, case: CaseEntry, config: Config, precision: str, progress: Progress
) -> Proposal:
    """Propose the table of a port that is loaded, at the precision that is in force."""
    arch, given = architecture_of(config), golden.case(case.name)
    given_arrays = given.input_ids.astype(np.int32), given.positions.astype(np.int32), given.mask
    arguments = [jax.device_put(value) for value in given_arrays]
    progress.begin(f"{precision}: tracing the model")
    watched = Watched(port, arguments)
    matcher = Matcher(GoldenSource(golden, precision), case, arch)
    progress.begin(f"{precision}: comparing values")
    search = Search(watched, matcher, progress.advance)
    found = search()
    rows = _rows(found, search, matcher, arch.layers)
    whole = {(x.mark.site.path, x.mark.site.field): x.shape for x in found.seen}
    lefts = with_cache(
        {row.left: row.target for row in rows}, port, arguments, whole, precisions.jax_dtype(precision)
    )
    rows = tuple(replace(row, left=lefts[row.left]) for row in rows)
    covered = {name for row in rows for name in _names(row.tap, arch.layers)}
    return Proposal(
        case=case.name,
        tokens=case.shape[1],
        precision=precision,
        rows=rows,
        modules=modules_of((x.mark.site, shown(x.shape, x.dtype)) for x in found.seen),
        missing=tuple(name for name in matcher.taps if name not in covered),
        functions=tuple(dict.fromkeys(x.mark.site.path for x in found.seen if is_function(x.mark.site.path))),
        logits=found.logits,
        gave_up=search.gave_up,
    )


def _case(golden: Golden, name: str | None) -> CaseEntry:
    """The case that is looked at.

    Raises:
        UsageError: it is no prompt alone, or there is none.
    """
    cases = select_cases(golden.manifest.cases, () if name is None else (name,))
    alone = [one for one in cases if one.shape[0] == 1 and not one.calls and not one.kept and one.level == "ops"]
    if not alone:
        hint, found = "`goldens show GOLDEN` lists the cases and their levels", name or f"{len(cases)} others"
        problem = "a table is proposed from a prompt alone, with every operation recorded"
        expected = "a case of one row, one call and all positions, of level ops"
        raise UsageError(problem, "--case" if name is not None else "the golden", expected, found, hint=hint)
    return min(alone, key=lambda one: (one.shape[1] < FEWEST_TOKENS, abs(one.shape[1] - FEWEST_TOKENS)))


def _names(tap: str, layers: int) -> list[str]:
    return [tap.replace("{i}", str(layer)) for layer in range(layers)] if "{i}" in tap else [tap]


def _rows(found: Found, search: Search, matcher: Matcher, layers: int) -> tuple[ProposedRow, ...]:
    """Rows for every kind of tap, the plainest place of each."""
    options: dict[str, list[Option]] = defaultdict(list)
    measured: dict[str, tuple[float, float]] = {}
    far: dict[str, float] = {}
    for one in found.seen:
        places = [(match.tap, match.layout) for match in one.matches]
        for match in one.matches:
            # Where a tap was put in the place of another value, it is itself from there on.
            before = measured.get(match.tap, (0.0, match.allowed))
            measured[match.tap] = max(before, (match.multiple, match.allowed))
        if one.put is not None:
            places = [(one.put, one.layout)]
            if one.put not in measured:
                far[one.put] = max(one.far, far.get(one.put, 0.0))
        for tap, layout in places:
            kind, layer = kind_of(tap), int(tap.split(".")[1]) if "." in tap else None
            for written in search.places.written(one.mark):
                options[kind].append(Option(written, layout, kind, layer, one.iteration))
    kinds = list(dict.fromkeys(kind_of(name) for name in matcher.taps))

    def row(kind: str, pattern: Pattern) -> ProposedRow:
        taps = [tap_of(kind, option.layer) for option in pattern.options]
        wrong = tuple(tap for tap in taps if tap in far)
        right = [measured[tap] for tap in taps if tap not in far]
        return ProposedRow(
            pattern.left,
            tap_of(kind, "{i}") if len(taps) > 1 else taps[0],
            pattern.layout,
            max(right, default=None),
            wrong,
            max((far[tap] for tap in wrong), default=0.0),
            tuple(other for other in kinds if other != kind and _same(matcher, taps[0], other)),
        )

    return tuple(row(kind, pattern) for kind, pattern in plainest(kinds, options))


def plainest(kinds: Sequence[str], options: Mapping[str, Sequence[Option]]) -> Iterator[tuple[str, Pattern]]:
    """For every kind of tap, in their order, its plainest places; no place is that of two."""
    used: set[tuple[int, int | None]] = set()
    for kind in kinds:
        free = [x for x in options.get(kind, ()) if (x.written.mark.index, x.iteration) not in used]
        for pattern in chosen(free):
            used |= {(x.written.mark.index, x.iteration) for x in pattern.options}
            yield kind, pattern


def _same(matcher: Matcher, tap: str, kind: str) -> bool:
    other = name_of(tap.rpartition(".")[0], kind)
    return other in matcher.taps and matcher.same(tap, other)


def tap_of(kind: str, layer: int | str | None) -> str:
    """The tap of a kind in a layer, of every layer (`{i}`), or outside the layers."""
    return name_of("" if layer is None else f"layers.{layer}", kind)


def shown(shape: Iterable[int], dtype: str) -> str:
    """An array's form, as a person reads it."""
    return f"{dtype}[{','.join(map(str, shape))}]"


def modules_of(values: Iterable[tuple[Site, str]]) -> tuple[Module, ...]:
    """What was called, from the sites and forms of its values."""
    by_path: dict[str, dict[str, str]] = {}
    for site, form in values:
        by_path.setdefault(site.path, {}).setdefault(site.field, form)
    return tuple(Module(path, tuple(fields.items())) for path, fields in by_path.items())
