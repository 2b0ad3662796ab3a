"""Progress on stderr: a bar on a terminal; elsewhere a plain line now and then, when a step takes long."""

from __future__ import annotations

import sys
import time
from typing import Self

from rich import progress as bars

from harness.cli.console import console
from harness.run import progress as run

# In a log: seconds between two lines, and before the first one.
QUIET_SECONDS = 30.0


class Progress(run.Progress):
    """What is being done and how far it is, in units that are counted, never guessed."""

    def __init__(self) -> None:
        self._console = console(stderr=True)
        self._on_terminal = sys.stderr.isatty() and not self._console.is_dumb_terminal
        self._bars = bars.Progress(
            bars.SpinnerColumn(),
            bars.TextColumn("{task.description}", markup=False),
            bars.BarColumn(bar_width=24),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[at]}", markup=False),
            bars.TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._on_terminal,
        )
        self._task: bars.TaskID | None = None
        self._spoken = time.monotonic()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def begin(self, step: str, total: int | None = None) -> None:
        """A new step, of that many units where their number is known."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(step, total=total, at="")
        self._say()

    def advance(self, at: str) -> None:
        """One unit of the step; `at` says which."""
        assert self._task is not None, "begin() comes first"
        self._bars.update(self._task, advance=1, at=at)
        self._say()

    def _say(self) -> None:
        if self._on_terminal or time.monotonic() - self._spoken < QUIET_SECONDS:
            return
        self._spoken = time.monotonic()
        task = self._bars.tasks[-1]
        at = f", {task.fields['at']}" if task.fields["at"] else ""
        count = f": {task.completed:,.0f} of {task.total:,.0f}{at}" if task.total else ""
        self._console.print(f"{task.description}{count}", highlight=False, markup=False, soft_wrap=True)
