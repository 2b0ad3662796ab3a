"""Parameters that files have in pieces: matrices of each expert, where transformers has one for all of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Num

from harness.errors import CheckpointError

Each = Mapping[str, tuple[str, ...]]
Pieces = Sequence[Sequence[str]]  # by expert, the tensors whose outputs follow one another


def cut(
    tensor: Num[np.ndarray, "expert output ..."], pieces: Pieces
) -> Iterator[tuple[str, Num[np.ndarray, "..."]]]:
    """A parameter as files have it: its pieces, by name; those of an expert have as many outputs each."""
    for own, parts in zip(tensor, pieces, strict=True):
        for part, piece in zip(parts, np.split(own, len(parts)), strict=True):
            yield part, np.ascontiguousarray(piece)


def pieces_of(names: Iterable[str], each: Each, where: Path) -> dict[str, Pieces]:
    """The parameters that are stored in pieces, by their names in the modules of transformers.

    Args:
        names: of all tensors, as modules call them.
        each: see `Family.each`.

    Raises:
        CheckpointError: a piece of one is missing.
    """
    found: dict[str, dict[int, dict[int, str]]] = {}
    for name in names:
        for target, expert, part in _matches(name, each):
            found.setdefault(target, {}).setdefault(expert, {})[part] = name
    made: dict[str, Pieces] = {}
    for target, experts in found.items():
        path = next(path for path in each if target.endswith(path))
        prefix = target.removesuffix(path)
        for expert in range(max(experts) + 1):
            for part, template in enumerate(each[path]):
                if part not in experts.get(expert, {}):
                    raise CheckpointError(
                        "the checkpoint lacks a matrix of an expert",
                        where=f"{where}: {prefix}{template.format(expert)}"[:300],
                        expected=f"one of each of {max(experts) + 1} experts",
                        found="nothing",
                        hint="copy the checkpoint again; nothing is filled in for a parameter that is not there",
                    )
        parts = range(len(each[path]))
        made[target] = [[experts[n][part] for part in parts] for n in range(max(experts) + 1)]
    return made


def _matches(name: str, each: Each) -> Iterator[tuple[str, int, int]]:
    """The parameter that a tensor is a piece of, of which expert, and which part of its outputs."""
    for path, templates in each.items():
        for part, template in enumerate(templates):
            before, after = (re.escape(text) for text in template.split("{}"))
            match = re.fullmatch(rf"(.*\.){before}(\d{{1,5}}){after}", name)
            if match:
                yield f"{match[1]}{path}", int(match[2]), part
