"""The tables that people wrote for Tunix's models, proposed. Needs the `tunix` extra."""

from __future__ import annotations

import importlib
import re
import sys
from types import ModuleType

import jax
import pytest

pytest.importorskip("tunix", reason="google-tunix is not installed: pip install -e '.[test,tunix]'")

from harness import embedded
from harness.run.progress import SILENT
from harness.run.proposing.proposal import propose
from tests import documents

pytestmark = pytest.mark.filterwarnings("ignore")  # other people's deprecations


@pytest.fixture(autouse=True)
def default_promotion():
    """Tunix promotes as JAX does by default."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def spec(monkeypatch):
    """The README's port without its table, by a name that can be imported."""
    module = ModuleType("tunix_port")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(documents.port("tunix"), module.__dict__)
    module.written, module.Port.taps = module.Port.taps, {}
    return f"{module.__name__}:Port"


def test_every_row_of_the_readme_for_tunix_is_proposed(golden_path, checkpoint, spec):
    found = propose(golden_path, checkpoint, spec, "digits", "float32", SILENT)
    assert found.table == sys.modules["tunix_port"].written
    assert (found.missing, found.logits) == ((), True)


def test_a_rotation_planted_in_tunix_stops_the_search_there_alone(golden_path, checkpoint, spec, monkeypatch):
    from tunix.models.qwen2 import model

    right = model.apply_rotary_embedding
    monkeypatch.setattr(model, "apply_rotary_embedding", lambda x, sin, cos: right(x, -sin, cos))
    found = propose(golden_path, checkpoint, spec, "digits", "float32", SILENT)
    assert found.table == sys.modules["tunix_port"].written
    assert {row.tap for row in found.rows if row.wrong} == {"layers.{i}.q_rope", "layers.{i}.k_rope"}


@pytest.mark.parametrize(
    ("name", "port", "wrong"),
    # Qwen3 never reads its rope_theta; Gemma 2 scales by head_dim, and not by query_pre_attn_scalar.
    [("qwen3", "Qwen3", {"q_rope", "k_rope"}), ("gemma2", "Gemma2", {"probs"})],
)
def test_tables_for_tunix_are_proposed_around_the_defects_that_ship_today(name, port, wrong):
    directory, spec = embedded.directory(), f"tests.run.adapters.tunix_ports:{port}"
    found = propose(directory / f"{name}.h5", directory / name, spec, None, "float32", SILENT)
    assert {row.tap.rpartition(".")[2] for row in found.rows if row.wrong} == wrong
    written = getattr(importlib.import_module("tests.run.adapters.tunix_ports"), port).taps
    agree = [left for left, tap in written.items() if found.table.get(left) == tap]
    assert len(agree) >= 0.9 * len(written)
    assert (found.missing, found.logits) == ((), True)


def test_among_all_variables_the_defect_of_gemma_2_has_its_line():
    """Scores are scaled by head_dim, and not by query_pre_attn_scalar."""
    directory, spec = embedded.directory(), "tests.run.adapters.tunix_ports:Gemma2"
    found = propose(directory / "gemma2.h5", directory / "gemma2", spec, None, None, SILENT, discover=True)
    (wrong,) = (row for row in found.rows if row.wrong)
    assert (wrong.tap, len(wrong.wrong)) == ("layers.{i}.probs", 3)
    assert re.search(r"tunix/models/gemma/model\.py:\d+: probs = jax\.nn\.softmax\(", wrong.place)
    assert (found.missing, found.logits, found.precision) == ((), True, "float64")
