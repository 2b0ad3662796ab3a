"""The calibration on simulated noise, of which the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import erf

from harness import calibration
from harness.calibration import Recorded, calibrated
from harness.golden import NOISE_PRECISIONS, NOISE_STATISTICS
from harness.tolerances import LIMITS, limit, limits, overall_limit, rms_chance

LAYERS, POSITIONS, DRAWS = 12, 5, 4
TAPS = [f"layers.{layer}.q" for layer in range(LAYERS)]
CHANCE = 1e-3


class World:
    """A kind of tap whose errors are known: their sizes, and what the numbers of one position have in common.

    Args:
        numbers: at every position.
        uneven: whether the numbers of a position have errors of other sizes, as rounding makes them: 1 is one
            factor, 2 the product of two.
        common: the share of the error, squared, that is one and the same for all numbers of a position.
        apart: by how much layers and positions differ, beyond what a layer or a position has by itself.
    """

    def __init__(self, numbers, uneven=0, common=0.0, apart=0.2, seed=0, positions=POSITIONS):
        self.random = np.random.default_rng(seed)
        self.common, shape = common, (LAYERS, positions, numbers)
        layer, position = self.random.normal(size=(LAYERS, 1, 1)), self.random.normal(size=(1, positions, 1))
        apart = apart * self.random.normal(size=(LAYERS, positions, 1))
        sizes = self.random.normal(size=(max(uneven, 1), *shape)).prod(0) if uneven else np.ones(shape)
        self.sizes = 1e-7 * np.exp(layer + position + apart) * sizes

    def errors(self, draws):
        """[draw, layer, position, number]."""
        shape = (draws, *self.sizes.shape)
        together = self.random.normal(size=(*shape[:3], 1))
        alone = self.random.normal(size=shape)
        return self.sizes * (np.sqrt(self.common) * together + np.sqrt(1 - self.common) * alone)

    def noise(self, draws=DRAWS):
        """As it is recorded: [tap, statistic, batch, position]."""
        return statistics(self.errors(draws)).transpose(1, 0, 2)[:, :, None]

    def floors(self, draws=DRAWS):
        return floors(self.noise(draws), draws)


def floors(noise, draws=DRAWS):
    """By layer."""
    counted = np.ones(noise.shape[2:], bool)
    case = Recorded(TAPS[: len(noise)], noise.astype(np.float32), counted, draws, ~counted)
    found = calibrated({"case": case})["case"]
    return list(found.values())


def statistics(errors):
    """What is recorded of [draw, layer, position, number]: [statistic, layer, position]."""
    squares = np.square(errors)
    mean, total, fourth = squares.mean(-1), squares.sum(-1), np.square(squares).sum(-1)
    share = np.divide(3 * total**2, fourth, out=np.ones_like(total), where=fourth > 0).mean(0)
    logs = np.log(np.maximum(mean, 1e-300))
    found = {
        "rms": np.sqrt(mean.mean(0)),
        "max": np.sqrt(np.square(np.abs(errors).max(-1)).mean(0)),
        "numbers": share.clip(1, errors.shape[-1]),
        "spread": logs.var(0, ddof=1) if len(errors) > 1 else np.zeros_like(mean[0]),
    }
    return np.stack([found[name] for name in NOISE_STATISTICS])


def beyond(numbers, allowance=1.0, **kind):
    """How many of all places a port of the same errors is beyond the limits of: rms, max, number of places."""
    rms, largest, places = 0, 0, 0
    for seed in range(15 if numbers == 1000 else 60):
        world = World(numbers, **kind, seed=seed)
        for floor, errors in zip(world.floors(), world.errors(1)[0] / allowance, strict=True):
            allowed_rms, allowed_max = limits(floor, CHANCE)
            rms += int((np.sqrt(np.square(errors).mean(-1)) > allowed_rms * floor.rms).sum())
            largest += int((np.abs(errors).max(-1) > allowed_max * floor.max).sum())
            places += len(errors)
    return rms, largest, places


@pytest.mark.parametrize("numbers", [2, 4, 28, 128, 1000])
@pytest.mark.parametrize("apart", [0.2, 0.6])
def test_a_correct_port_is_beyond_a_limit_as_rarely_as_stated(numbers, apart):
    rms, largest, places = beyond(numbers, apart=apart)
    assert rms <= 3 * CHANCE * places
    assert largest <= 3 * CHANCE * places


@pytest.mark.parametrize("numbers", [4, 28, 128, 1000])
@pytest.mark.parametrize(
    "kind", [{"uneven": 1}, {"uneven": 2}, {"common": 0.1}], ids=["uneven", "product", "common"]
)
def test_where_errors_are_not_alike_the_smallest_allowance_is_enough(numbers, kind):
    allowance = min(LIMITS[precision].allowance for precision in NOISE_PRECISIONS)
    rms, largest, places = beyond(numbers, allowance, **kind)
    assert rms <= 3 * CHANCE * places
    assert largest <= 3 * CHANCE * places


def test_a_share_of_the_numbers_that_is_assumed_is_not_enough_for_products(monkeypatch):
    """The largest error of a product is its largest factor's: of 1,000 numbers some three contest it."""
    monkeypatch.setattr(calibration, "_contest", lambda parts: calibration._Contest(1 / 8, None))
    _, largest, places = beyond(1000, uneven=2)
    assert largest > 3 * CHANCE * places


@pytest.mark.parametrize("power", range(11))
def test_how_much_the_largest_of_many_varies_is_what_its_distribution_says(power):
    x = np.linspace(0, 120, 1_200_001)
    beyond = 1 - erf(np.sqrt(x / 2)) ** 2**power
    mean, square = np.trapezoid(beyond, x), np.trapezoid(2 * x * beyond, x)
    assert calibration.DOF_OF_LARGEST[power] == pytest.approx(2 * mean**2 / (square - mean**2), rel=2e-3)


@pytest.mark.parametrize("numbers", [2, 12, 128])
def test_sums_in_another_order_have_errors_of_sizes_of_their_own(numbers):
    """PyTorch's are Gaussian; the port's have the variance of a random walk, and are 2.5 times as large."""
    rms = largest = places = 0
    allowance = LIMITS["float32"].allowance
    for seed in range(40):
        world = World(numbers, seed=seed)
        walks = world.random.normal(size=(*world.sizes.shape, 40)).cumsum(-1)
        port = 2.5 * world.errors(1)[0] * np.sqrt(np.square(walks).mean(-1) / 20.5)
        for floor, errors in zip(world.floors(), port, strict=True):
            allowed_rms, allowed_max = limits(floor, CHANCE, reordered=True)
            rms += int((np.sqrt(np.square(errors).mean(-1)) > allowance * allowed_rms * floor.rms).sum())
            largest += int((np.abs(errors).max(-1) > allowance * allowed_max * floor.max).sum())
            places += len(errors)
    assert max(rms, largest) <= 3 * CHANCE * places


def test_with_one_token_and_one_layer_the_limit_is_wide_and_still_holds():
    rms, places = 0, 2400
    world = World(4, positions=1)
    for _ in range(places // LAYERS):
        noise, port = world.noise(), world.errors(1)[0]
        for layer in range(LAYERS):
            floor = floors(noise[layer : layer + 1])[0]
            rms += int((np.sqrt(np.square(port[layer]).mean()) > limits(floor, CHANCE)[0] * floor.rms).sum())
    assert rms <= 3 * CHANCE * places


def test_layers_that_are_alike_make_the_limit_tighter():
    noise = World(4, apart=0.0).noise()
    alone, together = (limits(f[0], 1e-9)[0] for f in (floors(noise[:1, :, :, :1]), floors(noise)))
    assert together.max() < 0.8 * alone.min()


def test_where_numbers_are_many_an_error_twice_as_large_is_seen():
    for floor, errors in zip((world := World(1000)).floors(), 2 * world.errors(1)[0], strict=True):
        assert (np.sqrt(np.square(errors).mean(-1)) > limits(floor, 1e-9)[0] * floor.rms).all()


def test_all_positions_together_see_what_none_of_them_shows():
    world = World(40, positions=200)
    for floor, errors in zip(world.floors(), 1.25 * world.errors(1)[0], strict=True):
        multiples = np.sqrt(np.square(errors).mean(-1)) / floor.rms
        counted = np.ones((1, 200), bool)
        assert (multiples < limits(floor, 1e-9 / 200)[0]).all()
        assert np.sqrt(np.square(multiples).mean()) > overall_limit(floor, counted, 1e-9)


def test_where_pytorch_is_exact_everywhere_nothing_is_estimated():
    noise = np.zeros((3, len(NOISE_STATISTICS), 1, POSITIONS))
    noise[:, NOISE_STATISTICS.index("numbers")] = 1
    for floor in floors(noise):
        assert not floor.estimated.any() and not floor.rms.any()
        for values in limits(floor, 1e-9):
            assert values == pytest.approx(1.0, abs=1e-3)


def test_a_layer_that_is_exact_by_luck_has_the_floor_of_its_neighbours():
    noise = World(28).noise()
    noise[3, :, 0, 2] = 0
    noise[3, NOISE_STATISTICS.index("numbers"), 0, 2] = 1
    found = floors(noise)[3]
    assert found.estimated.all()
    assert 0.3 < found.rms[0, 2] / np.median(noise[:, 0, 0, 2]) < 3


@pytest.mark.parametrize(("noisier", "seen"), [(1.0, False), (16.0, True)])
def test_a_draw_that_is_small_by_luck_accuses_nobody_and_hides_no_error(noisier, seen):
    """28 numbers, drawn once, 4.6 times smaller than they usually are."""
    world = World(28, seed=3)
    noise, usual = world.noise(draws=1), world.sizes[6, 1, 0]
    noise[6, :2, 0, 1] *= usual / 4.6 / noise[6, 0, 0, 1]
    floor = floors(noise, draws=1)[6]
    allowed = limit("float32").of(floor, np.ones((1, POSITIONS), bool)).rms[0, 1]
    assert bool(noisier * usual / floor.rms[0, 1] > allowed) is seen
    # Were it taken at its word, with every degree of freedom that its numbers have, it would accuse a right port.
    assert usual / noise[6, 0, 0, 1] > 4


@pytest.mark.parametrize("numbers", [2, 28, 1000])
@pytest.mark.parametrize("reordered", [False, True])
def test_the_chance_of_a_multiple_is_that_of_which_it_is_the_limit(numbers, reordered):
    for floor in World(numbers).floors():
        for chance in (1e-3, 1e-9, 1e-12):
            found = rms_chance(limits(floor, chance, reordered)[0], floor, reordered)
            assert found == pytest.approx(chance, rel=1e-3)


@pytest.mark.parametrize("products", [512, 4096, 16384])
def test_one_long_sum_is_about_four_times_as_far_off_as_sixteen(products):
    """What a call of one token is allowed: a register of AVX-512 has sixteen places."""
    random = np.random.default_rng(0)
    x = random.normal(size=products)
    terms = (x * random.normal(size=(400, products))).astype(np.float32)
    exact = terms.sum(-1, dtype=np.float64)

    def off(sums):
        return np.sqrt(np.square(sums.astype(np.float64) - exact).mean())

    one = np.add.accumulate(terms, axis=-1, dtype=np.float32)[:, -1]
    lanes = np.add.accumulate(terms.reshape(400, -1, 16), axis=1, dtype=np.float32)[:, -1]
    sixteen = np.add.accumulate(lanes, axis=-1, dtype=np.float32)[:, -1]
    assert LIMITS["float32"].allowance < off(one) / off(sixteen) < LIMITS["float32"].single
