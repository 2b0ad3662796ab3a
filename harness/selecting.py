"""Names by glob: `digits`, `batch-*`, `rope_?`; a pattern that matches nothing is refused. Positions and layers by
rule: `every 16th, first 8, last 8`; a rule fits a prompt, or a model, of any length.

And by both, which taps a golden holds: those of a level, of these those of some layers, and of these those that
globs name. A level is a set of globs that has a name. `layers.*.resid_post` is what it says: `*` is anything, dots
too.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from harness.errors import UsageError
from harness.taps import CACHE_KINDS, ROUTING_KINDS, Tap

NAMED = {"logits": ("logits",), "layers": ("embed", "*.resid_post", "final_norm", "logits"), "ops": ("*",)}
LEVELS = tuple(NAMED)
PART = re.compile(
    r"(?P<which>first|last)(?: (?P<count>[1-9]\d{0,8}))?|every (?P<step>[1-9]\d{0,8})(?:st|nd|rd|th)?"
)
EXAMPLE = "every 16th, first 8, last 8"


def select(
    names: Iterable[str], patterns: Sequence[str], *, problem: str, where: str, hint: str
) -> tuple[str, ...]:
    """The names that match any of the patterns, in their order; without patterns, all of them.

    Case matters. Patterns take `*`, `?` and `[...]`.

    Args:
        problem, where, hint: what is said of a pattern that matches nothing; it is added to `where`.

    Raises:
        UsageError: a pattern that matches none of the names, which the message lists.
    """
    everything = tuple(names)
    for pattern in patterns:
        if not any(_matches(name, [pattern]) for name in everything):
            raise UsageError(problem, f"{where} {pattern}", ", ".join(everything), hint=hint)
    return tuple(name for name in everything if not patterns or _matches(name, patterns))


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def is_rule(text: str) -> bool:
    """Whether every part of a text, between commas, is one of a rule."""
    return all(PART.fullmatch(part.strip()) for part in text.split(","))


def positions_of(rule: str, length: int) -> tuple[int, ...]:
    """What a rule names of so many positions, or layers, ascending; `every 16th` begins with 0, `first` is one.

    Raises:
        ValueError: it is no rule.
    """
    positions: set[int] = set()
    for part in rule.split(","):
        match = PART.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"{part!r} is no part of a rule such as {EXAMPLE!r}")
        count = int(match["count"] or 1)
        if match["step"]:
            positions.update(range(0, length, int(match["step"])))
        elif match["which"] == "first":
            positions.update(range(min(length, count)))
        else:
            positions.update(range(max(0, length - count), length))
    return tuple(sorted(positions))


@dataclass(frozen=True)
class Selected:
    """What of a level is recorded.

    Attributes:
        taps: globs of their whole names; none means all.
        layers: a rule that is about taps inside layers alone; empty means all.
    """

    taps: tuple[str, ...] = ()
    layers: str = ""

    @classmethod
    def asked(cls, taps: Iterable[str], layers: str | None) -> Selected:
        """The selection in one form, however it was asked for: one selection has one id.

        Raises:
            UsageError: the layers are no rule.
        """
        if layers is not None and not is_rule(layers):
            expected = "parts of 'first, last, every 4th', between commas"
            hint = "for example --layers 'first 2, last, every 4th'"
            raise UsageError("this is no rule for layers", f"--layers {layers}", expected, hint=hint)
        return cls(tuple(sorted(set(taps))), ", ".join(part.strip() for part in (layers or "").split(",")))

    def __bool__(self) -> bool:
        return bool(self.taps or self.layers)

    @property
    def words(self) -> tuple[str, ...]:
        """As the command takes it."""
        taps = [word for pattern in self.taps for word in ("--taps", pattern)]
        return (*taps, *(("--layers", self.layers) if self.layers else ()))


EVERYTHING = Selected()


def at_level(
    taps: Iterable[Tap], level: str, cached: bool = True, selected: Selected = EVERYTHING
) -> tuple[Tap, ...]:
    """The taps that are recorded at a level, in their order.

    Choices of experts always are: without them nobody could tell whether a port that goes another way than the
    truth may do so.

    Args:
        level: `logits`, `layers` (the residual stream) or `ops` (all).
        cached: whether there is a KV cache, whose contents are taps too.
    """
    taps, chosen = tuple(taps), selected.taps or ("*",)
    stages = _stages(selected.layers, taps) if selected.layers else None
    return tuple(
        tap
        for tap in taps
        if tap.kind in ROUTING_KINDS
        or (
            (cached or tap.kind not in CACHE_KINDS)
            and _matches(tap.name, NAMED[level])
            and _matches(tap.name, chosen)
            and (stages is None or not tap.stage or tap.stage in stages)
        )
    )


def refuse_unmatched(taps: Sequence[Tap], cases: Iterable[tuple[str, str, bool]], selected: Selected) -> None:
    """Refuse a glob that names nothing, and a case of which nothing is left.

    Args:
        cases: name, level, and whether it has a cache.

    Raises:
        UsageError: there is one.
    """
    cases, layers = tuple(cases), Selected((), selected.layers)
    asked = dict.fromkeys((level, cached) for _, level, cached in cases)
    there = {tap for level, cached in asked for tap in at_level(taps, level, cached, layers)}
    select(
        [tap.name for tap in taps if tap in there],
        selected.taps,
        problem="no tap that would be recorded matches",
        where="--taps",
        hint="globs are of whole names, as layers.*.q_rope; --level and --layers decide first what there is",
    )
    empty = [name for name, level, cached in cases if not at_level(taps, level, cached, selected)]
    if empty:
        found = f"{', '.join(empty[:5])}, of {len(cases)} cases"
        hint = "add --taps logits, which every case has, or name the other cases: --case NAME"
        raise UsageError("nothing of a case would be recorded", " ".join(selected.words), found=found, hint=hint)


def folded(names: Collection[str], taps: Iterable[Tap]) -> str:
    """Names of taps in few words: `layers.*.q` where it is in all layers, `layers.1,2.q` where it is in some."""
    by_kind: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    for tap in taps:
        word = re.sub(r"\.\d+\.", ".*.", tap.name)
        counts[word] = counts.get(word, 0) + 1
        if tap.name in names:
            by_kind.setdefault(word, []).append(tap.stage.rpartition(".")[2])
    return ", ".join(
        word if len(layers) == counts[word] else word.replace("*", ",".join(layers))
        for word, layers in by_kind.items()
    )


@functools.lru_cache(maxsize=16)
def _stages(rule: str, taps: tuple[Tap, ...]) -> frozenset[str]:
    """The layers that a rule names, of each stack of them that a model has."""
    counts: dict[str, dict[str, None]] = {}
    for tap in taps:
        if tap.stage:
            counts.setdefault(tap.stage.rpartition(".")[0], {})[tap.stage] = None
    return frozenset(
        stage
        for stages in counts.values()
        for index, stage in enumerate(stages)
        if index in positions_of(rule, len(stages))
    )
