"""Quantised checkpoints against transformers' own reading of them, bit for bit, and recorded."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.record

import numpy as np
import torch
from transformers import AutoModelForCausalLM
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.utils.quantization_config import Mxfp4Config

from harness.architecture import read_config
from harness.checkpoint import Checkpoint, open_checkpoint
from harness.corpus import Corpus
from harness.entries import Prompt
from harness.mutants.planting import loader
from harness.mutants.trial import RIGHT
from harness.record import experts
from harness.record.families import write_checkpoint
from harness.record.model import Reference
from harness.record.recorder import Options, record
from harness.record.shell import arithmetic
from harness.record.unit import PRECISIONS
from harness.run.check import check
from harness.run.question import Question
from tests.families import published, tiny

CORPUS = Corpus((Prompt("some", "1 2 3 45", "a few tokens"),))


def bits(tensor):
    return tensor.view(torch.int16).numpy()


@pytest.fixture(scope="module")
def mxfp4(tmp_path_factory):
    directory = tmp_path_factory.mktemp("mxfp4")
    config = {**tiny.config("gpt_oss", "plain"), "hidden_size": 64, "intermediate_size": 64}
    write_checkpoint(directory, config, 0)
    return published.in_mxfp4(directory)


@pytest.fixture(scope="module")
def fp8(tmp_path_factory):
    return published.in_fp8(tiny.write(tmp_path_factory.mktemp("fp8"), "deepseek_v3", "plain"))


def test_mxfp4_is_what_transformers_loads(mxfp4):
    how = Mxfp4Config(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(mxfp4, quantization_config=how, dtype=torch.bfloat16)
    own = open_checkpoint(mxfp4, read_config(mxfp4))
    assert own.quantised and set(own.names) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert np.array_equal(bits(tensor), own.read(name).view(np.int16)), name


@pytest.mark.parametrize("block", [4, 16])
def test_fp8_is_what_transformers_makes_of_whole_blocks(tmp_path, block):
    """Of a matrix that blocks do not divide, it is asked about one that is filled up with zeros."""
    directory = published.in_fp8(tiny.write(tmp_path, "deepseek_v3", "plain"), block)
    own, ragged = open_checkpoint(directory, read_config(directory)), 0
    for name, one in own.quantised.items():
        values, scales = (
            torch.from_numpy(own.tensor(one.values).view(np.uint8)),
            torch.from_numpy(own.tensor(one.scales)),
        )
        rows, columns = values.shape
        whole = torch.zeros([block * size for size in scales.shape], dtype=torch.uint8)
        whole[:rows, :columns] = values
        ragged += whole.shape != values.shape
        found = Fp8Dequantize(None)._dequantize_one(whole.view(torch.float8_e4m3fn), scales, torch.bfloat16)
        assert np.array_equal(bits(found[:rows, :columns].contiguous()), own.read(name).view(np.int16)), name
    assert len(own.quantised) == 40 and ragged == (0 if block == 4 else 40)


@pytest.mark.parametrize("method", ["fp8", "mxfp4"])
def test_a_quantised_checkpoint_is_recorded_and_the_decoder_agrees(method, request, tmp_path):
    directory = request.getfixturevalue(method)
    golden = str(tmp_path / "golden.h5")
    record(directory, "model", CORPUS, golden, Options())
    question = Question(precisions=("float64",), modes=("forward",))
    report = check(golden, directory, "built-in", question, load=loader(RIGHT))
    assert report.verdict == "match", report.introduced


@pytest.mark.parametrize(("method", "reads"), [("fp8", 2), ("mxfp4", 4)])
def test_an_expert_is_read_when_it_is_chosen_once_and_again_where_there_is_no_room(
    method, reads, request, monkeypatch
):
    read, own = [], Checkpoint.read

    def counted(self, name, rows=slice(None)):
        found = own(self, name, rows)
        if ".mlp.experts." in name and not name.endswith("_proj.weight"):  # of pieces, the whole that they make
            read.append((name, found.shape[0]))
        return found

    reference = Reference(request.getfixturevalue(method))
    name = "model.layers.1.mlp.experts.down_proj"
    monkeypatch.setattr(Checkpoint, "read", counted)

    def stored():
        layer = reference.load("layers.1", PRECISIONS)
        experts = {
            precision: layer._modules[precision].get_submodule("mlp.experts").stored for precision in PRECISIONS
        }
        assert not read and len(set(map(id, experts.values()))) == 1
        return experts["float64"]

    one = stored()
    with arithmetic("float64"):
        first, again = one.of(2, torch.float64), one.of(2, torch.float64)
    assert {count for _, count in read} == {1} and len(read) == reads
    wanted = own(reference.checkpoint, name)[2].astype(np.float64)
    assert all(np.array_equal(found["down_proj"].numpy(), wanted) for found in (first, again))
    read.clear()
    monkeypatch.setattr(experts, "KEPT_BYTES", 0)
    monkeypatch.setattr(experts, "KEPT_SHARE", 0)
    one = stored()
    for _ in range(2):
        one.of(2, torch.bfloat16)
    assert len(read) == 2 * reads and {count for _, count in read} == {1}


def test_what_is_recorded_does_not_depend_on_the_room_for_experts(fp8, tmp_path, monkeypatch):
    """Read in the midst of a pass, whose arithmetic is not that of what is stored."""
    ids = []
    for name in ("room", "none"):
        ids.append(record(fp8, "model", CORPUS, str(tmp_path / f"{name}.h5"), Options(level="layers")).id)
        monkeypatch.setattr(experts, "KEPT_BYTES", 0)
        monkeypatch.setattr(experts, "KEPT_SHARE", 0)
    assert ids[0] == ids[1]
