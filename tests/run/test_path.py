"""The way of a value: from a port's tap to its comparison, and which files a check enters."""

from __future__ import annotations

import subprocess
import sys
import traceback

import pytest

from harness.comparison import compare
from harness.results import MODES
from harness.run import comparing
from harness.run.check import check
from harness.run.port import BUILT_IN
from harness.run.question import Question

MOST_FRAMES, MOST_FILES = 9, 83
# The catalogue and all that runs mutants; other ports; what is traced; proofs that an error is no rounding; what
# few models have; several processes.
NOT_NEEDED = (
    *("harness.mutants", "harness.record", "harness.run.adapters", "harness.run.proposing", "harness.run.tracing"),
    *("harness.run.matmul_audit", "harness.run.bounds", "harness.run.element", "harness.cli.audit_command"),
    *("harness.run.latent", "harness.run.mixture", "harness.run.processes"),
)
CASES = ("hello", "digits", "decode")  # as it is, padded, and call by call


@pytest.mark.parametrize("port", [BUILT_IN, "tests.run.ports:Wrapped"])
def test_from_the_ports_tap_to_the_comparison_a_value_passes_few_frames(
    golden_path, checkpoint, monkeypatch, port
):
    paths = set()

    def seen(*args):
        stack = traceback.extract_stack(sys._getframe())[:-1]
        inside = next(at for at, frame in enumerate(reversed(stack)) if not _of_the_check(frame.filename))
        paths.add(
            tuple(f"{frame.filename.rpartition('/')[2]}: {frame.name}" for frame in stack[len(stack) - inside :])
        )
        return compare(*args)

    monkeypatch.setattr(comparing, "compare", seen)
    question = Question(precisions=("float32",), modes=MODES, cases=CASES)
    assert check(golden_path, checkpoint, port, question).verdict == "match"
    ways = [path for path in paths if path[0] == "tapping.py: __call__"]
    assert any("padding.py: absorb" in path for path in ways)
    # The last frame is that of the comparison itself.
    assert max(len(path) + 1 for path in ways) <= MOST_FRAMES, max(ways, key=len)


def _of_the_check(file: str) -> bool:
    return "/harness/" in file and not file.endswith("decoder.py")


def test_a_check_that_passes_enters_the_files_that_it_needs():
    """`python -X importtime -m harness.cli check --precision float32 --case hello 2>&1 | grep -c " harness"`."""
    program = (
        "import sys; from harness.cli import cli; cli(['check', '--precision', 'float32', '--case', 'hello'],"
        "standalone_mode=False); print(*(name for name in sys.modules if name.partition('.')[0] == 'harness'),"
        "file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    entered = done.stderr.split("\n")[-2].split()
    assert "harness.run.comparing" in entered
    assert not [name for name in entered if name.startswith(NOT_NEEDED)]
    assert len(entered) <= MOST_FILES
