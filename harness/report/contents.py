"""What `goldens show` prints: a golden's model, cases and provenance, from its manifest.

Of a golden whose truth is stored in float32 one case is read: what that loses beside PyTorch's own error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from harness.architecture import architecture_of
from harness.costs import by_part, costs
from harness.families import families
from harness.golden import Manifest
from harness.loss import said
from harness.report.layout import print_parts
from harness.selected import folded
from harness.store import Golden, open_golden
from harness.store.location import shown

SHOWN_TEXT = 44


def print_contents(golden: Golden, console: Console) -> None:
    """The golden's page: facts first, then one line per case."""
    print_parts((_facts(golden), Text(), _cases(golden.manifest)), console)


def print_list(paths: Iterable[Path], console: Console) -> None:
    """A line for each golden, and the families that are known."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("golden", "family", "layers", "hidden", "parameters", "cases", "size", "id"):
        table.add_column(column, justify="left" if column in ("golden", "family", "id") else "right", no_wrap=True)
    for path in paths:
        with open_golden(path) as golden:
            manifest = golden.manifest
            arch = architecture_of(manifest.model.config)
            sizes = f"{arch.layers}", f"{arch.hidden}", f"{manifest.model.parameter_count:,}"
            counts = *sizes, f"{len(manifest.cases)}", f"{golden.nbytes / 1e6:.1f} MB"
            table.add_row(*map(Text, (path.stem, arch.family, *counts, golden.id[:12])))
    known = Text(f"families that can be recorded and checked: {', '.join(families())}")
    print_parts((table, Text(), known), console)


def _facts(golden: Golden) -> Table:
    grid = Table.grid(padding=(0, 2))
    for label, value in _lines(golden):
        grid.add_row(Text(label), Text(value))
    return grid


def _lines(golden: Golden) -> Iterator[tuple[str, str]]:
    manifest = golden.manifest
    model, arrays = manifest.model, manifest.arrays
    yield "golden", shown(golden.path)
    yield "id", golden.id
    yield "size", f"{golden.nbytes / 1e6:.1f} MB, {len(arrays):,} arrays, truth in {manifest.truth_dtype}"
    yield "parts", ", ".join(f"{part} {decimal(size)}" for part, size in by_part(costs(manifest)).items() if size)
    loss = said(golden)
    if loss:
        yield "loss", loss
    yield "format", f"version {manifest.version}, level {manifest.level}"
    if manifest.selection:
        yield "selected", f"{' '.join(manifest.selection.words)}: {_how_many(manifest)}"
    top = {case.top for case in manifest.cases if isinstance(case.top, int)}
    if top:
        yield "logits", f"the {max(top):,} largest of {manifest.sizes['vocab']:,} at each position; bounds for KL"
    yield "model", f"{model.id}: {model.parameter_count:,} parameters in {len(model.parameters)} tensors"
    yield "biases", f"{len(model.biases)}: {_kinds(model.biases)}"
    yield "config", _flat(dict(sorted(model.config.items())))
    published = manifest.tokenizer.published
    whose = f"the published {published} one" if published else "the checkpoint's own"
    yield "tokenizer", f"{whose}, sha256 {manifest.tokenizer.sha256[:12]}"
    yield "corpus", f"sha256 {manifest.corpus_sha256[:12]}"
    yield "noise", f"{', '.join(manifest.precisions)}, forward and replay"
    yield from ((name, _flat(value)) for name, value in manifest.environment.items())
    yield "command", manifest.command


def _cases(manifest: Manifest) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    sizes = costs(manifest)
    for column in ("case", "tokens", "level", "taps", "size", "text"):
        table.add_column(column, justify="right" if column in ("tokens", "taps", "size") else "left", no_wrap=True)
    table.add_column("why")
    for case in manifest.cases:
        text = ascii(case.text)[1:-1]
        short = text if len(text) <= SHOWN_TEXT else text[: SHOWN_TEXT - 3] + "..."
        tokens = str(case.shape[1]) if case.shape[0] == 1 else f"{case.shape[0]} x {case.shape[1]}"
        size = decimal(sum(sizes[case.name].values()))
        table.add_row(*map(Text, (case.name, tokens, case.depth, str(len(case.taps)), size, short, case.why)))
    return table


def _how_many(manifest: Manifest) -> str:
    """How many of the taps that its cases could have they do have, and which those are."""
    held = {tap for case in manifest.cases for tap in case.taps}
    return f"{len(held):,} of {len(manifest.taps):,} taps ({folded(held, manifest.taps)})"


def _kinds(names: tuple[str, ...]) -> str:
    return ", ".join(sorted({".".join(name.split(".")[-2:]) for name in names})) or "none"


def _flat(value: object) -> str:
    """A value in one line, whatever is nested in it; what is nested in a mapping is in brackets."""
    if isinstance(value, Mapping):
        items: Mapping[str, Any] = value
        return ", ".join(f"{key} {_within(item)}" for key, item in items.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_within, value)) or "none"
    return "none" if value is None else str(value)


def _within(value: object) -> str:
    return f"({_flat(value)})" if isinstance(value, Mapping | list | tuple) else _flat(value)
