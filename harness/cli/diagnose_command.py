"""`goldens diagnose`: which bug is this?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from click.exceptions import Exit

from harness.cli import DIVERGED, MATCH, options


@click.command(short_help="Name the known bug that a port has.")
@options.golden_argument
@click.option("--port", required=True, metavar="PKG.MODULE:NAME", help="The JAX model that diverges.")
@options.weights_option
@click.option("--precision", default="float64,float32", show_default=True, help="Comma-separated; bfloat16 too.")
@click.option("--case", "cases", multiple=True, metavar="GLOB", help="Only these cases; may be repeated.")
@click.option("--lift", is_flag=True, help="As for check.")
@options.mesh_option
@options.reduced_precision_option
@options.output_options("json", "html", "markdown")
def diagnose(
    golden: str, port: str, weights: Path | None, outputs: Mapping[str, Path | None], **asked: Any
) -> None:
    """Which bug is this? The evidence first, then the known bug that does the same on the same inputs.

    A few cases are checked, or all of them where those are right. What the port computes at each wrong operation
    is then compared with what the bugs of the catalogue compute there: as they are, with other values, and two
    at a time. A bug is named only where the port reproduces it within the noise.

    \b
    goldens diagnose --port my_port:Port
    goldens diagnose my-golden.h5 --weights path/to/Qwen2.5-7B --port my_port:Port --json diagnosis.json

    Exit codes: 0 nothing to diagnose, 1 diverged, 2 could not check.
    """
    from harness.cli.console import Progress, show, stdout_to_stderr
    from harness.mutants.diagnosis.diagnose import diagnose as run_diagnosis
    from harness.run.check import Checker
    from harness.run.question import question_of

    question = question_of(mode="both", **asked)  # a bug is known by what an operation does on golden inputs
    views = options.chosen(outputs, options.inputs(golden, weights, port))
    with stdout_to_stderr(), Progress() as progress, Checker(golden, weights, port, question) as checker:
        diagnosis = run_diagnosis(checker, port, progress)
    show(diagnosis, views)
    raise Exit(MATCH if diagnosis.verdict == "match" else DIVERGED)
