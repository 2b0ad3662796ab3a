"""What ports in plain jax.numpy have in common: nothing of the built-in decoder.

Each can be built with a bug in it, written as a porter would write it.
"""

from __future__ import annotations

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from harness.run.tapping import Tapped
from harness.taps import DIMS


class Port:
    """Heads first, [B, H, S, D]; matrices as stored, [output, input]; layers in a Python loop.

    Args:
        bug: what it does wrong; nothing where it is empty.
    """

    kinds = 1  # of layers, which alternate; those of one kind are one compiled function
    in_parts = False  # with a bug it runs operation by operation: compiled as a whole it is slower

    def __init__(self, config, tensors, dtype, bug=""):
        self.config, self.dtype, self.bug = config, dtype, bug
        self.w = {
            name: jax.device_put(np.asarray(value, np.float64).astype(dtype)) for name, value in tensors.items()
        }
        self.wide = jnp.float64 if dtype == jnp.float64 else jnp.float32

    @classmethod
    def load(cls, directory, config, dtype, mesh=None, *, bug=""):
        return cls(config, load_file(directory / "model.safetensors"), dtype, bug)

    def init_cache(self, batch, length, dtype):
        shape = batch, self.config["num_key_value_heads"], length, self.head_dim
        empty = jnp.zeros(shape, dtype)
        return [(empty, empty)] * self.config["num_hidden_layers"], 0

    @property
    def head_dim(self):
        return self.config.get("head_dim") or self.config["hidden_size"] // self.config["num_attention_heads"]

    def forward(self, ids, positions, mask, cache, tap):
        stored, filled = cache or ([None] * self.config["num_hidden_layers"], 0)
        x, after = tap("embed", self._outside("embedded", ids)), []
        for index, past in enumerate(stored):
            layer, weights = self._compiled(index % self.kinds), self._weights(index)
            x, past = layer(tap, f"layers.{index}", weights, x, positions, mask, past, filled)
            after.append(past)
        x = tap("final_norm", self._outside("normed", x))
        return self._outside("read", x), None if cache is None else (after, filled + ids.shape[1])

    @functools.cache  # noqa: B019
    def _compiled(self, index):
        def run(tap, weights, *args):
            port = copy.copy(self)
            port.w = weights
            return port.layer(index, *args, lambda name, value: tap(name.rpartition(".")[2], value))

        if self._uncompiled:
            return lambda tap, stage, *args: run(lambda kind, value: tap(f"{stage}.{kind}", value), *args)
        return Tapped(run, frozenset(DIMS))

    @property
    def _uncompiled(self):
        return self.bug and self.in_parts

    def _outside(self, part, x):
        """A part of the model that is outside of its layers."""
        if self._uncompiled:
            return getattr(self, part)(x)
        return self._compiled_outside(part)({n: w for n, w in self.w.items() if ".layers." not in n}, x)

    @functools.cache  # noqa: B019
    def _compiled_outside(self, part):
        def run(weights, x):
            port = copy.copy(self)
            port.w = weights
            return getattr(port, part)(x)

        return jax.jit(run)

    def embedded(self, ids):
        return self.embed(self.w["model.embed_tokens.weight"][ids])

    def normed(self, x):
        return self.norm("model.norm", x)

    def read(self, x):
        return self.logits(x @ self.w.get("lm_head.weight", self.w["model.embed_tokens.weight"]).T)

    def _weights(self, index):
        """Of one layer, under the names of the first of its kind."""
        here, first = f"model.layers.{index}.", f"model.layers.{index % self.kinds}."
        return {first + name.removeprefix(here): w for name, w in self.w.items() if name.startswith(here)}

    def embed(self, x):
        return x

    def logits(self, x):
        return x

    def layer(self, index, x, positions, mask, past, filled, tap):
        at = f"model.layers.{index}"
        y = self.norm(f"{at}.input_layernorm", x)
        update, past = self.attend(index, tap(f"layers.{index}.attn_norm", y), positions, mask, past, filled, tap)
        x = tap(f"layers.{index}.resid_mid", x + update)
        y = tap(f"layers.{index}.mlp_norm", self.norm(f"{at}.post_attention_layernorm", x))
        return tap(f"layers.{index}.resid_post", x + self.mlp(index, y, tap)), past

    def norm(self, name, x):
        y = x.astype(self.wide)
        y = y / jnp.sqrt((y * y).mean(-1, keepdims=True) + self.config["rms_norm_eps"])
        return y.astype(x.dtype) * self.w[f"{name}.weight"]

    def attend(self, index, x, positions, mask, past, filled, tap):
        def linear(name):
            return x @ self.w[f"model.layers.{index}.self_attn.{name}_proj.weight"].T

        def heads(name, value):  # [B, S, H D] -> [B, H, S, D]
            split = value.reshape(*value.shape[:2], -1, self.head_dim)
            return tap(f"layers.{index}.{name}", split).swapaxes(1, 2)

        def shown(name, value):
            return tap(f"layers.{index}.{name}", value.swapaxes(1, 2)).swapaxes(1, 2)

        q, k, v = heads("q", linear("q")), heads("k", linear("k")), heads("v", linear("v"))
        q, k = self.given(index, q, k, positions, shown)
        if past is not None:
            k = shown("cache_k", jax.lax.dynamic_update_slice(past[0], k, (0, 0, filled, 0)))
            v = shown("cache_v", jax.lax.dynamic_update_slice(past[1], v, (0, 0, filled, 0)))
            past = k, v
        groups = q.shape[1] // k.shape[1]
        scores = self.score(jnp.matmul(q, jnp.repeat(k, groups, 1).swapaxes(2, 3)))
        query = (filled + jnp.arange(q.shape[2]))[:, None]
        seen = self.seen(index, query, jnp.arange(k.shape[2])[None]) & mask[:, None, None, : k.shape[2]]
        scores = self.masked(scores, seen).astype(self.wide)
        probs = tap(f"layers.{index}.probs", jax.nn.softmax(scores, -1).astype(x.dtype))
        context = shown("context", jnp.matmul(probs, jnp.repeat(v, groups, 1))).swapaxes(1, 2)
        out = context.reshape(*x.shape[:2], -1) @ self.w[f"model.layers.{index}.self_attn.o_proj.weight"].T
        return tap(f"layers.{index}.attn_out", out), past

    def given(self, index, q, k, positions, shown):
        return shown("q_rope", self.turn(q, positions)), shown("k_rope", self.turn(k, positions))

    def masked(self, scores, seen):
        return jnp.where(seen, scores, jnp.finfo(scores.dtype).min)

    def score(self, scores):
        return scores * jnp.asarray(self.head_dim**-0.5, scores.dtype)

    def seen(self, index, query, key):
        return key <= query

    def speeds(self):
        return self.config["rope_theta"] ** (-np.arange(0, self.head_dim, 2) / self.head_dim)

    def turn(self, x, positions):
        angle = positions[:, None, :, None].astype(self.wide) * jnp.asarray(self.speeds(), self.wide)
        cos, sin = jnp.cos(angle).astype(x.dtype), jnp.sin(angle).astype(x.dtype)
        a, b = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
        return jnp.concatenate((a * cos - b * sin, b * cos + a * sin), -1)

    def activate(self, x):
        return jax.nn.silu(x.astype(self.wide)).astype(x.dtype)

    def mlp(self, index, x, tap):
        gate, up, down = (
            self.w[f"model.layers.{index}.mlp.{name}_proj.weight"] for name in ("gate", "up", "down")
        )
        gate, up = tap(f"layers.{index}.gate", x @ gate.T), tap(f"layers.{index}.up", x @ up.T)
        return tap(f"layers.{index}.mlp_out", tap(f"layers.{index}.act", self.activate(gate) * up) @ down.T)
