"""The second port on a mesh with explicit axes: the layout of every array is part of its type, and is said."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, reshard
from jax.sharding import PartitionSpec as P

from tests.second_port import parts as right
from tests.second_port.parameters import Block
from tests.second_port.parts import PARTS
from tests.second_port.variants import Compiled

MODEL = "model"
AXES = ((MODEL, 2),)
WHERE = Block(P(), P(), P(), P(None, MODEL), P(), P(None, MODEL), P(None, MODEL))
SPLIT = replace(
    PARTS,
    mix=lambda weights, v: reshard(right.mix(weights, v), P(None, MODEL)),  # KV heads, [B, K, G, S, D]
    project_out=lambda context, block: jnp.einsum("bhsd,ehd->bse", context, block.out, out_sharding=P()),
    project_down=lambda x, block: jnp.einsum("bsf,ef->bse", x, block.down, out_sharding=P()),
)


class Typed(Compiled):
    """Heads and intermediate features split along `model`; what is tapped is split as well."""

    @classmethod
    def load(cls, directory, config, dtype, mesh):
        typed = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Explicit,) * len(mesh.axis_names))

        def put(value, spec):
            return jax.device_put(value, NamedSharding(typed, spec))

        port = super().load(directory, config, dtype, mesh, parts=lambda layer: SPLIT)
        weights = port.parameters
        port.parameters = weights._replace(
            table=put(weights.table, P()),
            blocks=tuple(Block(*map(put, block, WHERE)) for block in weights.blocks),
            norm_out=put(weights.norm_out, P()),
            head=put(weights.head, P()),
        )
        port.mesh = typed
        return port

    def forward(self, *args):
        with jax.set_mesh(self.mesh):
            return super().forward(*args)
