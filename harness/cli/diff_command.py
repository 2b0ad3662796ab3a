"""`goldens diff`: what a candidate fix changes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click
from click.exceptions import Exit

from harness.cli import DIVERGED, MATCH, options


@click.command(short_help="Say what a candidate fix mends and what it breaks.")
@click.argument("golden", required=False)
@click.option("--before", required=True, metavar="SIDE", help="What it was.")
@click.option("--after", required=True, metavar="SIDE", help="What it is now.")
@options.weights_option
@click.option("--precision", metavar="LIST", help="Comma-separated. [default: a saved side's, or as check]")
@click.option("--mode", metavar="LIST", help="As for check. [default: a saved side's, or all]")
@click.option("--case", "cases", multiple=True, metavar="GLOB", help="Only these cases; may be repeated.")
@click.option("--lift", is_flag=True, help="As for check.")
@click.option("--intersection", is_flag=True, help="Leave out, and name, what only one side was asked.")
@click.option("--before-may-fail", is_flag=True, help="If BEFORE raises, all that it lacks counts as wrong.")
@options.mesh_option
@options.reduced_precision_option
@options.output_options("json", "html", "markdown", "junit")
def diff(
    golden: str | None,
    before: str,
    after: str,
    weights: Path | None,
    precision: str | None,
    mode: str | None,
    cases: tuple[str, ...],
    mesh: str | None,
    outputs: Mapping[str, Path | None],
    **asked: bool,
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
    from harness import embedded
    from harness.cli.console import Progress, show, stdout_to_stderr
    from harness.difference import WORSE
    from harness.report.pairing import Selection
    from harness.run.question import parse_mesh, parse_modes, parse_precisions
    from harness.run.sides import Request, diff_of

    sides = {"--before": options.side_file(before), "--after": options.side_file(after)}
    named = golden and embedded.resolved(golden)
    views = options.chosen(outputs, {"the golden": named or embedded.golden(), "the weights": weights, **sides})
    selection = Selection(
        precisions=None if precision is None else parse_precisions(precision),
        modes=None if mode in (None, "all") else parse_modes(mode),
        cases=cases,
    )
    request = Request(named, weights, before, after, selection, mesh=parse_mesh(mesh), **asked)
    with stdout_to_stderr(), Progress() as progress:
        document = diff_of(request, progress)
    show(document, views)
    raise Exit(DIVERGED if any(document.counts[kind] for kind in WORSE) else MATCH)
