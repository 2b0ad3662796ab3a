"""`goldens audit`: which known bugs a golden can see."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click
from click.exceptions import Exit

from harness.cli import DIVERGED, MATCH
from harness.cli.options import chosen, golden_argument, inputs, output_options, weights_option


@click.command(short_help="Say which known bugs a golden can see.")
@golden_argument
@weights_option
@click.option("--precision", default="float64,float32", show_default=True, help="Comma-separated; bfloat16 too.")
@click.option("--mutant", "mutants", multiple=True, metavar="GLOB", help="Only these; may be repeated.")
@click.option("--case", "cases", multiple=True, metavar="GLOB", help="Only these cases; may be repeated.")
@output_options("json", "html", "markdown")
def audit(
    golden: str,
    weights: Path | None,
    precision: str,
    mutants: tuple[str, ...],
    cases: tuple[str, ...],
    outputs: Mapping[str, Path | None],
) -> None:
    """Which known bugs can GOLDEN (default: the embedded one) see, and which cases see them?

    Every mutant of the catalogue, a bug that ports have had, is planted in the built-in decoder and checked
    against the golden. What no comparison notices, the golden cannot see in your port either.

    Exit codes: 0 every mutant that is a bug here is caught, 1 some are not, 2 could not audit.

    \b
    goldens audit
    goldens audit --mutant 'rope_*' --case long --precision float32
    goldens audit my-golden.h5 --weights path/to/Qwen2.5-7B --json audit.json --html audit.html
    """
    from harness.cli.console import Progress, show, stdout_to_stderr
    from harness.mutants.audit import AuditQuestion
    from harness.mutants.audit import audit as run_audit
    from harness.run.question import parse_precisions

    asked = chosen(outputs, inputs(golden, weights))
    question = AuditQuestion(parse_precisions(precision), mutants, cases)
    with stdout_to_stderr(), Progress() as progress:
        document = run_audit(golden, weights, question, progress=progress)
    show(document, asked)
    raise Exit(MATCH if document.verdict == "sees" else DIVERGED)
