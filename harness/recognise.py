"""What a directory holds that is no checkpoint as it is read here, and what to do about it, by names alone;
families that are not supported, by `model_type`: why, and what to do. No name of one is guessed at."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from pathlib import Path

FORMAT = "give a directory in Hugging Face format: config.json, *.safetensors, tokenizer.json"
SAVE_AGAIN = "save it again: AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW)"

MERGE = "merge it: peft's merge_and_unload, save_pretrained"
RENAME = "rename them to model.safetensors, if they are the ones meant"

# Pattern of a file's name -> what the file is, and what to do. The first that matches is said.
FILES = (
    ("adapter_config.json", "an adapter (LoRA), not a model", MERGE),
    ("adapter_model.*", "an adapter (LoRA), not a model", MERGE),
    ("*.gguf", "GGUF, llama.cpp's format", "give the checkpoint that it was converted from"),
    ("*.ggml", "GGML, llama.cpp's old format", "give the checkpoint that it was converted from"),
    ("pytorch_model*.bin*", "pickled weights (.bin), which are not opened here", SAVE_AGAIN),
    ("model.*.safetensors*", "weights of a variant", RENAME),
    ("consolidated*", "weights in the layout of their authors", "give the one in Hugging Face format"),
    ("*.pth", "pickled weights (.pth), which are not opened here", SAVE_AGAIN),
    ("*.pt", "pickled weights (.pt), which are not opened here", SAVE_AGAIN),
    (
        "flax_model*.msgpack*",
        "Flax weights",
        "save it again from Flax: transformers 4 reads them (from_flax=True)",
    ),
    ("tf_model*.h5", "TensorFlow weights", "save it again: transformers 4 reads them (from_tf=True)"),
    ("*.onnx", "an ONNX graph", "give the checkpoint that it was exported from"),
    ("model*-of-*.safetensors", "shards without model.safetensors.index.json", "copy the index as well"),
    ("*.safetensors", "safetensors of another name", RENAME),
    ("*.distcp", "a distributed checkpoint", "save it whole: save_pretrained"),
    ("latest", "a DeepSpeed checkpoint", "convert it: its own zero_to_fp32.py, then save_pretrained"),
)

# Part of a parameter's name -> what it is.
QUANTISED = ("qweight", "qzeros", "scales", "g_idx", "weight_scale", "weight_scale_inv", "weight_packed", "SCB")
ADAPTER = ("lora_A", "lora_B", "lora_embedding_A", "base_layer")
MISPLACED = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")

INNER = "check its language model, saved alone: model.language_model.save_pretrained(DIR), with the head"
EXPERTS = "a mixture of experts chooses, and how a choice is judged is not settled here yet"
WAIT = "check a dense model of the same family, or the port's dense layers, until it is"
MORE = "more than one state passes from layer to layer"
NO_TABLE = "no table of taps can say what feeds what; check its operations in tests of your own"

_INNER = "gemma3 mistral3 llava qwen2_vl qwen2_5_vl qwen3_vl mllama paligemma gemma4"
KIMI = (
    "it is a deepseek_v3 by another name, and transformers knows it by that one alone",
    "in a copy of config.json write model_type deepseek_v3, and remove auto_map",
)
OTHERS: Mapping[str, tuple[str, str]] = {
    "kimi_k2": KIMI,
    **dict.fromkeys(("olmoe", "phimoe", "dbrx", "jamba"), (EXPERTS, WAIT)),
    **dict.fromkeys(_INNER.split(), ("this is a model of more than text", INNER)),
    **dict.fromkeys(("gemma3n", "gemma3n_text"), (MORE, NO_TABLE)),
    "gemma4_text": (f"in E2B and E4B {MORE}, and the others have no table here yet", NO_TABLE),
    **dict.fromkeys(
        ("llama4", "llama4_text"), ("its attention is chunked, and its experts scale their input", NO_TABLE)
    ),
    "gptj": ("its attention in transformers has no place where probabilities can be taken", NO_TABLE),
    **dict.fromkeys(("qwen3_next", "qwen3_5_text"), ("most of its layers are no attention", NO_TABLE)),
}


def by_files(names: Iterable[str]) -> str:
    """What to do about files among which there are no weights that are read here."""
    names = tuple(names)
    for pattern, kind, remedy in FILES:
        for name in names:
            if fnmatch.fnmatchcase(name, pattern):
                return f"{name[:80]} is there, {kind}: {remedy}"
    return FORMAT


def without_config(directory: Path) -> str:
    """What to do about a directory without a config.json."""
    if not directory.is_dir():
        return FORMAT
    below = sorted(path.parent.name for path in directory.glob("*/config.json"))
    if below:
        return f"there is one below it: give {directory / below[0]}"
    return by_files(_names(directory))


def without_weights(directory: Path) -> str:
    """What to do about a directory without safetensors."""
    return by_files(_names(directory))


def by_parameters(names: Iterable[str]) -> str | None:
    """What to do about parameters that are not those of the model, by their names; None where nothing is known."""
    stored = tuple(names)
    last = {part for name in stored for part in name.split(".")[-2:]}
    if last & set(ADAPTER):
        return "these are weights of an adapter (LoRA): merge it (peft: merge_and_unload), and save the result"
    if last & set(QUANTISED):
        return "the weights are quantised: give the checkpoint that they were quantised from"
    for known in MISPLACED:
        for name in stored:
            prefix = name.removesuffix(known)
            if prefix != name and prefix.endswith("."):
                said = f"its parameters begin with {prefix[:80]!r}: {_origin(prefix)}"
                return f"{said}; rename them, without that prefix, in a copy of the weights"
    if "embed_tokens.weight" in stored:
        said = "its parameters lack the prefix 'model.': it is the base model alone, without a head"
        return f"{said}. Save the causal language model (AutoModelForCausalLM) that it is part of"
    if any(name.startswith(("model.language_model.", "language_model.", "visual.")) for name in stored):
        return "it is a model of text and images: give its language model, saved alone"
    if any(name.startswith("transformer.") for name in stored):
        return "its parameters are named as in another family, or in transformers' first Qwen: convert them"
    return None


def _origin(prefix: str) -> str:
    if "_orig_mod." in prefix:
        return "the model was saved while it was compiled (torch.compile)"
    if prefix.startswith(("module.", "_fsdp_wrapped_module.")):
        return "the model was saved from within a wrapper (DistributedDataParallel, FSDP)"
    if prefix.startswith("base_model.model."):
        return "the model was saved from within peft"
    return "the model was part of another"


def _names(directory: Path) -> list[str]:
    try:
        return sorted(path.name for path in directory.iterdir())
    except OSError:
        return []
