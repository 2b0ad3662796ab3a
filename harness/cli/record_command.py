"""`goldens record`: the only command that needs torch. Nothing else imports the recording side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from harness.cli import Terminated, as_signalled
from harness.selecting import LEVELS


class _NamingFamilies(click.Command):
    """Its help ends with the families that are known."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from harness.families import names

        formatter.write_paragraph()
        formatter.write_text(f"Model families: {', '.join(names())}.")


@click.command(cls=_NamingFamilies, short_help="Run the PyTorch reference, and keep what it computes.")
@click.option("--model", metavar="DIR_OR_HUB_ID", help="A checkpoint in Hugging Face format, of a family below.")
@click.option(
    "--corpus",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The prompts; goldens/CORPUS.md says how they are written.  [default: goldens/corpus.toml]",
)
@click.option("--out", metavar="PATH.h5|PATH.zarr|URL", help="Where to write.  [default: MODEL.h5, here]")
@click.option(
    "--level",
    type=click.Choice(LEVELS),
    help="How deep: the logits, the residual stream, or every operation.  [default: ops]",
)
@click.option(
    "--taps",
    multiple=True,
    metavar="GLOB",
    help="Of the level only taps with such names, as 'layers.*.resid_post'; may be repeated.",
)
@click.option("--layers", metavar="RULE", help="Of what layers have only some: 'first, last, every 4th'.")
@click.option(
    "--logits",
    metavar="all|top-K",
    help="All logits, or the K largest of each position with what bounds KL of the others.  [default: all]",
)
@click.option(
    "--dtype",
    type=click.Choice(["float64", "float32"]),
    help="In which truth is stored: float32 is half as large, and enough to check float32 and bfloat16; truth is "
    "computed in float64 always.  [default: float64]",
)
@click.option("--case", "cases", multiple=True, metavar="NAME", help="Only this entry; may be repeated.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Where torch computes.  [default: cpu]")
@click.option("--force", is_flag=True, help="Replace a golden that is already there.")
@click.option("--dry-run", is_flag=True, help="Say what it would take (passes, disk, memory), and record nothing.")
def record(**asked: Any) -> None:
    """Record goldens: run the PyTorch reference over a fixed corpus, and keep what it computes.

    A golden holds the float64 truth of every intermediate, and how far PyTorch's own float32 and bfloat16 are from
    it. `goldens check` then judges a JAX port by it, with no PyTorch installed. This needs the `record` extra.

    Without arguments the embedded goldens of a checkout are recorded anew, over those that are there.

    \b
    Examples:
      goldens record
      goldens record --model Qwen/Qwen2.5-0.5B --out qwen.zarr
      goldens record --model ./checkpoint --level layers --case hello --case code
      goldens record --model Qwen/Qwen2.5-7B --taps 'layers.*.resid_post' --taps logits --layers first,last
      goldens record --model Qwen/Qwen2.5-7B --out qwen.h5 --dry-run

    A recording that was stopped goes on where it stopped, when the same command is run again; until it is finished
    its work lies in PATH.partial, and a golden that was there before stays as it was.

    \b
    Exit codes:
      0  recorded
      2  refused, or stopped: the message says why, and what to do
      130, 143  interrupted (Ctrl-C), terminated
    """
    from rich.console import Console

    from harness.record.command import Request, run

    try:
        with as_signalled():
            for summary in run(Request(**asked), Console(stderr=True)):
                click.echo(summary.id)
    except (KeyboardInterrupt, Terminated):
        click.echo("the same command goes on where this one stopped", err=True)
        raise
