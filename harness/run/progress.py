"""Who is told how far a check is."""

from __future__ import annotations


class Progress:
    """Told what is being done, in units that are counted and never guessed. This one tells nobody."""

    def begin(self, step: str, total: int | None = None) -> None:
        """A new step, of that many units where their number is known."""

    def advance(self, at: str) -> None:
        """One unit of the step is done; `at` says which."""


class Prefixed(Progress):
    """Tells somebody else, naming every step's owner first."""

    def __init__(self, progress: Progress, owner: str) -> None:
        self._progress, self._owner = progress, owner

    def begin(self, step: str, total: int | None = None) -> None:
        self._progress.begin(f"{self._owner}: {step}", total)

    def advance(self, at: str) -> None:
        self._progress.advance(at)


SILENT = Progress()
