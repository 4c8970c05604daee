"""Recurrent, parallel and unstabilized form give the same numbers, in mpmath and in float64."""

import numpy as np
import pytest

from oracles import Float64, MPMath, Precision, RunningError, chunkwise, parallel, recurrent, unstabilized
from tests.oracles.drawing import CONTRACTS, GATES, STATES, draw

DIGITS = 50


def distance(left, right):
    """max |x - r| / max |r| over finite r, exact where r is infinite; mpmath numbers."""
    left, right = np.asarray(left, object).ravel(), np.asarray(right, object).ravel()
    apart = [abs(x - r) for x, r in zip(left, right, strict=True) if x != r]
    largest = max((abs(r) for r in right if abs(r) != float("inf")), default=0)
    return float(max(apart) / largest) if apart else 0.0


@pytest.mark.parametrize("contract", CONTRACTS, ids=str)
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("gates", GATES)
def test_forms_agree_to_within_ten_digits_of_the_precision(gates, state, contract):
    inputs, mp = draw(gates, state), MPMath(DIGITS)
    reference = recurrent(mp, inputs, contract)
    for form in (parallel, unstabilized):
        for (name, value), (_, wanted) in zip(form(mp, inputs, contract).items(), reference.items(), strict=True):
            # d_t of the empty state is a convention of its own: h = 0 whatever it is.
            if name == "n":
                occupied = ~mp.is_empty(reference.m)
                value, wanted = value[occupied], wanted[occupied]
            assert distance(value, wanted) <= 10.0 ** (10 - DIGITS), (form.__name__, name)


@pytest.mark.parametrize("contract", CONTRACTS, ids=str)
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("gates", GATES)
def test_float64_is_within_its_own_bound_of_mpmath(gates, state, contract):
    inputs, mp = draw(gates, state), MPMath(DIGITS)
    exact = dict(recurrent(mp, inputs, contract).items())
    for form in (recurrent, parallel, chunkwise):
        bounds = dict(form(RunningError(Precision.of("float64"), inputs.sizes[0]), inputs, contract).items())
        for name, value in form(Float64(), inputs, contract).items():
            wanted = mp.to_float64(exact[name])
            with np.errstate(invalid="ignore"):
                apart = np.where(value == wanted, 0.0, np.abs(value - wanted))
            assert np.all(apart <= bounds[name].e), (form.__name__, name)


def test_a_wrong_form_is_seen():
    # The measure of the two tests above is not blind: a change of 1e-30 in one input moves the result.
    inputs, mp = draw(), MPMath(DIGITS)
    reference = recurrent(mp, inputs, CONTRACTS[0])
    nudged = MPMath(DIGITS)
    nudged.rsqrt = lambda n: MPMath.rsqrt(nudged, n) * (1 + mp.array(1e-30)[()])
    assert distance(recurrent(nudged, inputs, CONTRACTS[0]).C_last, reference.C_last) == 0.0
    assert 1e-31 < distance(recurrent(nudged, inputs, CONTRACTS[0]).h, reference.h) < 1e-27
