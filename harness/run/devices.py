"""The devices of a check: the backend that JAX starts, a port's mesh, and what the built-in decoder puts where.

Along the axis `model` attention is split by heads, the MLP by its intermediate size, and embedding and head by the
vocabulary; along `data` the batch is. What an axis does not divide is whole on all of its devices. No operation
knows of it: the compiler sees where the arrays are, and puts the communication in (GSPMD).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax import Device
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Num

from harness.architecture import Architecture
from harness.errors import PortError, UsageError
from harness.run.contained import described
from harness.run.port import Call
from harness.run.question import Axes, shown_axes
from harness.taps import Tap

VARIABLE = "JAX_PLATFORMS"
COUNT_FLAG = "--xla_force_host_platform_device_count"
DATA, MODEL = "data", "model"
# What the outputs of a projection are counted in, and the inputs of those that add up what is split.
OUTPUTS = {"q": "heads", "k": "kv_heads", "v": "kv_heads", "kv": "heads"}
OUTPUTS |= {"gate": "intermediate", "up": "intermediate"}
INPUTS = {"attn_out": "heads", "mlp_out": "intermediate"}
VOCABULARY = frozenset({"embed", "logits"})
SIZES = {"heads": "heads", "kv_heads": "KV heads", "intermediate": "intermediate size", "vocab": "vocabulary"}


def mesh_of(axes: Axes) -> Mesh | None:
    """A mesh over the first devices that JAX has, in JAX's order; None where there are no axes.

    Its axes are `AxisType.Auto`. A port that wants explicit ones makes them of it:
    `Mesh(mesh.devices, mesh.axis_names, axis_types=...)`.

    Raises:
        UsageError: more devices than there are, or fewer than several processes have.
    """
    if not axes:
        return None
    names, sizes = zip(*axes, strict=True)
    devices, count = jax.devices(), math.prod(sizes)
    if count > len(devices):
        flag = f"on a CPU, set XLA_FLAGS={COUNT_FLAG}={count}"
        problem = "the mesh has more devices than there are"
        expected = f"at most {len(devices)} ({', '.join(device_kinds(devices))})"
        hint = flag if jax.default_backend() == "cpu" else f"ask for a smaller mesh; {flag} and JAX_PLATFORMS=cpu"
        raise UsageError(problem, f"--mesh {shown_axes(axes)}", expected, count, hint=hint)
    if jax.process_count() > 1 and count < len(devices):
        problem = "in several processes the mesh has to have all devices: some processes would have none of them"
        hint = f"give each process fewer devices: on a CPU, XLA_FLAGS={COUNT_FLAG}=N"
        raise UsageError(problem, f"--mesh {shown_axes(axes)}", len(devices), count, hint=hint)
    # Not jax.make_mesh, which may refuse what the machine's network is not made for: here nothing has to be fast.
    return Mesh(np.asarray(devices[:count]).reshape(sizes), names)


def device_kinds(devices: Iterable[Device]) -> list[str]:
    """Each kind of device once."""
    return sorted({device.device_kind for device in devices})


def refuse_no_backend() -> None:
    """Start JAX's backend.

    Raises:
        UsageError: it does not start, such as a TPU that was asked for and is not there.
    """
    try:
        jax.default_backend()
    except RuntimeError as error:
        asked = os.environ.get(VARIABLE)
        problem, found = "JAX cannot start the backend that was asked for", described(error)
        where = f"the environment variable {VARIABLE}={asked}" if asked else "jax.config, or the installed plugins"
        hint = f"run this where there is one, or unset {VARIABLE}: JAX then takes what the machine has"
        raise UsageError(problem, where, "a device of that platform on this machine", found, hint=hint) from None


@dataclass(frozen=True)
class Spread:
    """The decoder's arrays on a mesh, or on one device where there is none.

    Attributes:
        mesh: with no other axes than `data` and `model`, of the kind that the compiler decides about.
    """

    arch: Architecture
    mesh: Mesh | None = None

    def __post_init__(self) -> None:
        unknown = set(self._axes) - {DATA, MODEL}
        if unknown:
            problem = "the built-in decoder has nothing to split along an axis of this name"
            expected = f"{DATA} (the batch), {MODEL} (heads, intermediate size, vocabulary)"
            hint = "for example --mesh data=2,model=4"
            raise PortError(problem, f"mesh {self._axes}", expected, ", ".join(sorted(unknown)), hint=hint)

    @property
    def _axes(self) -> dict[str, int]:
        return {} if self.mesh is None else dict(self.mesh.shape)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not split, and why: a line for each axis that does not divide something."""
        notes, parts, rows = [], self._axes.get(MODEL, 1), self._axes.get(DATA, 1)
        sizes = [(getattr(self.arch, field), name) for field, name in SIZES.items()]
        whole = ", ".join(f"{name} {size}" for size, name in sizes if size % parts)
        if whole:
            notes.append(f"whole on all devices along {MODEL}, since {parts} does not divide them: {whole}")
        if rows > 1:
            notes.append(
                f"whole on all devices along {DATA}: inputs of a number of rows that {rows} does not divide"
            )
        return tuple(notes)

    def of_layer(self, kind: str, name: str, value: Num[np.ndarray | Array, "..."]) -> Array:
        """A parameter of a layer: a `kernel` [input, output], a `bias` [output], the `weight` of a norm."""
        across = {"kernel": (INPUTS.get(kind), OUTPUTS.get(kind)), "bias": (OUTPUTS.get(kind),)}
        return self._put(value, *(self._along_model(field) for field in across.get(name, ())))

    def of_model(self, kind: str, value: Num[np.ndarray | Array, "..."]) -> Array:
        """A parameter outside the layers: what embedding and head have of each token comes first in it."""
        return self._put(value, self._along_model("vocab" if kind in VOCABULARY else None))

    def call(self, call: Call) -> Call:
        """A call with its tokens, positions and mask where they belong, [batch, position or slot]."""
        if self.mesh is None:
            return call
        rows = self._along(DATA, call.input_ids.shape[0])
        ids, positions, mask = (self._put(x, rows) for x in (call.input_ids, call.positions, call.mask))
        return replace(call, input_ids=ids, positions=positions, mask=mask)

    def cache(self, tap: Tap, value: np.ndarray) -> Array:
        """What a cache holds of a tap, by rows and, where it has some, by KV heads."""
        across = {"batch": self._along(DATA, value.shape[0]), "kv_head": self._along_model("kv_heads")}
        return self._put(value, *(across.get(dim) for dim in tap.dims))

    def _put(self, value: Any, *axes: str | None) -> Array:
        if self.mesh is None:
            return jax.device_put(value)
        sharding = NamedSharding(self.mesh, PartitionSpec(*axes))
        if sharding.is_fully_addressable or isinstance(value, Tracer):
            return jax.device_put(value, sharding)
        # Every process has the whole value and puts its own parts of it: JAX need not compare them.
        here = np.asarray(value)
        return jax.make_array_from_callback(here.shape, sharding, lambda part: here[part])

    def _along_model(self, field: str | None) -> str | None:
        return None if field is None else self._along(MODEL, getattr(self.arch, field))

    def _along(self, axis: str, size: int) -> str | None:
        """The axis, where there is one and it divides what it is to split."""
        return axis if axis in self._axes and size % self._axes[axis] == 0 else None
