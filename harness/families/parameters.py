"""Which parameters a model has, what they are called, and which part of one is an operation's, or an expert's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from jaxtyping import Num

from harness.families import Family
from harness.families.graph import kinds_of
from harness.families.options import Architecture, Experts, Latent, Norm

Shape = tuple[int, ...]
Tensor = Num[np.ndarray, "..."]
NORMS = ("attn_norm", "attn_post_norm", "mlp_norm", "mlp_post_norm")
HEAD_NORMS = ("q_norm", "k_norm")
LATENT_NORMS = ("q_latent_norm", "kv_latent_norm")
# What all experts have in one parameter each, by the parameter's last name.
GATE_UP, DOWN, CORRECTION = "gate_up_proj", "down_proj", "e_score_correction_bias"
PARTS = ("gate", "up", "down")


def shapes(family: Family, arch: Architecture) -> dict[str, Shape]:
    """The shape of every parameter, by the name that transformers' modules give it, in no special order.

    Matrices are [output, input], or the other way round where the family stores them so.
    """
    family = family.of(arch)
    by_name: dict[str, Shape] = {f"{family.model['embed']}.weight": (arch.vocab, arch.hidden)}
    if arch.learned_positions:
        by_name[f"{family.model['positions']}.weight"] = (arch.learned_positions, arch.hidden)
    by_name |= _norm(family.model["final_norm"], arch.norm, (arch.hidden,))
    by_name |= _matrix(family, arch, family.model["logits"], ("logits",), arch.vocab, arch.hidden)
    layers = {sparse: _of_a_layer(family, arch, sparse) for sparse in map(arch.is_sparse, range(arch.layers))}
    for index in range(arch.layers):
        layer = layers[arch.is_sparse(index)]
        by_name |= {f"{family.layers}.{index}.{name}": shape for name, shape in layer.items()}
    return by_name


def _of_a_layer(family: Family, arch: Architecture, sparse: bool) -> dict[str, Shape]:
    kinds, paths = kinds_of(arch, sparse), family.paths(sparse)
    by_name: dict[str, Shape] = expert_shapes(family, arch) if sparse else {}
    for kind, norm, shape in norms(arch, sparse):
        by_name |= _norm(paths[kind], norm, shape)
    if arch.sinks:
        by_name[f"{paths['probs']}.sinks"] = (arch.heads,)
    sizes = outputs(arch, sparse)
    for path in dict.fromkeys(paths[kind] for kind in sizes if kind in kinds):
        sharing = tuple(kind for kind in sizes if kind in kinds and paths[kind] == path)
        rows, columns = sum(sizes[kind] for kind in sharing), inputs(arch, sharing[0])
        by_name |= _matrix(family, arch, path, sharing, rows, columns)
    return by_name


def outputs(arch: Architecture, sparse: bool = False) -> Mapping[str, int]:
    """How many outputs the projection of each kind has, in the order in which a shared matrix has them.

    Args:
        sparse: of a layer with experts: of these the shared one alone has projections of its own.
    """
    attention = {
        "q": arch.heads * arch.head_dim,
        "k": arch.kv_heads * arch.head_dim,
        "v": arch.kv_heads * arch.head_dim,
        "attn_out": arch.hidden,
    }
    if arch.mla is not None:
        attention = _of_latent_attention(arch, arch.mla)
    if not sparse:
        return {**attention, "gate": arch.intermediate, "up": arch.intermediate, "mlp_out": arch.hidden}
    shared = arch.experts.shared if arch.experts else 0
    return {**attention, "shared_gate": shared, "shared_up": shared, "shared_out": arch.hidden, "shared_weight": 1}


def _of_latent_attention(arch: Architecture, mla: Latent) -> dict[str, int]:
    return {
        **({"q_latent": mla.q_rank} if mla.q_rank else {}),
        "q": arch.heads * arch.head_dim,
        "kv_latent": mla.kv_rank,
        "k_pe": mla.rope,
        "kv": arch.heads * (mla.nope + mla.value),
        "attn_out": arch.hidden,
    }


def inputs(arch: Architecture, kind: str) -> int:
    """How many inputs the projection of a kind has."""
    shared = arch.experts.shared if arch.experts else 0
    sizes = {"attn_out": arch.heads * arch.value_dim, "mlp_out": arch.intermediate, "shared_out": shared}
    if arch.mla is not None:
        sizes |= {"q": arch.mla.q_rank or arch.hidden, "kv": arch.mla.kv_rank}
    return sizes.get(kind, arch.hidden)


def norms(arch: Architecture, sparse: bool) -> Iterator[tuple[str, Norm, Shape]]:
    """The kinds of taps of a layer that are norms, each with its norm and the shape of the weight."""
    for kind in kinds_of(arch, sparse):
        if kind in HEAD_NORMS and arch.qk_norm is not None:
            heads, size = arch.heads if kind == "q_norm" else arch.kv_heads, arch.head_dim
            shapes = {"all": (heads * size,), "each": (heads, size), "head": (size,)}
            yield kind, arch.qk_norm, shapes[arch.qk_norm_over]
        elif kind in LATENT_NORMS and arch.mla is not None:
            yield kind, arch.mla.norm, (arch.mla.kv_rank if kind == "kv_latent_norm" else arch.mla.q_rank or 0,)
        elif kind in NORMS:
            yield kind, arch.norm, (arch.hidden,)


def parameter_of(
    family: Family, arch: Architecture, read: Callable[[str], Tensor], kind: str, index: int, name: str = "weight"
) -> Tensor:
    """A parameter of a layer that makes a kind of tap; of a projection as [output, input], its own outputs alone.

    Args:
        read: gives a parameter by its name, as it is stored.
        name: `weight` or `bias`.
    """
    tensor = read(parameter_name(family, arch, kind, index, name))
    if kind not in outputs(arch, arch.is_sparse(index)):
        return tensor
    return part_of(family, arch, kind, tensor.T if tensor.ndim == 2 and family.stored_transposed else tensor)


def parameter_name(family: Family, arch: Architecture, kind: str, index: int, name: str = "weight") -> str:
    """What the parameter of a layer that makes a kind of tap is called; it may make others as well."""
    return f"{family.layers}.{index}.{family.of(arch).paths(arch.is_sparse(index))[kind]}.{name}"


def part_of(family: Family, arch: Architecture, kind: str, tensor: Tensor) -> Tensor:
    """The rows of a weight or a bias, [output, ...], that belong to a kind: all of them, unless it is shared."""
    family, sizes = family.of(arch), {**outputs(arch, sparse=True), **outputs(arch)}
    paths = {**family.sparse, **family.layer} if kind in outputs(arch) else family.paths(sparse=True)
    sharing = [output for output in sizes if output in paths and paths[output] == paths[kind]]
    if len(sharing) == 1:
        return tensor
    if family.by_head:
        parts = tensor.reshape(arch.heads, len(sharing), arch.head_dim, *tensor.shape[1:])
        return parts[:, sharing.index(kind)].reshape(-1, *tensor.shape[1:])
    start = sum(sizes[output] for output in sharing[: sharing.index(kind)])
    return tensor[start : start + sizes[kind]]


def made_with(family: Family, name: str) -> tuple[int | None, tuple[str, ...], str]:
    """Of a parameter: its layer, None outside of them; the kinds of taps that are made with it; its last name."""
    path, _, last = name.rpartition(".")
    if not path.startswith(f"{family.layers}."):
        return None, tuple(kind for kind, own in family.model.items() if own == path), last
    index, _, inner = path.removeprefix(f"{family.layers}.").partition(".")
    places = (*family.layer.items(), *family.undivided.items(), *family.sparse.items())
    return int(index), tuple(dict.fromkeys(kind for kind, own in places if own == inner)), last


def rows_of(family: Family, arch: Architecture, kind: str, outputs_in_all: int) -> Num[np.ndarray, " rows"]:
    """Which of the outputs of a parameter belong to a kind."""
    rows = np.arange(outputs_in_all)
    return part_of(family, arch, kind, rows) if kind in outputs(arch) else rows


def _norm(path: str, norm: Norm, shape: Shape) -> dict[str, Shape]:
    return {f"{path}.weight": shape} | ({f"{path}.bias": shape} if norm.bias else {})


def _matrix(
    family: Family, arch: Architecture, path: str, kinds: tuple[str, ...], rows: int, columns: int
) -> dict[str, Shape]:
    turned = family.stored_transposed and kinds != ("logits",)
    weight = {f"{path}.weight": (columns, rows) if turned else (rows, columns)}
    return weight | ({f"{path}.bias": (rows,)} if arch.biases & set(kinds) else {})


def expert_shapes(family: Family, arch: Architecture) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of router and experts in a layer that has some, without the shared one's."""
    experts = experts_of(arch)
    router, path = family.sparse["router_logits"], family.sparse["experts_out"]
    by_name: dict[str, tuple[int, ...]] = {f"{router}.weight": (experts.count, arch.hidden)}
    if experts.bias:
        by_name[f"{router}.bias"] = (experts.count,)
    if experts.corrected:
        by_name[f"{router}.{CORRECTION}"] = (experts.count,)
    sizes = {GATE_UP: (2 * experts.intermediate, arch.hidden), DOWN: (arch.hidden, experts.intermediate)}
    for name, (outputs, inputs) in sizes.items():
        matrix = (inputs, outputs) if family.experts_transposed else (outputs, inputs)
        by_name[f"{path}.{name}"] = (experts.count, *matrix)
        if experts.bias:
            by_name[f"{path}.{name}_bias"] = (experts.count, outputs)
    return by_name


def experts_of(arch: Architecture) -> Experts:
    """The experts of an architecture that has some."""
    assert arch.experts is not None
    return arch.experts


def expert_parameter(
    family: Family, read: Callable[[str], Tensor], part: str, index: int, name: str = "weight"
) -> Tensor:
    """A part of all experts of a layer, [expert, output, input]; a bias, [expert, output].

    Args:
        read: gives a parameter by its name.
        part: one of `PARTS`.
        name: `weight` or `bias`.
    """
    tensor = read(expert_name(family, part, index, name))
    if name == "weight" and family.experts_transposed:
        tensor = tensor.swapaxes(1, 2)
    return tensor[:, part_rows(family, part, tensor.shape[1])]


def expert_name(family: Family, part: str, index: int, name: str = "weight") -> str:
    """What the parameter of a layer is called that has a part of its experts."""
    last = f"{DOWN if part == 'down' else GATE_UP}{'_bias' if name == 'bias' else ''}"
    return f"{family.layers}.{index}.{family.sparse['experts_out']}.{last}"


def part_rows(family: Family, part: str, outputs: int) -> slice:
    """Which outputs of the matrix that has it are a part's."""
    if part == "down":
        return slice(None)
    if family.interleaved:
        return slice(int(part == "up"), None, 2)
    half = outputs // 2
    return slice(half) if part == "gate" else slice(half, None)
