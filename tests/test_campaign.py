"""A short, seeded part of the campaign of hostile inputs; at length it is `python -m tests.campaign.inputs`."""

from __future__ import annotations

import pytest
from rich.console import Console

from tests.campaign import inputs
from tests.campaign.trials import Claim, attempt


def held(made, capsys):
    made.show(Console(width=200))
    assert made.failures == 0, capsys.readouterr().out
    assert all(claim.trials for claim in made.claims)


def test_whatever_lies_at_a_path_is_read_or_refused(monkeypatch, capsys):
    monkeypatch.setattr(inputs, "has_torch", lambda: False)
    made = inputs.campaign(trials=60, seed=20251125, seconds=60)
    held(made, capsys)
    assert [0 < claim.refused < claim.trials for claim in made.claims] == [True] * 3, "some of each"


@pytest.mark.record
def test_what_is_recorded_from_it_is_what_transformers_computes(capsys):
    pytest.importorskip("torch")
    held(inputs.campaign(trials=15, seed=20251125, seconds=90), capsys)


class Wordy(inputs.CorpusError):
    """A refusal that does not keep its message short."""

    def __str__(self) -> str:
        return "x" * 9999


@pytest.mark.parametrize(
    ("action", "says"),
    [
        (lambda: [][1], "IndexError"),
        (lambda: (_ for _ in ()).throw(SystemExit(0)), "SystemExit"),
        (lambda: (_ for _ in ()).throw(Wordy("x", hint="x")), "a message of 9,999"),
        (lambda: (_ for _ in ()).throw(inputs.CorpusError("x", hint="")), "no hint"),
    ],
)
def test_a_campaign_would_notice(action, says):
    claim = Claim("a claim")
    attempt(claim, action, "the input")
    (failure,) = claim.failures
    assert says in failure
