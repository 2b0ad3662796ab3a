"""Which taps a golden holds: those of a level, of these those of some layers, and of these those that globs name.

A level is a set of globs that has a name. `layers.*.resid_post` is what it says: `*` is anything, dots too.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from harness.errors import UsageError
from harness.selecting import is_rule, positions_of, select
from harness.taps import CACHE_KINDS, ROUTING_KINDS, Tap

NAMED = {"logits": ("logits",), "layers": ("embed", "*.resid_post", "final_norm", "logits"), "ops": ("*",)}
LEVELS = tuple(NAMED)
EXAMPLE = "first, last, every 4th"


@dataclass(frozen=True)
class Selected:
    """What of a level is recorded.

    Attributes:
        taps: globs of their whole names; none means all.
        layers: a rule (`harness.selecting`) that is about taps inside layers alone; empty means all.
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
            raise UsageError(
                "this is no rule for layers",
                where=f"--layers {layers}",
                expected=f"parts of {EXAMPLE!r}, between commas",
                hint="for example --layers 'first 2, last, every 4th'",
            )
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
    taps = tuple(taps)
    named, chosen = _globs(NAMED[level]), _globs(selected.taps or ("*",))
    stages = _stages(selected.layers, taps) if selected.layers else None
    return tuple(
        tap
        for tap in taps
        if tap.kind in ROUTING_KINDS
        or (
            (cached or tap.kind not in CACHE_KINDS)
            and named(tap.name)
            and chosen(tap.name)
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
    found: dict[str, None] = {}
    for level, cached in dict.fromkeys((level, cached) for _, level, cached in cases):
        found |= dict.fromkeys(tap.name for tap in at_level(taps, level, cached, layers))
    select(
        [tap.name for tap in taps if tap.name in found],
        selected.taps,
        problem="no tap that would be recorded matches",
        where="--taps",
        hint="globs are of whole names, as layers.*.q_rope; --level and --layers decide first what there is",
    )
    empty = [name for name, level, cached in cases if not at_level(taps, level, cached, selected)]
    if empty:
        raise UsageError(
            "nothing of a case would be recorded",
            where=" ".join(selected.words),
            found=f"{', '.join(empty[:5])}, of {len(cases)} cases",
            hint="add --taps logits, which every case has, or name the other cases: --case NAME",
        )


def folded(names: Collection[str], taps: Iterable[Tap]) -> str:
    """Names of taps in few words: `layers.*.q` where it is in all layers, `layers.1,2.q` where it is in some."""
    by_kind: dict[str, list[str]] = {}
    every: dict[str, int] = {}
    for tap in taps:
        word = re.sub(r"\.\d+\.", ".*.", tap.name)
        every[word] = every.get(word, 0) + 1
        if tap.name in names:
            by_kind.setdefault(word, []).append(tap.stage.rpartition(".")[2])
    return ", ".join(
        word if len(found) == every[word] else word.replace("*", ",".join(found))
        for word, found in by_kind.items()
    )


def _globs(patterns: Iterable[str]) -> Callable[[str], bool]:
    found = [re.compile(fnmatch.translate(pattern)).match for pattern in patterns]
    return lambda name: any(match(name) for match in found)


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
