"""Makes the golden of a Qwen3 with experts in every layer: `python -m tests.run.adapters.make_qwen3_moe`."""

from __future__ import annotations

from pathlib import Path

from harness import embedded
from harness.corpus import load_corpus
from harness.record.families import config, write_checkpoint
from harness.record.recorder import Options, record

NAME = "qwen3-moe-all"

if __name__ == "__main__":
    here, corpus = Path(__file__).parent, load_corpus(embedded.corpus_of(NAME))
    fields = {**config("qwen3-moe"), "mlp_only_layers": [], "num_hidden_layers": 2, "max_window_layers": 2}
    write_checkpoint(here / NAME, fields)
    cases = ("seven", "left", "chunks")
    record(here / NAME, NAME, corpus, str(here / f"{NAME}.h5"), Options(cases=cases, overwrite=True))
