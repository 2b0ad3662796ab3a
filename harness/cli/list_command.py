"""`goldens list`: the embedded goldens, and the families that are known."""

from __future__ import annotations

import click


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
