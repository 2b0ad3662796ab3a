"""What `goldens show` and `goldens list` print: a golden's model, cases and provenance, from its manifest.

Of a golden whose truth is stored in float32 one case is read: what that loses beside PyTorch's own error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from harness.architecture import architecture_of
from harness.costs import by_part, costs, said
from harness.families import families
from harness.golden import Manifest
from harness.report.blocks import Block, Page, Prose
from harness.report.tables import Column, Table
from harness.selecting import folded
from harness.store import Golden, open_golden
from harness.store.location import shown

SHOWN_TEXT = 44


def contents(golden: Golden) -> Page:
    """Facts first, then one line per case."""
    return _page("goldens show", tuple(_facts(golden)), _cases(golden.manifest))


def listing(paths: Iterable[Path]) -> Page:
    """A line for each golden, and the families that are known."""
    rows = []
    for path in paths:
        with open_golden(path) as golden:
            manifest = golden.manifest
            arch = architecture_of(manifest.model.config)
            sizes = f"{arch.layers}", f"{arch.hidden}", f"{manifest.model.parameter_count:,}"
            counts = *sizes, f"{len(manifest.cases)}", f"{golden.nbytes / 1e6:.1f} MB"
            rows.append((path.stem, arch.family, *counts, golden.id[:12]))
    numbers = (Column(name, "number") for name in ("layers", "hidden", "parameters", "cases", "size"))
    known = Prose(f"families that can be recorded and checked: {', '.join(families())}")
    return _page("goldens list", (), Table(("golden", "family", *numbers, "id"), tuple(rows)), known)


def _page(command: str, facts: tuple[tuple[str, str], ...], *body: Block) -> Page:
    return Page(command, command, word="", style="plain", said="", facts=facts, notes=(), body=body)


def _facts(golden: Golden) -> Iterator[tuple[str, str]]:
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
        held = {tap for case in manifest.cases for tap in case.taps}  # of those that its cases could have
        kinds = folded(held, manifest.taps)
        words = " ".join(manifest.selection.words)
        yield "selected", f"{words}: {len(held):,} of {len(manifest.taps):,} taps ({kinds})"
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
    sizes, rows = costs(manifest), []
    for case in manifest.cases:
        text = ascii(case.text)[1:-1]
        short = text if len(text) <= SHOWN_TEXT else text[: SHOWN_TEXT - 3] + "..."
        tokens = str(case.shape[1]) if case.shape[0] == 1 else f"{case.shape[0]} x {case.shape[1]}"
        size = decimal(sum(sizes[case.name].values()))
        rows.append((case.name, case.depth, tokens, str(len(case.taps)), size, short, case.why))
    numbers = (Column(name, "number") for name in ("tokens", "taps", "size"))
    return Table(("case", "level", *numbers, Column("text", "long"), Column("why", "long")), tuple(rows))


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
