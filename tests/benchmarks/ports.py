"""Every correct port that can be run here, on the whole embedded golden: how much of its limits it needs.

    python -m tests.benchmarks.ports

The limits in harness/tolerances.py have to hold for all of them. With the `tunix` extra its Qwen2 is among them.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
import warnings
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness import embedded
from harness.run.check import check
from harness.run.port import BUILT_IN
from harness.run.question import Question
from harness.tolerances import PRECISIONS
from tests import documents

ADAPTED = ("linen_model:Unrolled", "linen_model:Scanned", "nnx_model:Listed", "nnx_model:Scanned")
FUNCTIONS = ("function_model:ByLayer", "function_model:Stacked")


def readme_port(mark: str, folder: Path) -> str:
    """The spec of a port in the README, written to a module of its own."""
    name = f"readme_{mark.replace(' ', '_')}"
    (folder / f"{name}.py").write_text(documents.port(mark))
    return f"{name}:Port"


def main() -> None:
    columns = (f"{p}: share of rms, max, overall" for p in PRECISIONS)
    table = Table("port", *columns, "float64: rel. rms", "seconds", box=None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sys.path.insert(0, name)
        specs = [BUILT_IN, readme_port("by hand", folder)]
        specs += [f"tests.run.adapters.{port}" for port in (*ADAPTED, *FUNCTIONS)]
        if importlib.util.find_spec("tunix") is not None:
            warnings.simplefilter("ignore")
            specs.append(readme_port("tunix", folder))
        for spec in specs:
            started = time.monotonic()
            report = check(
                embedded.golden(), embedded.directory() / "qwen2-tiny", spec, Question(precisions=PRECISIONS)
            )
            seconds = time.monotonic() - started
            cells = []
            for p in PRECISIONS:
                results = [r for r in report.results if r.precision == p]
                assert report.verdict == "match", (spec, report.introduced)
                cells.append(
                    ", ".join(f"{max(shares):.2f}" for shares in zip(*(r.shares for r in results), strict=True))
                )
            relative = max(r.rel_rms or 0.0 for r in report.results if r.precision == "float64")
            table.add_row(spec.rpartition(".")[2], *cells, f"{relative:.2g}", f"{seconds:.0f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
