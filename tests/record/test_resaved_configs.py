"""A port is given the same fields, whichever version of transformers has saved the checkpoint."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.record

from transformers import AutoConfig

from harness import embedded
from harness.architecture import read_config
from harness.run.dialect import in_both_dialects

# What transformers 5 itself leaves out where it is not in force, and its own version.
LOST = {"transformers_version", "sliding_window"}


@pytest.mark.parametrize("name", ["qwen2-tiny", "qwen2-window", "qwen3", "gemma3", "llama3"])
def test_what_transformers_5_saves_gives_a_port_every_field_that_the_hub_has(name, tmp_path):
    hub = embedded.golden().parent / name
    AutoConfig.from_pretrained(hub).save_pretrained(tmp_path)
    before, after = (in_both_dialects(read_config(place)) for place in (hub, tmp_path))
    assert "rope_theta" not in read_config(tmp_path)
    other = {field for field, value in before.items() if field not in LOST and after.get(field, ...) != value}
    assert other == set()
