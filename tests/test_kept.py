from __future__ import annotations

import pytest

from harness.corpus import load_corpus
from harness.errors import CorpusError
from harness.selecting import is_rule, positions_of


@pytest.mark.parametrize(
    ("rule", "length", "positions"),
    [
        ("every 16th, first 2, last 2", 40, (0, 1, 16, 32, 38, 39)),
        ("first 8", 3, (0, 1, 2)),
        ("last 1", 7, (6,)),
        ("every 3rd", 7, (0, 3, 6)),
        ("every 1", 3, (0, 1, 2)),
        ("first, last, every 4th", 10, (0, 4, 8, 9)),
    ],
)
def test_a_rule_names_positions_of_any_length(rule, length, positions):
    assert is_rule(rule)
    assert positions_of(rule, length) == positions


@pytest.mark.parametrize("rule", ["", "every", "every 0th", "first -1", "first 8 last 8", "none", "every 2th,"])
def test_what_is_no_rule_is_refused(rule):
    assert not is_rule(rule)
    with pytest.raises(ValueError, match="no part of a rule"):
        positions_of(rule, 5)


def test_a_corpus_has_either(tmp_path):
    def read(positions):
        file = tmp_path / "corpus.toml"
        file.write_text(f'[[prompt]]\nname = "a"\ntext = "b"\npositions = {positions}\n')
        return load_corpus(file).prompts[0].positions

    assert read('"last 1"') == "last 1"
    assert read("[0]") == (0,)
    for wrong in ('"all"', '""', "3", "[1, 0]"):
        with pytest.raises(CorpusError) as caught:
            read(wrong)
        assert caught.value.hint
