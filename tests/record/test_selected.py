"""Goldens of some taps: what is left out is left out everywhere, and a check says what it no longer judges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from harness.corpus import load_corpus
from harness.costs import costs
from harness.errors import UsageError
from harness.golden import statistic
from harness.mutants.catalogue import TOPICS
from harness.mutants.planting import loader
from harness.record import recorder, unit
from harness.record.dry_run import estimate
from harness.record.recorder import Options, record
from harness.record.work import Work
from harness.report.views import report_text
from harness.run.check import Checker
from harness.run.port import BUILT_IN
from harness.run.question import Question
from harness.selecting import Selected
from harness.store import open_golden
from tests.families import tiny

pytestmark = pytest.mark.record
CORPUS = """
[[prompt]]
name = "deep"
text = "hello"

[[prompt]]
name = "residual"
text = "go"
level = "layers"

[[decode]]
name = "steps"
text = "decoded"
steps = 2
"""
OF_MLP = ("layers.1.gate", "layers.1.up", "layers.1.act")
GLOBS = ("layers.*.q", "layers.*.v", *OF_MLP, "layers.*.resid_post", "logits")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("selected")
    (folder / "corpus.toml").write_text(CORPUS)
    return tiny.write(folder / "model", "llama", "linear"), load_corpus(folder / "corpus.toml"), folder


def recorded(place, name, globs=(), layers=None, **more) -> Path:
    checkpoint, corpus, folder = place
    out = folder / name
    record(checkpoint, "model", corpus, str(out), Options(selected=Selected.asked(globs, layers), **more))
    return out


@pytest.fixture(scope="module")
def whole(place):
    return recorded(place, "whole.h5", cases=("deep",))


@pytest.fixture(scope="module")
def part(place):
    return recorded(place, "part.h5", GLOBS, "last")


def test_truth_and_forward_noise_are_those_of_the_whole(whole, part):
    with open_golden(whole) as every, open_golden(part) as some:
        assert some.manifest.case("deep").taps == (
            "layers.1.q", "layers.1.v", *OF_MLP, "layers.1.resid_post", "logits",
        )  # fmt: skip
        assert some.manifest.case("residual").taps == ("layers.1.resid_post", "logits")
        assert some.manifest.case("steps").taps == some.manifest.case("deep").taps, "the cache is not selected"
        of_all = every.manifest.case("deep").taps
        for index, tap in enumerate(some.manifest.case("deep").taps):
            assert np.array_equal(some.tap("deep", tap), every.tap("deep", tap))
            one, other = (g.noise("deep", "float32", "forward") for g in (some, every))
            assert np.array_equal(one[index], other[of_all.index(tap)])


def test_replay_noise_is_that_of_what_a_check_replays(whole, part):
    """Where nothing upstream is recorded it is forward's; two operations after what is, it is in between."""
    with open_golden(whole) as every, open_golden(part) as some:
        for precision in ("float32", "bfloat16"):
            forward, replay = (some.noise("deep", precision, kind) for kind in ("forward", "replay"))
            taps = some.manifest.case("deep").taps
            assert np.array_equal(forward[taps.index("layers.1.q")], replay[taps.index("layers.1.q")])
            of_all = every.noise("deep", precision, "replay")
            rms, at = statistic("rms"), every.manifest.case("deep").taps.index("logits")
            # The final norm is not recorded: logits are two operations from what is.
            alone, both, all_of_them = of_all[at, rms], replay[-1, rms], forward[-1, rms]
            assert np.median(alone) < np.median(both) < np.median(all_of_them)


def test_replay_goes_from_stage_to_stage_where_nothing_is_in_between(place, monkeypatch):
    """With one draw, and embeddings that are exact, replay from the embedding on is forward."""
    monkeypatch.setattr(recorder, "draws_of", lambda length: 1)
    with open_golden(
        recorded(place, "ends.h5", ["embed", "layers.1.resid_post", "logits"], cases=("deep",))
    ) as golden:
        forward, replay = (golden.noise("deep", "float32", kind) for kind in ("forward", "replay"))
        assert np.array_equal(forward[:2], replay[:2])
        assert not np.array_equal(forward[2], replay[2])
    with open_golden(
        recorded(place, "inner.h5", ["layers.0.q", "layers.1.resid_post", "logits"], cases=("deep",))
    ) as golden:
        forward, replay = (golden.noise("deep", "float32", kind) for kind in ("forward", "replay"))
        assert np.array_equal(forward[0], replay[0])
        assert not np.array_equal(forward[1], replay[1]), "layer 1 starts from layer 0, whose q was replaced"


def test_what_is_left_out_is_on_no_disk_and_a_dry_run_says_what_the_rest_takes(place, part, monkeypatch):
    checkpoint, corpus, _ = place
    found = estimate(checkpoint, corpus, Options(selected=Selected.asked(GLOBS, "last")))
    ran, saved = dict.fromkeys(found.passes, 0), {}
    with open_golden(part) as golden:
        names = {tuple(golden.case(name).input_ids[0].tolist()): name for name in ran}
        assert found.costs == costs(golden.manifest)
    once, save = unit.run_calls, Work.save

    def counted(stage, inputs, *more):
        if stage.prefix.startswith("layers"):
            ran[names[tuple(inputs.ids[0].tolist())]] += 1
        return once(stage, inputs, *more)

    def watched(self, stage, case, one):
        saved.setdefault(case, {})[stage] = sorted(one.truth)
        return save(self, stage, case, one)

    monkeypatch.setattr(unit, "run_calls", counted)
    monkeypatch.setattr(Work, "save", watched)
    again = recorded(place, "again.zarr", GLOBS[::-1], " last")
    assert found.passes == {name: count / 2 for name, count in ran.items()}
    assert saved["deep"]["layers.0"] == saved["deep"]["embed"] == [] and saved["deep"]["head"] == ["logits"]
    with open_golden(again) as again, open_golden(part) as golden:
        assert again.id == golden.id, "one selection has one id"
        assert golden.manifest.command.count("--taps") == len(GLOBS)
        assert golden.manifest.command.endswith("--layers last")


def test_a_glob_that_names_nothing_stops_before_anything_runs(place, monkeypatch):
    monkeypatch.setattr(unit, "compute", lambda *_: pytest.fail("something ran"))
    for refused in (["layers.*.qq"], ["layers.*.q"]):
        with pytest.raises(UsageError):
            recorded(place, "refused.h5", refused)
        with pytest.raises(UsageError):
            estimate(place[0], place[1], Options(selected=Selected.asked(refused, None)))
    assert not (place[2] / "refused.h5").exists() and not (place[2] / "refused.h5.partial").exists()


def checked(place, golden, mutant=None, precisions=("float32",), cases=()):
    planted = [m for mutants in TOPICS.values() for m in mutants if m.id == mutant]
    load = loader(planted[0]) if planted else None
    question = Question(precisions=precisions, cases=cases)
    with Checker(golden, place[0], BUILT_IN, question, load=load, inspect=False) as checker:
        return checker.report([checker.run(precision) for precision in precisions])


def test_a_right_port_matches_and_what_is_not_judged_is_named_and_counted(place, part):
    report = checked(place, part)
    assert report.verdict == "match"
    [deep] = [line for line in report.not_covered if "in deep" in line]
    assert deep.startswith("34 of 35 operations, each by itself, in deep:")
    assert "embed, layers.*.attn_norm, layers.*.q," in deep and "final_norm, logits" in deep
    assert any("in residual" in line for line in report.not_covered)


def test_a_bug_is_placed_no_closer_than_what_is_there(place, part):
    """A wrong norm in every layer: q and v of layer 1 are fed by it, and so is everything after layer 0."""
    report = checked(place, part, "norm_weight_ignored", cases=("deep",))
    assert report.verdict == "diverged"
    assert report.introduced[0] == "layers.1.q" and "layers.1.v" not in report.introduced
    text = report_text(report, 200)
    assert "not located, shows at  layers.1.q" in text, "only the tokens are upstream of it"
    assert "introduced on the way to  logits" in text, "the final norm is between"
    assert "introduced at" not in text
    assert "through what is not in the golden" in text
