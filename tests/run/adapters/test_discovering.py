"""`goldens port --discover`: taps among all variables of a program, without a table, also where it has bugs."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from click.testing import CliRunner

from harness.cli import cli
from harness.errors import PortError
from harness.run.adapters import To
from harness.run.check import check
from harness.run.contained import CannotLift
from harness.run.progress import SILENT
from harness.run.proposing import proposal as discovery
from harness.run.proposing.proposal import propose
from harness.run.question import Question
from tests.run.adapters import function_model, functions

HERE = "tests.run.adapters"
CASE = "digits"


class Scanned(function_model.Stacked):
    """A model that shows nothing: no sub-modules and no intermediates."""

    taps = {}

    def run(self, input_ids, positions, mask):
        return super().run(input_ids, positions, mask)[0], {}


# No function of it is looked at, so that variables alone are left.
Scanned.run.__module__ = "nowhere"


def found(golden_path, checkpoint, name, precision=None, case=CASE):
    return propose(golden_path, checkpoint, f"{HERE}.{name}", case, precision, SILENT, discover=True)


@functools.cache
def right(golden_path, checkpoint, name):
    """The proposal for a port without a bug, made once."""
    return found(golden_path, checkpoint, name)


def wrong(proposal):
    return {row.tap: len(row.wrong) for row in proposal.rows if row.wrong}


def lefts(proposal):
    return {row.tap: row.left for row in proposal.rows}


@pytest.mark.parametrize(
    "name",
    [
        "nnx_model:Listed",
        "linen_model:Scanned",
        "equinox_model:Listed",
        "keras_model:Subclassed",
        "test_discovering:Scanned",
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of Keras, of its own masks
def test_every_tap_is_found_with_no_table(golden_path, checkpoint, monkeypatch, name):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    for framework in ("equinox", "keras"):
        if name.startswith(framework):
            pytest.importorskip(framework)
    with jax.numpy_rank_promotion("allow" if name.startswith("keras") else "raise"):
        proposal = right(golden_path, checkpoint, name)
    assert (proposal.missing, proposal.logits, proposal.precision) == ((), True, "float64")
    assert not wrong(proposal) and not proposal.absent
    assert len(proposal.rows) == 18
    assert all(0 <= row.noise[0] < row.noise[1] for row in proposal.rows)


def test_a_check_by_variables_alone_matches_and_covers_every_tap(golden_path, checkpoint):
    table = right(golden_path, checkpoint, "test_discovering:Scanned").table
    # Softmax is a function of its own wherever it is called.
    assert {left for left in table if "/" not in left} == {"jax.nn:softmax"}

    class Proposed(Scanned):
        taps, dtypes = table, {"probs": "float32"}  # as its softmax has them

    report = check(
        golden_path,
        checkpoint,
        "tests:Proposed",
        Question(("bfloat16",), modes=("forward", "replay"), cases=(CASE,)),
        load=lambda directory, config, dtype: Proposed.load(directory, config, dtype, None),
    )
    assert report.verdict == "match"
    assert not [line for line in report.not_covered if line.startswith("tap ")]


def test_what_is_wrong_is_told_with_its_line_and_all_else_is_found(golden_path, checkpoint, monkeypatch):
    turned = function_model.rope
    monkeypatch.setattr(function_model, "rope", lambda x, at, theta: turned(x, 2 * at + 1, theta))
    proposal = found(golden_path, checkpoint, "test_discovering:Scanned")
    assert wrong(proposal) == {"layers.{i}.q_rope": 4, "layers.{i}.k_rope": 4}
    assert (len(proposal.rows), proposal.missing, proposal.logits) == (18, (), True)
    assert lefts(proposal) == lefts(right(golden_path, checkpoint, "test_discovering:Scanned"))
    (row,) = (row for row in proposal.rows if row.tap == "layers.{i}.q_rope")
    assert 0.1 < row.far < 2 and row.told == ""
    lines, first = inspect.getsourcelines(functions.rope)
    at = next(first + n for n, line in enumerate(lines) if "return" in line)
    assert re.fullmatch(rf"float64\[1,\d+,6,8\] at tests/run/adapters/functions\.py:{at}: return .*", row.place)


def test_positions_that_are_all_off_by_one_harm_nothing_and_are_told(golden_path, checkpoint, monkeypatch):
    """Scores depend on differences of positions alone: what follows is right, with the golden and without."""
    turned = function_model.rope
    monkeypatch.setattr(function_model, "rope", lambda x, at, theta: turned(x, at + 1, theta))
    proposal = found(golden_path, checkpoint, "test_discovering:Scanned")
    assert wrong(proposal) == {"layers.{i}.q_rope": 4, "layers.{i}.k_rope": 4}


def test_an_operation_that_is_not_there_is_told_by_what_goes_on_instead(golden_path, checkpoint, monkeypatch):
    turned, calls = function_model.rope, []

    def rope(x, at, theta):
        calls.append(x)
        return turned(x, at, theta) if len(calls) % 2 else x  # of keys not: a block is traced once

    monkeypatch.setattr(function_model, "rope", rope)
    proposal = found(golden_path, checkpoint, "test_discovering:Scanned")
    assert not wrong(proposal) and not proposal.missing
    assert [(one.tap, one.instead) for one in proposal.absent] == [
        (f"layers.{i}.k_rope", (f"layers.{i}.k",)) for i in range(4)
    ]
    assert "function_model.py" in proposal.absent[0].place


def test_a_bug_where_two_taps_meet_is_told_there(golden_path, checkpoint, monkeypatch):
    own = function_model.probabilities
    monkeypatch.setattr(function_model, "probabilities", lambda q, k, mask: own(q + jnp.mean(k), k, mask))
    proposal = found(golden_path, checkpoint, "test_discovering:Scanned")
    assert wrong(proposal) == {"layers.{i}.probs": 4}


def test_what_cannot_be_lifted_is_looked_at_in_float32_which_is_said(golden_path, checkpoint, monkeypatch):
    asked = []

    def discovered(port, golden, case, config, precision, progress):
        asked.append(precision)
        if precision == "float64":
            raise CannotLift("bitcast_convert_type at my_model.py:7")
        return dataclasses.replace(right(golden_path, checkpoint, "test_discovering:Scanned"), precision=precision)

    monkeypatch.setattr(discovery, "discovered", discovered)
    proposal = found(golden_path, checkpoint, "test_discovering:Scanned")
    assert (asked, proposal.precision) == (["float64", "float32"], "float32")
    assert "cannot be lifted" in proposal.note and "my_model.py:7" in proposal.note


def test_models_that_cannot_be_traced_are_refused(golden_path, checkpoint):
    with pytest.raises(PortError, match="looks at a value where it cannot be answered"):
        found(golden_path, checkpoint, "test_proposing:LookingInside", "float32")


def test_the_command_prints_a_table_that_can_be_pasted(golden_path, checkpoint, tmp_path):
    file = tmp_path / "proposal.json"
    rest = [str(golden_path), "--weights", str(checkpoint), "--case", CASE, "--discover"]
    ran = CliRunner().invoke(cli, ["port", f"{HERE}.test_discovering:Scanned", *rest, "--json", str(file)])
    assert ran.exit_code == 0, ran.output
    assert "float64, among " in ran.output
    pasted: dict[str, Any] = {"To": To}
    exec(re.search(r"^taps = \{\n.*?^\}", ran.output, flags=re.DOTALL | re.MULTILINE).group(), pasted)
    assert pasted["taps"] == right(golden_path, checkpoint, "test_discovering:Scanned").table
    assert [row["left"] for row in json.loads(file.read_text())["rows"]] == list(pasted["taps"])
    refused = CliRunner().invoke(cli, ["port", "harness.run.decoder:Decoder", *rest])
    assert refused.exit_code == 2 and "no adapter of somebody's model" in refused.output
