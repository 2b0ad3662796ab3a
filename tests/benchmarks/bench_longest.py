"""The longest case of the embedded golden: the check of every operation beside a plain transformers forward.

    python -m tests.benchmarks.bench_longest

Each runs in a process of its own, one after the other, so that peak memory is its own. Imports, and opening the
golden and the model, are counted in memory at most, and neither in time nor in the memory that a run adds.
"""

from __future__ import annotations

import json
import subprocess
import sys

from rich.console import Console
from rich.table import Table

from harness import embedded
from harness.golden import CaseEntry
from harness.store import open_golden

PLAIN = """
import torch
from transformers import AutoModelForCausalLM
from harness import embedded
from harness.store import open_golden
with open_golden(embedded.golden()) as golden:
    ids = torch.from_numpy(golden.case(case).input_ids.copy()).long()
model = AutoModelForCausalLM.from_pretrained(
    embedded.directory() / "qwen2-tiny", dtype=torch.float32, attn_implementation="eager"
).eval()
def run():
    with torch.inference_mode():
        model(ids)
"""
CHECKED = """
from harness import embedded
from harness.run.check import Checker
from harness.run.question import Question
from harness.run.port import BUILT_IN
question = Question(precisions=("float32",), cases=(case,), modes=modes)
checker = Checker(embedded.golden(), embedded.directory() / "qwen2-tiny", BUILT_IN, question)
def run():
    results = checker.run("float32").results
    assert all(result.verdict == "match" for result in results)
"""
MEASURE = """
import json, resource, time
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
first = time.perf_counter(); run(); first = time.perf_counter() - first
times = []
for _ in range(5):
    start = time.perf_counter(); run(); times.append(time.perf_counter() - start)
print(json.dumps({"first": first, "again": min(times), "before": before, "peak": peak()}))
"""
PROGRAMS = {
    "transformers, plain forward": PLAIN,
    "check, forward": 'modes = ("forward",)\n' + CHECKED,
    "check, forward and replay": 'modes = ("forward", "replay")\n' + CHECKED,
}


def longest() -> CaseEntry:
    """The prompt with the most tokens."""
    with open_golden(embedded.golden()) as golden:
        return max(
            (case for case in golden.manifest.cases if case.kind == "prompt"), key=lambda case: case.shape[1]
        )


def measured(case: CaseEntry, program: str) -> dict[str, float]:
    code = f"case = {case.name!r}\n{program}\n{MEASURE}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    case = longest()
    figures = {name: measured(case, program) for name, program in PROGRAMS.items()}
    plain = figures[next(iter(PROGRAMS))]
    title = (
        f"{case.name}: {case.shape[0]} x {case.shape[1]} tokens, {len(case.kept) or case.shape[1]} stored, float32"
    )
    table = Table("", "first, s", "again, s", "ratio", "MiB at most", "ratio", "MiB added", title=title, box=None)
    for name, one in figures.items():
        table.add_row(
            name,
            f"{one['first']:.2f}",
            f"{one['again']:.3f}",
            f"{one['again'] / plain['again']:.1f}",
            f"{one['peak']:.0f}",
            f"{one['peak'] / plain['peak']:.1f}",
            f"{one['peak'] - one['before']:.0f}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
