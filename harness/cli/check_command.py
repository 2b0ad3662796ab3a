"""`goldens check`: a port against a golden."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.exceptions import Exit

from harness.cli import COULD_NOT, DIVERGED, MATCH, options

if TYPE_CHECKING:
    from harness.errors import PortError
    from harness.run.processes import Processes


@click.command(short_help="Check a port against a golden, operation by operation.")
@options.golden_argument
@click.option(
    "--port",
    default="harness.run.decoder:Decoder",
    metavar="PKG.MODULE:NAME",
    show_default=True,
    help="The JAX model.",
)
@options.weights_option
@click.option("--precision", default="float64,float32", show_default=True, help="Comma-separated; bfloat16 too.")
@click.option(
    "--mode",
    default="all",
    metavar="LIST",
    show_default=True,
    help="Comma-separated: forward, replay (both: the two), prefill, alone. All is what a case allows.",
)
@click.option("--case", "cases", multiple=True, metavar="GLOB", help="Only these cases; may be repeated.")
@click.option("--lift", is_flag=True, help="In float64, lift the float32 that is hard-coded in the port.")
@click.option(
    "--limit-rms",
    type=float,
    metavar="X",
    help="Factor on every rms limit: above 1 misses bugs, below 1 accuses correct ports.",
)
@click.option("--limit-max", type=float, metavar="Y", help="The same for the largest error.")
@click.option(
    "--criteria",
    default="phase-3",
    metavar="LIST",
    show_default=True,
    help="Your thresholds on the logits, said beside the verdict: max_abs=1e-4,mean_abs=1e-5,position_r=0.1.",
)
@options.mesh_option
@click.option("--processes", type=int, metavar="N", help="This is one of N processes, each with some devices.")
@click.option("--process-id", type=int, metavar="I", help="Which of them, from 0; process 0 reports.")
@click.option(
    "--coordinator",
    metavar="HOST:PORT",
    help="Where process 0 listens for the others.  [default: JAX_COORDINATOR_ADDRESS]",
)
@options.reduced_precision_option
@options.output_options("json", "html", "markdown", "junit")
def check(
    golden: str,
    port: str,
    weights: Path | None,
    processes: int | None,
    process_id: int | None,
    coordinator: str | None,
    outputs: Mapping[str, Path | None],
    **asked: Any,
) -> None:
    """Check a port against GOLDEN (default: the embedded one), operation by operation.

    The forward check runs the port on its own activations. The replay check hands every tap's golden value
    on instead, so that each operation is judged on golden inputs alone: what is wrong there is where the
    bug is. Two more modes say which way of running is to blame: prefill compares the steps through a KV cache
    with the port's own single call without one, alone compares each row of a batch with its prompt alone.
    All run at every precision asked for.

    \b
    goldens check
    goldens check my-golden.h5 --weights path/to/Qwen2.5-7B --port my_port:Port
    goldens check --precision bfloat16 --case 'hello*' --json report.json --html report.html
    goldens check --mesh data=2,model=4 --port my_port:Port

    Exit codes: 0 match, 1 diverged, 2 could not check.
    """
    from harness.cli.console import Progress, show, stdout_to_stderr
    from harness.report.summary import is_comparable
    from harness.run.check import Checker, checked
    from harness.run.progress import SILENT
    from harness.run.question import question_of

    question = question_of(**asked)
    views = options.chosen(outputs, options.inputs(golden, weights, port))
    several: Processes | None = None
    together: AbstractContextManager[None] = nullcontext()
    if (processes, process_id, coordinator) != (None, None, None):
        from harness.cli.several import one_of_several, taking_part

        several = one_of_several(processes, process_id, coordinator, question.mesh)
        together = taking_part(several)
    broken: PortError | None = None
    reports = several is None or several.index == 0
    telling = Progress() if reports else nullcontext(SILENT)
    with stdout_to_stderr(), together, telling as progress:
        progress.begin("config, weights, token ids")
        with Checker(golden, weights, port, question) as checker:
            report = checked(checker, progress)
            if not is_comparable(report):
                from harness.report.contract import broken_contract

                broken = broken_contract(report)
            code = COULD_NOT if broken is not None else MATCH if report.verdict == "match" else DIVERGED
            if several is not None:
                from harness.run.processes import agree

                agree(code)  # a diagnosis runs the port as often as it likes: not in step with other processes
            # What could be compared is named beside what could not.
            elif report.verdict != "match" and (report.introduced or broken is None):
                from harness.mutants.diagnosis.hint import hint  # a check that passes needs no catalogue

                report = replace(report, looks_like=hint(checker, report))
    if not reports:
        raise Exit(code)
    show(report, views)
    if broken is not None:
        raise broken
    raise Exit(code)
