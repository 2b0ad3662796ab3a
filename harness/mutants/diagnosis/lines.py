"""The line of the built-in decoder that does right what a mutant does wrong."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path

import harness
from harness import architecture, families
from harness.mutants.mutant import CallChange, Change, ConfigChange, OperationChange, OptionChange
from harness.run import arithmetic, latent, mixture, weights
from harness.run.decoder import Decoder
from harness.run.operations import OPERATIONS

ROOT = Path(harness.__file__).parent.parent


def right_line(change: Change, kinds: Iterable[str]) -> str:
    """`file:line` of the operation, of the parameter in the table of names, or of the reading of the config.

    Args:
        change: how the mutant is planted.
        kinds: the taps at which it shows.
    """
    match change:
        case OperationChange():
            return _line(_operation(next(iter(change.replaced))))
        case OptionChange():
            return _line(arithmetic.operations_of)
        case ConfigChange():
            return _line(architecture.architecture_of)
        case CallChange():
            return _line(Decoder.forward_sequences)
    places = {**families.LAYER, **families.CORRECTED, **families.SHARED, **families.EXPERTS}
    paths = [places[kind] for kind in kinds if kind in places]
    return _line(families, containing=f'"{paths[0]}"') if paths else _line(weights.Weights)


def _operation(name: str) -> object:
    """The operation of that name; those of experts and of latents are in modules of their own."""
    there = {"in_groups": "grouped", "routing_scale": "scaled"}.get(name, name)
    return getattr(mixture, there, None) or getattr(latent, there, None) or getattr(OPERATIONS, name)


def _line(source: object, containing: str = "") -> str:
    source = inspect.unwrap(source)  # type: ignore[arg-type]
    lines, first = inspect.getsourcelines(source)  # type: ignore[arg-type]
    file = Path(inspect.getsourcefile(source) or "")  # type: ignore[arg-type]
    offset = next((i for i, line in enumerate(lines) if containing in line), 0)
    return f"{file.relative_to(ROOT).as_posix()}:{max(first, 1) + offset}"
