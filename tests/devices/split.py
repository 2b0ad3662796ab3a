"""The second port on a mesh of KV heads and their groups of query heads, by hand: every part in a `jax.shard_map`.

Right as it stands. A bug replaces one part by one that shards it wrongly, as ports do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from tests.second_port import parts as right
from tests.second_port.parts import PARTS, Parts
from tests.second_port.variants import Compiled

KV, GROUP = "kv", "group"
HEADS = (KV, GROUP)  # query heads in their order: [k0 g0, k0 g1, k0 g2, k1 g0, ...]
AXES = ((KV, 2), (GROUP, 3))


def split(mesh: Mesh, inputs, outputs, function: Callable) -> Callable:
    """`function` on each device's part. What it leaves different on devices that should agree is not refused."""
    return jax.shard_map(function, mesh=mesh, in_specs=inputs, out_specs=outputs, check_vma=False)


def head() -> jax.Array:
    """Which query head this device has."""
    return jax.lax.axis_index(HEADS)


def added(x):
    return jax.lax.psum(x, HEADS)


def project_qkv(mesh, finish=lambda product, bias: added(product) + bias):
    """Each device has some of the hidden features; `finish` adds up the products, and adds the bias."""

    def part(x, weight, bias):
        return finish(jnp.einsum("bse,hde->bhsd", x, weight), bias[None, :, None])

    own = split(mesh, (P(None, None, HEADS), P(None, None, HEADS), P()), P(), part)
    return lambda x, block: own(x, block.qkv, block.qkv_bias)


def similarity(mesh, key_head=lambda key_heads: head() * key_heads // jax.lax.axis_size(HEADS)):
    """Each device has one query head and all keys; `key_head` says which of them it goes with."""

    def part(q, k):
        return right.similarity(q, jax.lax.dynamic_slice_in_dim(k, key_head(k.shape[1]), 1, axis=1))

    return split(mesh, (P(None, KV, GROUP), P()), P(None, KV, GROUP), part)


def mix(mesh, gathered=HEADS):
    """Each device has one query head; what it makes is gathered from all devices in the order of these axes."""

    def part(weights, v):
        own = right.mix(weights, v)
        heads = jax.lax.all_gather(own[:, 0], gathered, axis=1, tiled=True)
        return heads.reshape(own.shape[0], jax.lax.axis_size(KV), -1, *own.shape[3:])

    return split(mesh, (P(None, KV, GROUP), P(None, KV)), P(), part)


def project_out(mesh, finish=added):
    """Each device has one query head; `finish` adds up what they make."""
    own = split(
        mesh,
        (P(None, HEADS), P(None, HEADS)),
        P(),
        lambda context, out: finish(jnp.einsum("bhsd,ehd->bse", context, out)),
    )
    return lambda context, block: own(context, block.out)


def project_down(mesh, finish=added):
    """Each device has some of the intermediate features; `finish` adds up what they make."""
    own = split(
        mesh,
        (P(None, None, HEADS), P(None, HEADS)),
        P(),
        lambda x, down: finish(jnp.einsum("bsf,ef->bse", x, down)),
    )
    return lambda x, block: own(x, block.down)


def store(mesh, slot=lambda filled: filled):
    """Each device has the cache of one KV head, and writes from `slot` on."""
    return split(
        mesh,
        (P(None, KV), P(None, KV), P()),
        P(None, KV),
        lambda buffer, new, filled: right.store(buffer, new, slot(filled)),
    )


def stored_by_slots(mesh):
    """A bug: the cache is split by slots, and each device writes as if its first slot were the cache's first."""
    own = split(mesh, (P(None, None, GROUP), P(), P()), P(None, None, GROUP), right.store)

    def whole(buffer, new, filled):
        slots = buffer.shape[2]
        more = -slots % mesh.shape[GROUP]
        padded = jnp.pad(buffer, ((0, 0), (0, 0), (0, more), (0, 0)))
        return own(padded, new, filled)[:, :, :slots]

    return whole


def parts_on(mesh: Mesh) -> Parts:
    return replace(
        PARTS,
        project_qkv=project_qkv(mesh),
        similarity=similarity(mesh),
        mix=mix(mesh),
        project_out=project_out(mesh),
        project_down=project_down(mesh),
        store_k=store(mesh),
        store_v=store(mesh),
    )


@dataclass(frozen=True)
class Bug:
    """One part sharded wrongly.

    Attributes:
        kinds: of the taps that are wrong on golden inputs, and no others.
        part: makes the wrong part for a mesh.
        case: that shows it.
    """

    name: str
    field: str
    kinds: tuple[str, ...]
    part: Callable[[Mesh], Callable]
    case: str = "one-to-five"


BUGS = (
    Bug(
        "no psum after the output projection", "project_out", ("attn_out",), lambda m: project_out(m, lambda x: x)
    ),
    Bug("no psum after the down projection", "project_down", ("mlp_out",), lambda m: project_down(m, lambda x: x)),
    Bug("two psums", "project_out", ("attn_out",), lambda m: project_out(m, lambda x: added(added(x)))),
    Bug(
        "a psum over one of two axes",
        "project_down",
        ("mlp_out",),
        lambda m: project_down(m, lambda x: jax.lax.psum(x, GROUP)),
    ),
    Bug("heads gathered in another order", "mix", ("context",), lambda m: mix(m, (GROUP, KV))),
    Bug(
        "a bias on each device before the psum",
        "project_qkv",
        ("q", "k", "v"),
        lambda m: project_qkv(m, lambda product, bias: added(product + bias)),
    ),
    Bug(
        "KV heads dealt out to the devices in turn",
        "similarity",
        ("probs",),
        lambda m: similarity(m, lambda key_heads: head() % key_heads),
    ),
    Bug(
        "a cache split by slots, written as if by heads", "store_k", ("cache_k",), stored_by_slots, "batch-decode"
    ),
    Bug(
        "a slot that depends on the device",
        "store_v",
        ("cache_v",),
        lambda m: store(m, lambda filled: filled + jax.lax.axis_index(KV)),
        "batch-decode",
    ),
)


class Split(Compiled):
    """The port, or a bug in it: `load_with(bug)`."""

    @classmethod
    def load(cls, directory, config, dtype, mesh, bug: Bug | None = None):
        chosen = parts_on(mesh)
        if bug is not None:
            chosen = replace(chosen, **{bug.field: bug.part(mesh)})
        return super().load(directory, config, dtype, mesh, parts=lambda layer: chosen)
