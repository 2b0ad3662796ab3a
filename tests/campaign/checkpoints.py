"""Generators of checkpoint directories as nobody should have them: config, weights, index, tokenizer, the rest."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from harness.families.neutral import HARMLESS, ONLY, REFUSED
from tests.campaign.hostile import VALUES, changed, damaged, json_bytes
from tests.small_decoder import fields_read

FIELDS = [*sorted(fields_read()) * 3, *sorted(HARMLESS), *sorted(ONLY) * 2, *sorted(REFUSED), "per_layer_config"]
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
OTHERS = (
    "model.safetensors.index.json",
    "adapter_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
    "chat_template.jinja",
    "pytorch_model.bin",
    "model.fp16.safetensors",
)
DTYPES = ["int8", "int16", "int64", "float16", "float32", "float64", "bool", ml_dtypes.float8_e4m3fn]
PREFIXES = ["", "model.", "transformer.", "_orig_mod.", "module.", "base_model.model.", "language_model."]

Change = Callable[[Path], None]


@dataclass(frozen=True)
class Named:
    """A change of a directory, with what it does, for the message of a failure."""

    what: str
    change: Change

    def __repr__(self) -> str:
        return self.what


def configs(base: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """A config.json with fields of any value."""
    return json_bytes(changed(base, st.sampled_from(FIELDS) | st.text(max_size=8)))


def _write(name: str, content: bytes) -> Named:
    return Named(f"{name} = {content[:400]!r}", lambda directory: _replace(directory / name, content))


def _replace(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(content)


@st.composite
def _strange_file(draw: Any) -> Named:
    name, kind = (
        draw(st.sampled_from(FILES + OTHERS)),
        draw(st.sampled_from(["fifo", "folder", "loop", "none"])),
    )

    def change(directory: Path) -> None:
        path = directory / name
        path.unlink(missing_ok=True)
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind == "loop":
            path.symlink_to(path)

    return Named(f"{name}: {kind}", change)


@st.composite
def _tensors(draw: Any, names: list[str]) -> Named:
    name = draw(st.sampled_from(names))
    kind = draw(st.sampled_from(["drop", "rename", "prefix", "dtype", "shape", "value", "extra"]))
    to = draw(st.sampled_from(names) | st.text(min_size=1, max_size=20))
    dtype, prefix = draw(st.sampled_from(DTYPES)), draw(st.sampled_from(PREFIXES))
    value = draw(st.sampled_from([np.nan, np.inf, 1e38, 0.0, -1.0]))

    def change(directory: Path) -> None:
        path = directory / "model.safetensors"
        tensors = load_file(path)
        one = tensors[name]
        if kind == "drop":
            del tensors[name]
        elif kind == "rename":
            tensors[to.encode("utf-8", "replace").decode()] = tensors.pop(name)
        elif kind == "prefix":
            tensors = {prefix + name.removeprefix("model."): tensor for name, tensor in tensors.items()}
        elif kind == "dtype":
            tensors[name] = one.astype(np.float32).astype(dtype)
        elif kind == "shape":
            tensors[name] = np.ascontiguousarray(one[:-1])
        elif kind == "value":
            tensors[name] = one.copy()
            tensors[name].flat[0] = value
        else:
            tensors["model.extra.weight"] = one
        path.unlink()
        save_file(tensors, path)

    return Named(f"{kind} of {name}: {to!r} {prefix} {np.dtype(dtype)} {value}", change)


@st.composite
def _shards(draw: Any, names: list[str]) -> Named:
    """The weights in two shards, with an index that is right, or tells of others."""
    wrong = draw(st.dictionaries(st.sampled_from(names) | st.text(max_size=6), VALUES, max_size=2))
    single, raw = draw(st.booleans()), draw(st.none() | json_bytes(VALUES))

    def change(directory: Path) -> None:
        path = directory / "model.safetensors"
        tensors = load_file(path)
        homes = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(tensors)}
        for file in set(homes.values()):
            save_file({name: tensors[name] for name in tensors if homes[name] == file}, directory / file)
        if not single:
            path.unlink()
        index = raw if raw is not None else json.dumps({"metadata": {}, "weight_map": homes | wrong}).encode()
        _replace(directory / "model.safetensors.index.json", index)

    return Named(f"shards, single file kept: {single}, index changed: {wrong}, raw: {raw!r:.200}", change)


@st.composite
def _header(draw: Any, source: Path) -> Named:
    """The safetensors file with another header, or with damaged bytes."""
    content = (source / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    name = draw(st.sampled_from(sorted(header)))
    made = draw(json_bytes(changed(header, st.just(name))) | damaged(content[8 : 8 + length]))
    claimed = draw(st.sampled_from([len(made), len(made), len(made), 2**62, 0, len(made) + 5]))
    return _write("model.safetensors", struct.pack("<Q", claimed) + made + content[8 + length :])


def changes(source: Path) -> st.SearchStrategy[list[Named]]:
    """One or two changes of a copy of this checkpoint."""
    config = json.loads((source / "config.json").read_text())
    names = sorted(load_file(source / "model.safetensors"))
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    settings = json.loads((source / "tokenizer_config.json").read_text())
    one = st.one_of(
        configs(config).map(lambda content: _write("config.json", content)),
        configs(config).map(lambda content: _write("config.json", content)),
        _tensors(names),
        _shards(names),
        _header(source),
        _strange_file(),
        json_bytes(changed(tokenizer, st.sampled_from(sorted(tokenizer)))).map(
            lambda c: _write("tokenizer.json", c)
        ),
        json_bytes(changed(settings, st.sampled_from([*settings, "auto_map", "added_tokens_decoder", "x"]))).map(
            lambda content: _write("tokenizer_config.json", content)
        ),
        st.builds(_write, st.sampled_from(OTHERS), json_bytes(VALUES) | st.binary(max_size=50)),
    )
    return st.lists(one, min_size=1, max_size=2)


def apply(source: Path, target: Path, made: list[Named]) -> None:
    """A fresh copy of the checkpoint with these changes; one that no longer fits the other is passed over."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    for one in made:
        try:
            one.change(target)
        except Exception:  # the change before has taken away what this one changes
            continue
