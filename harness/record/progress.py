"""The recording as a person sees it: a bar and a summary on stderr."""

from __future__ import annotations

from typing import Self

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from harness.record.recorder import Silent, Summary


class Bars(Silent):
    """Draws the progress of one recording."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._nbytes = 0
        self._stage = ""
        self._task: TaskID | None = None
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("units, {task.fields[written]}, left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,  # a log wants lines, not bars
        )

    def __enter__(self) -> Self:
        self._console.print(f"recording {self._title}")
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def notice(self, text: str) -> None:
        self._console.print(text, highlight=False)

    def plan(self, units: int, done: int) -> None:
        self._task = self._progress.add_task("", total=units, completed=done, written=decimal(0))

    def unit(self, stage: str, case: str, nbytes: int) -> None:
        self._nbytes += nbytes
        if stage != self._stage and not self._console.is_terminal:
            self._console.print(f"{stage} from {case} on, {decimal(self._nbytes)} so far", highlight=False)
        self._stage = stage
        if self._task is not None:
            self._progress.update(
                self._task, advance=1, description=f"{stage} · {case}", written=decimal(self._nbytes)
            )


def show_summary(console: Console, summary: Summary) -> None:
    """What was recorded, on one screen."""
    loudest = summary.loudest
    resumed = f", {summary.resumed} of {summary.units} units resumed" if summary.resumed else ""
    for name, value in (
        ("golden", summary.id),
        ("written to", summary.path),
        ("content", f"{summary.cases} cases, {summary.taps:,} taps, {decimal(summary.nbytes)}"),
        ("took", f"{summary.seconds:.0f} s{resumed}"),
        ("noise", f"PyTorch's own float32 is up to {loudest.error:.2g} off, at {loudest.tap} in {loudest.case}"),
    ):
        console.print(f"{name:<12}{value}", highlight=False, soft_wrap=True)
