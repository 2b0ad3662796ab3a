"""Parameters of a checkpoint as JAX arrays, one layer at a time; a layer's shapes are Flax (nnx) modules."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Num

from harness.checkpoint import Checkpoint
from harness.errors import CheckpointError
from harness.families import Family
from harness.families.graph import kinds_of
from harness.families.options import Architecture
from harness.families.parameters import (
    CORRECTION,
    expert_name,
    expert_parameter,
    experts_of,
    inputs,
    norms,
    outputs,
    parameter_name,
    parameter_of,
)
from harness.run.devices import Spread
from harness.run.operations import wide

T = TypeVar("T")
# Parameters that are called after no projection: the kind of tap whose module has them, and their name there.
OWN_NAMES = {"router_scores": ("router_scores", CORRECTION), "sinks": ("probs", "sinks")}
ALIGNMENT = 64  # bytes
FEW_ROWS = 64  # of one in so many and fewer each is read by itself
KEPT_BYTES = 32 * 2**20  # a small model is read once, and of a large one nothing is kept


class Weighted(nnx.Module):
    """A `kernel` [..., input, output], or the `weight` of a norm, and a bias where there is one."""

    def __init__(self, name: str, shape: tuple[int, ...], bias: bool, dtype: jnp.dtype) -> None:
        of_bias = (*shape[:-2], shape[-1]) if name == "kernel" else shape
        setattr(self, name, _shaped(shape, dtype))
        self.bias = _shaped(of_bias, dtype) if bias else None


class DecoderLayer(nnx.Module):
    """The parameters of a layer, each under the kind of tap that is made with it: `q`, `attn_norm`.

    Those of experts are `experts_gate`, `experts_up` and `experts_down`.
    """

    def __init__(self, arch: Architecture, dtype: jnp.dtype, sparse: bool) -> None:
        made: dict[str, tuple[str, tuple[int, ...], bool]]
        made = {kind: ("weight", shape, norm.bias) for kind, norm, shape in norms(arch, sparse)}
        sizes = {kind: size for kind, size in outputs(arch, sparse).items() if kind in kinds_of(arch, sparse)}
        made |= {kind: ("kernel", (inputs(arch, kind), size), kind in arch.biases) for kind, size in sizes.items()}
        self.sinks = _shaped((arch.heads,), dtype) if arch.sinks else None
        corrected = sparse and experts_of(arch).corrected
        # Never narrow: in bfloat16 it would choose other experts.
        self.router_scores = _shaped((experts_of(arch).count,), wide(dtype)) if corrected else None
        if sparse:
            experts, hidden = experts_of(arch), arch.hidden
            count, inner = experts.count, experts.intermediate
            made["router_logits"] = ("kernel", (hidden, count), experts.bias)
            made |= dict.fromkeys(("experts_gate", "experts_up"), ("kernel", (count, hidden, inner), experts.bias))
            made["experts_down"] = ("kernel", (count, inner, hidden), experts.bias)
        for kind, part in made.items():
            setattr(self, kind, Weighted(*part, dtype))


def _shaped(shape: tuple[int, ...], dtype: jnp.dtype) -> nnx.Param[Array]:
    return nnx.Param(jax.ShapeDtypeStruct(shape, dtype))


@functools.lru_cache(maxsize=16)
def skeleton(arch: Architecture, dtype: jnp.dtype, sparse: bool = False) -> nnx.State:
    """The shapes of a layer's parameters: none ever has an initial value that a load could leave."""
    return nnx.state(DecoderLayer(arch, dtype, sparse))


def arrays_of(state: nnx.State, kind: str) -> tuple[Array, Array | None]:
    """The kernel or the weight that a kind of tap is made with, and the bias."""
    own = state[kind]
    weight = own["kernel"] if "kernel" in own else own["weight"]
    return weight.get_value(), own["bias"].get_value() if "bias" in own else None


class Weights:
    """A checkpoint's parameters, converted to one dtype as they are read."""

    def __init__(self, checkpoint: Checkpoint, dtype: jnp.dtype) -> None:
        self.checkpoint = checkpoint
        self.dtype = dtype

    def read(
        self, name: str, rows: slice | np.ndarray = slice(None), dtype: jnp.dtype | None = None
    ) -> Float[np.ndarray | Array, "..."]:
        """One parameter, or some rows of it, as the checkpoint lays it out.

        Args:
            dtype: None is that of all the weights.

        Raises:
            CheckpointError: the checkpoint lacks it.
        """
        read = self.checkpoint.read
        if isinstance(rows, slice):
            tensor = np.asarray(read(name, rows))
        elif 0 < len(rows) < self.checkpoint.shape(name)[0] // FEW_ROWS:
            tensor = np.concatenate([read(name, slice(row, row + 1)) for row in rows.tolist()])
        else:
            tensor = np.asarray(read(name))[rows]
        return _aligned(tensor, jnp.dtype(dtype or self.dtype))

    def differs(self, name: str) -> bool:
        """Whether a parameter is another one than the checkpoint's."""
        return False


def _aligned(tensor: Num[np.ndarray, "..."], dtype: jnp.dtype) -> Float[np.ndarray, "..."]:
    """A tensor at a dtype, lying where XLA takes it as it is: anything else JAX copies once more."""
    room = np.empty(tensor.size * dtype.itemsize + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    aligned = room[start : start + tensor.size * dtype.itemsize].view(dtype).reshape(tensor.shape)
    aligned[...] = tensor
    return aligned


class AsStored(NamedTuple):
    """The parameters of a layer whose kernels still lie as in the checkpoint, [output, input].

    A program that begins with turning them multiplies by them as they lie. Turned before, every number of a large
    model is moved once more.
    """

    state: nnx.State

    def turned(self) -> nnx.State:
        """Kernels as [input, output]."""
        flat = nnx.to_flat_state(self.state)
        return nnx.from_flat_state(
            [(path, leaf.replace(leaf.get_value().mT) if path[-1] == "kernel" else leaf) for path, leaf in flat]
        )


class ZeroWeights(Weights):
    """Zeros in the shapes of a checkpoint's parameters: enough to trace a model, and nothing is read."""

    def read(
        self, name: str, rows: slice | np.ndarray = slice(None), dtype: jnp.dtype | None = None
    ) -> Float[np.ndarray | Array, "..."]:
        """Zeros in the shape of one parameter, or of some of its rows.

        Raises:
            CheckpointError: the checkpoint lacks it.
        """
        return jnp.zeros(self.checkpoint.shape(name), dtype or self.dtype)[rows]


class Kept:
    """Parameters that are read again each time they are asked for, unless they take next to no memory."""

    def __init__(self) -> None:
        self._kept: dict[str | int, Any] = {}
        self._bytes = 0

    def __call__(self, key: str | int, read: Callable[[], T]) -> T:
        """What `read` returns, or returned."""
        if key in self._kept:
            kept: T = self._kept[key]
            return kept
        parameters = read()
        leaves = jax.tree.leaves(parameters)
        size = sum(leaf.nbytes for leaf in leaves)
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
        if self._bytes + size <= KEPT_BYTES and not traced:
            self._kept[key] = parameters
            self._bytes += size
        return parameters


class Named:
    """The parameters of a checkpoint by the kind of tap that is made with them.

    Args:
        family, arch: what its config says.
        spread: where they are put.
    """

    def __init__(self, weights: Weights, family: Family, arch: Architecture, spread: Spread) -> None:
        self._weights, self._family, self._arch, self._spread = weights, family, arch, spread

    def layer(
        self, index: int, abstract: nnx.State, turned: bool = True, known: nnx.State | None = None
    ) -> nnx.State:
        """The parameters of one layer, in the form of `abstract` (the shapes of a `DecoderLayer`).

        Args:
            turned: kernels are [input, output], as in `abstract`; else as for `AsStored`, on one device.
            known: those of the checkpoint as it is: each that these weights leave so is not read again.

        Raises:
            CheckpointError: a parameter is missing, or has another shape than the config says.
        """
        theirs = {} if known is None else dict(nnx.to_flat_state(known))
        read = [
            (path, leaf.replace(self._of(path, leaf, index, turned)))
            if path not in theirs or self._weights.differs(self._name(path, index))
            else (path, theirs[path])
            for path, leaf in nnx.to_flat_state(abstract)
        ]
        return nnx.from_flat_state(read)

    def model(self, kind: str, name: str = "weight") -> Array:
        """A parameter outside the layers: of `embed`, `positions`, `final_norm` or `logits`."""
        return self._spread.of_model(kind, self._weights.read(f"{self._family.model[kind]}.{name}"))

    def rows(self, kind: str, rows: slice | np.ndarray, name: str = "weight") -> Array:
        """Some rows of a parameter outside the layers, on one device."""
        return jax.device_put(self._weights.read(f"{self._family.model[kind]}.{name}", rows))

    def _name(self, path: tuple[str, ...], index: int) -> str:
        """The name in the checkpoint of what belongs at a path."""
        kind, name = path[0], "bias" if path[-1] == "bias" else "weight"
        if kind.startswith("experts_"):
            return expert_name(self._family, kind.removeprefix("experts_"), index, name)
        kind, name = OWN_NAMES.get(kind, (kind, name))
        return parameter_name(self._family, self._arch, kind, index, name)

    def _of(self, path: tuple[str, ...], leaf: Any, index: int, turned: bool) -> Array:
        """What belongs at a path."""
        kind, name, shape = path[0], "bias" if path[-1] == "bias" else "weight", leaf.get_value().shape
        read, paths = self._weights.read, self._family.paths(self._arch.is_sparse(index))
        if kind.startswith("experts_"):
            tensor = expert_parameter(self._family, read, kind.removeprefix("experts_"), index, name)
        elif kind in OWN_NAMES:
            name = OWN_NAMES[kind][1]
            tensor = self._weights.read(self._name(path, index), dtype=leaf.get_value().dtype)
        else:
            tensor = parameter_of(self._family, self._arch, read, kind, index, name)
        as_meant = tensor.mT if path[-1] == "kernel" else tensor
        value = self._spread.of_layer(kind, path[-1], as_meant if turned else tensor)
        if as_meant.shape != shape:
            problem = "a parameter does not have the shape that the config implies"
            where = f"{self._family.layers}.{index}.{paths.get(kind, kind)}.{name}"
            hint = "config.json and the weights must come from one checkpoint"
            raise CheckpointError(problem, where, shape, as_meant.shape, hint=hint)
        return value
