"""Quantised weights as they are published: widened exactly, one expert at a time, or refused by name. No torch."""

from __future__ import annotations

import json
import shutil
from math import ceil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from harness.architecture import difference, read_config
from harness.checkpoint import open_checkpoint, verify_parameters
from harness.errors import CheckpointError
from harness.mutants.catalogue import CATALOGUE
from harness.mutants.mutant import WeightChange
from harness.mutants.planting import write_changed_checkpoint
from harness.packed import from_fp8, from_mxfp4
from harness.record.families import write_checkpoint
from harness.record.parameters import model_entry, parameter_table
from harness.run.dialect import Parameters
from harness.stored import StoredTensors
from tests.families import published, tiny

BF16 = ml_dtypes.bfloat16
DOWN, GATE = "model.layers.1.mlp.experts.down_proj", "model.layers.1.mlp.experts.{}.gate_proj.weight"
Q = "model.layers.0.self_attn.q_a_proj.weight"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A checkpoint in each format, and the directory of what it was quantised from."""
    folder = tmp_path_factory.mktemp("quantised")
    for name in ("fp8", "fp8-source"):
        tiny.write(folder / name, "deepseek_v3", "plain")
    for name in ("mxfp4", "mxfp4-source"):
        config = {**tiny.config("gpt_oss", "plain"), "hidden_size": 64, "intermediate_size": 64}
        write_checkpoint(folder / name, config, 0)
    published.in_fp8(folder / "fp8")
    published.in_mxfp4(folder / "mxfp4")
    return folder


@pytest.fixture
def changed(made, tmp_path):
    """Changes a copy of one of them: tensors in place, fields of the config or of its quantization_config."""

    def change(method, weights=None, config=None, how=None):
        directory = tmp_path / method
        shutil.copytree(made / method, directory)
        if weights:
            tensors = load(directory)
            weights(tensors)
            save_file(tensors, directory / "model.safetensors")
        fields = read_config(directory) | (config or {})
        fields["quantization_config"] = fields["quantization_config"] | (how or {})
        (directory / "config.json").write_text(json.dumps(fields))
        return directory

    return change


def load(directory):
    read = StoredTensors(directory)
    return {name: read.read(name) for name in read.names}


def opened(directory):
    return open_checkpoint(directory, read_config(directory))


def bits(array):
    return np.asarray(array).view(np.uint16)


def test_every_byte_of_mxfp4_at_every_scale_is_the_exact_product():
    codes = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(255, axis=1)
    scales = np.arange(255, dtype=np.uint8).reshape(1, 255, 1).repeat(16, axis=2)
    found = from_mxfp4(codes, scales)
    assert found.shape == (1, 512, 255) and found.flags.c_contiguous and found.dtype == BF16
    value = {code: (-1) ** (code >> 3) * published.FP4[code & 7] for code in range(16)}
    for byte in range(256):
        for half, code in enumerate((byte & 15, byte >> 4)):
            exact = np.float64(value[code]) * np.exp2(np.arange(255) - 127.0)
            exact[np.abs(exact) >= 2.0**128] *= np.inf  # beyond bfloat16, and refused where it is recorded
            assert np.array_equal(found[0, 2 * byte + half].astype(np.float64), exact)
            assert np.signbit(found[0, 2 * byte + half].astype(np.float64)).all() == (code > 7)
    scales[:] = 255
    assert np.isnan(from_mxfp4(codes, scales).astype(np.float32)).all()


@pytest.mark.parametrize(
    ("shape", "block"), [((7, 9), (3, 4)), ((6, 8), (3, 4)), ((5, 5), (8, 8)), ((20, 3), (1, 2))]
)
def test_fp8_is_the_product_in_float32_rounded_once_more_also_in_blocks_at_an_edge(shape, block):
    random = np.random.default_rng(0)
    codes = random.integers(0, 256, shape, np.uint8)
    codes[(codes & 127) == 127] = 0
    values = codes.view(ml_dtypes.float8_e4m3fn)
    grid = tuple(ceil(n / size) for n, size in zip(shape, block, strict=True))
    scales = random.standard_normal(grid, np.float32) * np.float32(1e-3)
    wanted = np.empty(shape, BF16)
    for i, j in np.ndindex(shape):
        wanted[i, j] = BF16(np.float32(values[i, j]) * scales[i // block[0], j // block[1]])
    assert np.array_equal(bits(from_fp8(values, scales, block)), bits(wanted))


@pytest.mark.parametrize("method", ["fp8", "mxfp4"])
def test_any_rows_of_a_parameter_are_those_of_the_whole(made, method):
    checkpoint, source = opened(made / method), opened(made / f"{method}-source")
    assert checkpoint.names == source.names
    for name in checkpoint.names:
        whole, near = checkpoint.read(name), source.read(name)
        assert whole.dtype == near.dtype and whole.shape == near.shape == checkpoint.shape(name)
        assert np.allclose(whole.astype(float), near.astype(float), rtol=0.1, atol=0.25 * np.abs(near).max())
        for start, stop in ((0, 1), (1, 2), (3, 19), (2, None), (len(whole) - 1, None)):
            assert np.array_equal(checkpoint.read(name, slice(start, stop)), whole[start:stop]), name


@pytest.mark.parametrize("method", ["fp8", "mxfp4"])
def test_one_expert_is_read_without_the_others_and_a_layer_reads_each_tensor_once(made, method, monkeypatch):
    read, own = [], StoredTensors.read

    def counted(self, name, rows=slice(None)):
        found = own(self, name, rows)
        read.append((name, found.nbytes))
        return found

    checkpoint = opened(made / method)
    monkeypatch.setattr(StoredTensors, "read", counted)
    checkpoint.read(DOWN)
    assert len(read) == len(dict(read))
    size, several = sum(dict(read).values()), len(read)
    read.clear()
    checkpoint.read(DOWN, slice(3, 4))
    assert len(read) == 2  # values and scales
    assert sum(dict(read).values()) == size / checkpoint.shape(DOWN)[0] and several == (
        16 if method == "fp8" else 2
    )


@pytest.mark.parametrize("method", ["fp8", "mxfp4"])
def test_ports_read_widened_parameters_by_the_names_of_an_unquantised_checkpoint(made, method):
    config, source = read_config(made / method), made / f"{method}-source"
    ports, others = Parameters(made / method, config), Parameters(source, read_config(source))
    assert set(ports) == set(others)
    assert all(ports[name].dtype == BF16 and ports[name].shape == others[name].shape for name in ports)


@pytest.mark.parametrize("method", ["fp8", "mxfp4"])
def test_the_table_is_of_what_is_stored(made, changed, method):
    checkpoint = opened(made / method)
    shapes = {name: checkpoint.shape(name) for name in checkpoint.names}
    table = parameter_table(checkpoint, shapes, {})
    assert table == checkpoint.table() and set(table) == set(checkpoint.tensors)
    dtypes = {entry.dtype for entry in table.values()}
    assert dtypes == {"bfloat16", *({"float8_e4m3fn", "float32"} if method == "fp8" else {"uint8"})}
    entry = model_entry("tiny", read_config(made / method), checkpoint, table)
    assert entry.parameter_count == sum(opened(made / f"{method}-source").read(name).size for name in shapes)

    def one_bit(tensors):
        values = tensors[Q if method == "fp8" else f"{DOWN}_blocks"].view(np.uint8)
        values[(0,) * values.ndim] ^= 1

    verify_parameters(checkpoint, table)
    with pytest.raises(CheckpointError, match="another sha256"):
        verify_parameters(opened(changed(method, one_bit)), table)


def set_to(name, at, value):
    def change(tensors):
        tensors[name].view(np.uint8 if tensors[name].itemsize == 1 else tensors[name].dtype)[at] = value

    return change


@pytest.mark.parametrize(
    ("method", "change", "at"),
    [
        ("fp8", set_to(Q, (3, 5), 0x7F), f"{Q}, at [3, 5]"),
        ("fp8", set_to(f"{Q}_scale_inv", (1, 2), np.inf), Q),
        ("fp8", set_to(f"{Q}_scale_inv", (1, 2), 1e37), Q),
        ("mxfp4", set_to(f"{DOWN}_scales", (2, 5, 1), 255), f"{DOWN}, at [2, 32, 5]"),
        ("mxfp4", set_to(f"{DOWN}_scales", (2, 5, 1), 254), DOWN),
    ],
)
def test_a_value_that_is_not_finite_is_refused_with_its_place(changed, method, change, at):
    checkpoint = opened(changed(method, change))
    with pytest.raises(CheckpointError, match="not finite") as refusal:
        parameter_table(checkpoint, {name: checkpoint.shape(name) for name in checkpoint.names}, {})
    assert at in str(refusal.value.where)


def test_a_scale_that_is_large_for_none_of_its_values_is_not_refused(changed):
    def change(tensors):
        tensors[Q][:16, :16] = 0
        tensors[f"{Q}_scale_inv"][0, 0] = 1e37

    checkpoint = opened(changed("fp8", change))
    parameter_table(checkpoint, {name: checkpoint.shape(name) for name in checkpoint.names}, {})


def dropped(name):
    return lambda tensors: tensors.pop(name)


def cast(name, dtype):
    return lambda tensors: tensors.update({name: tensors[name].astype(dtype)})


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("fp8", dropped(f"{Q}_scale_inv"), "stored in two tensors"),
        ("fp8", dropped(Q), "stored in two tensors"),
        ("fp8", cast(Q, BF16), "stored in two tensors"),
        ("fp8", cast(Q, ml_dtypes.float8_e5m2), "stored in two tensors"),
        ("fp8", cast(f"{Q}_scale_inv", BF16), "stored in two tensors"),
        ("fp8", lambda t: t.update({f"{Q}_scale_inv": t[f"{Q}_scale_inv"][1:]}), "do not fit its values"),
        ("fp8", dropped(GATE.format(2)), "stored in two tensors"),
        ("mxfp4", dropped(f"{DOWN}_scales"), "stored in two tensors"),
        ("mxfp4", dropped(f"{DOWN}_blocks"), "stored in two tensors"),
        ("mxfp4", cast(f"{DOWN}_blocks", np.int8), "stored in two tensors"),
        ("mxfp4", lambda t: t.update({f"{DOWN}_scales": t[f"{DOWN}_scales"][:, 1:]}), "do not fit its values"),
        (
            "mxfp4",
            lambda t: t.update({DOWN: np.zeros((6, 64, 64), BF16)}),
            "two tensors of the checkpoint are one",
        ),
    ],
)
def test_quantised_weights_that_are_not_whole_are_refused(changed, method, change, message):
    with pytest.raises(CheckpointError, match=message) as refusal:
        opened(changed(method, change))
    assert refusal.value.hint


@pytest.mark.parametrize("method", ["fp8", "mxfp4"])
def test_config_and_weights_have_to_agree_that_they_are_quantised(made, changed, method, tmp_path):
    how = read_config(made / method)["quantization_config"]
    source = tmp_path / "source"
    shutil.copytree(made / f"{method}-source", source)
    config = read_config(source)
    (source / "config.json").write_text(json.dumps(config | {"quantization_config": how}))
    with pytest.raises(CheckpointError, match="says that weights are quantised") as refusal:
        opened(source)
    assert "remove quantization_config" in refusal.value.hint
    with pytest.raises(CheckpointError, match="a dtype that no weight is read in"):
        open_checkpoint(made / method, config)
    assert [field for field, *_ in difference(config, config | {"quantization_config": how})] == [
        "quantization_config"
    ]
    kept = "mlp.experts" if method == "mxfp4" else "model.layers.0.self_attn"
    with pytest.raises(CheckpointError, match="the config says that its module is not"):
        opened(changed(method, how={"modules_to_not_convert": [kept]}))


def test_a_mutant_s_weights_are_written_widened(made, tmp_path):
    mutant = next(one for one in CATALOGUE if isinstance(one.change, WeightChange))
    folder = write_changed_checkpoint(mutant, made / "fp8", read_config(made / "fp8"), tmp_path / "folder")
    assert "quantization_config" not in read_config(folder)
    assert not opened(folder).quantised and opened(folder).names == opened(made / "fp8").names
    assert load_file(folder / "model.safetensors")[Q].dtype == BF16
