"""How a config says that weights are quantised: two published formats are read, and others refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.families.family import Family
from harness.fields import Config, boolean, integer, table, text, wrong

FIELD = "quantization_config"
FP8, MXFP4 = "fp8", "mxfp4"
WIDENED = "bfloat16"  # what weights are widened to, by the code that is published with them
KEPT, BLOCK, METHOD, WIDEN = "modules_to_not_convert", "weight_block_size", "quant_method", "dequantize"
READ = (METHOD, KEPT, WIDEN)
UNQUANTISED = (
    "give the checkpoint that it was quantised from: what a quantised one computes depends on who runs it"
)
# Of every method, what other fields may say. What is done to activations is a matter of who runs it.
ONLY: Mapping[str, Mapping[str, tuple[object, ...]]] = {
    FP8: {
        "fmt": ("e4m3",),
        "activation_scheme": ("dynamic",),
        "scale_fmt": ("float", "ue8m0"),  # of scales that are stored in float32 either way
        "expert_dtype": (FP8,),
        "modules_to_convert": ([],),
    },
    MXFP4: {},
}


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
        allowed = ONLY[method].get(field.removeprefix(f"{FIELD}."), ())
        if value is not None and field not in read and value not in allowed:
            expected = " or ".join(map(str, allowed)) or "only fields whose meaning is known"
            raise wrong(_PROBLEM, field[:80], expected, value, UNQUANTISED)
    if fields.get(f"{FIELD}.{WIDEN}") is not None:
        boolean(fields, f"{FIELD}.{WIDEN}")  # whether transformers widens them as it loads: we always do
    kept = fields.get(f"{FIELD}.{KEPT}") or []
    if not isinstance(kept, list) or not all(isinstance(one, str) and one for one in kept):
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


_PROBLEM = "the weights are quantised in a way that is not read here"
