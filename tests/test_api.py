"""What `from harness import ...` gives: the examples of API.md run, and the page names exactly what there is."""

from __future__ import annotations

import doctest
import re

import pytest

import harness
from harness.errors import UsageError
from tests.documents import ROOT, read

PAGE = "harness/API.md"


def test_the_examples_of_the_page_run_as_they_are_written(tmp_path):
    found = doctest.testfile(str(ROOT / PAGE), module_relative=False, globs={"tmp": tmp_path.joinpath})
    assert found.attempted > 10
    assert found.failed == 0


def test_the_page_names_what_there_is():
    table = re.findall(r"^\| `(\w+)", read(PAGE), flags=re.MULTILINE)
    assert sorted(table) == sorted(harness.__all__)
    assert all(getattr(harness, name).__doc__ for name in harness.__all__)


def test_another_name_is_none_of_the_package():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        harness.nothing  # noqa: B018


def test_a_view_that_there_is_not_is_refused():
    with pytest.raises(UsageError, match="no such view"):
        harness.render(None, "pdf")
