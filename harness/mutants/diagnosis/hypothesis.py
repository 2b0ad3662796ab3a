"""A possible explanation: one mutant, one with a fitted value, or two at once, planted in the built-in decoder."""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness.mutants.mutant import Change, Mutant, OperationChange


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """Mutants, and how they are planted here.

    Attributes:
        mutants: as the catalogue has them.
        wrong: what a port with them computes, one for each: with the value that is planted here.
        changes: what is planted: the mutants' own changes, or one of them with another value.
        value: the fitted value in words, `theta = 123456`; empty where the change is the catalogue's own.
    """

    mutants: tuple[Mutant, ...]
    changes: tuple[Change, ...]
    value: str = ""
    wrong: tuple[str, ...] = ()

    @classmethod
    def of(cls, mutant: Mutant) -> Hypothesis:
        return cls((mutant,), (mutant.change,), wrong=(mutant.wrong,))

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(mutant.id for mutant in self.mutants)

    @property
    def introduced(self) -> frozenset[str]:
        return frozenset().union(*(mutant.introduced for mutant in self.mutants))

    def layers(self, count: int) -> frozenset[int]:
        """The layers in which the catalogue has it."""
        return frozenset().union(*(mutant.in_layers(count) for mutant in self.mutants))

    def in_prompts(self) -> Hypothesis:
        """What of it there is without a cache."""
        kept = [n for n, mutant in enumerate(self.mutants) if not mutant.cached]
        if len(kept) == len(self.mutants):
            return self
        return replace(
            self, mutants=tuple(self.mutants[n] for n in kept), changes=tuple(self.changes[n] for n in kept)
        )

    def together(self, other: Hypothesis) -> Hypothesis | None:
        """Both at once; None where they replace the same operation, or are one mutant."""
        operations = [c for c in (*self.changes, *other.changes) if isinstance(c, OperationChange)]
        fields = [set(c.formulas()) for c in operations]
        overlap = len(set().union(*fields)) < sum(map(len, fields))
        if overlap or set(self.ids) & set(other.ids):
            return None
        value = ", ".join(filter(None, (self.value, other.value)))
        wrong = (*self.wrong, *other.wrong)
        return Hypothesis((*self.mutants, *other.mutants), (*self.changes, *other.changes), value, wrong)


NOTHING = Hypothesis((), ())
