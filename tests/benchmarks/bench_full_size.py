"""A model of a published size: recorded and checked, beside the plain forward passes of the same tokens.

    python -m tests.benchmarks.bench_full_size [--geometry 0.5b|1.5b|7b] [--layers N] [--folder DIR]

Makes a checkpoint with random structured weights in shards, records all operations, checks them at three
precisions in forward, and in forward and replay, and prints each beside what it is made of: transformers' forward
passes, a jitted JAX forward pass with its loading and compiling, reading and hashing the files. Each runs in a
process of its own, one after the other, and is measured from the first import. It needs the `record` extra.

The plain passes of transformers hold the whole model: where that is too large, they are measured with 1 and with a
few layers, and what a layer takes is counted as often as there are layers.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from harness.store import open_golden
from tests.benchmarks import full_size, plain
from tests.benchmarks.full_size import GEOMETRIES, Geometry

PRECISIONS = ("float64", "float32", "bfloat16")
BYTES_OF = {"float64": 8, "float32": 4, "bfloat16": 2}
MODES = {"forward": ("forward",), "forward and replay": ("forward", "replay")}
SHARE_OF_MEMORY = 0.6
# Where the time of a recording goes: by what is printed, the module and the function that are timed.
PARTS = {
    "load": ("harness.record.model", "Reference.load"),
    "passes": ("harness.record.unit", "_run"),
    "noise": ("harness.record.unit", "noise_floors"),
    "unfinished work": ("harness.record.work", "Work.save"),
    "write": ("harness.record.recorder", "write_golden"),
}


@dataclass(frozen=True)
class Place:
    """Where everything of one run lies."""

    folder: Path
    geometry: Geometry
    layers: int

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def golden(self) -> Path:
        return self.folder / "golden.h5"

    @property
    def prompts(self) -> list[list[int]]:
        return [list(prompt.text.encode()) for prompt in full_size.corpus(self.geometry).prompts]

    def parameters(self, layers: int) -> int:
        """How many there are with so many layers."""
        one = self.geometry
        heads = (one.heads + 2 * one.kv_heads) * (one.hidden // one.heads)
        layer = one.hidden * (heads + one.hidden + 3 * one.intermediate)
        return layers * layer + one.vocab * one.hidden * (1 if one.tied else 2)


def record(place: Place) -> dict[str, Any]:
    from harness.record.recorder import Options
    from harness.record.recorder import record as recorded

    spent: dict[str, float] = {}
    for name, (module, function) in PARTS.items():
        _time(spent, name, module, function)
    done = recorded(
        place.checkpoint, "full-size", full_size.corpus(place.geometry), str(place.golden), Options(overwrite=True)
    )
    return {"parts": spent, "taps": done.taps}


def _time(spent: dict[str, float], name: str, module: str, function: str) -> None:
    """Count the seconds that a function takes under a name."""
    import importlib

    *owner, last = function.split(".")
    holder: Any = importlib.import_module(module)
    for part in owner:
        holder = getattr(holder, part)
    original: Callable[..., Any] = getattr(holder, last)

    def timed(*args: Any, **more: Any) -> Any:
        started = time.perf_counter()
        try:
            return original(*args, **more)
        finally:
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - started

    setattr(holder, last, timed)


def check(place: Place, precision: str, modes: str) -> dict[str, Any]:
    from harness.run.check import Checker
    from harness.run.port import BUILT_IN
    from harness.run.question import Question

    question = Question(precisions=(precision,), modes=MODES[modes])
    with Checker(place.golden, place.checkpoint, BUILT_IN, question) as checker:
        run = checker.run(precision)
        report = checker.report([run])
    results = run.results
    share = max(result.share for result in results)
    logits = max((r.max_abs or 0.0) for r in results if r.tap == "logits")
    return {"verdict": report.verdict, "compared": len(results), "share": share, "logits": logits}


def worker(place: Place, what: str, precision: str, modes: str, layers: int) -> dict[str, Any]:
    """What one process measures."""
    if what == "record":
        return record(place)
    if what == "check":
        return check(place, precision, modes)
    if what == "read":
        return plain.read_and_hash([place.golden, *sorted(place.checkpoint.glob("*.safetensors"))])
    run = plain.transformers_forward if what == "transformers" else plain.jax_forward
    return run(place.checkpoint, precision, place.prompts, layers)


def measured(
    asked: argparse.Namespace, place: Place, what: str, *, precision: str = "", modes: str = "", layers: int = 0
) -> dict[str, Any]:
    """Run a worker in a process of its own; its seconds from the first import and its peak of memory with it."""
    words = [sys.executable, "-m", "tests.benchmarks.bench_full_size", "--worker", what]
    words += ["--geometry", asked.geometry, "--layers", str(place.layers), "--folder", str(place.folder)]
    words += ["--precision", precision, "--modes", modes, "--of-layers", str(layers or place.layers)]
    started = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"})
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{' '.join(words)}\n{done.stderr[-3000:]}")
    Console(stderr=True).print(f"{' '.join(filter(None, (what, precision, modes)))}: {seconds:.0f} s", style="dim")
    return {"seconds": seconds, **json.loads(done.stdout.splitlines()[-1])}


def transformers_passes(asked: argparse.Namespace, place: Place, precision: str) -> tuple[list[float], str]:
    """Seconds of a plain forward pass of each prompt, and how they were measured."""
    room = SHARE_OF_MEMORY * psutil.virtual_memory().total / BYTES_OF[precision]
    fits = max((n for n in range(1, place.layers + 1) if place.parameters(n) < room), default=1)
    most: list[float] = measured(asked, place, "transformers", precision=precision, layers=fits)["prompts"]
    if fits == place.layers:
        return most, ""
    least: list[float] = measured(asked, place, "transformers", precision=precision, layers=1)["prompts"]
    layer = [(many - one) / (fits - 1) for many, one in zip(most, least, strict=True)]
    return [
        one + (place.layers - 1) * each for one, each in zip(least, layer, strict=True)
    ], f", from 1 and {fits} layers"


def passes_of_a_recording(place: Place) -> Iterator[tuple[int, str, float]]:
    """Prompt, precision and how often a recording runs it."""
    from harness.record.dry_run import passes
    from harness.record.model import Reference

    with open_golden(place.golden) as golden:
        found = passes(golden.manifest, Reference(place.checkpoint).stages)
    for number, times in enumerate(found.values()):
        for precision, count in times.items():
            yield number, precision, count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", choices=GEOMETRIES, default="0.5b")
    parser.add_argument("--layers", type=int, default=0, help="fewer than it is published with")
    parser.add_argument("--folder", type=Path, help="keeps the checkpoint and the golden, and takes those up")
    for hidden in ("worker", "precision", "modes"):
        parser.add_argument(f"--{hidden}", default="", help=argparse.SUPPRESS)
    parser.add_argument("--of-layers", type=int, default=0, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    geometry = GEOMETRIES[asked.geometry]
    with _folder(asked.folder) as folder:
        place = Place(folder, geometry, asked.layers or geometry.layers)
        if asked.worker:
            found = worker(place, asked.worker, asked.precision, asked.modes, asked.of_layers)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(json.dumps({**found, "peak": peak}))  # noqa: T201 - read by the process that started this one
        else:
            show(asked, place)


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
    else:
        with tempfile.TemporaryDirectory(prefix="goldens-full-size-") as made:
            yield Path(made)


def show(asked: argparse.Namespace, place: Place) -> None:
    """Measure everything, and print it as it comes."""
    console = Console(width=120)
    if not (place.checkpoint / "model.safetensors.index.json").exists():
        started = time.perf_counter()
        full_size.write(place.checkpoint, place.geometry, place.layers)
        console.print(f"checkpoint written in {time.perf_counter() - started:.0f} s")
    shards = list(place.checkpoint.glob("*.safetensors"))
    size = sum(file.stat().st_size for file in shards)
    parameters = f"{place.parameters(place.layers) / 1e9:.3f} billion parameters"
    console.print(f"{parameters}, {size / 2**30:.2f} GiB, {len(shards)} shards")

    recorded = measured(asked, place, "record")
    passes = {precision: transformers_passes(asked, place, precision) for precision in PRECISIONS}
    alone = sum(times * passes[precision][0][number] for number, precision, times in passes_of_a_recording(place))
    read = measured(asked, place, "read")
    table = Table("recording", "seconds", "ratio", "peak, MiB", box=None)
    own = alone + 2 * read["seconds"]  # what is read, and about as much for writing
    table.add_row("the passes that it makes, as plain forward passes", f"{alone:.1f}", f"{alone / own:.2f}", "")
    table.add_row("reading and hashing checkpoint and golden, twice", f"{2 * read['seconds']:.1f}", "", "")
    table.add_row("both", f"{own:.1f}", "1.00", "")
    table.add_row(
        "recording", f"{recorded['seconds']:.1f}", f"{recorded['seconds'] / own:.2f}", f"{recorded['peak']:.0f}"
    )
    for name, seconds in recorded["parts"].items():
        table.add_row(f"  {name}", f"{seconds:.1f}", "", "")
    for precision, (each, how) in passes.items():
        table.add_row(f"one plain pass of all prompts, {precision}{how}", f"{sum(each):.2f}", "", "")
    console.print(table)
    console.print(f"golden: {place.golden.stat().st_size / 2**20:.0f} MiB, {recorded['taps']} taps of all cases")

    table = Table(
        "check", "seconds", "ratio", "peak, MiB", "verdict", "compared", "largest share", "logits off by", box=None
    )
    for precision in PRECISIONS:
        jax = measured(asked, place, "jax", precision=precision)
        table.add_row(f"plain jitted JAX, {precision}", f"{jax['seconds']:.1f}", "1.00", f"{jax['peak']:.0f}")
        for modes in MODES:
            one = measured(asked, place, "check", precision=precision, modes=modes)
            table.add_row(
                f"  {modes}",
                f"{one['seconds']:.1f}",
                f"{one['seconds'] / jax['seconds']:.2f}",
                f"{one['peak']:.0f}",
                one["verdict"],
                f"{one['compared']:,}",
                f"{one['share']:.2f}",
                f"{one['logits']:.2g}",
            )
    console.print(table)


if __name__ == "__main__":
    main()
