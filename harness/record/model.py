"""The reference model, one stage at a time: transformers' own modules, given their weights when their turn comes.

Stages are `embed`, `layers.0` to `layers.{n-1}`, and `head` (final norm and logits). The model is built on the
meta device, so no parameter ever has an initial value that a load could fail to replace.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from harness.along import Case
from harness.architecture import architecture_of, family_of, read_config
from harness.checkpoint import open_checkpoint
from harness.entries import FARTHEST
from harness.errors import CheckpointError, first_line
from harness.families.graph import taps_of, with_experts_apart
from harness.record import attention, experts
from harness.record.built import refuse_disagreement
from harness.record.capture import Collector, tapped_layer, tapped_module
from harness.record.experts import StoredExperts, tensor_of
from harness.record.noise import DTYPES
from harness.record.parameters import check_layers, check_parameters
from harness.record.shell import Inputs, Shell, arithmetic


class Reference:
    """A checkpoint directory as a model that can be run stage by stage.

    Args:
        apart: what each chosen expert makes of a token is a tap too.

    Raises:
        CheckpointError: not a checkpoint, an architecture that is not supported, parameters that do not fit it.
    """

    def __init__(self, directory: Path, device: str = "cpu", apart: bool = False) -> None:
        self.config = read_config(directory)
        self.arch, self.family = with_experts_apart(architecture_of(self.config), apart), family_of(self.config)
        self.checkpoint = open_checkpoint(directory, self.config)
        check_layers(self.checkpoint, self.family, self.arch)
        self.device = torch.device(device)
        self._skeleton = _built(directory, torch.float32)
        self._narrow = cache(lambda: _built(directory, torch.bfloat16))
        head, embedding = (f"{self.family.model[kind]}.weight" for kind in ("logits", "embed"))
        self.tied = {head: embedding} if self.arch.tied_head else {}
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self._skeleton.state_dict().items()}
        check_parameters(self.checkpoint, self.shapes, self.tied)
        refuse_disagreement(self.family, self.arch, self._skeleton, self.rotary("float64"))
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
        mixtures = {name: own for name, own in skeleton.named_modules() if hasattr(own, "is_transposed")}
        lazy = {f"{name}.{last}" for name, own in mixtures.items() for last, _ in own.named_parameters()}
        stored = {
            name: tensor_of(self.checkpoint.read(f"{source or path}.{name}"))
            for name in skeleton.state_dict()
            if name not in lazy
        }
        of_experts = {
            name: StoredExperts(
                self.checkpoint, {n: f"{path}.{name}.{n}" for n, _ in own.named_parameters()}, self.device
            )
            for name, own in mixtures.items()
        }
        modules = {}
        for precision in precisions:
            # Always a copy, so that torch has aligned it: how a kernel rounds may depend on where a matrix lies.
            weights = {
                name: tensor.to(self.device, self._dtype(name, precision), copy=True)
                for name, tensor in stored.items()
            }
            module = self.empty(path, precision)
            for name, own in of_experts.items():
                inner = module.get_submodule(name)
                inner._parameters.clear()
                inner.stored = own
            module.load_state_dict(weights, strict=True, assign=True)
            modules[precision] = module.requires_grad_(False)
        return modules

    def _dtype(self, name: str, precision: str) -> torch.dtype:
        """The dtype of a parameter in a stream: transformers keeps some in float32, in narrower models too."""
        kept = precision == "bfloat16" and self._skeleton._keep_in_fp32_modules_strict & set(name.split("."))
        return torch.float32 if kept else DTYPES[precision]

    def empty(self, path: str, precision: str) -> Any:
        """The module at `path` with parameters still to be loaded, and with what it computes as it is made.

        Buffers that no checkpoint has (a factor on the embedding) are made by transformers' own code, at the
        precision's arithmetic.
        """
        # A buffer has the dtype of the model that it is made in, unless its code says another.
        skeleton = self._narrow() if precision == "bfloat16" else self._skeleton
        module = copy.deepcopy(skeleton.get_submodule(path))
        for tensor in module.parameters():
            tensor._is_hf_initialized = True
        for part in module.modules():
            for name in part._non_persistent_buffers_set:
                buffer = getattr(part, name)
                wide = precision == "float64" and buffer.is_floating_point()
                dtype = torch.float64 if wide else buffer.dtype
                part._buffers[name] = torch.empty(buffer.shape, dtype=dtype, device=self.device)
            if part._non_persistent_buffers_set:
                with arithmetic(precision):
                    self._skeleton._init_weights(part)
        return module

    def shell(self, precision: str, real: Mapping[str, nn.Module], turned: bool = False) -> Shell:
        """transformers' forward pass with these modules in it, and others that pass through.

        Args:
            turned: one of them looks at the rotation.
        """
        make = partial(self.rotary, precision) if turned and self._rotary_module() is not None else None
        return Shell(self._skeleton, self.family, dict(real), make)

    def rotary(self, precision: str, nudged: bool = False) -> Any:
        """The rotary embedding, whose frequencies are computed here and now, at the precision's arithmetic.

        Args:
            nudged: each frequency one unit in the last place higher, but for those that are exact (1).
        """
        module = self._rotary_module()
        if module is None:
            return None
        with arithmetic(precision), self.device:
            rotary = type(module)(module.config)
        for name, speeds in rotary.named_buffers() if nudged else ():
            if name.endswith("inv_freq") and not name.endswith("original_inv_freq"):
                setattr(rotary, name, _higher(speeds))
        if nudged and getattr(rotary, "rope_type", None) == "longrope":
            # Its forward writes one of these two over the other frequencies.
            with arithmetic(precision), self.device:
                beyond, _ = ROPE_INIT_FUNCTIONS["longrope"](rotary.config, seq_len=FARTHEST)
            rotary.original_inv_freq, rotary.long_inv_freq = map(_higher, (rotary.original_inv_freq, beyond))
        return rotary

    def _rotary_module(self) -> Any:
        base = self._skeleton.get_submodule(self.family.layers.rpartition(".")[0])
        return getattr(base, "rotary_emb", None)


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
    """Token ids to hidden states: what enters the first layer.

    A look-up commutes with a conversion, so only the rows that a call asks for are converted: in float64 the table
    of a 7B model would be 4 GB.
    """

    kinds = ("embed",)

    def __init__(self, model: Reference, precisions: tuple[str, ...]) -> None:
        family = model.family
        self._table = tensor_of(model.checkpoint.read(f"{family.model['embed']}.weight")).to(model.device)
        positions = family.model.get("positions")
        self._positions = model.materialise(positions, precisions) if positions else {}
        self._modules = {precision: model.empty(family.model["embed"], precision) for precision in precisions}
        self._shells = {}
        for precision, module in self._modules.items():
            module.padding_idx = None  # a row of the table here, and not of the few that are looked up
            real = {family.model["embed"]: module}
            if positions:
                real[positions] = self._positions[precision]
            self._shells[precision] = model.shell(precision, real)

    def _forward(self, precision: str, state: Tensor | None, inputs: Inputs, tap: Collector) -> Tensor:
        rows, ids = inputs.ids.unique(return_inverse=True)
        weight = self._table[rows].to(DTYPES[precision])
        self._modules[precision].weight = nn.Parameter(weight, requires_grad=False)
        shell = self._shells[precision]
        with tapped_module(shell.layer(0), "embed", tap):
            return shell.run(replace(inputs.alone(), ids=ids), None)


class Layer(Stage):
    """A decoder layer."""

    def __init__(self, model: Reference, precisions: tuple[str, ...], stage: str) -> None:
        self.prefix = stage
        self.kinds = tuple(tap.kind for tap in taps_of(model.arch) if tap.stage == stage)
        self._model, self._index = model, int(stage.rpartition(".")[2])
        path = f"{model.family.layers}.{self._index}"
        self._modules = model.materialise(path, precisions)
        for module in self._modules.values():
            for part in module.modules():  # each layer has a cache of its own, with one layer in it
                if hasattr(part, "layer_idx"):
                    part.layer_idx = 0
        self._shells = {
            precision: model.shell(precision, {path: self._modules[precision]}, turned=True)
            for precision in precisions
        }

    def _forward(self, precision: str, state: Tensor | None, inputs: Inputs, tap: Collector) -> Tensor:
        assert state is not None
        model, shape = self._model, (state.shape[0], state.shape[1])
        with tapped_layer(self._modules[precision], model.family, model.arch, tap, self._index, shape):
            return self._shells[precision].run(inputs, state, self._index)


class Head(Stage):
    """The final norm and the logits."""

    kinds = ("final_norm", "logits")

    def __init__(self, model: Reference, precisions: tuple[str, ...]) -> None:
        paths = model.family.model
        source = paths["embed"] if model.arch.tied_head else None
        self._norms = model.materialise(paths["final_norm"], precisions)
        heads = model.materialise(paths["logits"], precisions, source)
        self._shells = {
            precision: model.shell(
                precision, {paths["final_norm"]: self._norms[precision], paths["logits"]: heads[precision]}
            )
            for precision in precisions
        }

    def _forward(self, precision: str, state: Tensor | None, inputs: Inputs, tap: Collector) -> Tensor:
        with tapped_module(self._norms[precision], "final_norm", tap):
            value = self._shells[precision].run(inputs.alone(), state, whole=True)
        replacement = tap("logits", value)
        return value if replacement is None else replacement


def _built(directory: Path, dtype: torch.dtype) -> nn.Module:
    """The model as transformers builds it from the config, on the meta device, whatever dtype the config names.

    Raises:
        CheckpointError: transformers refuses the config.
    """
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation=attention.NAME, experts_implementation=experts.NAME
            )
    except Exception as error:  # validators, torch and the model's own code raise what they like
        problem = f"transformers cannot build a model from this config: {first_line(error)}"
        hint = "restore config.json from the published checkpoint"
        raise CheckpointError(problem, directory / "config.json", hint=hint) from None
    built: nn.Module = model.eval()
    return built


def _higher(speeds: Tensor) -> Tensor:
    """One unit in the last place higher, but for those that are exact (1)."""
    return torch.where(speeds == 1, speeds, torch.nextafter(speeds, torch.tensor(torch.inf, dtype=speeds.dtype)))
