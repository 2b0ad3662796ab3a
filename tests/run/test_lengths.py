from __future__ import annotations

import itertools

import numpy as np
import pytest

from harness.run.padding import shared_lengths


def tokens(batch, length):
    return batch * length


def total(inputs, shared, compiling):
    return compiling * len(set(shared.values())) + sum(batch * shared[length] for batch, length in inputs)


@pytest.mark.parametrize("compiling", [0, 3, 40, 1e9])
def test_no_other_choice_costs_less(compiling):
    random = np.random.default_rng(0)
    for _ in range(20):
        inputs = [
            (int(b), int(n)) for b, n in zip(random.integers(1, 4, 6), random.integers(2, 60, 6), strict=True)
        ]
        found = shared_lengths(inputs, tokens, compiling)
        lengths = sorted(found)
        choices = []
        for kept in itertools.product([False, True], repeat=len(lengths) - 1):
            ends = [n for n, keep in zip(lengths, (*kept, True), strict=True) if keep]
            choices.append({n: next(end for end in ends if end >= n) for n in lengths})
        assert total(inputs, found, compiling) == min(total(inputs, one, compiling) for one in choices)


def test_where_compiling_costs_nothing_nothing_is_padded_and_where_it_costs_most_there_is_one_length():
    inputs = [(1, 9), (1, 87), (2, 261)]
    assert shared_lengths(inputs, tokens, 0) == {9: 9, 87: 87, 261: 261}
    assert shared_lengths(inputs, tokens, 1e9) == dict.fromkeys((9, 87, 261), 261)


def test_one_token_is_never_padded():
    assert shared_lengths([(1, 1), (1, 2), (1, 5)], tokens, 1e9) == {1: 1, 2: 5, 5: 5}


def test_nothing_to_choose_from():
    assert shared_lengths([], tokens, 1.0) == {}
