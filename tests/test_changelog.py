"""The changelog: a golden that changes without an entry, or a version without one, fails here."""

from __future__ import annotations

import re
from pathlib import Path

import harness
from harness import embedded
from harness.store import open_golden
from tests.documents import read

SHORT = 12  # digits of an id, as `goldens show` and the reports print it
CHANGELOG = read("CHANGELOG.md")


def id_of(path: Path) -> str:
    with open_golden(path) as golden:
        return golden.id[:SHORT]


def without_entry(ids: dict[str, str], text: str) -> list[str]:
    """The goldens of which the present id stands in no line of its own."""
    return [
        name for name, one in ids.items() if not re.search(rf"^\| `{name}` \| `{one}` \| .+", text, re.MULTILINE)
    ]


def test_every_golden_of_the_repository_has_an_entry_with_its_id():
    assert without_entry({path.stem: id_of(path) for path in embedded.goldens()}, CHANGELOG) == []


def test_a_golden_that_was_recorded_anew_is_noticed(golden_path):
    other = "0" * SHORT
    assert without_entry({golden_path.stem: other}, CHANGELOG) == [golden_path.stem]
    assert without_entry({"another": id_of(golden_path)}, CHANGELOG) == ["another"]


def test_the_present_version_has_a_section():
    assert re.search(rf"^## {re.escape(harness.__version__)}\b", CHANGELOG, flags=re.MULTILINE)
