"""Where the contents of a cache lie: every layout is read and written, and a wrong table is refused."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.architecture import architecture_of, read_config
from harness.errors import PortError
from harness.run.adapters import FunctionPort, To
from harness.run.adapters.caches import CacheTable
from harness.run.tapping import no_tap
from tests.families import tiny

BATCH, SLOTS = 2, 5
K, V = "layers.{i}.cache_k", "layers.{i}.cache_v"
HEADS_FIRST = "batch kv_head slot head_dim"


class View(NamedTuple):
    key: object
    value: object
    starts: object


def padded(value):
    """Heads padded to 16, with something in the padding that is to stay."""
    return np.concatenate([value, np.full_like(value, 5)], -1)


# The table, and the cache with the keys and values of every layer, [batch, slot, kv_head, head_dim] each.
LAYOUTS = {
    "a dict a layer": (
        {"layer_{i}.k": K, "layer_{i}.v": V},
        lambda k, v: {f"layer_{i}": {"k": a, "v": b, "end": 3} for i, (a, b) in enumerate(zip(k, v, strict=True))},
    ),
    "a list of pairs": ({"{i}.0": K, "{i}.1": V}, lambda k, v: list(zip(k, v, strict=True))),
    "objects": (
        {"views.{i}.key": K, "views.{i}.value": V},
        lambda k, v: {"views": [View(a, b, np.zeros(BATCH)) for a, b in zip(k, v, strict=True)]},
    ),
    "one array": (
        {"[:, {i}, 0]": K, "[:, {i}, 1]": V},
        lambda k, v: np.stack([np.stack(k, 1), np.stack(v, 1)], 2),
    ),
    "stacked by a scan": ({"k[{i}]": K, "v[{i}]": V}, lambda k, v: {"k": np.stack(k), "v": np.stack(v)}),
    "transposed heads": (
        {"{i}.0": To(K, HEADS_FIRST), "{i}.1": To(V, "batch slot (kv_head head_dim)")},
        lambda k, v: [(a.transpose(0, 2, 1, 3), b.reshape(BATCH, SLOTS, -1)) for a, b in zip(k, v, strict=True)],
    ),
    "padded heads": (
        {"{i}.0[..., :head_dim]": K, "{i}.1[:, :, 0:kv_head, :-8]": V},
        lambda k, v: [(padded(a), padded(b)) for a, b in zip(k, v, strict=True)],
    ),
}


@pytest.fixture(scope="module")
def config():
    from harness import embedded

    return read_config(embedded.directory() / "qwen2-tiny")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_read_and_written_and_the_rest_stays(config, layout):
    arch = architecture_of(config)
    table, made = LAYOUTS[layout]
    shape = (2, arch.layers, BATCH, SLOTS, arch.kv_heads, arch.head_dim)
    k, v = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    contents = {
        f"layers.{i}.cache_{kind}": value[i] for i in range(arch.layers) for kind, value in (("k", k), ("v", v))
    }
    access = CacheTable(table, arch)
    assert access.kinds == {"cache_k", "cache_v"}
    full = jax.tree.map(jnp.asarray, made(k, v))
    found = access.read(full)
    assert found.keys() == contents.keys()
    assert all(np.array_equal(found[name], value) for name, value in contents.items())
    written = access.write(jax.tree.map(jnp.asarray, made(0 * k, 0 * v)), found)
    assert jax.tree.structure(written) == jax.tree.structure(full)
    assert all(map(np.array_equal, jax.tree.leaves(written), jax.tree.leaves(full)))


LATENT, K_PE = "layers.{i}.cache_latent", "layers.{i}.cache_k_pe"
# Of latent attention: the table, and the cache with what every layer holds, [batch, slot, size] each.
LATENTS = {
    "one array a layer": (
        {"{i}[..., :kv_rank]": LATENT, "{i}[..., kv_rank:]": K_PE},
        lambda c, k: [np.concatenate(both, -1) for both in zip(c, k, strict=True)],
    ),
    "one array, padded": (
        {"kv[{i}, ..., :kv_rank]": LATENT, "kv[{i}, ..., kv_rank:-3]": K_PE},
        lambda c, k: {"kv": np.concatenate([c, k, np.full((*k.shape[:-1], 3), 5, np.float32)], -1)},
    ),
    "as transformers has it": (
        {"{i}.0": To(LATENT, "batch 1 slot kv_rank"), "{i}.1": To(K_PE, "batch 1 slot rope_dim")},
        lambda c, k: [(a[:, None], b[:, None]) for a, b in zip(c, k, strict=True)],
    ),
}


@pytest.mark.parametrize("layout", LATENTS)
def test_a_layout_of_latents_is_read_and_written_and_the_rest_stays(layout):
    arch = architecture_of(tiny.config("deepseek_v3", "plain"))
    table, made = LATENTS[layout]
    sizes = arch.sizes(BATCH, SLOTS)
    c, k = (
        np.random.default_rng(seed).standard_normal((arch.layers, BATCH, SLOTS, sizes[dim])).astype(np.float32)
        for seed, dim in enumerate(("kv_rank", "rope_dim"))
    )
    access = CacheTable(table, arch)
    assert access.kinds == {"cache_latent", "cache_k_pe"}
    full = jax.tree.map(jnp.asarray, made(c, k))
    found = access.read(full)
    for i in range(arch.layers):
        assert np.array_equal(found[LATENT.format(i=i)], c[i]) and np.array_equal(found[K_PE.format(i=i)], k[i])
    written = access.write(jax.tree.map(jnp.asarray, made(0 * c, 0 * k)), found)
    assert all(map(np.array_equal, jax.tree.leaves(written), jax.tree.leaves(full)))


@pytest.mark.parametrize(
    ("table", "message", "where"),
    [
        ({"{i}.k[": K}, "is malformed", "{i}.k["),
        ({"k": K}, "{i} on one side alone", "k -> layers.{i}.cache_k"),
        ({"{i}.k": "layers.0.cache_k"}, "{i} on one side alone", "{i}.k -> layers.0.cache_k"),
        ({"{i}.k": "layers.{i}.k_rope"}, "names no tap of a cache", "layers.0.k_rope"),
        ({"{i}.k": K, "{i}.v": K}, "two rows of a cache's table name one tap", "layers.0.cache_k"),
        ({"{i}.k[..., :size]": K}, "malformed index", "{i}.k[..., :size]"),
    ],
)
def test_a_wrong_row_is_refused(config, table, message, where):
    with pytest.raises(PortError, match=message) as caught:
        CacheTable(table, architecture_of(config))
    assert f"where:    {where}" in str(caught.value)


def test_a_path_that_is_not_in_the_cache_is_refused_with_what_is(config):
    table = CacheTable({"layer_{i}.keys": K}, architecture_of(config))
    with pytest.raises(PortError, match="no array at a path") as caught:
        table.read({"layer_0": {"k": 1, "v": 2}})
    assert "layer_0.keys" in str(caught.value) and "layer_0.k, layer_0.v" in str(caught.value)


class Tiny(FunctionPort):
    """A port without anything but logits."""

    def run(self, input_ids, positions, mask, cache=None):
        return (jnp.zeros((*input_ids.shape, 512)), cache), {}


def test_a_table_without_a_cache_is_refused(config):
    class Wrong(Tiny):
        cache = {"{i}.k": K}

    with pytest.raises(PortError, match="a table of its cache, and no cache"):
        Wrong(config, jnp.float32)


def test_a_cache_that_is_read_and_never_written_is_refused_until_it_is_declared(config):
    class Wrong(Tiny):
        def init_cache(self, batch, length, dtype):
            return ()

        def read_cache(self, cache):
            return {}

    with pytest.raises(PortError, match="one of read_cache and write_cache"):
        Wrong(config, jnp.float32)

    class Declared(Wrong):
        recorded_only = ("cache_k", "cache_v")

    assert Declared(config, jnp.float32).earlier_only == ()


def test_a_port_need_not_say_what_is_in_its_cache(config):
    class Closed(Tiny):
        def init_cache(self, batch, length, dtype):
            return jnp.zeros(3)

    port = Closed(config, jnp.float32)
    assert {"cache_k", "cache_v"} < set(port.without)
    ids, mask = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 4), bool)
    logits, cache = port.forward(ids, ids, mask, port.init_cache(1, 4, jnp.float32), no_tap)
    assert logits.shape == (1, 1, 512) and cache.shape == (3,)


def test_a_run_that_does_not_hand_on_its_cache_is_refused(config):
    class Wrong(Tiny):
        def init_cache(self, batch, length, dtype):
            return jnp.zeros(3)

        def run(self, input_ids, positions, mask, cache):
            return jnp.zeros((*input_ids.shape, 512)), {}

    ids = jnp.zeros((1, 1), jnp.int32)
    with pytest.raises(PortError, match=r"does not return \(logits, cache\)"):
        Wrong(config, jnp.float32).forward(ids, ids, ids > 0, None, no_tap)


def test_a_run_that_does_not_take_the_cache_is_refused_before_it_is_called(config):
    class Wrong(Tiny):
        def init_cache(self, batch, length, dtype):
            return jnp.zeros(3)

        def run(self, input_ids, positions, mask):
            return jnp.zeros((*input_ids.shape, 512)), {}

    with pytest.raises(PortError, match="does not take what it is given") as caught:
        Wrong(config, jnp.float32)
    assert "expected: run(input_ids, positions, mask, cache)" in str(caught.value)
    assert "found:    run(input_ids, positions, mask)" in str(caught.value)
