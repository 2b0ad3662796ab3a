"""What `goldens show` prints: a golden's model, cases and provenance, from its manifest alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness.golden import Manifest
from harness.store import Golden

SHOWN_TEXT = 44


def contents(golden: Golden) -> RenderableType:
    """The golden's page: facts first, then one line per case."""
    return Group(_facts(golden), Text(), _cases(golden.manifest))


def _facts(golden: Golden) -> Table:
    manifest = golden.manifest
    model, arrays = manifest.model, manifest.arrays
    grid = Table.grid(padding=(0, 2))
    grid.add_row("golden", golden.path)
    grid.add_row("id", golden.id)
    grid.add_row("size", f"{golden.nbytes / 1e6:.1f} MB, {len(arrays):,} arrays, truth in {manifest.truth_dtype}")
    grid.add_row("format", f"version {manifest.version}, level {manifest.level}")
    grid.add_row("model", f"{model.id}: {model.parameter_count:,} parameters in {len(model.parameters)} tensors")
    grid.add_row("biases", f"{len(model.biases)}: {_kinds(model.biases)}")
    grid.add_row("config", ", ".join(f"{k} {v}" for k, v in sorted(model.config.items()) if _is_plain(v)))
    published = manifest.tokenizer.published
    whose = f"the published {published} one" if published else "the checkpoint's own"
    grid.add_row("tokenizer", f"{whose}, sha256 {manifest.tokenizer.sha256[:12]}")
    grid.add_row("corpus", f"sha256 {manifest.corpus_sha256[:12]}")
    grid.add_row("noise", f"{', '.join(manifest.precisions)}, forward and replay")
    for name, value in manifest.environment.items():
        grid.add_row(name, _flat(value))
    grid.add_row("command", manifest.command)
    return grid


def _cases(manifest: Manifest) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("case", "tokens", "level", "taps", "text"):
        table.add_column(column, justify="right" if column in ("tokens", "taps") else "left", no_wrap=True)
    table.add_column("why")
    for case in manifest.cases:
        shown = ascii(case.text)[1:-1]
        short = shown if len(shown) <= SHOWN_TEXT else shown[: SHOWN_TEXT - 3] + "..."
        tokens = str(case.shape[1]) if case.shape[0] == 1 else f"{case.shape[0]} x {case.shape[1]}"
        table.add_row(case.name, tokens, case.level, str(len(case.taps)), Text(short), case.why)
    return table


def _kinds(names: tuple[str, ...]) -> str:
    return ", ".join(sorted({".".join(name.split(".")[-2:]) for name in names})) or "none"


def _is_plain(value: object) -> bool:
    return isinstance(value, (str, int, float, bool))


def _flat(value: object) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    items: Mapping[str, Any] = value
    return ", ".join(f"{key} {_flat(item)}" for key, item in items.items())
