"""The group of all commands: what they refuse, and with which exit code."""

from __future__ import annotations

import os
import traceback

import click

from harness import __version__
from harness.cli.termination import Terminated, raising_on_sigterm
from harness.errors import HarnessError

MATCH, DIVERGED, COULD_NOT, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143


class _Refusing(click.Group):
    """A group whose commands refuse: a HarnessError is its message on stderr, and exit code 2.

    Python would exit with 1 on anything that it does not expect, and 1 means "diverged" here; so that is 2 too.
    """

    def invoke(self, ctx: click.Context) -> object:
        try:
            with raising_on_sigterm():
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except Terminated:
            click.echo("terminated", err=True)
            ctx.exit(TERMINATED)
        except HarnessError as error:
            if os.environ.get("GOLDENS_TRACEBACK"):
                traceback.print_exc()
            click.echo(f"error: {error}", err=True)
            ctx.exit(COULD_NOT)
        except SystemExit as error:  # commands end by `Exit`: this one is somebody else's, such as a port's thread
            click.echo(f"error: something ended the process: SystemExit({error.code!r})", err=True)
            ctx.exit(COULD_NOT)
        except BaseException:
            traceback.print_exc()
            click.echo("error: this is a bug in goldens, not an answer about the port", err=True)
            ctx.exit(COULD_NOT)


@click.group(cls=_Refusing, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="goldens")
def cli() -> None:
    """Check a JAX port of a PyTorch model against recorded goldens, without PyTorch.

    Exit codes: 0 match, 1 diverged, 2 could not check; 130 interrupted (Ctrl-C), 143 terminated (SIGTERM).
    """
