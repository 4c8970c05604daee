"""The error along the sequence: positions, directions and exponents that are known beforehand."""

import math

import numpy as np
import pytest

from verify import Reference, measure
from verify._curve import Curve, curve_of

S = 4096


def measured(name, error, noise, rows=None):
    """h or di, one channel, whose error and noise at every position are given."""
    tokens = np.arange(S) if rows is None else rows
    shape = (1, 1, len(tokens), 1) if name == "h" else (1, 1, len(tokens))
    zeros = np.zeros(shape)
    reference = Reference(
        {name: zeros + 1.0},
        {name: zeros + 1e30},
        noise={name: noise[None, None, :]},
        rows=rows,
    )
    whole = np.ones((1, 1, S, 1) if name == "h" else (1, 1, S))
    whole.reshape(-1)[tokens] += error
    return measure({name: whole}, reference)[0]


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("rows", [None, np.unique(np.geomspace(1, S, 90).astype(int)) - 1])
def test_exponents_are_found(exponent, rows):
    position = (np.arange(S) if rows is None else rows) + 1.0
    found = measured("h", 1e-9 * position**exponent, 1e-9 * np.sqrt(position), rows)
    # The middle of a bin is not where its mean square is.
    assert found.growth == pytest.approx(exponent, abs=0.05)
    assert found.noise_growth == pytest.approx(0.5, abs=0.05)


def test_gradients_that_run_backwards_count_from_the_end():
    position = np.arange(S, 0, -1.0)
    found = measured("di", 1e-9 * position, np.full(S, 1e-9))
    assert found.growth == pytest.approx(1.0, abs=0.05)
    assert found.curve.position == tuple(sorted(found.curve.position))
    assert found.curve.position[0] == 1.0


def test_an_output_without_tokens_has_none():
    reference = Reference({"dm_0": np.zeros((1, 1))}, {"dm_0": np.ones((1, 1))})
    found = measure({"dm_0": np.zeros((1, 1), np.float32)}, reference)[0]
    assert found.curve is None
    assert math.isnan(found.growth)


def test_what_is_undecided_does_not_count():
    counts = np.array([1, 0, 1, 1])
    squares = [np.array([4.0, 0.0, 16.0, 16.0]), np.ones(4), np.ones(4)]
    curve = curve_of("h", 4, np.arange(4), squares, counts)
    assert len(curve.position) == 3
    assert curve.error == (2.0, 4.0, 4.0)
    assert curve_of("h", 4, np.arange(4), squares, np.zeros(4, int)) is None


def test_too_few_points_have_no_exponent():
    few = Curve((1.0, 2.0, 3.0), (1.0, 2.0, 3.0), (1.0, 1.0, 1.0), (9.0, 9.0, 9.0))
    assert all(math.isnan(exponent) for exponent in few.growth())
