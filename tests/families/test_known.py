"""What is said of the families that are known, without torch."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from harness import embedded
from harness.architecture import architecture_of, difference
from harness.cli import cli
from harness.errors import CheckpointError
from harness.families import families, names
from harness.families.others import OTHERS
from tests.families import tiny

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_readme_names_every_family():
    first = README.split("## Three jobs")[0]
    assert [name for name in families() if f"`{name}`" not in first] == []


def test_the_names_that_are_read_without_an_import_are_those_of_the_families():
    assert names() == sorted(families())


def test_no_family_is_both_known_and_refused():
    assert not OTHERS.keys() & families().keys()


@pytest.mark.parametrize("name", OTHERS)
def test_another_family_is_refused_with_its_reason(name):
    with pytest.raises(CheckpointError) as refused:
        architecture_of({"model_type": name})
    assert OTHERS[name][0] in str(refused.value) and OTHERS[name][1] in str(refused.value)


def test_the_list_has_every_embedded_golden_and_every_family():
    printed = CliRunner().invoke(cli, ["list"])
    assert printed.exit_code == 0, printed.output
    for path in embedded.goldens():
        assert path.stem in printed.output
    assert all(name in printed.output for name in families())


def test_the_help_of_the_recorder_names_every_family():
    printed = CliRunner().invoke(cli, ["record", "--help"])
    assert all(name in printed.output for name in families())


def test_commands_take_an_embedded_golden_by_name():
    for path in embedded.goldens():
        assert embedded.resolved(path.stem) == str(path)
    assert embedded.resolved("nowhere") == "nowhere"
    printed = CliRunner().invoke(cli, ["show", "qwen2-window"])
    assert printed.exit_code == 0 and "qwen2-window" in printed.output


@pytest.mark.parametrize(("family", "name"), tiny.ALL, ids=["-".join(one) for one in tiny.ALL])
def test_a_field_that_is_null_absent_or_of_another_type_is_refused_or_has_a_stated_default(family, name):
    """Whatever becomes of one field: an architecture, or a refusal that names something. Never anything else."""
    fields = tiny.config(family, name)
    for field in fields:
        for changed in (
            {**fields, field: None},
            {**fields, field: "x"},
            {k: v for k, v in fields.items() if k != field},
        ):
            try:
                architecture_of(changed)
            except CheckpointError as refused:
                assert "config" in str(refused) or "model" in str(refused) or "RoPE" in str(refused)


# Fields of COMMON and of the tiny configs that change nothing.
SILENT = {"bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings", "torch_dtype", "model_type"}


def otherwise(value):
    """Another value of the same type."""
    if isinstance(value, dict):
        return {name: otherwise(inner) for name, inner in value.items() if not isinstance(inner, str)} | {
            name: inner for name, inner in value.items() if isinstance(inner, str)
        }
    if isinstance(value, list):
        return value[::-1] if value != value[::-1] else value[1:] + value[:1]
    if isinstance(value, bool):
        return not value
    return value if isinstance(value, str) else value * 2


@pytest.mark.parametrize(("family", "name"), tiny.ALL, ids=["-".join(one) for one in tiny.ALL])
def test_each_field_changes_the_function_or_is_refused(family, name):
    fields = tiny.config(family, name)
    for field, value in fields.items():
        if field in SILENT or value is None or isinstance(value, str):
            continue
        try:
            found = difference(fields, {**fields, field: otherwise(value)})
        except CheckpointError:
            continue
        assert found, field


@pytest.mark.parametrize(("family", "name"), tiny.ALL, ids=["-".join(one) for one in tiny.ALL])
def test_what_is_silent_changes_nothing(family, name):
    fields = tiny.config(family, name)
    silent = SILENT & fields.keys() - {"model_type", "torch_dtype"}
    if "short_factor" in (fields.get("rope_scaling") or {}):
        silent -= {"max_position_embeddings"}  # LongRoPE's factor, where the table has none
    for field in silent:
        assert difference(fields, {**fields, field: fields[field] + 1}) == [], field


@pytest.mark.parametrize(("family", "name"), [("mistral", "window"), ("phi3", "plain"), ("starcoder2", "plain")])
def test_a_window_of_no_key_is_refused(family, name):
    with pytest.raises(CheckpointError, match="not a positive whole number") as refused:
        architecture_of({**tiny.config(family, name), "sliding_window": 0})
    assert "sliding_window" in str(refused.value)


@pytest.mark.parametrize(
    "twice", [{"rope_theta": 5e5}, {"partial_rotary_factor": 0.5}], ids=["theta", "partial_rotary_factor"]
)
def test_what_longrope_and_the_config_say_differently_is_refused(twice):
    fields = tiny.config("phi3", "longrope")
    (field, value), table = next(iter(twice.items())), {**fields["rope_scaling"], **twice}
    with pytest.raises(CheckpointError, match=r"two RoPE thetas|says twice") as refused:
        architecture_of({**fields, "partial_rotary_factor": 1.0, "rope_scaling": table})
    assert field in str(refused.value) and f"{value:g}" in f"{refused.value}".replace("500000.0", "500000")
