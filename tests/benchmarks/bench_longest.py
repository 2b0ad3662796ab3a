"""The longest case of the embedded golden: the check of every operation beside a plain transformers forward.

    python -m tests.benchmarks.bench_longest

Each runs in a process of its own, so that peak memory is its own; imports are counted in memory and not in time.
"""

from __future__ import annotations

import json
import subprocess
import sys

from rich.console import Console
from rich.table import Table

CASE = "longest"
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
from harness.run.checker import Checker
from harness.run.question import Question
from harness.run.port import BUILT_IN
question = Question(precisions=("float32",), cases=(case,), modes=modes)
checker = Checker(embedded.golden(), embedded.directory() / "qwen2-tiny", BUILT_IN, question)
def run():
    results = checker.run("float32")
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


def measured(program: str) -> dict[str, float]:
    code = f"case = {CASE!r}\n{program}\n{MEASURE}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    table = Table("", "first, s", "again, s", "ratio", "MiB before", "MiB at most", box=None)
    figures = {name: measured(program) for name, program in PROGRAMS.items()}
    plain = next(iter(figures.values()))["again"]
    for name, one in figures.items():
        again = one["again"]
        sizes = (f"{one['before']:.0f}", f"{one['peak']:.0f}")
        table.add_row(name, f"{one['first']:.2f}", f"{again:.3f}", f"{again / plain:.1f}", *sizes)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
