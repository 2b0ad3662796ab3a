"""What is checked on eight devices of a CPU, by one process; `python -m tests.devices.checks` writes JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from harness import embedded
from harness.architecture import read_config
from harness.report.document import Report
from harness.run.check import check
from harness.run.decoder import Decoder
from harness.run.devices import mesh_of
from harness.run.loading import port_from_object
from harness.run.operations import linear
from harness.run.padding import QUICKLY
from harness.run.question import BOTH, Question
from harness.taps import kind_of
from tests.devices import adapted, marked, split, typed

WHOLE = (("data", 2), ("model", 4))  # divides neither the heads nor the rows of the embedded golden
DIVIDING = (("data", 3), ("model", 2))  # divides all that the decoder splits
PRECISIONS = ("float64", "float32", "bfloat16")
ALONE = ("digits", "batch-left")  # of the cases on a mesh those that are run on one device as well
GOLDEN = embedded.golden()
CHECKPOINT = embedded.directory() / "qwen2-tiny"


def question(axes, precisions=("float32",), cases=("one-to-five",)) -> Question:
    return Question(precisions=precisions, modes=BOTH, cases=cases, mesh=axes)


def checked(port: type, asked: Question) -> Report:
    spec, load = port_from_object(port, asked)
    return check(GOLDEN, CHECKPOINT, spec, asked, load=load)


def said(report: Report) -> Mapping[str, Any]:
    """What a report says, as far as a test looks at it."""
    return {
        "verdict": report.verdict,
        "verdicts": sorted({result.verdict for result in report.results}),
        "by place": sorted([r.precision, r.case, r.mode, r.tap, r.verdict] for r in report.results),
        "introduced": sorted({kind_of(name) for name in report.introduced}),
        "in layers": len(report.introduced),
        "mesh": report.environment.get("mesh"),
        "devices": report.environment["devices"],
        "notes": list(report.notes),
    }


def planted(bug: split.Bug) -> Mapping[str, Any]:
    class Planted(split.Split):
        @classmethod
        def load(cls, directory, config, dtype, mesh):
            return super().load(directory, config, dtype, mesh, bug)

    return said(checked(Planted, question(split.AXES, cases=(bug.case,))))


def layouts() -> Mapping[str, Any]:
    """Where the built-in decoder's arrays are, on a mesh that divides all of them."""
    mesh = mesh_of(DIVIDING)
    decoder = Decoder.load(CHECKPOINT, read_config(CHECKPOINT), jnp.dtype("float32"), mesh)
    state, cache = decoder.state(0), decoder.init_cache(3, 9, jnp.dtype("float32"))
    found = {
        f"{kind} kernel": state[kind]["kernel"].get_value() for kind in ("q", "k", "attn_out", "up", "mlp_out")
    }
    found |= {"q bias": state["q"]["bias"].get_value(), "attn_norm": state["attn_norm"]["weight"].get_value()}
    found |= {"embed": decoder.embedding().table, "head": decoder.head_parameters(decoder.embedding())[1][0]}
    found |= {"cache": cache.held[0]["cache_k"]}
    return {name: [*value.shape, *value.sharding.shard_shape(value.shape)] for name, value in found.items()}


def rounded_differently() -> float:
    """The share of a bfloat16 product that is another one where its sum is split over devices."""
    mesh, random = mesh_of((("model", 4),)), np.random.default_rng(0)
    x, kernel = (random.standard_normal(shape).astype(jnp.bfloat16) for shape in ((64, 256), (256, 64)))
    product = jax.jit(lambda x, kernel: linear(x, kernel, None), compiler_options=QUICKLY)
    parts = (
        jax.device_put(x, NamedSharding(mesh, P(None, "model"))),
        jax.device_put(kernel, NamedSharding(mesh, P("model"))),
    )
    return float(np.mean(np.asarray(product(x, kernel)) != np.asarray(product(*parts))))


def main() -> None:
    cases = ("digits", "batch-left", "batch-decode")
    found = {
        "devices": len(jax.devices()),
        "whole": said(checked(Decoder, question(WHOLE, PRECISIONS, cases))),
        "alone": said(checked(Decoder, question((), PRECISIONS, ALONE))),
        "dividing": said(checked(Decoder, question(DIVIDING, cases=("batch-decode",)))),
        "layouts": layouts(),
        "rounded differently": rounded_differently(),
        "marked": marked.facts(),
        "typed": said(checked(typed.Typed, question(typed.AXES, cases=("batch-decode",)))),
        "adapted": said(checked(adapted.OnMesh, question(adapted.AXES))),
        "split": said(checked(split.Split, question(split.AXES, cases=("one-to-five", "batch-decode")))),
        "bugs": {bug.name: planted(bug) for bug in split.BUGS},
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
