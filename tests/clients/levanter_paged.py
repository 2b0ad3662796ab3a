"""Levanter's models through their pages, as a port: `decode` with a `KvPageCache` a layer. See README.md."""

import dataclasses

import haliax as hax
import jax
import jax.numpy as jnp
from levanter.inference.page_table import PageBatchInfo, PageTableSpec
from levanter.layers.kv_cache import ListCache

from harness.run.adapters import To, first_slot
from tests.clients.levanter_qwen import A, L, Port

SIZE = 4  # slots of a page
GROUPED = "(batch position) kv_head group head_dim -> batch position (kv_head group) head_dim"


def flat(tap, layout="hidden"):
    return To(tap, f"(batch position) {layout}")


class Paged(Port):
    """The tokens of all rows lie in one axis, a row's pages in falling order, its pads where nothing sees them."""

    taps = {
        "embeddings.embed": flat("embed"),
        f"{L}.input_layernorm#{{i}}": flat("layers.{i}.attn_norm"),
        f"{A}.q_proj#{{i}}": To("layers.{i}.q", GROUPED),
        f"{A}.k_proj#{{i}}": flat("layers.{i}.k", "kv_head head_dim"),
        f"{A}.v_proj#{{i}}": flat("layers.{i}.v", "kv_head head_dim"),
        f"{A}.rot_embs#{{2i}}": To("layers.{i}.q_rope", GROUPED),
        f"{A}.rot_embs#{{2i+1}}": flat("layers.{i}.k_rope", "kv_head head_dim"),
        f"{A}.o_proj#{{i}}(0)": flat("layers.{i}.context", "head head_dim"),
        f"{A}.paged_decode#{{i}}[0]": flat("layers.{i}.attn_out"),
        f"{L}.post_attention_layernorm#{{i}}(0)": flat("layers.{i}.resid_mid"),
        f"{L}.post_attention_layernorm#{{i}}": flat("layers.{i}.mlp_norm"),
        f"{L}.mlp.gate_proj#{{i}}": flat("layers.{i}.gate", "intermediate"),
        f"{L}.mlp.up_proj#{{i}}": flat("layers.{i}.up", "intermediate"),
        f"{L}.mlp.down_proj#{{i}}(0)": flat("layers.{i}.act", "intermediate"),
        f"{L}.mlp#{{i}}": flat("layers.{i}.mlp_out"),
        f"{L}.decode#{{i}}[0]": flat("layers.{i}.resid_post"),
        "transformer.norm": flat("final_norm"),
    }

    def init_cache(self, batch, length, dtype):
        pages = -(-length // SIZE)  # of each row
        return {
            "pages": self.model.initial_cache(PageTableSpec(batch * pages, SIZE), dtype=narrow(dtype)),
            "order": jnp.arange(batch * pages)[::-1].reshape(batch, pages),
            "mask": jnp.zeros((batch, length), bool),
        }

    def run(self, model, input_ids, positions, mask, cache):
        batch, tokens = input_ids.shape
        if cache is None:
            cache = self.init_cache(batch, tokens, model.embeddings.token_embeddings.weight.array.dtype)
        model = jax.tree.map(lambda x: x.astype(narrow(x.dtype)), model)
        cache, first = {**cache, "mask": mask}, first_slot(mask, tokens)
        own = jax.lax.dynamic_slice_in_dim(places(cache), first, tokens, axis=1)
        info = PageBatchInfo(
            slot_ids=hax.named(jnp.arange(batch), "seq"),
            page_indices=hax.named(cache["order"], ("seq", "page")),
            seq_lens=hax.named(first + tokens - mask.argmax(axis=1), "seq"),
            cu_q_lens=hax.named(jnp.arange(batch + 1) * tokens, "seq"),
            num_seqs=jnp.array(batch),
            new_token_dests=hax.named(own.ravel(), "position"),
            page_size=SIZE,
        )
        ids, positions = (hax.named(x.ravel(), "position") for x in (input_ids, positions))
        logits, pages = model.decode(ids, cache["pages"], info, positions)
        return logits.array.reshape(batch, tokens, -1), {**cache, "pages": pages}

    def read_cache(self, cache):
        found, at = {}, places(cache)
        for i, one in enumerate(cache["pages"]):  # [page, slot, keys and values by turns, head_dim]
            both = one.kv_pages.array.reshape(-1, *one.kv_pages.array.shape[2:])[at]
            found |= {f"layers.{i}.cache_k": both[:, :, ::2], f"layers.{i}.cache_v": both[:, :, 1::2]}
        return found

    def write_cache(self, cache, values):
        pages, at = [], places(cache)
        for i, one in enumerate(cache["pages"]):
            keys, (array, axes) = values[f"layers.{i}.cache_k"], (one.kv_pages.array, one.kv_pages.axes)
            both = jnp.stack([keys, values[f"layers.{i}.cache_v"]], axis=3).reshape(*at.shape, *array.shape[2:])
            array = array.reshape(-1, *array.shape[2:]).at[at].set(both.astype(array.dtype)).reshape(array.shape)
            pages.append(dataclasses.replace(one, kv_pages=hax.named(array, axes)))
        return {**cache, "pages": ListCache(pages)}


def narrow(dtype):
    """A loop that sums in float32 cannot be traced with float64: it is traced in float32, and then lifted."""
    return jnp.float32 if dtype == jnp.float64 else dtype


def places(cache):
    """Where in all pages the slots of every row [batch, slot]: its first token first, pads on its left last."""
    order, mask = cache["order"], cache["mask"]
    at = (jnp.arange(mask.shape[1]) - mask.argmax(axis=1)[:, None]) % (order.shape[1] * SIZE)
    return jnp.take_along_axis(order, at // SIZE, axis=1) * SIZE + at % SIZE
