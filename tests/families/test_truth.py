"""Truth is what the formulas give, for every family at every tap, and a wrong formula is seen where it is."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.record

from safetensors.numpy import load_file

from harness.along import prompt_case
from harness.record.environment import reproducible
from harness.record.model import Reference
from harness.taps import CACHE_KINDS, kind_of
from tests.families import formulas, tiny
from tests.families.formulas import Model, capped, forward, relative_rms, seen, speeds
from tests.record.stepping import layer_major

IDS = np.random.default_rng(0).integers(0, tiny.BYTES, 70).tolist()
WINDOW = 6
# By name, how many tokens, and how far the fifth is from the fourth. `long` is beyond LongRoPE's original length.
CASES = {"some": (17, 0), "long": (70, 0), "far": (17, 4000)}
FAR_LEARNED = 400  # GPT-2's table has 512 rows
EACH = [(*one, case) for one in tiny.ALL for case in CASES if case != "long" or one == ("phi3", "longrope")]
# Parts of a tap's own rms. The largest that were seen: 4.0e-15, 4.0e-15, and 2.8e-14 far away, where the rounding
# of a frequency is 4,000 times as large in an angle.
LIMITS = {"some": 2e-14, "long": 2e-14, "far": 2e-13}


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """Of a config and a case: (the recorder's truth by tap, what `forward` is given)."""
    folder = tmp_path_factory.mktemp("truth")

    @cache
    def checkpoint(family, name):
        directory = tiny.write(folder / f"{family}-{name}", family, name)
        tensors = load_file(directory / "model.safetensors")
        return Reference(directory), tensors, json.loads((directory / "config.json").read_text())

    @cache
    def of(family, name, case):
        model, tensors, config = checkpoint(family, name)
        length, jump = CASES[case]
        positions = np.arange(length)
        positions[4:] += min(jump, FAR_LEARNED) if family == "gpt2" else jump
        the = prompt_case(case, IDS[:length])
        with reproducible():
            taps = layer_major(model, "float64", replace(the, positions=positions[None].astype(np.int32)))
        truth = {tap: value.numpy() for tap, value in taps.items() if kind_of(tap) not in CACHE_KINDS}
        return truth, (tensors, config, IDS[:length], positions.tolist())

    return of


def errors(truth, found):
    """By tap, in the order of data flow; infinite where it is not there, or of another shape."""
    return {
        tap: relative_rms(found[tap], value) if tap in found and found[tap].shape == value.shape else np.inf
        for tap, value in truth.items()
    }


@pytest.mark.parametrize(("family", "name", "case"), EACH, ids=["-".join(one) for one in EACH])
def test_truth_is_what_the_formulas_give_at_every_tap(computed, family, name, case):
    truth, given = computed(family, name, case)
    found = forward(*given)
    assert found.keys() == truth.keys()
    assert all(value.dtype == np.float64 for value in found.values())
    of = errors(truth, found)
    worst = max(of, key=of.__getitem__)
    assert of[worst] < LIMITS[case], f"{worst}: {of[worst]:.2g}"


def test_the_cases_are_longer_than_what_they_have_to_be_longer_than():
    configs = [tiny.config(*one) for one in tiny.ALL]
    assert {config["sliding_window"] for config in configs if config.get("sliding_window")} == {WINDOW}
    original = tiny.config("phi3", "longrope")["original_max_position_embeddings"]
    assert WINDOW < CASES["some"][0] < original < CASES["long"][0]


class Wrong(NamedTuple):
    """A formula made wrong: whose, how, and the first tap that is."""

    config: tuple[str, str]
    change: dict[str, object]
    first: str
    case: str = "some"


def less(name, *families):
    """A table of `formulas` without them."""
    table = getattr(formulas, name)
    kept = table.keys() - set(families) if isinstance(table, dict) else table - set(families)
    return {name: {family: table[family] for family in kept} if isinstance(table, dict) else kept}


def norm_of_each_head(self, kind, x, right=Model.norm):
    if kind not in ("q_norm", "k_norm"):
        return right(self, kind, x)
    weight = self.read(kind).reshape(x.shape[1:])
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.c["rms_norm_eps"]) * weight


WRONG = {
    "gemma: 1 + of the norms": Wrong(("gemma", "plain"), less("LESS_ONE", "gemma"), "layers.0.attn_norm"),
    "gemma: scale of the embedding": Wrong(("gemma", "plain"), less("EMBEDDED", "gemma"), "embed"),
    "gemma2: cap of scores": Wrong(
        ("gemma2", "plain"), {"capped": lambda x, cap: x if x.ndim == 1 else capped(x, cap)}, "layers.0.probs"
    ),
    "gemma2: cap of logits": Wrong(
        ("gemma2", "plain"), {"capped": lambda x, cap: x if x.ndim == 2 else capped(x, cap)}, "logits"
    ),
    "gemma2: windows in the other layers": Wrong(
        ("gemma2", "plain"), {"SLIDES": {"gemma2": lambda c, layer: layer % 2 == 1}}, "layers.0.probs"
    ),
    "gemma2: scale of scores": Wrong(("gemma2", "plain"), less("SCORED", "gemma2"), "layers.0.probs"),
    "gemma3: one theta": Wrong(
        ("gemma3_text", "plain"), less("PLAIN_IN_WINDOWS", "gemma3_text"), "layers.0.q_rope"
    ),
    "olmo3: one scaling": Wrong(("olmo3", "plain"), less("PLAIN_IN_WINDOWS", "olmo3"), "layers.0.q_rope"),
    "olmo2: norms of each head": Wrong(("olmo2", "plain"), {"Model.norm": norm_of_each_head}, "layers.0.q_norm"),
    "glm4: halves": Wrong(("glm4", "plain"), less("NEIGHBOURS", "glm4"), "layers.0.q_rope"),
    "llama: neighbours": Wrong(("llama", "llama3"), {"NEIGHBOURS": {"llama"}}, "layers.0.q_rope"),
    "llama: YaRN without its length": Wrong(
        ("llama", "yarn"), {"speeds": lambda *given: (speeds(*given)[0], 1.0)}, "layers.0.q_rope"
    ),
    "mistral: a window one key wider": Wrong(
        ("mistral", "window"), {"seen": lambda query, width: seen(query, width + 1)}, "layers.0.probs"
    ),
    "mistral: a window one key narrower": Wrong(
        ("mistral", "window"), {"seen": lambda query, width: seen(query, width - 1)}, "layers.0.probs"
    ),
    "ministral3: queries that do not grow": Wrong(
        ("ministral3", "plain"), {"Model.growth": lambda self: np.ones(17)}, "layers.0.q_rope", "far"
    ),
    "granite: scale of scores": Wrong(("granite", "plain"), less("SCORED", "granite"), "layers.0.probs"),
    "granite: factor of the residual": Wrong(("granite", "plain"), less("ADDED", "granite"), "layers.0.resid_mid"),
    "granite: factor of the logits": Wrong(("granite", "plain"), less("HEADED", "granite"), "logits"),
    "cohere2: RoPE in every layer": Wrong(("cohere2", "plain"), less("TURNS", "cohere2"), "layers.1.q_rope"),
    "cohere: RMSNorm": Wrong(("cohere", "plain"), less("CENTERED", "cohere"), "layers.0.attn_norm"),
    "deepseek: scale without mscale": Wrong(
        ("deepseek_v3", "plain"), {"Model.latent_scale": lambda self: 1 / math.sqrt(18)}, "layers.0.probs"
    ),
    "deepseek: RoPE without mscale": Wrong(
        ("deepseek_v3", "plain"), {"speeds": lambda *given: (speeds(*given)[0], 1.0)}, "layers.0.q_rope"
    ),
    "deepseek: eps of the config": Wrong(
        ("deepseek_v3", "plain"), {"Model.eps_of_latents": 1e-2}, "layers.0.q_latent_norm"
    ),
    "deepseek: halves": Wrong(("deepseek_v2", "plain"), less("NEIGHBOURS", "deepseek_v2"), "layers.0.q_rope"),
    "deepseek: as halves": Wrong(("deepseek_v2", "plain"), {"AS_HALVES": {"deepseek_v2"}}, "layers.0.q_rope"),
    "smollm3: RoPE in every layer": Wrong(("smollm3", "plain"), less("TURNS", "smollm3"), "layers.2.q_rope"),
    "gpt_neox: q, k and v one after the other": Wrong(
        ("gpt_neox", "parallel"), less("BY_HEAD", "gpt_neox"), "layers.0.q"
    ),
    "gpt2: the other GELU": Wrong(
        ("gpt2", "plain"), {"ACTIVATIONS": {"gelu_new": formulas.ACTIVATIONS["gelu"]}}, "layers.0.act"
    ),
    "phi: MLP after attention": Wrong(("phi", "plain"), less("PARALLEL", "phi"), "layers.0.up"),
    "phi3: the short table": Wrong(
        ("phi3", "longrope"), {"speeds": lambda *given: speeds(*given[:-1], 0)}, "layers.0.q_rope", "long"
    ),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_wrong_formula_is_seen_first_where_it_is(computed, wrong, monkeypatch):
    truth, given = computed(*wrong.config, wrong.case)
    for name, value in wrong.change.items():
        monkeypatch.setattr(f"tests.families.formulas.{name}", value)
    found = errors(truth, forward(*given))
    first = next((tap for tap, error in found.items() if error >= LIMITS[wrong.case]), None)
    assert first == wrong.first
    assert found[first] > 1e-4, "and it is no rounding"


def test_a_tensor_that_nothing_reads_is_an_error(computed):
    _, (tensors, *rest) = computed("llama", "llama3", "some")
    with pytest.raises(ValueError, match=r"nothing reads .*o_proj.biases"):
        forward(tensors | {"model.layers.1.self_attn.o_proj.biases": np.zeros(48)}, *rest)
