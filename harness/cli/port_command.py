"""`goldens port`: what a model is made of, and the table that makes it a port."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click
from click.exceptions import Exit

from harness.cli import COULD_NOT, MATCH
from harness.cli.options import chosen, golden_argument, inputs, output_options, weights_option


@click.command(short_help="Propose the table of taps of a port.")
@click.argument("port", metavar="PKG.MODULE:NAME")
@golden_argument
@weights_option
@click.option("--case", metavar="NAME", help="A prompt of the golden. [default: a short one]")
@click.option(
    "--precision",
    metavar="NAME",
    help="float64, float32 or bfloat16. [default: float32; with --discover float64, or what the model can]",
)
@click.option("--discover", is_flag=True, help="Look among all variables of the model's program.")
@output_options("json")
def port(
    port: str,
    golden: str,
    weights: Path | None,
    case: str | None,
    precision: str | None,
    discover: bool,
    outputs: Mapping[str, Path | None],
) -> None:
    """Propose the table of taps of an adapted port: NnxPort, LinenPort, EquinoxPort, KerasPort or FunctionPort.

    The port has `load` and `run`; its `taps` may be empty. The model is run on one case of GOLDEN (default: the
    embedded one), and every value that a sub-module or a function of it is given or returns is compared with
    every golden tap of its size, in other layouts too. What equals a tap within the noise is that tap. The golden
    goes on in its place, so that a bug stops nothing but the tap where it sits: there it is said which
    value stands in that place.

    With --discover it is looked among all variables of the program that JAX makes of the model, wherever they are:
    what no call is given or returns has a row of its own, by the function and the operation that computes it.
    Where no variable equals a tap, the one that stands in its place is named with its line.

    \b
    goldens port my_port:Port
    goldens port my_port:Port --discover
    goldens port my_port:Port qwen2.5-7b.h5 --weights path/to/Qwen2.5-7B --case hello

    Exit codes: 0 a table is proposed, 2 it could not be looked, or nothing was found.
    """
    from harness.cli.console import Progress, console, stdout_to_stderr
    from harness.cli.port_printed import print_proposal
    from harness.report.document import encode
    from harness.report.output import STDOUT, write_output
    from harness.run.proposing.proposal import propose

    asked = chosen(outputs, inputs(golden, weights, port))
    with stdout_to_stderr(), Progress() as progress:
        proposal = propose(golden, weights, port, case, precision, progress, discover)
    for file in asked.values():
        write_output(file, encode(proposal))
    print_proposal(proposal, console(stderr=STDOUT in asked.values()))
    raise Exit(MATCH if proposal.rows else COULD_NOT)
