"""The parameters of a mixture of experts: their names and shapes, and each expert's own part of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Num

from harness.families.family import Family
from harness.families.options import Architecture, Experts

Tensor = Num[np.ndarray, "..."]
# What all experts have in one parameter each, by the parameter's last name.
GATE_UP, DOWN, CORRECTION = "gate_up_proj", "down_proj", "e_score_correction_bias"
PARTS = ("gate", "up", "down")


def expert_shapes(family: Family, arch: Architecture) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of router and experts in a layer that has some, without the shared one's."""
    experts = experts_of(arch)
    router, path = family.sparse["router_logits"], family.sparse["experts_out"]
    found: dict[str, tuple[int, ...]] = {f"{router}.weight": (experts.count, arch.hidden)}
    if experts.bias:
        found[f"{router}.bias"] = (experts.count,)
    if experts.corrected:
        found[f"{router}.{CORRECTION}"] = (experts.count,)
    sizes = {GATE_UP: (2 * experts.intermediate, arch.hidden), DOWN: (arch.hidden, experts.intermediate)}
    for name, (outputs, inputs) in sizes.items():
        matrix = (inputs, outputs) if family.experts_transposed else (outputs, inputs)
        found[f"{path}.{name}"] = (experts.count, *matrix)
        if experts.bias:
            found[f"{path}.{name}_bias"] = (experts.count, outputs)
    return found


def experts_of(arch: Architecture) -> Experts:
    """The experts of an architecture that has some."""
    assert arch.experts is not None
    return arch.experts


def expert_parameter(
    family: Family, read: Callable[[str], Tensor], part: str, index: int, name: str = "weight"
) -> Tensor:
    """A part of all experts of a layer, [expert, output, input]; a bias, [expert, output].

    Args:
        read: gives a parameter by its name.
        part: one of `PARTS`.
        name: `weight` or `bias`.
    """
    last = f"{DOWN if part == 'down' else GATE_UP}{'_bias' if name == 'bias' else ''}"
    tensor = read(f"{family.layers}.{index}.{family.sparse['experts_out']}.{last}")
    if name == "weight" and family.experts_transposed:
        tensor = tensor.swapaxes(1, 2)
    return tensor[:, part_rows(family, part, tensor.shape[1])]


def part_rows(family: Family, part: str, outputs: int) -> slice:
    """Which outputs of the matrix that has it are a part's."""
    if part == "down":
        return slice(None)
    if family.interleaved:
        return slice(int(part == "up"), None, 2)
    half = outputs // 2
    return slice(half) if part == "gate" else slice(half, None)
