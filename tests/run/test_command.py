"""A command that is suggested says what was given, and nothing that goes without saying."""

from __future__ import annotations

import shlex

import pytest

import harness.cli as group
from harness import embedded
from harness.run.question import Given, Question, repeated

MODEL = "qwen2-tiny"


def words(question, golden=None, checkpoint=None):
    given = Given(golden or embedded.golden(), checkpoint, "my port:P", question)
    return shlex.split(repeated("diagnose", given, MODEL))


def test_what_goes_without_saying_is_not_said():
    assert words(Question()) == ["goldens", "diagnose", "--port", "my port:P"]
    assert words(Question(modes=("forward",))) == words(Question())  # a diagnosis has modes of its own


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (Question(precisions=("bfloat16", "float32")), ["--precision", "bfloat16,float32"]),
        (Question(cases=("code*", "hello")), ["--case", "code*", "--case", "hello"]),
        (Question(mesh=(("data", 2), ("model", 4))), ["--mesh", "data=2,model=4"]),
        (Question(lift=True), ["--lift"]),
        (Question(allow_reduced_precision=True), ["--allow-reduced-precision"]),
    ],
)
def test_what_was_given_is_repeated(question, said, tmp_path):
    assert words(question) == ["goldens", "diagnose", *said, "--port", "my port:P"]
    assert words(question, tmp_path / "my golden.h5", tmp_path)[2:5] == [
        str(tmp_path / "my golden.h5"),
        "--weights",
        str(tmp_path),
    ]


@pytest.mark.parametrize("command", ["check", "diagnose"])
def test_both_commands_take_what_is_repeated(command):
    everything = Question(("bfloat16",), ("replay",), ("a",), None, None, True, True, (("data", 2),))
    given = Given(embedded.golden(), None, "my:Port", everything)
    with group.command(command).make_context(command, shlex.split(repeated(command, given, MODEL))[2:]) as context:
        assert context.params["precision"] == "bfloat16"
        assert context.params["cases"] == ("a",)
        assert context.params["mesh"] == "data=2"
        assert context.params["lift"] is context.params["allow_reduced_precision"] is True
