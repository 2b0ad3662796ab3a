"""Options that several commands have, and what of them is read, as paths: no output may be one of those."""

from __future__ import annotations

import functools
import importlib.machinery
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

OUTPUTS = {
    "json": "The report itself.",
    "html": "One self-contained page for a browser.",
    "markdown": "A short summary, as GitHub shows it for a step.",
    "junit": "JUnit XML, a test per case.",
}

weights_option = click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The golden's checkpoint. [default: the folder beside the golden that is called as the model]",
)


def _resolved(context: click.Context, parameter: click.Parameter, value: str | None) -> str:
    from harness import embedded

    return embedded.resolved(value)


# A path, a URL, or the name of an embedded golden, and where none is given the embedded one.
golden_argument = click.argument("golden", required=False, callback=_resolved)
reduced_precision_option = click.option(
    "--allow-reduced-precision",
    is_flag=True,
    help="Check float32 under the matmul precision that is configured, or the backend's default.",
)
mesh_option = click.option(
    "--mesh",
    metavar="AXIS=SIZE,...",
    help="Give the port a mesh of devices with these axes, such as data=2,model=4. [default: none]",
)


def output_options(*views: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add an option `--VIEW FILE` for each view; the command is given all of them, by view, as `outputs`."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_outputs(**given: Any) -> Any:
            return command(outputs={view: given.pop(view) for view in tuple(given) if view in views}, **given)

        for view in reversed(views):
            path = click.Path(path_type=Path, dir_okay=False, allow_dash=True)
            text = f"{OUTPUTS[view]} {'- is stdout.' if view == views[0] else ''}".strip()
            with_outputs = click.option(f"--{view}", type=path, metavar="FILE", help=text)(with_outputs)
        return with_outputs

    return decorate


def chosen(outputs: Mapping[str, Path | None], inputs: Mapping[str, str | Path | None]) -> dict[str, Path]:
    """The outputs that were asked for, each known to be writable, and none of them something that is read.

    Args:
        inputs: what the command reads, by what a message calls it.

    Raises:
        UsageError: one cannot be written, or is an input, or two go to the same place.
    """
    asked = {view: path for view, path in outputs.items() if path is not None}
    if asked:
        from harness.report.output import check_outputs, refuse_inputs

        check_outputs(asked)
        refuse_inputs(asked, inputs)
    return asked


def inputs(golden: str, weights: Path | None, port: str | None = None) -> dict[str, str | Path | None]:
    """What a check reads, by what a message calls it."""
    return {"the golden": golden, "the weights": weights, "the port": None if port is None else port_file(port)}


def port_file(spec: str) -> Path | None:
    """The file of the module that `package.module:Name` names, without importing it; None where there is none."""
    package, *parts = spec.partition(":")[0].split(".")
    if not package.isidentifier():
        return None
    here = str(Path.cwd())
    module_spec = importlib.machinery.PathFinder.find_spec(package, [here, *sys.path])
    if module_spec is None or (module_spec.origin is None and not module_spec.submodule_search_locations):
        return None
    folder = next(iter(module_spec.submodule_search_locations or ()), None)
    if folder is None or not parts:
        return Path(module_spec.origin) if module_spec.origin else None
    module = Path(folder, *parts)
    return module / "__init__.py" if module.is_dir() else module.with_suffix(".py")


def side_file(text: str) -> Path | None:
    """The file behind a side of a diff: a saved check, or the module of a port."""
    return Path(text) if text.endswith(".json") or Path(text).is_file() else port_file(text)
