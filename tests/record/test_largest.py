"""Goldens with the largest logits alone: recorded, read, checked; what cannot be known is said."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from harness.corpus import load_corpus
from harness.costs import costs
from harness.errors import UsageError
from harness.layout import TOP
from harness.record.command import largest_of
from harness.record.dry_run import estimate
from harness.record.largest import largest
from harness.record.recorder import Options, record
from harness.report.views import html, markdown, report_text
from harness.report.wording import between
from harness.run.check import Checker
from harness.run.port import BUILT_IN
from harness.run.question import Question
from harness.selecting import Selected
from harness.store import open_golden
from tests.families import tiny

pytestmark = pytest.mark.record
K = 6
CORPUS = """
[[prompt]]
name = "some"
text = "hello"

[[prompt]]
name = "kept"
text = "kept"
positions = "first, last"

[[decode]]
name = "steps"
text = "steps"
steps = 2

[[batch]]
name = "both"
prompts = ["some", "kept"]
padding = "left"

[[generation]]
name = "written"
text = "go"
tokens = 3
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("largest")
    (folder / "corpus.toml").write_text(CORPUS)
    return tiny.write(folder / "model", "llama", "linear"), load_corpus(folder / "corpus.toml"), folder


@pytest.fixture(scope="module")
def goldens(place):
    """The same, with all logits and with the largest."""
    checkpoint, corpus, folder = place
    for name, top in (("all.h5", 0), ("top.h5", K)):
        record(checkpoint, "model", corpus, str(folder / name), Options(level="logits", top=top))
    return folder / "all.h5", folder / "top.h5"


def test_stored_are_the_largest_and_what_is_known_of_all(goldens, place):
    with open_golden(goldens[0]) as every, open_golden(goldens[1]) as some:
        some.verify()
        assert some.manifest.version == 4 and "--logits top-6" in some.manifest.command
        assert estimate(*place[:2], Options(level="logits", top=K)).costs == costs(some.manifest)
        for case in every.manifest.cases:
            logits, kept, top = every.tap(case.name, "logits"), some.tap(case.name, "logits"), some.top(case.name)
            assert kept.shape == (*logits.shape[:2], K)
            assert np.array_equal(kept, -np.sort(-logits, axis=-1)[..., :K])
            assert np.array_equal(kept, np.take_along_axis(logits, top["ids"].astype(int), -1))
            total = np.log(np.exp(logits).sum(-1))
            p = np.exp(logits - total[..., None])
            np.put_along_axis(p, top["ids"].astype(int), 0, -1)
            for what, expected in zip(list(TOP)[1:], (total, p.sum(-1), (p * logits).sum(-1)), strict=True):
                assert np.allclose(top[what], expected, rtol=1e-12, atol=1e-14), what
            for kind in ("forward", "replay"):
                one, other = (golden.noise(case.name, "float32", kind) for golden in (some, every))
                assert (one[-1, 1] <= other[-1, 1]).all() and (one[-1, 1] > 0).all(), "the largest error of some"


def test_of_equal_logits_the_lower_ids_are_taken():
    for wide in (1, 5):
        logits = torch.tensor([[[1.0, 3.0, 2.0, 2.0, 3.0, 2.0, *[0.0] * wide]]])
        assert largest(logits, 2).tolist() == [[[1, 4]]]
        assert largest(logits, 4).tolist() == [[[1, 4, 2, 3]]]
        assert largest(logits, 5).tolist() == [[[1, 4, 2, 3, 5]]]


class Bent:
    """The built-in port, whose logits are changed."""

    change = staticmethod(lambda logits: logits)

    @classmethod
    def load(cls, checkpoint, config, dtype, mesh=None):
        from harness.run.loading import load_port

        port = cls()
        port.own = load_port(BUILT_IN, checkpoint, config, dtype)
        return port

    def init_cache(self, *arguments):
        return self.own.init_cache(*arguments)

    def forward(self, *arguments):
        logits, cache = self.own.forward(*arguments)
        return type(self).change(logits), cache


def checked(golden, place, change=None, precision="float32"):
    load = None
    if change is not None:
        kind = type("Other", (Bent,), {"change": staticmethod(change)})
        load = lambda directory, config, dtype: kind.load(directory, config, dtype)  # noqa: E731
    with Checker(
        golden, place[0], BUILT_IN, Question(precisions=(precision,)), load=load, inspect=False
    ) as checker:
        return checker.report([checker.run(precision)])


def logits_of(report, case="some", mode="forward"):
    return next(r for r in report.results if (r.case, r.tap, r.mode) == (case, "logits", mode))


def test_a_right_port_matches_in_every_mode_and_the_report_says_what_is_not_known(goldens, place):
    report = checked(goldens[1], place)
    assert report.verdict == "match"
    assert {r.mode for r in report.results if r.tap == "logits"} == {"forward", "replay", "prefill", "alone"}
    found = logits_of(report).logits
    assert found.max_kl_low < 1e-9 < found.max_kl and found.top == K
    assert found.top1_agreement == 1.0
    assert any(line.startswith(f"logits beside the {K} largest") for line in report.not_covered)
    assert f"judged by the {K} largest" in report.acceptance.remark
    assert [one.verdict for one in report.generations] == ["match"]
    in_bounds = between(*(forward_kl(report, end) for end in ("max_kl_low", "max_kl")))
    assert " to " in in_bounds
    for view in (report_text(report, 200), markdown(report), html(report)):
        assert in_bounds in view


def forward_kl(report, end):
    found = [r.logits for r in report.results if (r.mode, r.precision, r.tap) == ("forward", "float32", "logits")]
    return max(getattr(one, end) for one in found)


def test_a_wrong_logit_among_the_largest_is_found_and_named(goldens, place):
    with open_golden(goldens[1]) as golden:
        token = int(golden.top("some")["ids"][0, -1, 2])
        kept = golden.top("kept")["ids"]
    report = checked(goldens[1], place, lambda logits: logits.at[..., token].add(1e-3))
    assert report.introduced == ("logits",)
    result = logits_of(report, mode="replay")
    assert result.worst.index["vocab"] == token
    assert result.worst.actual - result.worst.golden == pytest.approx(1e-3, rel=1e-2)
    assert kept.shape[1] == 2, "of the kept positions alone"


def test_a_wrong_logit_that_is_first_and_not_stored_is_a_flip_of_at_least_that_margin(goldens, place):
    with open_golden(goldens[1]) as golden:
        held = {case.name: golden.top(case.name)["ids"] for case in golden.manifest.cases}
        stored = {int(i) for ids in held.values() for i in ids.ravel()}
        token = next(i for i in range(golden.manifest.sizes["vocab"]) if i not in stored)
        logits = golden.tap("some", "logits")
    report = checked(goldens[1], place, lambda logits: logits.at[..., token].set(50.0))
    flips = logits_of(report).logits.flips
    assert [flip.actual for flip in flips] == [token] * logits.shape[1]
    assert all(flip.at_least and not flip.tie for flip in flips)
    assert flips[0].margin == pytest.approx(logits[0, 0, 0] - logits[0, 0, -1])
    assert logits_of(report).logits.max_kl_low > 10
    [written] = report.generations
    assert written.verdict == "diverged" and "margin at least" in written.text


def test_a_port_without_all_logits_is_refused_by_its_shape(goldens, place):
    report = checked(goldens[1], place, lambda logits: logits[..., :K])
    wrong = [r for r in report.results if r.tap == "logits"]
    assert {r.verdict for r in wrong} == {"shape"}
    assert str(tiny.COMMON["vocab_size"]) in logits_of(report).expected


@pytest.mark.parametrize("asked", ["top-1", "top-0", "64", "top", "none", ""])
def test_what_is_no_choice_of_logits_is_refused(asked):
    with pytest.raises(UsageError, match="no choice of logits"):
        largest_of(asked)


def test_more_than_the_vocabulary_has_is_refused_before_anything_runs(place):
    with pytest.raises(UsageError, match="no more logits"):
        estimate(*place[:2], Options(top=tiny.COMMON["vocab_size"]))
    with pytest.raises(UsageError, match="no logits are recorded"):
        estimate(*place[:2], Options(top=4, selected=Selected.asked(["embed"], None), cases=("some",)))
    assert [largest_of(asked) for asked in (None, "all", "top-64")] == [0, 0, 64]
