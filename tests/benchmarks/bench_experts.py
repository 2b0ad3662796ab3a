"""A layer of DeepSeek-V3's true sizes, stored in FP8: recorded at three precisions, beside what reading it costs.

    python -m tests.benchmarks.bench_experts [--experts N] [--stored fp8|bfloat16] [--tokens N] [--folder DIR]

256 experts take 11.5 GB of disk (22.7 in bfloat16), which are removed in the end unless a folder is given. Each
measurement is a process of its own, from the first import; its peak is the operating system's (VmHWM), and beside
it that of its own allocations (RssAnon), for files that are mapped count in the former: it needs Linux, and the
`record` extra. Of a layer's experts as many are kept as a third of the available memory holds (`room`).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import string
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from harness.architecture import read_config
from harness.checkpoint import Checkpoint, open_checkpoint
from harness.corpus import Corpus
from harness.entries import Prompt
from tests.benchmarks import deepseek_layer
from tests.benchmarks.bench_full_size import PARTS, _time
from tests.benchmarks.deepseek_layer import BFLOAT16, FP8

OF_EXPERTS = ("model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts.down_proj")
SPENT = {
    **PARTS,
    "experts": ("harness.record.experts", "StoredExperts.of"),
    "table": ("harness.record.recorder", "parameter_table"),
}


def corpus(tokens: int) -> Corpus:
    """A prompt of so many letters, each of which is a token."""
    text = "".join(np.random.default_rng(0).choice(list(string.ascii_letters), tokens))
    return Corpus((Prompt("prompt", text),))


def record(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Record, and count what is read of experts."""
    from harness.record.recorder import Options
    from harness.record.recorder import record as recorded

    spent: dict[str, float] = {}
    for name, (module, function) in SPENT.items():
        _time(spent, name, module, function)
    counted = {"reads": 0, "bytes": 0}
    own = Checkpoint.tensor

    def tensor(self: Checkpoint, name: str, rows: slice = slice(None)) -> np.ndarray:
        found: np.ndarray = own(self, name, rows)
        if ".experts." in name:
            counted["reads"] += 1
            counted["bytes"] += found.nbytes
        return found

    Checkpoint.tensor = tensor  # type: ignore[method-assign]
    golden = folder / "golden.h5"
    done = recorded(folder / "checkpoint", "layer", corpus(asked.tokens), str(golden), Options(overwrite=True))
    return {"parts": spent, "taps": done.taps, "golden": golden.stat().st_size, **counted}


def read(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """All experts, one at a time, as a recording reads them."""
    checkpoint = open_checkpoint(folder / "checkpoint", read_config(folder / "checkpoint"))
    for expert in range(asked.experts):
        for name in OF_EXPERTS:
            checkpoint.read(name, slice(expert, expert + 1))
    return {}


def table(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Every tensor hashed, as a recording and a check do first."""
    open_checkpoint(folder / "checkpoint", read_config(folder / "checkpoint")).table()
    return {}


WORK = {"imports": lambda _folder, _asked: {}, "table": table, "read": read, "record": record}


def measured(asked: argparse.Namespace, what: str, folder: Path) -> dict[str, Any]:
    """Run a worker in a process of its own; its seconds and its peaks of memory in MiB with it."""
    words = [sys.executable, "-m", "tests.benchmarks.bench_experts", "--worker", what, "--folder", str(folder)]
    for name in ("experts", "stored", "tokens"):
        words += [f"--{name}", str(getattr(asked, name))]
    started = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, env=dict(os.environ))
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{' '.join(words)}\n{done.stderr[-3000:]}")
    return {"seconds": seconds, **json.loads(done.stdout.splitlines()[-1])}


class Anonymous(threading.Thread):
    """Watches the memory of this process that no file stands for."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0.0

    def run(self) -> None:
        while True:
            self.most = max(self.most, _status("RssAnon"))
            time.sleep(0.02)


def _status(field: str) -> float:
    """A number of this process, in MiB: `VmHWM` is its peak, and not that of the one that started it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, default=256)
    parser.add_argument("--stored", choices=(FP8, BFLOAT16), default=FP8)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--folder", type=Path, help="keeps the checkpoint and the golden, and takes those up")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        watch = Anonymous()
        watch.start()
        found = WORK[asked.worker](asked.folder, asked)
        peak, own = _status("VmHWM"), watch.most
        used = resource.getrusage(resource.RUSAGE_SELF)
        found |= {"peak": peak, "own": own, "processor": used.ru_utime + used.ru_stime}
        print(json.dumps(found))  # noqa: T201 - read by the process that started this one
        return
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="goldens-experts-"))
    try:
        show(asked, folder)
    finally:
        if asked.folder is None:
            shutil.rmtree(folder)


def show(asked: argparse.Namespace, folder: Path) -> None:
    """Measure everything, and print it as it comes."""
    console, checkpoint = Console(width=120), folder / "checkpoint"
    if not (checkpoint / "model.safetensors.index.json").exists():
        started = time.perf_counter()
        deepseek_layer.write(checkpoint, asked.experts, asked.stored)
        console.print(f"checkpoint written in {time.perf_counter() - started:.0f} s")
    opened = open_checkpoint(checkpoint, read_config(checkpoint))
    size = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    parameters = sum(int(np.prod(opened.shape(name))) for name in opened.names)
    console.print(f"{parameters / 1e9:.2f} billion parameters, {size / 1e9:.1f} GB, {len(opened.tensors)} tensors")
    console.print(f"{'':<36}{'seconds':>10}{'processor':>10}{'peak, MiB':>10}{'without files':>15}")
    for what, words in (
        ("imports", "imports alone"),
        ("table", "hashing every tensor"),
        ("read", "reading every expert, one at a time"),
        ("record", f"recording a prompt of {asked.tokens} tokens"),
    ):
        one = measured(asked, what, folder)
        numbers = f"{one['seconds']:>10.1f}{one['processor']:>10.1f}{one['peak']:>10.0f}{one['own']:>15.0f}"
        console.print(f"{words:<36}{numbers}", highlight=False)
        for name, seconds in one.get("parts", {}).items():
            console.print(f"{f'  {name}':<36}{seconds:>10.1f}", highlight=False)
    read = f"{one['reads']:,} tensors of experts read, {one['bytes'] / 1e9:.1f} GB"
    console.print(f"golden: {one['golden'] / 2**20:.1f} MiB, {one['taps']} taps; {read}")


if __name__ == "__main__":
    main()
