"""`goldens show`: what is in a golden."""

from __future__ import annotations

import click

from harness.cli.options import golden_argument


@click.command(short_help="Say what a golden holds: model, cases, provenance, size.")
@golden_argument
def show(golden: str) -> None:
    """What is in GOLDEN (default: the embedded one): model, cases, provenance, size."""
    from harness.cli.console import console
    from harness.report.pages.golden import contents
    from harness.report.render.terminal import print_page
    from harness.store import open_golden

    with open_golden(golden) as opened:
        print_page(contents(opened), console())
