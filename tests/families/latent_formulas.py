"""Latent attention in numpy, written from the formulas, as a part of `tests.families.formulas.Model`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.families.rotation import mscale


class LatentAttention:
    """DeepSeek-V2 (2024), section 2.1: keys have a part for each head, and one for all, which is turned."""

    eps_of_latents = 1e-6  # of `DeepseekV3RMSNorm`, where it is given none: the config's is not for them
    c: dict[str, Any]
    heads: int

    def latent(self, kind: str, x: np.ndarray) -> np.ndarray:
        """RMSNorm of one of the vectors that queries, or keys and values, are made of."""
        y = x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps_of_latents)
        return self.tap(f"{kind}_norm", self.read(f"{kind}_norm") * y)

    def latent_attention(self, x: np.ndarray) -> np.ndarray:
        c, rope = self.c, self.c["qk_rope_head_dim"]
        if c["q_lora_rank"]:
            q = self.linear("q_made", self.latent("q_latent", self.tap("q_latent", self.linear("q_latent", x))))
        else:
            q = self.linear("q", x)
        q = self.tap("q", q.reshape(len(x), self.heads, -1))
        made, shared = np.split(self.linear("kv_latent", x), [c["kv_lora_rank"]], axis=1)
        made = self.latent("kv_latent", self.tap("kv_latent", made))
        rest, last = np.split(q, [c["qk_nope_head_dim"]], axis=2)
        q = self.tap("q_rope", np.concatenate([rest, self.turned_last(last)], axis=2))
        shared = self.tap("k_pe", shared)[:, None]
        shared = self.tap("k_pe_rope", self.turned_last(shared)[:, 0])
        kv = self.tap("kv", self.linear("kv", made).reshape(len(x), self.heads, -1))
        k, v = np.split(kv, [c["qk_nope_head_dim"]], axis=2)
        scale, probs, context = self.latent_scale(), np.zeros((self.heads, len(x), len(x))), np.zeros_like(v)
        for head in range(self.heads):
            for query in range(len(x)):
                keys = slice(query + 1)
                scores = k[keys, head] @ q[query, head, :-rope] + shared[keys] @ q[query, head, -rope:]
                raised = np.exp(scale * scores)
                probs[head, query, keys] = raised / raised.sum()
                context[query, head] = probs[head, query, keys] @ v[keys, head]
        self.tap("probs", probs)
        return self.tap("attn_out", self.linear("attn_out", self.tap("context", context).reshape(len(x), -1)))

    def latent_scale(self) -> float:
        """With YaRN larger, by the square of what is left out of RoPE: `DeepseekV3Attention` of their own code."""
        c, given = self.c, self.c.get("rope_scaling") or {}
        longer = mscale(given.get("factor", 1), given.get("mscale_all_dim", 0))
        return longer**2 / math.sqrt(c["qk_nope_head_dim"] + c["qk_rope_head_dim"])
