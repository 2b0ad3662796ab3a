"""`goldens port`: the table of a model that nobody has read, also where it has a bug, and what is not found."""

from __future__ import annotations

import functools
import importlib
import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner
from flax import nnx

from harness.cli import cli
from harness.errors import PortError, UsageError
from harness.run.adapters import To
from harness.run.adapters.calls import Site
from harness.run.check import check
from harness.run.progress import SILENT
from harness.run.proposing.layouts import layouts
from harness.run.proposing.places import Option, Written, chosen
from harness.run.proposing.proposal import propose
from harness.run.proposing.watched import Mark
from harness.run.question import Question
from tests.run.adapters import function_model, linen_model, nnx_model

HERE = "tests.run.adapters"
CASE = "digits"


def found(golden_path, checkpoint, name, precision="float32", case=CASE):
    return propose(golden_path, checkpoint, f"{HERE}.{name}", case, precision, SILENT)


@functools.cache
def right(golden_path, checkpoint, name):
    """The proposal for a port without a bug, made once."""
    return found(golden_path, checkpoint, name)


def port_of(name):
    module, _, port = name.partition(":")
    return getattr(importlib.import_module(f"{HERE}.{module}"), port)


@pytest.mark.parametrize(
    ("name", "others"),
    [
        # What they have no row for, as people wrote them: their own methods and functions.
        ("nnx_model:Listed", {"q_rope", "k_rope", "probs"}),
        ("nnx_model:Scanned", {"q_rope", "k_rope", "probs"}),
        ("linen_model:Unrolled", set()),
        ("linen_model:Scanned", set()),
        ("function_model:ByLayer", set()),
        ("function_model:Stacked", set()),
    ],
)
def test_the_rows_that_a_person_wrote_are_proposed_and_those_that_were_forgotten(
    golden_path, checkpoint, name, others
):
    proposal, written = right(golden_path, checkpoint, name), port_of(name).taps
    assert {left: proposal.table.get(left) for left in written} == {
        left: tap.tap if isinstance(tap, To) and tap.layout is None else tap for left, tap in written.items()
    }
    more = {row.tap.rpartition(".")[2] for row in proposal.rows if row.left not in written}
    assert (more, proposal.missing, proposal.logits) == (others, (), True)
    assert all(0 <= row.noise[0] < row.noise[1] and not row.wrong for row in proposal.rows)


def test_a_check_by_the_proposed_table_matches_and_covers_every_tap(golden_path, checkpoint):
    table = right(golden_path, checkpoint, "nnx_model:Scanned").table

    class Proposed(nnx_model.Scanned):
        taps = table

    report = check(
        golden_path,
        checkpoint,
        "tests:Proposed",
        Question(("float32",), modes=("replay",), cases=(CASE,)),
        load=lambda directory, config, dtype: Proposed.load(directory, config, dtype, None),
    )
    assert report.verdict == "match"
    assert not [line for line in report.not_covered if line.startswith("tap ")]


def wrong(proposal):
    return {row.left: row.wrong for row in proposal.rows if row.wrong}


def in_every_layer(*kinds):
    return [tuple(f"layers.{layer}.{kind}" for layer in range(4)) for kind in kinds]


def test_two_bugs_at_once_stop_the_search_only_where_they_sit(golden_path, checkpoint, monkeypatch):
    right = nnx_model.rope
    monkeypatch.setattr(nnx_model, "rope", lambda x, positions, theta: right(x, 2 * positions + 1, theta))
    proposal = found(golden_path, checkpoint, "nnx_model:Listed")
    q, k = in_every_layer("q_rope", "k_rope")
    assert wrong(proposal) == {"layers.{i}.attn.rotate#0": q, "layers.{i}.attn.rotate#1": k}
    assert all(0.1 < row.far < 2 for row in proposal.rows if row.wrong)
    assert (len(proposal.rows), proposal.missing) == (18, ())


def test_a_bug_in_a_scan_is_told_in_the_iterations_that_have_it(golden_path, checkpoint, monkeypatch):
    right = linen_model.probabilities
    monkeypatch.setattr(
        linen_model, "probabilities", lambda q, k, mask: right(q * jnp.asarray(1.1, q.dtype), k, mask)
    )
    proposal = found(golden_path, checkpoint, "linen_model:Scanned")
    assert wrong(proposal) == dict(zip(["layers.softmax[weights]"], in_every_layer("probs"), strict=True))
    assert proposal.logits


def test_a_bug_in_the_last_norm_is_seen_by_the_logits(golden_path, checkpoint, monkeypatch):
    right = function_model.rms_norm
    calls = []

    def norm(x, weight, eps):
        calls.append(x)
        return right(x, weight, eps) * jnp.asarray(2 if len(calls) == 3 else 1, x.dtype)

    monkeypatch.setattr(function_model, "rms_norm", norm)  # a block is traced once: the third is the last
    assert wrong(found(golden_path, checkpoint, "function_model:ByLayer")) == {"norm": ("final_norm",)}


class Hiding(function_model.ByLayer):
    def run(self, input_ids, positions, mask):
        logits, kept = super().run(input_ids, positions, mask)
        hidden = ("act", "gate", "resid_mid")
        layers = [{k: v for k, v in layer.items() if k not in hidden} for layer in kept["layers"]]
        return logits, {**kept, "layers": layers}


def test_what_is_hidden_is_looked_for_in_functions_or_said_not_to_be_found(golden_path, checkpoint):
    proposal = found(golden_path, checkpoint, "test_proposing:Hiding")
    lefts = {row.tap: row.left for row in proposal.rows}
    assert lefts["layers.{i}.gate"] == "jax.nn:silu#{i}(0)"
    assert lefts["layers.{i}.resid_mid"].endswith(":rms_norm#{2i+1}(0)")
    assert (proposal.missing, wrong(proposal)) == (*in_every_layer("act"), {})


class CoarseAttention(nnx_model.Attention):
    """It rounds to bfloat16 what it has rotated, and sums in it; with a cache it returns that as well."""

    order = 1  # -1 is the cache first

    def __call__(self, x, positions, mask, cache=None):
        low, shape = jnp.bfloat16, (*x.shape[:2], -1, self.arch.head_dim)
        q, k, v = (p(x).reshape(shape) for p in (self.q, self.k, self.v))
        q, k = (self.rotate(one, positions).astype(low).astype(x.dtype) for one in (q, k))
        if cache is not None:
            cache = self.keep(cache, k, v, mask)
            k, v = cache["k"], cache["v"]
        weights = nnx_model.probabilities(nnx_model.grouped(q, self.arch.kv_heads), k, mask)
        context = jnp.einsum("bkgts,bskd->btkgd", weights.astype(low), v.astype(low))
        out = self.o(context.reshape(*x.shape[:2], -1).astype(x.dtype))
        return out if cache is None else (out, cache)[:: self.order]


class CoarseBlock(nnx_model.Block):
    def __call__(self, x, positions, mask, cache=None):
        found = self.attn(self.input_norm(x), positions=positions, mask=mask, cache=cache)
        out, cache = (found, None) if cache is None else found[:: self.attn.order]
        y = self.post_norm(x := x + out)
        return x + self.down(nnx.silu(self.gate(y)) * self.up(y)), cache


class Coarse(nnx_model.Cached):
    attention = CoarseAttention

    @classmethod
    def load(cls, *arguments):
        port = super().load(*arguments)
        for layer in port.model.layers:
            layer.__class__, layer.attn.__class__ = CoarseBlock, cls.attention
        return cls(port.model, *arguments[1:3])


class CacheFirstAttention(CoarseAttention):
    order = -1


class CacheFirst(Coarse):
    attention = CacheFirstAttention


@pytest.mark.parametrize(("port", "item"), [("Coarse", "[0]"), ("CacheFirst", "[-1]")])
def test_arithmetic_that_is_coarse_is_told_tap_by_tap_in_rows_that_serve_its_cache_too(
    golden_path, checkpoint, port, item
):
    proposal = found(golden_path, checkpoint, f"test_proposing:{port}")
    written = nnx_model.Listed.taps
    assert {left for left in written if left not in proposal.table} == {"layers.{i}.attn[out]"}
    assert proposal.table[f"layers.{{i}}.attn{item}"] == "layers.{i}.attn_out"
    kinds = {row.tap.rpartition(".")[2] for row in proposal.rows if row.wrong}
    assert kinds == {"probs", "context"}  # its output projection is as it should be
    assert all(row.far < 0.01 for row in proposal.rows)
    assert proposal.missing == ()


class Looking(function_model.Stacked):
    def run(self, input_ids, positions, mask):
        return super().run(input_ids, jnp.asarray(np.array(positions)), mask)


class LookingInside(function_model.Stacked):
    def run(self, input_ids, positions, mask):
        return super().run(input_ids, jax.jit(lambda x: x + int(x[0, 0]))(positions), mask)


def test_a_model_that_looks_at_values_is_told_them_where_it_can_be(golden_path, checkpoint):
    table = right(golden_path, checkpoint, "function_model:Stacked").table
    assert found(golden_path, checkpoint, "test_proposing:Looking").table == table
    with pytest.raises(PortError, match="looks at a value where it cannot be answered") as caught:
        found(golden_path, checkpoint, "test_proposing:LookingInside")
    assert "test_proposing.py" in caught.value.where


def test_in_float64_which_is_lifted_it_is_the_same_table(golden_path, checkpoint):
    wide = found(golden_path, checkpoint, "function_model:Stacked", "float64")
    assert wide.table == right(golden_path, checkpoint, "function_model:Stacked").table
    assert max(row.noise[0] for row in wide.rows) < 100  # half-ulps


def test_what_the_values_cannot_tell_apart_is_said_to_be_ambiguous(golden_path, checkpoint):
    """One token, at position 0: nothing is turned, and only the order and the names are left."""
    proposal = found(golden_path, checkpoint, "linen_model:Unrolled", case="hello")
    assert proposal.table == linen_model.Unrolled.taps
    pairs = {row.tap.rpartition(".")[2]: row.also for row in proposal.rows if row.also}
    assert pairs == {"q": ("q_rope",), "q_rope": ("q",), "k": ("k_rope",), "k_rope": ("k",)}


def option(path, field, layer, call=None):
    written = Written(Mark(0, Site(path, field, ())), call, False, None)
    return Option(written, None, "resid_post", layer, None)


def test_rows_of_layers_become_one_and_what_does_not_fit_stands_beside_it():
    folded = [option(f"layers.{layer + 1}", "(0)", layer) for layer in range(3)] + [option("norm", "(0)", 3)]
    assert [row.left for row in chosen(folded)] == ["layers.{i+1}(0)", "norm(0)"]
    counted = [option("pkg.norms:norm2", "", layer, 2 * layer + 1) for layer in range(4)]
    assert [row.left for row in chosen(counted)] == ["pkg.norms:norm2#{2i+1}"]
    assert [row.left for row in chosen(folded + counted)] == ["pkg.norms:norm2#{2i+1}"]  # one row before two


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((1, 6, 48), "batch position (head head_dim)"),
        ((1, 4, 6, 12), "batch head position head_dim"),
        ((1, 2, 2, 6, 12), "batch kv_head group position head_dim -> batch position (kv_head group) head_dim"),
        ((6, 4, 12), "position head head_dim"),
        ((1, 1, 6, 4, 12), "1 batch position head head_dim"),
        ((2, 1, 6, 2, 12), "group batch position kv_head head_dim -> batch position (kv_head group) head_dim"),
        ((1, 6, 4, 12), None),
        ((6, 1, 48), "position batch (head head_dim)"),
        ((6, 4, 1, 1, 12), "position head batch 1 head_dim"),
        ((1, 4, 6, 16), "batch head position (head_dim + zeros)"),
    ],
)
def test_layouts_are_named_by_shape(shape, layout):
    sizes = {"batch": 1, "position": 6, "head": 4, "kv_head": 2, "head_dim": 12}
    assert layouts(("batch", "position", "head", "head_dim"), tuple(sizes.items()), shape)[0] == layout


def test_what_it_cannot_look_at_is_refused(golden_path, checkpoint):
    with pytest.raises(PortError, match="no adapter of somebody's model"):
        propose(golden_path, checkpoint, "harness.run.decoder:Decoder", CASE, "float32", SILENT)
    with pytest.raises(UsageError, match="from a prompt alone"):
        found(golden_path, checkpoint, "linen_model:Scanned", case="decode")


def test_the_command_prints_the_model_and_a_table_that_can_be_pasted(golden_path, checkpoint, tmp_path):
    file = tmp_path / "proposal.json"
    rest = [str(golden_path), "--weights", str(checkpoint), "--case", CASE]
    ran = CliRunner().invoke(cli, ["port", f"{HERE}.linen_model:Scanned", *rest, "--json", str(file)])
    assert ran.exit_code == 0, ran.output
    assert "o_proj  (float32[1," in ran.output
    pasted: dict[str, Any] = {"To": To}
    exec(re.search(r"^taps = \{\n.*?^\}", ran.output, flags=re.DOTALL | re.MULTILINE).group(), pasted)
    assert pasted["taps"] == right(golden_path, checkpoint, "linen_model:Scanned").table
    assert [row["left"] for row in json.loads(file.read_text())["rows"]] == list(pasted["taps"])
    assert CliRunner().invoke(cli, ["port", "harness.run.decoder:Decoder", *rest]).exit_code == 2
