"""Precision is raised until balls are narrow, and the limit is an error that says where."""

import flint
import numpy as np
import pytest

from oracles import (
    Ball,
    Contract,
    EnclosureError,
    Inputs,
    chunkwise,
    chunkwise_vjp,
    enclose,
    parallel,
    parallel_vjp,
    recurrent,
    recurrent_vjp,
)
from tests.oracles.drawing import draw, draw_cotangents

FORWARD, BACKWARD = (recurrent, parallel, chunkwise), (recurrent_vjp, parallel_vjp, chunkwise_vjp)
each_forward = pytest.mark.parametrize("form", FORWARD, ids=lambda form: form.__name__)
each_backward = pytest.mark.parametrize("form", BACKWARD, ids=lambda form: form.__name__)


def cancelling(f, i=0.0):
    """Two tokens, k_2 = -k_1 and v_2 = v_1: a_2 = c q.k_1 (exp(phi_2) - 1), and so is N_2, but for v_1."""
    q, k, v = np.full((1, 2, 2), 2.0), np.array([[[1.0, 1.0], [-1.0, -1.0]]]), np.full((1, 2, 1), 3.0)
    return Inputs(q, k, v, np.full((1, 2), i), np.full((1, 2), f))


@each_forward
@pytest.mark.parametrize(
    ("inputs", "norm_val", "bits"),
    [
        (cancelling(5.0), 0.0, 128),
        (cancelling(100.0), 0.0, 256),
        (cancelling(1000.0), 0.0, 2048),
        # exp(-900) of a_2 against b_2 = exp(-1000).
        (cancelling(900.0, 1000.0), 1.0, 2048),
    ],
    ids=["128", "256", "2048", "large input gates"],
)
def test_bits_are_doubled_until_balls_are_narrow(form, inputs, norm_val, bits):
    outputs, used = enclose(form, inputs, Contract(0.0, norm_val))
    assert used == bits
    ball = Ball(bits)
    assert ball.encloses(outputs.h[..., 1, :], [-3.0]).all()
    assert (ball.radius(outputs.h) <= 3.0 * 2.0**-60).all()


def test_what_is_wide_has_no_limits_of_float64():
    ball, huge = Ball(200), flint.arb(2) ** 5000
    numbers = [
        flint.arb(0),
        flint.arb(-np.inf),
        flint.arb(np.inf),
        flint.arb(huge, 2**4939),
        flint.arb(huge, 3 * 2**4939),
    ]
    numbers += [flint.arb(0, 1 / huge), flint.arb(0, 2.0**-161), flint.arb(0, 2.0**-159)]
    numbers += [flint.arb(1 / huge, 2.0**-159), flint.arb(np.nan), flint.arb(0, np.inf)]
    wide = [False, False, False, False, True, False, False, True, True, True, True]
    assert ball.is_wide(ball.array(numbers), 2.0**-60, 2.0**-160).tolist() == wide


def test_the_widths_asked_for_are_kept():
    inputs = cancelling(20.0)
    for relative, bits in ((2.0**-60, 128), (2.0**-200, 256), (0.0, 256)):
        outputs, used = enclose(recurrent, inputs, Contract(0.0, 0.0), relative=relative)
        assert used == bits
        assert not Ball(64).is_wide(outputs.h, relative, 2.0**-160).any()
    assert enclose(recurrent, inputs, Contract(0.0, 0.0), relative=0.0, absolute=2.0**-10, bits=53)[1] == 53


@each_forward
def test_the_limit_is_an_error_that_says_where(form):
    message = r"at the limit of 300 bits: h, 1 of 2 balls, the widest nan; n, 1 of 2 balls, the widest \["
    with pytest.raises(EnclosureError, match=message):
        enclose(form, cancelling(1000.0), Contract(0.0, 0.0), limit=300, absolute=0.0)


def test_options_reach_the_form():
    outputs, _ = enclose(chunkwise, draw(length=7), Contract(), chunk_size=2, rows=[1, 5])
    assert outputs.h.shape == (2, 2, 3)
    with pytest.raises(ValueError, match="bits is 128; expected at most the limit of 100"):
        enclose(chunkwise, draw(), Contract(), limit=100)


@each_backward
def test_a_tie_of_rounded_numbers_is_never_decided(form):
    # c q.n_1 = exp(phi_1) c q.n_0 = exp(-log 2) 2 = norm_val; the state holds nothing else.
    state = np.ones((1, 4, 1)), np.ones((1, 4)), np.zeros(1)
    q, nothing = np.ones((1, 1, 4)), np.full((1, 1), -np.inf)
    inputs = Inputs(q, q, np.ones((1, 1, 1)), nothing, np.zeros((1, 1)), *state)
    outputs, bits = enclose(recurrent, inputs, Contract(0.0))
    assert Ball(bits).encloses(outputs.h, [1.0]).all()
    with pytest.raises(EnclosureError, match="limit of 512 bits: dq, 4 of 4 balls, the widest"):
        enclose(form, inputs, Contract(0.0), draw_cotangents(inputs), limit=512)


@each_backward
@pytest.mark.parametrize("f", [np.inf, 3.0])
def test_a_tie_of_exact_numbers_is_decided(form, f):
    # With f = inf every m_t is both m_{t-1} and i_t, and comes from m_{t-1}.
    inputs = draw(length=5, dhqk=2, dhhv=2, lead=(1,))
    inputs.i[:], inputs.f[:] = 0.75, f
    gradients, bits = enclose(form, inputs, Contract(1e-2, 1.0, False), draw_cotangents(inputs))
    assert bits == 128
    assert Ball(bits).to_float64(gradients.f).any() == (f != np.inf)


def test_a_narrow_decision_takes_more_bits_for_gradients_too():
    # phi_2 = -exp(-100), so m_2 = i_2 by exp(-100) alone.
    inputs = cancelling(100.0, 1000.0)
    _, bits = enclose(chunkwise_vjp, inputs, Contract(), draw_cotangents(inputs))
    assert bits == 256
