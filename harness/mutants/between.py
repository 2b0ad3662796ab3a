"""Bugs between families: what a model does and another does not, left out, doubled, or done in another way.

Two ways to plant one: the decoder with another option, or something done around an operation, whatever it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from harness.families.options import Architecture
from harness.mutants.mutant import Among, Around, FreeValue, Mutant, OperationChange, OptionChange, kinds
from harness.mutants.needs import Need


def option(
    name: str,
    wrong: str,
    right: str,
    introduced: frozenset[str],
    options: Callable[[Architecture], Architecture],
    lacking: str,
    *seen: str,
    needs: tuple[Need, ...] = (),
    free: FreeValue | None = None,
) -> Mutant:
    change = OptionChange(options, lacking)
    return Mutant(name, wrong, right, introduced, change, needs=needs, free=free, seen=seen)


def around(
    name: str,
    wrong: str,
    right: str,
    replaced: Mapping[str, Around | Among],
    *seen: str,
    introduced: frozenset[str] = frozenset(),
    needs: tuple[Need, ...] = (),
    free: FreeValue | None = None,
) -> Mutant:
    """Something done around operations; it shows at the taps that are called so, unless others are named."""
    where = introduced or kinds(*replaced)
    return Mutant(name, wrong, right, where, OperationChange(dict(replaced)), needs=needs, free=free, seen=seen)
