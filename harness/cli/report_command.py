"""`goldens report`: a saved check or diff, rendered again."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.options import chosen, output_options


@click.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.json")
@output_options("html", "markdown", "junit")
def report(file: Path, **outputs: Path | None) -> None:
    """Render a saved check or diff again; without an option, print it.

    It does not judge again: exit code 0 says that it was rendered, whatever the verdict.

    \b
    goldens report report.json
    goldens report report.json --html report.html --markdown "$GITHUB_STEP_SUMMARY"
    """
    from harness.report.reading import read_report

    asked = chosen(outputs)
    document = read_report(file)
    if asked:
        from harness.report.views import write_views

        write_views(document, asked)
    else:
        from harness.cli.console import console
        from harness.report.diff_terminal import print_diff
        from harness.report.document import Report
        from harness.report.terminal import print_report

        if isinstance(document, Report):
            print_report(document, console())
        else:
            print_diff(document, console())
