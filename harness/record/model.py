"""The reference model, one stage at a time: transformers' own modules, given their weights when their turn comes.

Stages are `embed`, `layers.0` to `layers.{n-1}`, and `head` (final norm and logits). The model is built on the
meta device, so no parameter ever has an initial value that a load could fail to replace.
"""

from __future__ import annotations

import contextlib
import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from harness.architecture import architecture_of, family_of, read_config
from harness.checkpoint import Checkpoint
from harness.corpus import Case
from harness.errors import CheckpointError, first_line
from harness.families.graph import taps_of
from harness.families.windows import FULL, SLIDING
from harness.record import attention
from harness.record.built import refuse_disagreement
from harness.record.capture import Collector, tapped_layer, tapped_module
from harness.record.noise import DTYPES
from harness.record.parameters import check_layers, check_parameters
from harness.record.promote import Float64Mode

MASKS = {FULL: create_causal_mask, SLIDING: create_sliding_window_causal_mask}


def arithmetic(precision: str) -> contextlib.AbstractContextManager[object]:
    """The context in which a stream computes: float64 needs the casts in the model code lifted."""
    return Float64Mode() if precision == "float64" else contextlib.nullcontext()


@dataclass(frozen=True, eq=False)
class Inputs:
    """A case, or one call of it, on the device.

    Attributes:
        ids, positions: [batch, position].
        mask: [batch, slot], as many slots as are filled after the call; without a cache, [batch, position].
        cache: transformers' own, of this layer alone; None where the case is one call.
        nudged: RoPE's frequencies are one unit in the last place higher.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    cache: DynamicCache | None = None
    nudged: bool = False

    def part(self, span: slice, cache: DynamicCache | None) -> Inputs:
        """The call that gets these tokens."""
        return Inputs(self.ids[:, span], self.positions[:, span], self.mask[:, : span.stop], cache, self.nudged)


class Reference:
    """A checkpoint directory as a model that can be run stage by stage.

    Raises:
        CheckpointError: not a checkpoint, an architecture that is not supported, parameters that do not fit it.
    """

    def __init__(self, directory: Path, device: str = "cpu") -> None:
        self.config = read_config(directory)
        self.arch = architecture_of(self.config)
        self.checkpoint = Checkpoint(directory)
        check_layers(self.checkpoint, self.arch.layers)
        self.device = torch.device(device)
        self._skeleton = _built(directory)
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self._skeleton.state_dict().items()}
        check_parameters(self.checkpoint, self.shapes, self.arch.tied_head)
        refuse_disagreement(family_of(self.config), self.arch, self._skeleton, self.rotary("float64"))
        self.stages = ("embed", *(f"layers.{index}" for index in range(self.arch.layers)), "head")

    def inputs(self, case: Case) -> Inputs:
        return Inputs(*(torch.tensor(a, device=self.device) for a in (case.input_ids, case.positions, case.mask)))

    def load(self, stage: str, precisions: tuple[str, ...]) -> Stage:
        """A stage with its weights, at each precision, from one read of the file."""
        if stage == "embed":
            return Embedding(self, precisions)
        return Head(self, precisions) if stage == "head" else Layer(self, precisions, stage)

    def materialise(
        self, path: str, precisions: tuple[str, ...], source: str | None = None
    ) -> dict[str, nn.Module]:
        """The module at `path` with its weights from the checkpoint, once per precision.

        Args:
            source: where its parameters are stored, if not under `path` (a tied head).
        """
        skeleton = self._skeleton.get_submodule(path)
        stored = {
            name: _tensor(self.checkpoint.read(f"{source or path}.{name}")) for name in skeleton.state_dict()
        }
        modules = {}
        for precision in precisions:
            # Always a copy, so that torch has aligned it: how a kernel rounds may depend on where a matrix lies.
            weights = {
                name: tensor.to(self.device, DTYPES[precision], copy=True) for name, tensor in stored.items()
            }
            module = copy.deepcopy(skeleton)
            module.load_state_dict(weights, strict=True, assign=True)
            modules[precision] = module.requires_grad_(False)
        return modules

    def embedding(self) -> nn.Module:
        """The embedding in the dtype in which it is stored."""
        path = "model.embed_tokens"
        module = copy.deepcopy(self._skeleton.get_submodule(path))
        table = _tensor(self.checkpoint.read(f"{path}.weight")).to(self.device)
        module.load_state_dict({"weight": table}, strict=True, assign=True)
        return module.requires_grad_(False)

    def rotary(self, precision: str) -> nn.Module:
        """The rotary embedding, whose frequencies are computed here and now, at the precision's arithmetic."""
        rotary = self._skeleton.model.rotary_emb
        with arithmetic(precision), self.device:
            return type(rotary)(rotary.config)

    def nudged_rotary(self, precision: str) -> nn.Module:
        """The same, each frequency one unit in the last place higher, but for those that are exact (1)."""
        rotary = self.rotary(precision)
        higher = torch.nextafter(rotary.inv_freq, torch.tensor(torch.inf, dtype=rotary.inv_freq.dtype))
        rotary.inv_freq = torch.where(rotary.inv_freq == 1, rotary.inv_freq, higher)
        return rotary

    def mask(self, index: int, hidden: Tensor, inputs: Inputs) -> Tensor:
        """What transformers adds to the scores of a layer: each kind of attention has a mask of its own."""
        config = self._skeleton.config
        make = MASKS[config.layer_types[index]]
        return make(config, hidden, inputs.mask, inputs.cache, position_ids=inputs.positions)


class Stage:
    """A stage with its weights in memory.

    Attributes:
        prefix: what its taps' names begin with, `layers.3`, or `` outside the layers.
        kinds: every tap that must fire in a pass, once.
    """

    prefix = ""
    kinds: tuple[str, ...]

    def run(self, precision: str, state: Tensor | None, inputs: Inputs, tap: Collector) -> Tensor:
        """One pass: the hidden states that come in, to those that go out."""
        with torch.inference_mode(), arithmetic(precision):
            result = self._forward(precision, state, inputs, tap)
        tap.finish(self.kinds)
        return result

    def _forward(self, precision: str, state: Tensor | None, inputs: Inputs, tap: Collector) -> Tensor:
        raise NotImplementedError


class Embedding(Stage):
    """Token ids to hidden states.

    A look-up commutes with a conversion, so the table is kept as it is stored: in float64 that of a 7B model
    would be 4 GB. What is tapped is the look-up, converted to the precision of the stream.
    """

    kinds = ("embed",)

    def __init__(self, model: Reference, precisions: tuple[str, ...]) -> None:
        self._module = model.embedding()

    def _forward(self, precision: str, state: Tensor | None, inputs: Inputs, tap: Collector) -> Tensor:
        value = self._module(inputs.ids).to(DTYPES[precision])
        replacement = tap("embed", value)
        return value if replacement is None else replacement


class Layer(Stage):
    """A decoder layer."""

    def __init__(self, model: Reference, precisions: tuple[str, ...], stage: str) -> None:
        self.prefix = stage
        self.kinds = tuple(tap.kind for tap in taps_of(model.arch) if tap.stage == stage)
        self._model, self._index = model, int(stage.rpartition(".")[2])
        self._modules = model.materialise(f"model.{stage}", precisions)
        for module in self._modules.values():
            module.self_attn.layer_idx = 0  # each layer has a cache of its own, with one layer in it
        self._rotary = {precision: model.rotary(precision) for precision in precisions}
        self._nudged = {precision: model.nudged_rotary(precision) for precision in precisions}

    def _forward(self, precision: str, state: Tensor | None, inputs: Inputs, tap: Collector) -> Tensor:
        assert state is not None
        layer, rotary = self._modules[precision], (self._nudged if inputs.nudged else self._rotary)[precision]
        with tapped_layer(layer, self._model.arch.head_dim, tap):
            value: Tensor = layer(
                state,
                attention_mask=self._model.mask(self._index, state, inputs),
                position_ids=inputs.positions,
                past_key_values=inputs.cache,
                position_embeddings=rotary(state, inputs.positions),
            )
        return value


class Head(Stage):
    """The final norm and the logits."""

    kinds = ("final_norm", "logits")

    def __init__(self, model: Reference, precisions: tuple[str, ...]) -> None:
        source = "model.embed_tokens" if model.arch.tied_head else None
        self._norms = model.materialise("model.norm", precisions)
        self._heads = model.materialise("lm_head", precisions, source)

    def _forward(self, precision: str, state: Tensor | None, inputs: Inputs, tap: Collector) -> Tensor:
        norm, head = self._norms[precision], self._heads[precision]
        with tapped_module(norm, "final_norm", tap), tapped_module(head, "logits", tap):
            value: Tensor = head(norm(state))
        return value


def _built(directory: Path) -> nn.Module:
    """The model as transformers builds it from the config, on the meta device.

    Raises:
        CheckpointError: transformers refuses the config.
    """
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME)
    except Exception as error:  # validators, torch and the model's own code raise what they like
        raise CheckpointError(
            f"transformers cannot build a model from this config: {first_line(error)}",
            where=directory / "config.json",
            hint="restore config.json from the published checkpoint",
        ) from None
    built: nn.Module = model.eval()
    return built


def _tensor(array: np.ndarray) -> Tensor:
    """A stored array as a tensor; torch reads numpy's bfloat16 only through its bits."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
