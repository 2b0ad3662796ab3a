"""Bugs of sums over several devices, as one device shows them: a part alone, or a term once for each device."""

from __future__ import annotations

import numpy as np

from harness.mutants.introduced import kinds
from harness.mutants.loading import changed
from harness.mutants.mutant import Mutant, github
from harness.mutants.needs import bias, model_has

DENSE = model_has(lambda arch: not all(map(arch.is_sparse, range(arch.layers))), "every layer has experts here")


def _of_the_first_device(weight: np.ndarray) -> np.ndarray:
    """[output, input] with the inputs of the first of two devices alone."""
    half = weight.shape[1] // 2
    return np.concatenate([weight[:, :half], np.zeros_like(weight[:, half:])], axis=1)


def _on_two_devices(parameter: np.ndarray) -> np.ndarray:
    added: np.ndarray = parameter + parameter
    return added


MUTANTS = (
    Mutant(
        "heads_not_all_summed",
        wrong="sum over the first half of the heads, one of two devices' part",
        right="sum over all heads",
        introduced=kinds("attn_out"),
        change=changed("attn_out", by=_of_the_first_device),
        seen=github("FlashML-org/FreeToken/pull/429", "FlashML-org/FreeToken/pull/440"),
    ),
    Mutant(
        "mlp_summed_twice",
        wrong="2 W_down h, the same sum of two devices added up",
        right="W_down h",
        introduced=kinds("mlp_out"),
        change=changed("mlp_out", by=_on_two_devices),
        needs=(DENSE,),
        seen=github("lightseekorg/tokenspeed/pull/80"),
    ),
    Mutant(
        "output_biases_summed_twice",
        wrong="W x + 2 b, b once on each of two devices",
        right="W x + b",
        introduced=kinds("attn_out", "mlp_out"),
        change=changed("attn_out", "mlp_out", by=_on_two_devices, names="bias"),
        needs=bias("attn_out", "mlp_out"),
        seen=github(
            "huggingface/text-generation-inference/issues/1036",
            "PaddlePaddle/Paddle/pull/35186",
            "Wenyueh/MinivLLM/issues/80",
        ),
    ),
)
