"""Peak memory of a recording and of a check, in layers and in cases.

    python -m tests.benchmarks.bench_memory

At 4 and at 32 layers, and with three prompts and with four times as many. Each runs in a process of its own, and
the peak is the operating system's (ru_maxrss). Before them, one process of each kind only imports: the rest of a
peak is the work's own. It needs the `record` extra.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks import full_size
from tests.benchmarks.full_size import Geometry

GEOMETRY = Geometry(768, 32, 12, 4, 3072, 608, False, (1, 60, 250))
LAYERS = (4, 32)
TIMES = (1, 4)
PRECISIONS = ("float64", "float32", "bfloat16")
WORK = ("record", *PRECISIONS)


def worker(what: str, checkpoint: Path, golden: Path, times: int) -> None:
    """In the process that is measured: record, or check at a precision; without a golden, only import."""
    if what == "record":
        from harness.record.recorder import Options, record

        if golden.name:
            corpus = full_size.corpus(replace(GEOMETRY, lengths=GEOMETRY.lengths * times))
            record(checkpoint, "benchmark", corpus, str(golden), Options(overwrite=True))
    else:
        from harness.run.check import check
        from harness.run.port import BUILT_IN
        from harness.run.question import Question

        if golden.name:
            report = check(golden, checkpoint, BUILT_IN, Question(precisions=(what,), modes=("forward", "replay")))
            if report.verdict != "match":
                sys.exit(f"{what}: {report.verdict}")
    sys.stdout.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}\n")


def measure(what: str, checkpoint: Path, golden: Path, times: int) -> tuple[float, float]:
    """Peak in MiB and seconds of a process of its own."""
    words = [sys.executable, "-m", "tests.benchmarks.bench_memory", what, str(checkpoint), str(golden), str(times)]
    started = time.monotonic()
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1]), time.monotonic() - started


def grown(peaks: Sequence[float], imports: float) -> str:
    """How much larger the last is than the first, beside what imports take."""
    return f"{(peaks[-1] - imports) / (peaks[0] - imports):.2f}"


def main() -> None:
    sizes = [(layers, TIMES[0]) for layers in LAYERS] + [(LAYERS[0], times) for times in TIMES[1:]]
    columns = [f"{layers} layers, {len(GEOMETRY.lengths) * times} prompts" for layers, times in sizes]
    table = Table("peak, MiB (seconds)", "imports", *columns, "32 / 4 layers", "12 / 3 prompts")
    imports = {"record": measure("record", Path(), Path(), 0)[0]}
    imports |= dict.fromkeys(PRECISIONS, measure(PRECISIONS[0], Path(), Path(), 0)[0])
    found: dict[str, list[tuple[float, float]]] = {what: [] for what in WORK}
    with tempfile.TemporaryDirectory(prefix="goldens-memory-") as scratch:
        for layers, times in sizes:
            checkpoint, golden = Path(scratch, f"{layers}"), Path(scratch, f"{layers}-{times}.h5")
            if not checkpoint.exists():
                full_size.write(checkpoint, GEOMETRY, layers)
            for what in WORK:
                found[what].append(measure(what, checkpoint, golden, times))
    for what, each in found.items():
        peaks, of_imports = [peak for peak, _ in each], imports[what]
        table.add_row(
            what if what == "record" else f"check, {what}",
            f"{of_imports:.0f}",
            *(f"{peak:.0f} ({seconds:.0f})" for peak, seconds in each),
            grown(peaks[:2], of_imports),
            grown([peaks[0], peaks[2]], of_imports),
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    worker(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])) if len(sys.argv) > 1 else main()
