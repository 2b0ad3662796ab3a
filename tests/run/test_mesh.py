"""The mesh that a port is given: how it is asked for, and what a report says. More devices: tests/devices."""

from __future__ import annotations

import json
from dataclasses import replace

import jax
import msgspec
import pytest
from jax.sharding import AxisType, Mesh

from harness.errors import PortError, UsageError
from harness.report.junit import junit
from harness.report.views import html, markdown, report_text
from harness.run.check import check
from harness.run.devices import mesh_of
from harness.run.loading import port_from_object
from harness.run.question import Question, parse_mesh, shown_axes
from tests.run.ports import Wrapped
from tests.test_cli import FAST, goldens, refused

ONE = Question(precisions=("float32",), modes=("forward",), cases=("digits",), mesh=(("data", 1), ("model", 1)))


class Seeing(Wrapped):
    """Remembers the mesh that it was given."""

    seen: list[Mesh | None] = []

    @classmethod
    def load(cls, checkpoint, config, dtype, mesh):
        cls.seen.append(mesh)
        return super().load(checkpoint, config, dtype, None)


class Refusing(Wrapped):
    @classmethod
    def load(cls, checkpoint, config, dtype, mesh):
        raise ValueError(f"no use for {dict(mesh.shape)}")


def test_axes_are_read_and_shown_as_they_are_written():
    assert parse_mesh(None) == ()
    assert parse_mesh("data=2,model=4") == (("data", 2), ("model", 4))
    assert parse_mesh(" data = 2 , m_2=1") == (("data", 2), ("m_2", 1))
    assert shown_axes(parse_mesh("data=2,model=4")) == "data=2,model=4"


@pytest.mark.parametrize(
    "text", ["", "data", "data=", "=2", "data=2,", "data=two", "data=2.0", "2=2", "a b=2", "data=²"]
)
def test_text_that_is_no_mesh_is_refused(text):
    result = refused(goldens("check", *FAST, "--mesh", text), "this is not a mesh", f"--mesh {text}", "NAME=SIZE")
    assert "hint: for example --mesh data=2,model=4" in result.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data=1,data=1", ("no two axes of one name", "data 2 times", "every axis once")),
        ("data=0", ("at least one device", "data=1 or more", "found:    0")),
        ("data=1,model=-2", ("at least one device", "model=1 or more", "found:    -2")),
        (
            "data=2,model=4",
            (
                "more devices than there are",
                "at most 1 (cpu)",
                "found:    8",
                "XLA_FLAGS=--xla_force_host_platform_device_count=8",
            ),
        ),
    ],
)
@pytest.mark.parametrize(
    "command", [("check", *FAST), ("diagnose", *FAST, "--port", "harness.run.decoder:Decoder")]
)
def test_a_mesh_that_cannot_be_made_is_refused(command, text, words):
    result = refused(goldens(*command, "--mesh", text), f"--mesh {text}", *words)
    assert "hint: " in result.stderr


def test_the_port_is_given_the_mesh_and_the_report_says_so(golden_path, checkpoint):
    Seeing.seen.clear()
    report = check(golden_path, checkpoint, "tests.run.test_mesh:Seeing", ONE)
    (mesh,) = Seeing.seen
    assert mesh.shape == {"data": 1, "model": 1}
    assert mesh.axis_types == (AxisType.Auto, AxisType.Auto)
    assert list(mesh.devices.flat) == jax.devices()[:1]
    assert report.verdict == "match"
    assert report.environment["mesh"] == {"data": 1, "model": 1}
    assert report.environment["devices"] == ["cpu"]
    said = "data=1,model=1 of 1 device (cpu)"
    for view in (report_text(report, 100), markdown(report), html(report), junit(report).decode()):
        assert said in view


def test_without_a_mesh_the_port_is_given_none_and_nothing_is_said_of_one(golden_path, checkpoint):
    Seeing.seen.clear()
    report = check(golden_path, checkpoint, "tests.run.test_mesh:Seeing", replace(ONE, mesh=()))
    assert Seeing.seen == [None]
    assert "mesh" not in report.environment
    for view in (report_text(report, 100), markdown(report), junit(report).decode()):
        assert "of 1 device" not in view


def test_a_port_that_raises_about_the_mesh_is_blamed(golden_path, checkpoint):
    with pytest.raises(PortError, match=r"no use for \{.data.: 1, .model.: 1\}"):
        check(golden_path, checkpoint, "tests.run.test_mesh:Refusing", ONE)


def test_the_built_in_decoder_refuses_axes_that_it_does_not_know(golden_path, checkpoint):
    with pytest.raises(PortError, match="nothing to split along an axis of this name") as error:
        check(golden_path, checkpoint, question=replace(ONE, mesh=(("tensor", 1),)))
    assert error.value.found == "tensor"


def test_the_built_in_decoder_runs_on_a_mesh_of_one(golden_path, checkpoint):
    report = check(golden_path, checkpoint, question=replace(ONE, cases=("digits", "decode")))
    assert report.verdict == "match"
    assert report.notes == ()


def test_the_built_in_decoder_is_lifted_on_a_mesh(golden_path, checkpoint):
    lifted = replace(ONE, precisions=("float64",), lift=True)
    assert check(golden_path, checkpoint, question=lifted).verdict == "match"


def test_a_port_given_as_a_class_is_loaded_on_the_mesh(golden_path, checkpoint):
    Seeing.seen.clear()
    spec, load = port_from_object(Seeing, ONE)
    assert check(golden_path, checkpoint, spec, ONE, load=load).environment["mesh"] == {"data": 1, "model": 1}
    assert Seeing.seen[0].shape == {"data": 1, "model": 1}


def test_a_port_that_is_loaded_already_takes_no_mesh():
    with pytest.raises(UsageError, match="cannot be given a mesh") as error:
        port_from_object(Seeing(None), ONE)
    assert error.value.found == "data=1,model=1"


def test_a_diff_runs_ports_on_the_mesh(golden_path, checkpoint, tmp_path):
    Seeing.seen.clear()
    saved = tmp_path / "before.json"
    assert goldens("check", *FAST, "--mode", "forward", "--json", saved).exit_code == 0
    sides = ("--before", saved, "--after", "tests.run.test_mesh:Seeing")
    result = goldens("diff", *sides, "--mesh", "data=1", "--json", "-")
    assert Seeing.seen[0].shape == {"data": 1}
    document = json.loads(result.stdout)
    assert document["after"]["environment"]["mesh"] == {"data": 1}
    assert "another mesh data: none before, 1 after" in document["notes"]


def test_a_diff_of_saved_checks_has_no_use_for_a_mesh(tmp_path):
    saved = tmp_path / "saved.json"
    assert goldens("check", *FAST, "--mode", "forward", "--json", saved).exit_code == 0
    refused(goldens("diff", "--before", saved, "--after", saved, "--mesh", "data=1"), "--mesh", "nothing is run")


def test_a_revision_is_asked_for_the_same_mesh():
    encoded = msgspec.json.encode(ONE)
    assert msgspec.json.decode(encoded, type=Question) == ONE


def test_no_axes_are_no_mesh():
    assert mesh_of(()) is None
