"""Recurrent and parallel VJP give the same numbers, in mpmath and in float64."""

import functools
import itertools

import numpy as np
import pytest

from oracles import Float64, MPMath, Precision, RunningError, parallel_vjp, recurrent_vjp
from tests.oracles.deviation import deviation
from tests.oracles.drawing import CONTRACTS, GATES, STATES, draw, draw_cotangents

DIGITS = 50
NEAR = 10.0 ** (10 - DIGITS)
MP = MPMath(DIGITS)
FORMS = (recurrent_vjp, parallel_vjp)
CASES = list(itertools.product(GATES, STATES, CONTRACTS, ("exact", "detached")))
every_case = pytest.mark.parametrize(
    ("gates", "state", "contract", "normalizer_grad"), CASES, ids=["-".join(map(str, case)) for case in CASES]
)


@functools.cache
def small_case(gates, state, contract, normalizer_grad):
    """Inputs, cotangents and the recurrent gradients in mpmath, of a size that mpmath is quick at."""
    inputs = draw(gates, state, length=5, dhqk=2, dhhv=2, lead=(1,))
    cotangents = draw_cotangents(inputs)
    return inputs, cotangents, recurrent_vjp(MP, inputs, contract, cotangents, normalizer_grad)


def parallel_against_recurrent(gates, state, contract, normalizer_grad):
    inputs, cotangents, wanted = small_case(gates, state, contract, normalizer_grad)
    got = parallel_vjp(MP, inputs, contract, cotangents, normalizer_grad)
    # Nothing in the state and nothing taken in: h_1 = 0 / 0 as a function of C_0 and n_0, which has no derivative.
    undefined = state == "empty" and gates in ("dead", "both") and contract.eps == contract.norm_val == 0.0
    return deviation(got, wanted, negligible=NEAR, leave_out=("dC_0", "dn_0") if undefined else ())


@np.errstate(invalid="ignore")  # an empty state without a denominator makes 0 * inf and inf - inf, which are no numbers
def float64_against_mpmath(gates, state, contract, normalizer_grad):
    """Error of float64 / what the unit of float64 allows it, the largest of both forms."""
    # The running error bound is linear in the unit: 2^-53 / 2^-24 of that of float32 bounds float64.
    inputs, cotangents, wanted = small_case(gates, state, contract, normalizer_grad)
    arithmetic = RunningError(Precision.of("float32"), inputs.sizes[0])
    bounds = dict(recurrent_vjp(arithmetic, inputs, contract, cotangents, normalizer_grad).items())
    ratios = [0.0]
    for form in FORMS:
        for name, value in form(Float64(), inputs, contract, cotangents, normalizer_grad).items():
            exact, allowed = MP.to_float64(dict(wanted.items())[name]), bounds[name].e * 2.0**-29
            assert not np.isnan(allowed).any(), name
            # Only the gradients of a state that eps = 0 leaves without a denominator are beyond float64.
            assert np.isfinite(exact).all() or (state == "empty" and not contract.eps), name
            decided = np.isfinite(exact) & np.isfinite(allowed)
            apart = np.abs(value[decided] - exact[decided])
            ratios.append(np.max(np.divide(apart, allowed[decided]), initial=0.0, where=apart != 0.0))
    return float(max(ratios))


@every_case
def test_forms_agree_to_within_ten_digits_of_the_precision(gates, state, contract, normalizer_grad):
    assert parallel_against_recurrent(gates, state, contract, normalizer_grad) <= NEAR


@every_case
def test_float64_is_as_near_to_mpmath_as_float64_permits(gates, state, contract, normalizer_grad):
    assert float64_against_mpmath(gates, state, contract, normalizer_grad) <= 1.0


def test_the_bound_leaves_nothing_open_outside_empty_states():
    # The test above skips infinite bounds.
    undecided = total = 0
    for gates, state in itertools.product(GATES, ("none", "warm")):
        inputs, cotangents, _ = small_case(gates, state, CONTRACTS[0], "exact")
        bounded = recurrent_vjp(
            RunningError(Precision.of("float32"), inputs.sizes[0]), inputs, CONTRACTS[0], cotangents
        )
        undecided += sum(int(np.isinf(number.e).sum()) for _, number in bounded.items())
        total += sum(number.x.size for _, number in bounded.items())
    assert undecided == 0 < total


@pytest.mark.parametrize("name", ["q", "k", "v", "i", "f", "C_0", "n_0", "m_0"])
def test_a_wrong_gradient_is_seen(name):
    # The measure is not blind: a change of 1e-30 of one number of any gradient is above the threshold.
    _, _, wanted = small_case("ordinary", "warm", CONTRACTS[0], "exact")
    changed = {key: np.array(value) for key, value in wanted.items()}
    changed[f"d{name}"].ravel()[0] += MP.array(1e-30)[()]
    assert NEAR < deviation(changed, wanted, negligible=NEAR) < 1e-27
