"""The command line: `goldens check`, `diff`, `show`, `verify`. Imports happen inside commands: help is instant.

Exit codes: 0 match, 1 diverged, 2 could not check.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import click

from harness import __version__
from harness.errors import HarnessError

MATCH, DIVERGED, COULD_NOT, INTERRUPTED = 0, 1, 2, 130


class _Refusing(click.Group):
    """A group whose commands refuse: a HarnessError is its message on stderr, and exit code 2.

    Python would exit with 1 on anything that it does not expect, and 1 means "diverged" here; so that is 2 too.
    """

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except HarnessError as error:
            if os.environ.get("GOLDENS_TRACEBACK"):
                traceback.print_exc()
            click.echo(f"error: {error}", err=True)
            ctx.exit(COULD_NOT)
        except Exception:
            traceback.print_exc()
            click.echo("error: this is a bug in goldens, not an answer about the port", err=True)
            ctx.exit(COULD_NOT)


@click.group(cls=_Refusing, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="goldens")
def cli() -> None:
    """Check a JAX port of a PyTorch model against recorded goldens, without PyTorch.

    Exit codes: 0 match, 1 diverged, 2 could not check.
    """


@cli.command()
@click.argument("golden", required=False)
@click.option(
    "--port",
    default="harness.run.decoder:Decoder",
    metavar="PKG.MODULE:NAME",
    show_default=True,
    help="The JAX model.",
)
@click.option("--weights", type=click.Path(path_type=Path), metavar="DIR", help="The golden's checkpoint.")
@click.option("--precision", default="float64,float32", show_default=True, help="Comma-separated; bfloat16 too.")
@click.option(
    "--mode",
    type=click.Choice(["both", "forward", "replay"]),
    default="both",
    show_default=True,
    help="On its own activations, on golden inputs, or both.",
)
@click.option("--case", "cases", multiple=True, metavar="GLOB", help="Only these cases; may be repeated.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write JSON; - is stdout.",
)
@click.option("--lift", is_flag=True, help="In float64, lift the float32 that is hard-coded in the port.")
@click.option("--limit-rms", type=float, metavar="X", help="Largest rms noise multiple that still matches.")
@click.option("--limit-max", type=float, metavar="Y", help="Largest max-abs noise multiple that still matches.")
def check(
    golden: str | None,
    port: str,
    weights: Path | None,
    precision: str,
    mode: str,
    cases: tuple[str, ...],
    json_file: Path | None,
    lift: bool,
    limit_rms: float | None,
    limit_max: float | None,
) -> None:
    """Check a port against GOLDEN (default: the embedded one), operation by operation.

    The forward check runs the port on its own activations. The replay check hands every tap's golden value
    on instead, so that each operation is judged on golden inputs alone: what is wrong there is where the
    bug is. Both run at every precision asked for.

    \b
    goldens check
    goldens check my-golden.h5 --weights path/to/Qwen2.5-7B --port my_port:Port
    goldens check --precision bfloat16 --case 'hello*' --json report.json
    """
    from harness import embedded
    from harness.report.document import encode
    from harness.report.output import check_output, write_output
    from harness.report.terminal import print_report
    from harness.run.check import check as run_check
    from harness.run.question import MODES, Question
    from harness.store import open_golden

    question = Question(
        precisions=_listed(precision),
        modes=MODES if mode == "both" else (mode,),
        cases=cases,
        limit_rms=limit_rms,
        limit_max=limit_max,
        lift=lift,
    )
    if json_file is not None:
        check_output(json_file)
    path = golden or str(embedded.golden())
    if weights is None:
        with open_golden(path) as opened:
            weights = embedded.checkpoint_beside(path, opened.manifest.model.id)
    with _status("check") as status:
        report = run_check(path, weights, port, question, progress=status)
    if json_file is not None:
        write_output(json_file, encode(report))
    print_report(report, _console(stderr=json_file == Path("-")))
    _refuse_broken_contract(report)
    sys.exit(MATCH if report.verdict == "match" else DIVERGED)


@cli.command()
@click.argument("golden", required=False)
@click.option("--before", required=True, metavar="SIDE", help="What it was.")
@click.option("--after", required=True, metavar="SIDE", help="What it is now.")
@click.option("--weights", type=click.Path(path_type=Path), metavar="DIR", help="The golden's checkpoint.")
@click.option("--precision", metavar="LIST", help="Comma-separated. [default: a saved side's, or as check]")
@click.option(
    "--mode",
    type=click.Choice(["both", "forward", "replay"]),
    help="As for check. [default: a saved side's, or both]",
)
@click.option("--case", "cases", multiple=True, metavar="GLOB", help="Only these cases; may be repeated.")
@click.option("--lift", is_flag=True, help="As for check.")
@click.option("--intersection", is_flag=True, help="Leave out, and name, what only one side was asked.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write JSON; - is stdout.",
)
def diff(
    golden: str | None,
    before: str,
    after: str,
    weights: Path | None,
    precision: str | None,
    mode: str | None,
    cases: tuple[str, ...],
    lift: bool,
    intersection: bool,
    json_file: Path | None,
) -> None:
    """What a candidate fix changes: fixed, improved, worse or broken, beyond the noise, operation by operation.

    \b
    A SIDE is one of
      package.module:Name           a port, checked now
      report.json                   a check saved with goldens check --json
      git:REV                       the other side's port as it stands at a git revision
      git:REV:package.module:Name   the same, where it had another name then

    A git: side runs in a temporary worktree: it never sees uncommitted changes, and your checkout is not touched.

    \b
    goldens diff --before git:main --after my_port:Port
    goldens diff my-golden.h5 --before before.json --after after.json --json diff.json

    Exit codes: 0 nothing is worse, 1 something is worse, broken or no longer covered, 2 could not compare.
    """
    from harness.difference import WORSE
    from harness.report.diff_terminal import print_diff
    from harness.report.document import encode
    from harness.report.output import check_output, write_output
    from harness.report.selection import Selection
    from harness.run.question import MODES
    from harness.run.sides import Request, diff_of

    if json_file is not None:
        check_output(json_file)
    selection = Selection(
        precisions=None if precision is None else _listed(precision),
        modes=None if mode is None else MODES if mode == "both" else (mode,),
        cases=cases,
    )
    request = Request(golden, weights, before, after, selection, intersection, lift)
    with _status("diff") as status:
        found = diff_of(request, status)
    if json_file is not None:
        write_output(json_file, encode(found))
    print_diff(found, _console(stderr=json_file == Path("-")))
    sys.exit(DIVERGED if any(found.counts[kind] for kind in WORSE) else MATCH)


@cli.command()
@click.argument("golden", required=False)
def show(golden: str | None) -> None:
    """What is in GOLDEN (default: the embedded one): model, cases, provenance, size."""
    from harness import embedded
    from harness.report.contents import contents
    from harness.store import open_golden

    with open_golden(golden or str(embedded.golden())) as opened:
        _console().print(contents(opened), highlight=False)


@cli.command()
@click.argument("golden", required=False)
def verify(golden: str | None) -> None:
    """Read every array of GOLDEN (default: the embedded one) and compare it with its sha256."""
    from harness import embedded
    from harness.store import open_golden

    with open_golden(golden or str(embedded.golden())) as opened, _status("verify") as status:
        count = opened.verify(status)
    click.echo(f"ok  {count:,} arrays verified  {opened.id}")


def _listed(text: str) -> tuple[str, ...]:
    """The items of a comma-separated option, once each."""
    return tuple(dict.fromkeys(item.strip() for item in text.split(",") if item.strip()))


def _refuse_broken_contract(report: object) -> None:
    """Where something could not be compared the answer is neither match nor diverged.

    Raises:
        PortError: a tap is missing, extra, of another shape or dtype, or not finite.
    """
    from harness.errors import PortError
    from harness.report.document import Report
    from harness.verdict import BROKEN

    assert isinstance(report, Report)
    broken = [result for result in report.results if result.verdict in BROKEN]
    if not broken:
        return
    first = broken[0]
    kinds = ", ".join(dict.fromkeys(result.verdict for result in broken))
    raise PortError(
        f"{len(broken)} taps could not be compared ({kinds})",
        where=f"{first.tap} in case {first.case}, {first.precision}, {first.mode}: {first.verdict}",
        expected=first.expected or "finite values",
        found=first.found or "NaN or infinity",
        hint="lift the float32 that is hard-coded in the port: --lift"
        if (first.verdict, first.precision) == ("dtype", "float64")
        else "mend this in the port first; the report above says where it begins",
    )


def _console(stderr: bool = False):  # type: ignore[no-untyped-def]  # rich is imported late
    from rich.console import Console

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120
    return Console(stderr=stderr, width=width, soft_wrap=False)


class _status:  # noqa: N801 - used as a function: `with _status("check") as status`
    """A spinner on stderr that says what is being done; silent where stderr is not a terminal."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._status = _console(stderr=True).status(what)

    def __enter__(self) -> _status:
        self._status.start()
        return self

    def __call__(self, text: str) -> None:
        self._status.update(f"{self._what}: {text}")

    def __exit__(self, *_: object) -> None:
        self._status.stop()


if __name__ == "__main__":
    cli()
