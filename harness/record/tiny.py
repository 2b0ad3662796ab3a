"""Makes the embedded checkpoint `goldens/qwen2-tiny`: `python -m harness.record.tiny [DIRECTORY]`.

A Qwen2 that is small enough for a repository and shaped so that bugs can be seen on it. A freshly initialised
model hides them: with biases 0 a missing bias is invisible, with norm weights 1 a missing norm weight is, and
with flat attention RoPE bugs are as small as 4e-3. Here biases are random (std 0.5), norm weights are 1 +- 0.3,
matrices keep the size of what they multiply (std 1/sqrt(fan_in)), and attention scores have a std of about 2.
No accidental symmetry either: 1 < KV heads < heads, hidden is no power of 2, q and o are square (so that a
transposed weight fits), the vocabulary is padded beyond the tokenizer's, as the published one is.

Real checkpoints have outliers, and some bugs show on nothing else. So in every layer some gates or ups reach
beyond 7, where other models clamp; and one token's key is so large that it has a score of 110 in the first head:
hidden from every token before it, unless a mask only subtracts 100. It stands last in its prompt, and alone, so
that large scores never compete with each other: where they do, rounding decides, PyTorch's own included.

The same bytes come out every time: the random stream is `RandomState`, which numpy keeps frozen.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Float
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from harness.corpus import load_corpus

GOLDENS = Path(__file__).resolve().parents[2] / "goldens"
SEED = 20230824
HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE, LAYERS = 48, 6, 2, 8, 72, 4
POSITIONS = 65536  # as far as the corpus jumps, which is beyond what int16 can count
TOKENS, VOCAB = 600, 608  # byte-level tokens without the special ones; rows of the embedding
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@dataclass(frozen=True)
class Size:
    """What decides the shapes of a checkpoint's parameters."""

    hidden: int = HIDDEN
    heads: int = HEADS
    kv_heads: int = KV_HEADS
    head_dim: int = HEAD_DIM
    intermediate: int = INTERMEDIATE
    layers: int = LAYERS
    vocab: int = VOCAB


# Real embeddings are small, and only beside small numbers does a wrong norm eps show: the mean square here is
# 9e-4, so that eps 1e-5 instead of 1e-6 changes the first norm by 0.5 %.
EMBEDDING_STD = 0.03
BIAS_STD, NORM_SPREAD = 0.5, 0.3
QUERY_KEY_GAIN = 1.3  # brings the std of the attention scores to about 2

# Outliers, put in after the draws, so that no other value depends on them. Several activations of each kind are
# large and not one: the largest error of a single one would be a single draw.
OUTLIER_GAIN = 3  # takes gates and ups, of std 1, beyond 7; down_proj undoes it
OUTLIER_GATES, OUTLIER_UPS = slice(0, 6), slice(6, 12)  # which of the INTERMEDIATE
# The token has a dimension of the residual stream to itself. Its key is read from there, and lies with the head's
# query biases on the pair of dimensions that turns slowest: |q| |k| / sqrt(HEAD_DIM) = 110 all along a prompt.
FAR_TOKEN, FAR_DIMENSION, FAR_EMBEDDING = 565, 47, 0.2  # " great"
FAR_PAIR, FAR_Q, FAR_K = (3, 7), 30.0, 5.2

# As published with Qwen2: contractions, words with the character before them, single digits, symbols, white space.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def config() -> dict[str, Any]:
    """config.json in the hub's dialect, field for field as Qwen2.5 ships it."""
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": TOKENS,
        "eos_token_id": TOKENS + 2,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": POSITIONS,
        "max_window_layers": LAYERS,
        "model_type": "qwen2",
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 131072,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.43.1",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": VOCAB,
    }


def parameters(seed: int = SEED) -> dict[str, Float[np.ndarray, "..."]]:
    """Every parameter under its Hugging Face name, as bfloat16."""
    tensors = drawn(seed, Size())
    _add_outliers(tensors)
    return stored(tensors)


def stored(tensors: Mapping[str, Float[np.ndarray, "..."]]) -> dict[str, Float[np.ndarray, "..."]]:
    """Parameters in the dtype of the checkpoint."""
    return {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in tensors.items()}


def drawn(seed: int, size: Size) -> dict[str, Float[np.ndarray, "..."]]:
    """Every parameter of a model of that size, random and structured, as float64."""
    random = np.random.RandomState(seed)

    def normal(std: float, *shape: int) -> np.ndarray:
        return random.standard_normal(shape) * std

    def matrix(rows: int, columns: int, gain: float = 1.0) -> np.ndarray:
        return normal(gain / np.sqrt(columns), rows, columns)

    def norm() -> np.ndarray:
        return 1 + NORM_SPREAD * random.uniform(-1, 1, size.hidden)

    tensors = {"model.embed_tokens.weight": normal(EMBEDDING_STD, size.vocab, size.hidden)}
    for layer in range(size.layers):
        at = f"model.layers.{layer}"
        tensors[f"{at}.input_layernorm.weight"] = norm()
        for name, heads, gain in (
            ("q", size.heads, QUERY_KEY_GAIN),
            ("k", size.kv_heads, QUERY_KEY_GAIN),
            ("v", size.kv_heads, 1.0),
        ):
            tensors[f"{at}.self_attn.{name}_proj.weight"] = matrix(heads * size.head_dim, size.hidden, gain)
            tensors[f"{at}.self_attn.{name}_proj.bias"] = normal(BIAS_STD, heads * size.head_dim)
        tensors[f"{at}.self_attn.o_proj.weight"] = matrix(size.hidden, size.heads * size.head_dim)
        tensors[f"{at}.post_attention_layernorm.weight"] = norm()
        tensors[f"{at}.mlp.gate_proj.weight"] = matrix(size.intermediate, size.hidden)
        tensors[f"{at}.mlp.up_proj.weight"] = matrix(size.intermediate, size.hidden)
        tensors[f"{at}.mlp.down_proj.weight"] = matrix(size.hidden, size.intermediate)
    tensors["model.norm.weight"] = norm()
    tensors["lm_head.weight"] = matrix(size.vocab, size.hidden)
    return tensors


def _add_outliers(tensors: dict[str, Float[np.ndarray, "..."]]) -> None:
    """Activations beyond 7 in every layer; one token with a score of 110 in one head."""
    for layer in range(LAYERS):
        at = f"model.layers.{layer}.mlp"
        for name, rows in (("gate", OUTLIER_GATES), ("up", OUTLIER_UPS)):
            tensors[f"{at}.{name}_proj.weight"][rows] *= OUTLIER_GAIN
            tensors[f"{at}.down_proj.weight"][:, rows] /= OUTLIER_GAIN
    embedding, attention = tensors["model.embed_tokens.weight"], "model.layers.0.self_attn"
    embedding[:, FAR_DIMENSION] = 0
    embedding[FAR_TOKEN, FAR_DIMENSION] = FAR_EMBEDDING
    normed = FAR_EMBEDDING / np.sqrt(np.mean(embedding[FAR_TOKEN] ** 2))
    normed *= tensors["model.layers.0.input_layernorm.weight"][FAR_DIMENSION]
    pair = list(FAR_PAIR)
    tensors[f"{attention}.q_proj.bias"][pair] = FAR_Q
    tensors[f"{attention}.k_proj.bias"][pair] = 0
    tensors[f"{attention}.k_proj.weight"][pair] = 0
    tensors[f"{attention}.k_proj.weight"][pair, FAR_DIMENSION] = FAR_K / normed


def tokenizer(texts: Sequence[str], tokens: int = TOKENS) -> Tokenizer:
    """A byte-level BPE trained on the texts: any text has ids, and these texts have few.

    Args:
        tokens: how many, without the special ones; with 256 every byte is one.
    """
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()  # as published; transformers applies it to any Qwen2 tokenizer
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=tokens, initial_alphabet=alphabet, show_progress=False)
    )
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return made


def write_checkpoint(directory: Path, corpus: Path = GOLDENS / "corpus.toml") -> None:
    """Write the embedded checkpoint, its tokenizer trained on the prompts of the corpus."""
    texts = [prompt.text for prompt in load_corpus(corpus).prompts]
    write(directory, config(), parameters(), tokenizer(texts))


def write(
    directory: Path, config: Mapping[str, Any], tensors: dict[str, Float[np.ndarray, "..."]], made: Tokenizer
) -> None:
    """Write config.json, model.safetensors, tokenizer.json and tokenizer_config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    _write_json(directory / "config.json", config)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "tokenizer.json").write_text(made.to_str(pretty=True) + "\n", encoding="utf-8")
    _write_json(
        directory / "tokenizer_config.json",
        {
            "clean_up_tokenization_spaces": False,
            "eos_token": SPECIAL[2],
            "model_max_length": config.get("max_position_embeddings", 32768),
            "pad_token": SPECIAL[0],
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_checkpoint(Path(sys.argv[1]) if len(sys.argv) > 1 else GOLDENS / "qwen2-tiny")
