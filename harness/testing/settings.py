"""The plugin's options: from the command line, or else from the project's pytest configuration."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.run.question import Question

EMBEDDED = "embedded"
# By name: help, and what is meant where neither the command line nor the configuration says.
CONFIGURABLE = {
    "golden": ("a golden, HDF5 or Zarr, `embedded`, or the name of an embedded one", ""),
    "port": ("the JAX model, package.module:Name", ""),
    "weights": ("directory of the golden's checkpoint; beside the golden by default", ""),
    "precision": ("comma-separated: float64, float32, bfloat16", "float64,float32"),
}
METAVARS = {"golden": "PATH", "port": "SPEC", "weights": "DIR", "precision": "LIST"}
# Written with "=" in every hint: pytest looks for its own configuration beside an existing path that stands alone.
GOLDEN_HINT = "pytest --golden=PATH, `golden = PATH` in pytest's configuration, or --golden=embedded"
PORT_HINT = "pytest --port=my_package.my_port:Port, or `port = ...` in pytest's configuration"
PATHS = ("golden", "weights")  # relative to the folder of the configuration file, where they come from one
PREFIX = "goldens_"
COLLECTS = f"{PREFIX}collects"


@dataclass(frozen=True)
class Settings:
    """What was asked of the plugin.

    Attributes:
        golden: path or URL of a golden; None where none is configured.
        port: `package.module:Name`; None where none is configured.
        weights: the checkpoint; None means beside the golden.
        weights_from: where that was said: the option, or the file of pytest's configuration.
        precision: comma-separated.
        cases: glob patterns of case names; none means all.
        mode: comma-separated modes, both, or all.
        limit_rms, limit_max: the user's own factors on every limit.
        lift, allow_reduced_precision: see `harness.run.question.Question`.
        mesh: axes of the mesh that the port is given, as `--mesh` of the command line takes them; None is no mesh.
        criteria: thresholds on the logits, as `--criteria` of the command line takes them.
    """

    golden: str | None
    port: str | None
    weights: Path | None
    precision: str
    cases: tuple[str, ...]
    mode: str
    limit_rms: float | None
    limit_max: float | None
    lift: bool
    allow_reduced_precision: bool
    weights_from: str = "weights"
    mesh: str | None = None
    criteria: str = "phase-3"

    def checked_weights(self) -> Path | None:
        """The checkpoint; None means beside the golden.

        Raises:
            UsageError: what is configured is no folder.
        """
        if self.weights is not None and not self.weights.is_dir():
            problem, expected = "there is no checkpoint directory", "a folder with config.json and *.safetensors"
            hint = "correct it, or leave it out: the default is beside the golden, by the model's name"
            raise UsageError(problem, self.weights_from, expected, self.weights, hint=hint)
        return self.weights

    def golden_path(self) -> str:
        """Path or URL of the golden.

        Raises:
            UsageError: none is configured.
            GoldenError: the embedded one is not installed.
        """
        from harness import embedded

        if self.golden is None:
            raise UsageError("no golden is configured", where="pytest", hint=GOLDEN_HINT)
        return embedded.resolved(None if self.golden == EMBEDDED else self.golden)

    def question(self) -> Question:
        """The same as the harness takes it."""
        from harness.run.question import question_of

        whose = ("golden", "port", "weights", "weights_from")
        return question_of(**{name: value for name, value in vars(self).items() if name not in whose})


def add_options(parser: pytest.Parser) -> None:
    """Options in a group of their own, and the four that a project can configure once."""
    group = parser.getgroup("goldens", "goldens: a JAX port against recorded goldens")
    for name, (text, _) in CONFIGURABLE.items():
        group.addoption(f"--{name}", dest=f"{PREFIX}{name}", metavar=METAVARS[name], help=text)
        parser.addini(name, f"goldens: {text}", default="")

    def option(name: str, field: str, text: str, **more: Any) -> None:
        group.addoption(name, dest=f"{PREFIX}{field}", help=text, **more)

    option(
        "--golden-case", "cases", "only these cases; may be repeated", action="append", default=[], metavar="GLOB"
    )
    modes = "comma-separated: forward, replay (both: the two), prefill, alone; all by default"
    option("--golden-mode", "mode", modes, default="all", metavar="LIST")
    for name, measure in (("rms", "rms"), ("max", "max-abs")):
        factor = f"factor on every {measure} limit: above 1 misses bugs, below 1 accuses correct ports"
        option(f"--golden-limit-{name}", f"limit_{name}", factor, type=float, metavar="X")
    option(
        "--golden-lift", "lift", "in float64, lift the float32 that is hard-coded in the port", action="store_true"
    )
    mesh = "give the port a mesh of devices with these axes, such as data=2,model=4; none by default"
    option("--golden-mesh", "mesh", mesh, metavar="AXIS=SIZE,...")
    criteria = "your own thresholds on the logits, said in the report: max_abs=1e-4,mean_abs=1e-5,position_r=0.1"
    option("--golden-criteria", "criteria", criteria, default="phase-3", metavar="LIST")
    reduced = "check float32 under the matmul precision that is configured, or the backend's default"
    option("--allow-reduced-precision", "allow_reduced_precision", reduced, action="store_true")


def settings_of(config: pytest.Config) -> Settings:
    """The command line first, then the project's configuration, then the default."""
    given: dict[str, Any] = {name: _configured(config, name) or None for name in CONFIGURABLE}
    alone = {field.name for field in fields(Settings)} - {*CONFIGURABLE, "weights_from"}
    given |= {name: getattr(config.option, PREFIX + name) for name in alone}
    given["weights"] = given["weights"] and Path(given["weights"])
    return Settings(**given | {"cases": tuple(given["cases"]), "weights_from": _origin(config, "weights")})


def _origin(config: pytest.Config, name: str) -> str:
    """Where a setting comes from, as a message names it."""
    given = getattr(config.option, PREFIX + name)
    if given is not None:
        return f"--{name}={given}"
    return f"`{name} = {config.getini(name)}` in {config.inipath or 'the configuration'}"


def refuse_empty(config: pytest.Config) -> None:
    """`--golden "$GOLDEN"` with nothing in the variable would quietly check nothing.

    Raises:
        pytest.UsageError: an option is given and empty.
    """
    for name in CONFIGURABLE:
        if getattr(config.option, PREFIX + name) == "":
            raise pytest.UsageError(f"--{name} is empty: say what it is, or leave the option out")


def decide_collection(config: pytest.Config) -> None:
    """Whether tests are collected from the golden; decided once, since xdist's workers see other arguments.

    They are where `--golden` or `--port` is given, and, where the project's configuration names both, in a run of
    the whole suite: not in one of the files that somebody picked.
    """
    if not hasattr(config.option, COLLECTS):
        settings = settings_of(config)
        given = any(getattr(config.option, PREFIX + name) is not None for name in ("golden", "port"))
        whole = config.args_source is not pytest.Config.ArgsSource.ARGS
        configured = settings.golden is not None and settings.port is not None
        setattr(config.option, COLLECTS, given or (configured and whole))


def collects(config: pytest.Config) -> bool:
    """What `decide_collection` decided."""
    return bool(getattr(config.option, COLLECTS))


def _configured(config: pytest.Config, name: str) -> str:
    given: str | None = getattr(config.option, PREFIX + name)
    if given is not None:
        return given
    configured: str = config.getini(name).strip()
    if not configured:
        return CONFIGURABLE[name][1]
    if name not in PATHS or configured == EMBEDDED or "://" in configured:
        return configured
    return os.path.normpath((config.inipath.parent if config.inipath else config.rootpath) / configured)
