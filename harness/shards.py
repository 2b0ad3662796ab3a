"""Which file of a checkpoint directory holds which parameter: one file, or shards with an index.

transformers reads `model.safetensors` where there is one and passes over an index beside it; others read the
index, or every *.safetensors that they find. Where two readers would read different weights nothing is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from harness import recognise, strict_json
from harness.errors import CheckpointError
from harness.regular import MIB, read_regular

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
AGAIN = "copy the checkpoint again, without files of another one"
LONGEST = 64 * MIB  # of an index

Names = Callable[[Path], Sequence[str]]


def homes(directory: Path, names: Names) -> dict[str, Path]:
    """Parameter name -> the file that holds it.

    Args:
        names: the names of the tensors in a file.

    Raises:
        CheckpointError: no weights, or two sets of them; an adapter beside them; an index that cannot be read, or
            shards that do not hold exactly what it says.
    """
    _refuse_adapter(directory)
    single, index = directory / SINGLE, directory / INDEX
    if index.exists() and single.exists():
        raise CheckpointError(
            "the checkpoint has one file of weights and an index of shards besides",
            where=directory,
            expected=f"{SINGLE}, or shards with {INDEX}",
            found=f"{SINGLE} and {INDEX}",
            hint=f"remove those that are not meant: transformers reads {SINGLE}, other readers the shards",
        )
    if not index.exists():
        return dict.fromkeys(names(single), single)
    mapped = _weight_map(index)
    stored: dict[str, str] = {}
    for shard in sorted(set(mapped.values())):
        for name in names(directory / shard):
            if name in stored:
                found = f"{stored[name]} and {shard}"
                raise CheckpointError("two shards hold one parameter", where=name[:200], found=found, hint=AGAIN)
            stored[name] = shard
    for name in (*mapped, *stored):
        if mapped.get(name) != stored.get(name):
            expected, held = (of.get(name, "no such parameter") for of in (mapped, stored))
            problem, where = "the shards do not hold what their index says", f"{index}: {name[:200]}"
            raise CheckpointError(problem, where=where, expected=expected, found=held, hint=AGAIN)
    return {name: directory / shard for name, shard in stored.items()}


def _refuse_adapter(directory: Path) -> None:
    hint = recognise.adapter(directory)
    if hint:
        raise CheckpointError(
            "the checkpoint has an adapter beside its weights, which transformers loads where peft is installed",
            where=directory / "adapter_config.json",
            hint=f"{hint}; or remove it",
        )


def _weight_map(index: Path) -> dict[str, str]:
    """Parameter name -> name of its shard, as the index says."""
    try:
        document = strict_json.parse(read_regular(index, LONGEST))
        found = document["weight_map"]
        if not found or not all(_is_plain(shard) for shard in found.values()):
            raise ValueError("weight_map is not a table of parameters and names of files beside it")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"the index of the shards cannot be read: {error!r}"[:300], where=index, hint="copy it again"
        ) from None
    return dict(found)


def _is_plain(shard: object) -> bool:
    """Whether it is the name of a file in the same directory."""
    return isinstance(shard, str) and Path(shard).name == shard and "\0" not in shard
