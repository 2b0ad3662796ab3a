"""The table of a port: every row is used as it stands, and a wrong one is refused with what would be right."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from harness.architecture import architecture_of, read_config
from harness.errors import PortError
from harness.run.adapters import FunctionPort, To
from harness.run.adapters.calls import marked_call
from harness.run.adapters.layout import adaptation
from harness.run.adapters.table import Row, rows
from tests.run.adapters.linen_model import Unrolled
from tests.run.adapters.nnx_model import Listed
from tests.small_decoder import decoder_taps

TAPS = {tap.kind: tap for tap in decoder_taps(layers=1)}
SIZES = {"head": 6, "kv_head": 2, "head_dim": 8}


@pytest.fixture
def config(checkpoint):
    return read_config(checkpoint)


@pytest.fixture
def arch(config):
    return architecture_of(config)


def test_layers_are_written_out_in_order(arch):
    found = rows({"blocks.{i}.mlp[1]": "layers.{i}.mlp_out", "embed.encode(ids)": "embed"}, arch)
    assert [row.tap for row in found] == [*(f"layers.{i}.mlp_out" for i in range(arch.layers)), "embed"]
    assert found[2] == Row("blocks.2.mlp", 1, None, "layers.2.mlp_out", None)
    assert found[-1] == Row("embed.encode", None, "ids", "embed", None)


def test_layers_calls_and_places_are_written_out(arch):
    last = arch.layers - 1
    table = {
        "a.{i+1}(x)": "layers.{i}.resid_post",
        "m:f#-1[0] in a.{last}": "layers.{last}.resid_post",
        "m.n:C.f#{2i+1}": "layers.{i}.act",
    }
    found = {row.tap: row for row in rows(table, arch)}
    assert len(found) == 2 * arch.layers
    assert found["layers.1.resid_post"] == Row("a.2", None, "x", "layers.1.resid_post", None)
    own = Row("m:f", 0, None, f"layers.{last}.resid_post", None, -1, f"a.{last}")
    assert found[own.tap] == own, "a row that names its layer stands in place of the one for all"
    assert found["layers.2.act"] == Row("m.n:C.f", None, None, "layers.2.act", None, 5)
    assert [str(row) for row in (own, found["layers.2.act"])] == [f"m:f#-1[0] in a.{last}", "m.n:C.f#5"]


def test_a_scan_keeps_its_counter(arch):
    assert rows({"blocks.mlp": "layers.{i}.mlp_out"}, arch) == (
        Row("blocks.mlp", None, None, "layers.{i}.mlp_out", None),
    )


@pytest.mark.parametrize(
    ("table", "message", "where"),
    [
        ({"a[": "embed"}, "is malformed", "a["),
        ({"a(0)[1]": "embed"}, "is malformed", "a(0)[1]"),
        ({"a#x": "embed"}, "is malformed", "a#x"),
        ({"a#": "embed"}, "is malformed", "a#"),
        ({"a[0]#1": "embed"}, "is malformed", "a[0]#1"),
        ({"a in ": "embed"}, "is malformed", "a in "),
        ({"a:b:c": "embed"}, "is malformed", "a:b:c"),
        ({"a in b:": "embed"}, "is malformed", "a in b:"),
        ({"a.{j}": "embed"}, "is malformed", "a.{j}"),
        ({"a.{i+1}": "embed"}, "on its left side alone", "a.{i+1} -> embed"),
        ({"a": To("layers.0.q", "(position + zeros)")}, "cuts off what it cannot", "(position + zeros)"),
        ({"a": To("layers.0.q", "(head_dim + pad)")}, "cuts off what it cannot", "(head_dim + pad)"),
        ({"a": "embedding"}, "does not have", "embedding"),
        ({"a": "layers.{i}.q_norm"}, "does not have", "layers.{i}.q_norm"),
        ({"a.{i}": "embed"}, "on its left side alone", "a.{i} -> embed"),
        ({"a": "embed", "b": "embed"}, "two rows of the port's table name one tap", "embed"),
        ({"head": "logits"}, "names the logits", "head"),
        ({"a": To("layers.0.q", "x"), "b": To("layers.1.q", "y")}, "two layouts", "q"),
    ],
)
def test_a_wrong_row_is_refused(arch, table, message, where):
    with pytest.raises(PortError, match=message) as caught:
        rows(table, arch)
    assert f"where:    {where}" in str(caught.value)
    assert "hint:" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "layout", "shape", "tap_shape"),
    [
        ("q", "batch position (head head_dim)", (2, 5, 48), (2, 5, 6, 8)),
        ("k", "batch position (kv_head head_dim)", (2, 5, 16), (2, 5, 2, 8)),
        ("q", "batch head position head_dim", (2, 6, 5, 8), (2, 5, 6, 8)),
        ("q", "position head head_dim", (5, 6, 8), (1, 5, 6, 8)),
        (
            "probs",
            "batch kv_head group position key -> batch (kv_head group) position key",
            (1, 2, 3, 5, 5),
            (1, 6, 5, 5),
        ),
    ],
)
def test_a_layout_is_adapted_both_ways(kind, layout, shape, tap_shape):
    ways = adaptation(layout, TAPS[kind], SIZES)
    value = jnp.arange(float(jnp.prod(jnp.array(shape)))).reshape(shape)
    assert ways.to_tap(value).shape == tap_shape
    assert jnp.array_equal(ways.from_tap(ways.to_tap(value)), value)


def test_merged_heads_are_split_head_first():
    ways = adaptation("batch position (head head_dim)", TAPS["q"], SIZES)
    assert jnp.array_equal(ways.to_tap(jnp.arange(48.0).reshape(1, 1, 48))[0, 0, 1], jnp.arange(8.0, 16.0))


def test_the_tokens_of_all_rows_in_one_axis_are_parted_by_the_number_of_rows():
    ways = adaptation("(batch position) (kv_head head_dim)", TAPS["k"], SIZES)
    own = np.arange(6 * SIZES["kv_head"] * SIZES["head_dim"], dtype=np.float32).reshape(6, -1)
    tap = ways.to_tap(own, 2)
    assert tap.shape == (2, 3, SIZES["kv_head"], SIZES["head_dim"])
    np.testing.assert_array_equal(tap.reshape(6, -1), own)
    np.testing.assert_array_equal(ways.from_tap(tap, 2), own)
    with pytest.raises(PortError, match="does not have the layout"):
        ways.to_tap(own, 4)


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        ("batch position (head head_dim)", (1, 5, 40)),
        ("batch head position head_dim", (1, 5, 6, 8)),
        ("position head head_dim", (1, 5, 6, 8)),
    ],
)
def test_a_value_of_another_layout_is_refused(layout, shape):
    with pytest.raises(PortError, match="does not have the layout") as caught:
        adaptation(layout, TAPS["q"], SIZES).to_tap(jnp.zeros(shape))
    assert f"found:    {shape}" in str(caught.value)
    assert "head 6" in str(caught.value)


def call(row, result, *args, **kwargs):
    return marked_call([row], lambda *a, **k: result, args, kwargs)


@pytest.mark.parametrize(
    ("row", "result", "message"),
    [
        (Row("a", None, None, "embed", None), (jnp.ones(1), None), "a tuple of ArrayImpl, NoneType"),
        (Row("a", 1, None, "embed", None), (jnp.ones(1), None), "a tuple of ArrayImpl, NoneType"),
        (Row("a", 2, None, "embed", None), (jnp.ones(1), jnp.ones(1)), "a tuple of"),
        (Row("a", "out", None, "embed", None), {"in": jnp.ones(1)}, "a dict with keys in"),
        (Row("a", "out", None, "embed", None), jnp.ones(1), "a ArrayImpl"),
    ],
)
def test_a_result_that_is_not_what_the_row_says_is_refused(row, result, message):
    with pytest.raises(PortError, match="does not return an array") as caught:
        call(row, result)
    assert message in str(caught.value)


def test_an_argument_that_is_not_passed_is_refused():
    with pytest.raises(PortError, match="not given the argument") as caught:
        call(Row("a", None, "x", "embed", None), jnp.ones(1), jnp.ones(1), mask=None)
    assert "1 positional arguments, and mask by name" in str(caught.value)


@pytest.mark.parametrize(
    ("path", "message", "found"),
    [
        ("layers.{i}.attention", "has nothing at a path", "input_norm, attn, post_norm"),
        ("layer.{i}.attn", "has nothing at a path", "embedder, layers, norm, head"),
        ("layers.{i}.attn.rotated", "has nothing at a path", "q, k, v, o"),
        ("layers.{i}.attn.q.kernel", "is no nnx.Module", "Param"),
        ("layers", "cannot be called", "List"),
    ],
)
def test_a_path_that_an_nnx_model_does_not_have_is_refused_with_what_it_has(
    checkpoint, config, path, message, found
):
    class Wrong(Listed):
        taps = {path: "layers.{i}.attn_out"}

    with pytest.raises(PortError, match=message) as caught:
        Wrong.load(checkpoint, config, jnp.float32, None)
    assert found in str(caught.value)


def forward(port):
    from harness.run.tapping import no_tap

    ids = jnp.array([[5, 6]])
    return port.forward(ids, jnp.arange(2)[None], jnp.ones((1, 2), bool), None, no_tap)


def test_a_path_that_a_linen_model_never_calls_is_refused(checkpoint, config):
    class Wrong(Unrolled):
        taps = {"layers_{i}.attention": "layers.{i}.attn_out"}

    with pytest.raises(PortError, match="never makes a value") as caught:
        forward(Wrong.load(checkpoint, config, jnp.float32, None))
    assert "layers.0.attn_out" in str(caught.value)


def test_a_module_that_is_called_twice_is_refused(checkpoint, config, golden_path):
    from harness.run.check import check
    from harness.run.question import Question

    class Wrong(Listed):
        taps = {"layers.{i}.attn.rotate": "layers.{i}.q_rope"}

    with pytest.raises(PortError, match="called more than once"):
        check(
            golden_path,
            checkpoint,
            "x:Wrong",
            Question(("float32",), cases=("digits",)),
            load=lambda d, c, t: Wrong.load(d, c, t, None),
        )


class Tiny(FunctionPort):
    """Logits of the right shape, and two intermediates: one that goes on, one made for the dictionary."""

    def run(self, input_ids, positions, mask):
        embed = jnp.ones((*input_ids.shape, 48)) * input_ids[..., None].astype(jnp.float32)
        return embed @ jnp.ones((48, 512)), {"embed": embed, "copies": [embed * 1.0]}


def test_a_key_that_the_function_does_not_return_is_refused(config):
    class Wrong(Tiny):
        taps = {"embedding": "embed"}

    with pytest.raises(PortError, match="no intermediate of that key") as caught:
        forward(Wrong(config, jnp.float32))
    assert "copies.0, embed" in str(caught.value)


def test_a_row_with_an_item_is_refused_for_a_function(config):
    class Wrong(Tiny):
        taps = {"embed[0]": "embed"}

    with pytest.raises(PortError, match="keys, not items or arguments"):
        Wrong(config, jnp.float32)


def test_an_intermediate_that_replay_could_not_replace_is_refused_until_it_is_declared(config):
    class Wrong(Tiny):
        taps = {"copies.0": "embed"}

    with pytest.raises(PortError, match="nothing is computed from it") as caught:
        forward(Wrong(config, jnp.float32))
    assert "recorded_only = ('embed',)" in str(caught.value)

    class Declared(Wrong):
        recorded_only = ("embed",)

    assert forward(Declared(config, jnp.float32))[0].shape == (1, 2, 512)


def test_an_adapted_port_has_no_cache(config):
    from harness.run.tapping import no_tap

    with pytest.raises(PortError, match="no KV cache"):
        Tiny(config, jnp.float32).forward(None, None, None, object(), no_tap)
