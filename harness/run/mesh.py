"""The mesh of devices that a port is given: `--mesh data=2,model=4`."""

from __future__ import annotations

import math
from collections.abc import Iterable

import jax
import numpy as np
from jax import Device
from jax.sharding import Mesh

from harness.errors import UsageError
from harness.run.question import Axes, shown_axes

COUNT_FLAG = "--xla_force_host_platform_device_count"


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
        raise UsageError(
            "the mesh has more devices than there are",
            where=f"--mesh {shown_axes(axes)}",
            expected=f"at most {len(devices)} ({', '.join(device_kinds(devices))})",
            found=count,
            hint=flag
            if jax.default_backend() == "cpu"
            else f"ask for a smaller mesh; {flag} and JAX_PLATFORMS=cpu",
        )
    if jax.process_count() > 1 and count < len(devices):
        raise UsageError(
            "in several processes the mesh has to have all devices: some processes would have none of them",
            where=f"--mesh {shown_axes(axes)}",
            expected=len(devices),
            found=count,
            hint=f"give each process fewer devices: on a CPU, XLA_FLAGS={COUNT_FLAG}=N",
        )
    # Not jax.make_mesh, which may refuse what the machine's network is not made for: here nothing has to be fast.
    return Mesh(np.asarray(devices[:count]).reshape(sizes), names)


def device_kinds(devices: Iterable[Device]) -> list[str]:
    """Each kind of device once."""
    return sorted({device.device_kind for device in devices})
