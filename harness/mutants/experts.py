"""Bugs of the experts' matrices and biases. What is made with them is in expert_sums.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from harness.architecture import Architecture
from harness.families import Family, families
from harness.families.parameters import DOWN, GATE_UP, part_rows
from harness.mutants.introduced import kinds
from harness.mutants.loading import lexicographic
from harness.mutants.mutant import FreeValue, Mutant, Read, WeightChange, github
from harness.mutants.needs import model_has, values
from harness.mutants.routing import BIASED, experts_have

OUT = kinds("experts_out")
Parts = Mapping[str, np.ndarray]
SQUARE = model_has(
    lambda arch: arch.experts and arch.experts.intermediate == arch.hidden,
    "the experts' matrices are not square here: transposed, they have other shapes, and loading refuses them",
)
TEN = experts_have(lambda e: e.count > 10, "there are fewer than 11 experts")
SEVERAL = experts_have(lambda e: e.count > 1, "there is one expert")


def experts_loaded(change: Callable[[Parts, Family], Parts], *names: str) -> WeightChange:
    """The parameters of all experts, loaded wrongly.

    Args:
        change: of `gate` and `up`, or of `down` alone, what is loaded: [expert, output, input], or a bias.
        names: `weight`, `bias`; none means both.
    """

    def load(name: str, read: Read, arch: Architecture) -> np.ndarray:
        tensor, family = read(name), families()[arch.family]
        path, _, last = name.rpartition(".")
        of, is_bias = last.removesuffix("_bias"), last.endswith("_bias")
        inner = path.removeprefix(f"{family.layers}.").partition(".")[2]
        here = arch.experts is not None and inner == family.sparse.get("experts_out") and of in (GATE_UP, DOWN)
        if not here or (names and ("bias" if is_bias else "weight") not in names):
            return tensor
        turned = family.experts_transposed and not is_bias
        whole = (tensor.swapaxes(1, 2) if turned else tensor).copy()
        rows = {
            part: part_rows(family, part, whole.shape[1]) for part in (("down",) if of == DOWN else ("gate", "up"))
        }
        made = change({part: whole[:, at].copy() for part, at in rows.items()}, family)
        for part, at in rows.items():
            whole[:, at] = made[part]
        return whole.swapaxes(1, 2) if turned else whole

    return WeightChange(load)


def each(change: Callable[[np.ndarray], np.ndarray], *parts: str) -> Callable[[Parts, Family], Parts]:
    """Some parts, changed by themselves; none named means all."""
    return lambda own, family: {
        part: change(tensor) if not parts or part in parts else tensor for part, tensor in own.items()
    }


def _exchanged(own: Parts, family: Family) -> Parts:
    return own if "down" in own else {"gate": own["up"], "up": own["gate"]}


def _packed(own: Parts, family: Family) -> Parts:
    """Gates beside ups taken for gates before ups, or the other way round."""
    if "down" in own:
        return own
    both = own["gate"], own["up"]
    if family.interleaved:
        whole = np.stack(both, axis=2).reshape(both[0].shape[0], -1, *both[0].shape[2:])
        return dict(zip(("gate", "up"), np.split(whole, 2, axis=1), strict=True))
    whole = np.concatenate(both, axis=1)
    return {"gate": whole[:, ::2], "up": whole[:, 1::2]}


def _as_text(tensor: np.ndarray) -> np.ndarray:
    return tensor[[lexicographic(index, len(tensor)) for index in range(len(tensor))]]


def _first_half_twice(tensor: np.ndarray) -> np.ndarray:
    half = len(tensor) // 2
    return np.concatenate([tensor[:half], tensor[: len(tensor) - half]])


def _further(value: float) -> WeightChange:
    """Every expert has the matrices of the one that stands so many further."""
    return experts_loaded(each(lambda tensor: np.roll(tensor, -round(value), axis=0)))


def _zero(value: float) -> WeightChange:
    def without(tensor: np.ndarray) -> np.ndarray:
        loaded = tensor.copy()
        loaded[round(value) % len(tensor)] = 0
        return loaded

    return experts_loaded(each(without))


experts = partial(Mutant, right="every expert has its own matrices", introduced=OUT)
MUTANTS = (
    experts(
        "experts_gate_up_exchanged",
        wrong="in every expert the gate is W_up x and the up is W_gate x",
        right="the gate is W_gate x and the up is W_up x",
        change=experts_loaded(_exchanged),
        seen=github("thinking-machines-lab/tinker-cookbook/pull/459"),
    ),
    experts(
        "experts_gate_up_packing",
        wrong="gates and ups that lie beside each other split in halves, or halves split as every other",
        right="gates and ups as the file has them",
        change=experts_loaded(_packed),
        seen=github("vllm-project/llm-compressor/pull/3100"),
    ),
    experts(
        "experts_transposed",
        wrong="an expert's matrices transposed",
        right="[output, input]",
        change=experts_loaded(each(lambda tensor: tensor.swapaxes(1, 2)), "weight"),
        needs=(SQUARE,),
        seen=github("unslothai/unsloth-zoo/issues/849", "huggingface/transformers/issues/47031"),
    ),
    experts(
        "experts_shifted",
        wrong="every expert has the matrices of the next one",
        change=_further(1),
        free=FreeValue(
            "experts further:",
            _further,
            (-4, -3, -2, -1, 2, 3, 4),
            "every expert has the matrices of the one {} further",
            counts=True,
        ),
        needs=(SEVERAL,),
        seen=github("vllm-project/vllm-ascend/issues/11150"),
    ),
    experts(
        "experts_as_text",
        wrong="experts in the order of their names: 0, 1, 10, 11, 2",
        change=experts_loaded(each(_as_text)),
        needs=(TEN,),
        seen=github("AI-Hypercomputer/maxtext/pull/3191"),
    ),
    experts(
        "experts_first_half_twice",
        wrong="the second of two devices has the experts of the first",
        change=experts_loaded(each(_first_half_twice)),
        needs=(SEVERAL,),
        seen=github("deepspeedai/DeepSpeed/issues/6589"),
    ),
    experts(
        "expert_not_loaded",
        wrong="the matrices of the last expert stay at 0",
        right="they are loaded",
        change=_zero(-1),
        free=FreeValue("expert", _zero, tuple(range(64)), "the matrices of expert {} stay at 0", counts=True),
        needs=(values("no token goes to the last expert", "more tokens"),),
        seen=github("vllm-project/vllm/pull/51130"),
    ),
    experts(
        "experts_inner_biases_missing",
        wrong="gate, up = W x in every expert",
        right="gate, up = W x + b",
        change=experts_loaded(each(np.zeros_like, "gate", "up"), "bias"),
        needs=(BIASED,),
        seen=github("tenstorrent/tt-metal/pull/49619"),
    ),
    experts(
        "experts_outer_biases_missing",
        wrong="every expert's part is W_down act",
        right="W_down act + b",
        change=experts_loaded(each(np.zeros_like, "down"), "bias"),
        needs=(BIASED,),
        seen=github("allenai/OLMo-core/pull/763"),
    ),
)
