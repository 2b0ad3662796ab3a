"""The project's documents, and what tests and tools read out of them: ports, commands, workflows."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SKIPPED = {"node_modules", "build", "dist"}  # folders of others; those that begin with a dot but .github, too
PORTS = {"by hand": "harness/run/README.md", "tunix": "harness/run/adapters/README.md"}


def documents() -> list[Path]:
    """Every Markdown file of the checkout."""
    folders = [
        folder
        for folder in ROOT.iterdir()
        if folder.is_dir()
        and folder.name not in SKIPPED
        and (folder.name == ".github" or not folder.name.startswith("."))
    ]
    return sorted([*ROOT.glob("*.md"), *(path for folder in folders for path in folder.rglob("*.md"))])


def read(name: str) -> str:
    """A document by its path in the checkout."""
    return (ROOT / name).read_text(encoding="utf-8")


def port(mark: str) -> str:
    """The code of the port that is marked so."""
    found = re.search(rf"<!-- port: {mark} -->\n```python\n(.*?)```", read(PORTS[mark]), flags=re.DOTALL)
    assert found is not None
    return found[1]


def ci_commands() -> dict[str, str]:
    """The commands that CI runs, by their marks: two of the README, the others of tests/README.md.

    `.ci/run` finds them by the same marks.
    """
    pattern = r"<!-- ci: (\w+) -->\n```sh\n(.*?)\n```"
    both = read("README.md") + read("tests/README.md")
    return dict(re.findall(pattern, both, flags=re.DOTALL))
