from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness import embedded


@pytest.fixture(autouse=True)
def no_terminal_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers of pytest-xdist have COLUMNS=80; what is printed here is as wide as in a log."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="session")
def golden_path() -> Path:
    """The embedded golden."""
    return embedded.golden()


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    """The embedded golden's checkpoint. Not to be changed: see `own_checkpoint`."""
    return embedded.directory() / "qwen2-tiny"


@pytest.fixture
def own_checkpoint(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint that a test may damage."""
    return Path(shutil.copytree(checkpoint, tmp_path / "qwen2-tiny"))
