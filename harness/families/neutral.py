"""The fields of a config.json that are not read here: those that change nothing, and those that would.

A field that is passed over in silence is a claim that it changes nothing, and the same field is read in other
stacks. So every field is known by name: read by the family, harmless whatever it says, harmless as long as it says
what the model does anyway, or refused. A field that is null says nothing. `quantization_config` says how weights
are quantised: two published formats are read, and others refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

from harness.families import Family
from harness.fields import REMOVE, Config, boolean, integer, table, text, wrong

FIELD = "quantization_config"
FP8, MXFP4 = "fp8", "mxfp4"
WIDENED = "bfloat16"  # what weights are widened to, by the code that is published with them
KEPT, BLOCK, METHOD, WIDEN = "modules_to_not_convert", "weight_block_size", "quant_method", "dequantize"
READ = (METHOD, KEPT, WIDEN)
UNQUANTISED = (
    "give the checkpoint that it was quantised from: what a quantised one computes depends on who runs it"
)
# Of every method, what other fields may say. What is done to activations is a matter of who runs it.
METHODS: Mapping[str, Mapping[str, tuple[object, ...]]] = {
    FP8: {
        "fmt": ("e4m3",),
        "activation_scheme": ("dynamic",),
        "scale_fmt": ("float", "ue8m0"),  # of scales that are stored in float32 either way
        "expert_dtype": (FP8,),
        "modules_to_convert": ([],),
    },
    MXFP4: {},
}
_PROBLEM = "the weights are quantised in a way that is not read here"

LOOKED_AT = frozenset({"model_type", "architectures", "torch_dtype", "dtype", FIELD})
DTYPES = ("float64", "float32", "float16", "bfloat16")

# Names, numbers of tokens, training, generation, and what a run returns or how it is computed.
_HARMLESS = """
    _name_or_path name_or_path _commit_hash transformers_version tokenizer_class model_max_length seq_length
    unsloth_fixed unsloth_version finetuning_task task_specific_params problem_type id2label label2id
    num_labels bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id decoder_start_token_id prefix
    max_position_embeddings initializer_range attention_dropout hidden_dropout hidden_dropout_prob attn_pdrop
    resid_pdrop embd_pdrop classifier_dropout gradient_checkpointing use_cache return_dict output_attentions
    output_hidden_states torchscript chunk_size_feed_forward pretraining_tp use_bfloat16 _attn_implementation
    _attn_implementation_autoset attn_implementation keys_to_ignore_at_inference max_length min_length
    do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p
    repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
    num_return_sequences output_scores return_dict_in_generate forced_bos_token_id forced_eos_token_id
    remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens max_new_tokens
    num_nextn_predict_layers num_mtp_layers
"""

HARMLESS = frozenset(_HARMLESS.split())

# Fields that some families read. In one that does not, they may only say what it does anyway: anything else is
# another function, in another stack.
ONLY: Mapping[str, object] = {
    "attention_bias": False,
    "qkv_bias": False,
    "mlp_bias": False,
    "is_causal": True,
    "is_decoder": False,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
    "tie_encoder_decoder": False,
    "pruned_heads": {},
    "use_mrope": False,
    "use_qk_norm": False,
    "qk_layernorm": False,
    "rope_interleaved": False,
    "partial_rotary_factor": 1.0,
    "logit_scale": 1.0,
    "logits_scaling": 1.0,
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
}

# What is refused with a reason of its own: problem, hint.
REFUSED: Mapping[str, tuple[str, str]] = {
    "auto_map": (
        "the checkpoint brings code of its own, which is not run",
        "where that code computes what transformers' own model does, remove the field from a copy of config.json",
    ),
    "adapter_path": (
        "the checkpoint points to an adapter beside it",
        "merge the adapter into the weights (peft: merge_and_unload, then save_pretrained), and give the result",
    ),
}


class Read(Mapping[str, Any]):
    """A config that remembers which of its fields were looked at."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.fields: set[str] = set()

    def __getitem__(self, field: str) -> Any:
        self.fields.add(field)
        return self._config[field]

    def __iter__(self) -> Iterator[str]:
        return iter(self._config)

    def __len__(self) -> int:
        return len(self._config)


class Named(Mapping[str, Any]):
    """A config whose fields have other names, or a value where there is none.

    Args:
        names: of the config's own fields, by the names that others give them, which it may use as well.
        absent: by field, what it is where it is missing or null.

    Raises:
        CheckpointError: a field is given under both names, and differently.
    """

    def __init__(self, config: Config, names: Mapping[str, str] | None = None, **absent: Any) -> None:
        self._config, self._names, self._absent = config, names or {}, absent
        for field, own in self._names.items():
            values = [config.get(name) for name in (own, field)]
            if None not in values and values[0] != values[1]:
                raise wrong("the config says this twice, and differently", f"{own} and {field}", "one", values)

    def __getitem__(self, field: str) -> Any:
        for name in (self._names.get(field, field), field):
            if self._config.get(name) is not None:
                return self._config[name]
        return self._absent[field] if field in self._absent else self._config[field]

    def __contains__(self, field: object) -> bool:
        own = self._names.get(str(field), field)
        return field in self._absent or field in self._config or own in self._config

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._config, *self._names, *self._absent)))

    def __len__(self) -> int:
        return len(list(iter(self)))


def refuse_unknown(config: Config, read: Set[str], family: Family) -> None:
    """Refuse a config with a field that could change the function and is not read.

    Args:
        read: the fields that the family has looked at.

    Raises:
        CheckpointError: naming the first such field.
    """
    only = {**ONLY, **family.only}
    for field, value in config.items():
        if value is None or field in read or field in LOOKED_AT or field in HARMLESS | family.harmless:
            continue
        if field in REFUSED:
            problem, hint = REFUSED[field]
            raise wrong(problem, field, "no such field", value, hint)
        if field not in only:
            problem = "the config has a field that is not known here, and may change what the model computes"
            raise wrong(problem, field[:80], "only fields whose meaning is known", value, REMOVE)
        if isinstance(value, bool) is not isinstance(only[field], bool) or value != only[field]:
            problem = "the config asks for something that this model family does not do"
            hint = "remove the field if it is wrong; transformers does not read it, and other stacks do"
            raise wrong(problem, field, only[field], value, hint)
    quantisation_of(config, family)
    _refuse_another_class(config, family.classes)
    for field in ("torch_dtype", "dtype"):
        if config.get(field) is not None and config[field] not in DTYPES:
            raise wrong("the config names a dtype that weights are not read in", field, _or(DTYPES), config[field])


def _refuse_another_class(config: Config, known: tuple[str, ...]) -> None:
    classes = config.get("architectures")
    if classes is None:
        return
    if not isinstance(classes, list) or not classes or not all(name in known for name in classes):
        hint = "what is recorded is the causal language model; where it is one, mend the field in a copy"
        expected = f"a list of {_or(known)}"
        raise wrong("the config names another class of model", "architectures", expected, classes, hint)


def _or(names: tuple[str, ...]) -> str:
    return " or ".join(names)


@dataclass(frozen=True)
class Quantisation:
    """How weights of a checkpoint are quantised.

    Attributes:
        method: `fp8` or `mxfp4`.
        block: rows and columns that share a scale; of fp8 alone.
        kept: patterns of modules that are not quantised.
    """

    method: str
    block: tuple[int, int] = (0, 0)
    kept: tuple[str, ...] = ()


def quantisation_of(config: Config, family: Family) -> Quantisation | None:
    """How a config says that its weights are quantised; None where it does not.

    Raises:
        CheckpointError: in a way that is not read here, or not in this family; a field that is not known.
    """
    if config.get(FIELD) is None:
        return None
    fields = {f"{FIELD}.{name}": value for name, value in table(config, FIELD).items()}
    method = text(fields, f"{FIELD}.{METHOD}")
    if method not in family.quantised:
        known = " or ".join(family.quantised) or f"none: of {family.model_type} no quantised weights are read"
        raise wrong(_PROBLEM, f"{FIELD}.{METHOD}", known, method, UNQUANTISED)
    read = {f"{FIELD}.{name}" for name in (*READ, *([BLOCK] if method == FP8 else ()))}
    for field, value in fields.items():
        allowed = METHODS[method].get(field.removeprefix(f"{FIELD}."), ())
        if value is not None and field not in read and value not in allowed:
            expected = " or ".join(map(str, allowed)) or "only fields whose meaning is known"
            raise wrong(_PROBLEM, field[:80], expected, value, UNQUANTISED)
    if fields.get(f"{FIELD}.{WIDEN}") is not None:
        boolean(fields, f"{FIELD}.{WIDEN}")  # whether transformers widens them as it loads: we always do
    kept = fields.get(f"{FIELD}.{KEPT}") or []
    if not isinstance(kept, list) or not all(isinstance(module, str) and module for module in kept):
        raise wrong("a field of the config is no list of modules", f"{FIELD}.{KEPT}", "a list of names", kept)
    if method == MXFP4:
        return Quantisation(method, kept=tuple(kept))
    for field in ("torch_dtype", "dtype"):
        if config.get(field) not in (None, WIDENED):
            raise wrong("fp8 weights are widened to bfloat16 alone", field, WIDENED, config[field])
    return Quantisation(method, _block(fields, f"{FIELD}.{BLOCK}"), tuple(kept))


def _block(fields: Config, field: str) -> tuple[int, int]:
    given = fields.get(field)
    if not isinstance(given, list) or len(given) != 2:
        raise wrong("the config does not say how large the blocks of a scale are", field, "two numbers", given)
    rows, columns = (integer({field: size}, field) for size in given)
    return rows, columns
