"""`goldens list`, `show`, `verify`: which goldens there are, what is in one, whether it is what was recorded."""

from __future__ import annotations

import click

from harness.cli.options import golden_argument


@click.command(name="list", short_help="List the embedded goldens and the families of models.")
def list_() -> None:
    """The embedded goldens, which commands take by name, and the model families that can be recorded.

    \b
    goldens check llama3
    """
    from harness import embedded
    from harness.cli.console import console
    from harness.report.pages.golden import listing
    from harness.report.render.terminal import print_page

    print_page(listing(embedded.goldens()), console())


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


@click.command(short_help="Read all of a golden, and compare it with its sha256.")
@golden_argument
def verify(golden: str) -> None:
    """Read every array of GOLDEN (default: the embedded one) and compare it with its sha256."""
    from harness.cli.progress import Progress
    from harness.store import open_golden

    with open_golden(golden) as opened, Progress() as progress:
        progress.begin("verify", len(opened.manifest.arrays))
        count = opened.verify(progress.advance)
    click.echo(f"ok  {count:,} arrays verified  {opened.id}")
