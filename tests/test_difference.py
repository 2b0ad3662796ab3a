"""Every status, at each of its boundaries."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.difference import (
    BETTER,
    FACTORS,
    NOISE,
    STATUSES,
    WORSE,
    classify,
    compare_results,
    crosses,
)
from harness.results import TapResult
from harness.tolerances import LIMITS
from harness.verdict import BROKEN

LIMIT = LIMITS["float32"]
RMS, MAX = 4.0, 8.0
RMS_NOISE, MAX_NOISE = NOISE * RMS, NOISE * MAX  # 2, 4


def one(rms, largest=None, verdict=None, mode="replay", tap="layers.0.q", precision="float32", case="code"):
    largest = rms if largest is None else largest
    wrong = rms is None or rms > RMS or largest > MAX
    return TapResult(
        case,
        precision,
        mode,
        tap,
        verdict or ("introduced" if wrong else "match"),
        rms_multiple=rms,
        max_multiple=largest,
        overall_multiple=0.0,
        rms_limit=RMS,
        max_limit=MAX,
        overall_limit=RMS,
        max_abs=1.0,
    )


def status(before, after, limits=LIMIT):
    return classify(before, after, limits)


def test_every_status_is_better_or_worse_or_unchanged():
    assert sorted((*BETTER, *WORSE, "unchanged")) == sorted(STATUSES)


def test_wrong_to_match_is_fixed_and_match_to_wrong_is_broken():
    assert status(one(1e5), one(1.2)) == "fixed"
    assert status(one(1.2), one(1e5)) == "broken"


def test_two_matches_are_unchanged_however_far_apart():
    assert status(one(0.01), one(3.99)) == "unchanged"
    assert status(one(3.99), one(0.01)) == "unchanged"


def test_a_limit_crossed_within_the_noise_is_no_change_and_is_told_from_one_that_was_not():
    up = compare_results([one(3.9)], [one(4.1)], {"float32": LIMIT})[0]
    down = compare_results([one(4.1)], [one(3.9)], {"float32": LIMIT})[0]
    assert (up.status, down.status) == ("unchanged", "unchanged")
    assert crosses(up)
    assert crosses(down)
    for before, after in ((1.0, 1.1), (1e5, 1e5), (1.0, 1e5)):
        assert not crosses(compare_results([one(before)], [one(after)], {"float32": LIMIT})[0])


def test_a_limit_is_crossed_beyond_the_noise_from_half_the_limit_on():
    assert status(one(2.5, 1), one(2.5 + RMS_NOISE, 1)) == "unchanged"
    assert status(one(2.5, 1), one(2.5 + RMS_NOISE + 0.01, 1)) == "broken"
    assert status(one(2.5 + RMS_NOISE, 1), one(2.5, 1)) == "unchanged"
    assert status(one(2.5 + RMS_NOISE + 0.01, 1), one(2.5, 1)) == "fixed"


def test_the_max_multiple_counts_as_the_rms_does():
    assert status(one(1, 4.5), one(1, 4.5 + MAX_NOISE)) == "unchanged"
    assert status(one(1, 4.5), one(1, 4.5 + MAX_NOISE + 0.01)) == "broken"
    assert status(one(1, 9e3), one(1, 1)) == "fixed"
    assert status(one(50, 900), one(50, 90)) == "improved"


@pytest.mark.parametrize("mode", ["replay", "forward"])
def test_wrong_to_wrong_needs_the_factor_of_its_mode(mode):
    factor = FACTORS[mode]
    assert status(one(1000, mode=mode), one(1000 * factor, mode=mode)) == "unchanged"
    assert status(one(1000, mode=mode), one(1000 * factor + 1, mode=mode)) == "worse"
    assert status(one(1000 * factor, mode=mode), one(1000, mode=mode)) == "unchanged"
    assert status(one(1000 * factor + 1, mode=mode), one(1000, mode=mode)) == "improved"


def test_a_forward_error_may_move_further_than_a_replayed_one():
    assert FACTORS["forward"] > FACTORS["replay"] > 1


def test_wrong_to_wrong_needs_more_than_the_noise_as_well_as_the_factor():
    assert status(one(4.5, 1), one(4.5 + RMS_NOISE, 1)) == "unchanged"  # 1.44 times
    assert status(one(4.5, 1), one(4.5 + RMS_NOISE + 0.01, 1)) == "worse"


def test_rms_down_and_max_up_is_worse():
    assert status(one(1000, 1000), one(100, 5000)) == "worse"
    assert status(one(1000, 1000), one(5000, 100)) == "worse"


def test_a_tight_limit_of_the_users_own_does_not_make_the_noise_smaller():
    tight = replace(LIMIT, rms=0.0025, max=0.0025)

    def limited(rms, **how):
        return replace(one(rms, **how), rms_limit=0.01, max_limit=0.02, overall_limit=0.01)

    wrong = {"verdict": "introduced"}
    assert status(limited(0.9, **wrong), limited(2.5, **wrong), tight) == "unchanged"
    assert status(limited(0.009, verdict="match"), limited(0.9, **wrong), tight) == "unchanged"
    assert status(limited(0.009, verdict="match"), limited(2.5, **wrong), tight) == "broken"


def test_a_loose_limit_of_the_users_own_makes_it_larger():
    loose = replace(LIMIT, rms=25.0, max=25.0)

    def limited(rms):
        return replace(one(rms, verdict="introduced"), rms_limit=100.0, max_limit=200.0, overall_limit=100.0)

    assert status(limited(150), limited(199), loose) == "unchanged"
    assert status(limited(150), limited(251), loose) == "worse"


def test_all_positions_together_are_a_reason_of_their_own():
    before = replace(one(1.0), overall_multiple=1.0)
    after = replace(one(1.0, verdict="introduced"), overall_multiple=9.0)
    assert (status(before, after), status(after, before)) == ("broken", "fixed")


def test_float64_multiples_count_half_ulps_so_their_noise_is_wider():
    def wide(rms, **how):
        return replace(one(rms, precision="float64", **how), rms_limit=1e5, max_limit=1e6, overall_limit=1e5)

    before = wide(7e4, verdict="match")
    assert status(before, wide(1.1e5), LIMITS["float64"]) == "unchanged"
    assert status(before, wide(1.3e5), LIMITS["float64"]) == "broken"


@pytest.mark.parametrize("verdict", sorted(set(BROKEN) - {"extra"}))
def test_what_cannot_be_compared_is_wrong_with_an_infinite_multiple(verdict):
    nothing = replace(one(None, 1.0), verdict=verdict, max_multiple=None)
    assert status(nothing, one(1.2)) == "fixed"
    assert status(one(1.2), nothing) == "broken"
    assert status(nothing, one(1e6)) == "improved"
    assert status(one(1e6), nothing) == "worse"
    assert status(nothing, replace(nothing, verdict="shape")) == "unchanged"


def test_a_tap_that_only_one_side_covers_is_lost_or_gained_and_never_unchanged():
    for result in (one(1.2), one(1e5)):
        assert status(result, None) == "lost"
        assert status(None, result) == "gained"
    assert "lost" in WORSE


def test_an_invented_tap_breaks_the_contract_and_its_removal_fixes_it():
    invented = one(None, 1.0, verdict="extra")
    assert status(invented, None) == "fixed"
    assert status(None, invented) == "broken"
    assert status(invented, invented) == "unchanged"


def test_every_comparison_of_either_side_is_there_once():
    before = [one(1.2), one(9.0, case="hello"), one(1.0, tap="layers.0.probs")]
    after = [one(1.2), one(1.0, case="hello"), one(1.0, tap="layers.0.k"), one(1.2, mode="forward")]
    found = compare_results(before, after, {"float32": LIMIT})
    assert [(c.case, c.mode, c.tap, c.status) for c in found] == [
        ("code", "replay", "layers.0.q", "unchanged"),
        ("hello", "replay", "layers.0.q", "fixed"),
        ("code", "replay", "layers.0.probs", "lost"),
        ("code", "replay", "layers.0.k", "gained"),
        ("code", "forward", "layers.0.q", "gained"),
    ]
    assert found[2].after is None
    assert found[3].before is None
    assert (found[1].before.rms_multiple, found[1].after.rms_multiple) == (9.0, 1.0)
