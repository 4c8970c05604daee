"""The chunkwise form and its VJP give the numbers of the other forms, whatever the chunk size."""

import functools
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles import (
    Ball,
    Contract,
    Cotangents,
    Float64,
    Inputs,
    MPMath,
    chunkwise,
    chunkwise_vjp,
    parallel,
    parallel_vjp,
    recurrent,
    recurrent_vjp,
)
from tests.oracles.deviation import deviation
from tests.oracles.drawing import CONTRACTS, GATES, STATES, draw, draw_cotangents

DIGITS = 50
NEAR = 10.0 ** (10 - DIGITS)
MP, BALL = MPMath(DIGITS), Ball(100)
LENGTH = 5
# One token, a short last chunk, one chunk, more than the sequence.
CHUNK_SIZES = (1, 3, LENGTH, LENGTH + 2)
# Both modes, with and without eps and norm_val.
SOME_CONTRACTS = CONTRACTS[0], CONTRACTS[6], CONTRACTS[7]
# The empty state, d_t = 0, makes 0 * inf, which is replaced by 0.
THROWN_AWAY = "ignore:invalid value encountered in multiply:RuntimeWarning"

gates = pytest.mark.parametrize("gates", GATES)
states = pytest.mark.parametrize("state", STATES)


def small(gates, state, length=LENGTH):
    return draw(gates, state, length=length, dhqk=2, dhhv=2, lead=(1,))


def distance(ar, got, wanted):
    """max |x - r| / max(|r|, 1) over all outputs, exact where r is infinite; of the empty state d_t is left out."""
    occupied = ~ar.is_empty(wanted.m)
    largest = 0.0
    for (name, value), (_, exact) in zip(got.items(), wanted.items(), strict=True):
        pair = (value[occupied], exact[occupied]) if name == "n" else (value, exact)
        for x, r in zip(*(np.ravel(array) for array in pair), strict=True):
            largest = max(largest, float(abs(x - r) / max(abs(r), 1)) if x != r else 0.0)
    return largest


@gates
@states
def test_outputs_are_the_recurrent_ones(gates, state):
    inputs = small(gates, state)
    for contract in SOME_CONTRACTS:
        wanted = recurrent(MP, inputs, contract)
        for chunk_size in CHUNK_SIZES:
            got = chunkwise(MP, inputs, contract, chunk_size=chunk_size)
            assert distance(MP, got, wanted) <= NEAR, (contract, chunk_size)


@gates
@states
@pytest.mark.parametrize("normalizer_grad", ["exact", "detached"])
def test_gradients_are_the_recurrent_ones(gates, state, normalizer_grad):
    inputs = small(gates, state)
    for contract in SOME_CONTRACTS:
        arguments = MP, inputs, contract, draw_cotangents(inputs), normalizer_grad
        wanted = recurrent_vjp(*arguments)
        for chunk_size in CHUNK_SIZES:
            got = chunkwise_vjp(*arguments, chunk_size=chunk_size)
            assert deviation(got, wanted, negligible=NEAR) <= NEAR, (contract, chunk_size)


@pytest.mark.parametrize("normalizer_grad", ["exact", "detached"])
def test_many_chunks_give_the_recurrent_gradients(normalizer_grad):
    # So many that between the states that are kept some are computed again.
    for gates, state in (("ordinary", "warm"), ("reset", "empty")):
        inputs = small(gates, state, 11)
        arguments = MP, inputs, Contract(), draw_cotangents(inputs), normalizer_grad
        wanted = recurrent_vjp(*arguments)
        for chunk_size in (1, 2):
            assert deviation(chunkwise_vjp(*arguments, chunk_size=chunk_size), wanted, negligible=NEAR) <= NEAR


@pytest.mark.filterwarnings(THROWN_AWAY)
@gates
@states
def test_one_chunk_is_the_parallel_form_bit_for_bit(gates, state):
    inputs, contract = draw(gates, state), Contract()
    for chunk_size in (9, 64):
        outputs = chunkwise(Float64(), inputs, contract, chunk_size=chunk_size)
        for (name, value), (_, wanted) in zip(
            outputs.items(), parallel(Float64(), inputs, contract).items(), strict=True
        ):
            np.testing.assert_array_equal(value, wanted, err_msg=name)
        arguments = Float64(), inputs, contract, draw_cotangents(inputs)
        gradients = chunkwise_vjp(*arguments, chunk_size=chunk_size)
        for (name, value), (_, wanted) in zip(gradients.items(), parallel_vjp(*arguments).items(), strict=True):
            np.testing.assert_array_equal(value, wanted, err_msg=name)


@pytest.mark.parametrize("name", ["h", "C_last", "n_last", "m_last"])
def test_each_cotangent_passes_from_chunk_to_chunk(name):
    inputs = small("ordinary", "warm")
    cotangents = Cotangents(**{name: getattr(draw_cotangents(inputs), name)})
    wanted = recurrent_vjp(MP, inputs, Contract(), cotangents)
    got = chunkwise_vjp(MP, inputs, Contract(), cotangents, chunk_size=2)
    # What is 0 in one form may be rounding in the other.
    for (key, value), (_, exact) in zip(got.items(), wanted.items(), strict=True):
        assert max(abs(np.ravel(value - exact))) <= NEAR, key


gate = st.one_of(st.integers(-40, 40).map(lambda n: n / 8), st.sampled_from([-np.inf, 0.0, 0.0, 1e4, -1e4, 60.0]))


@settings(derandomize=True, max_examples=40)
@given(
    i=st.lists(gate, min_size=4, max_size=4),
    f=st.lists(gate | st.just(np.inf), min_size=4, max_size=4),
    state=st.sampled_from(STATES),
    contract=st.sampled_from(CONTRACTS),
    chunk_size=st.integers(1, 5),
    normalizer_grad=st.sampled_from(["exact", "detached"]),
)
def test_balls_of_all_forms_intersect(i, f, state, contract, chunk_size, normalizer_grad):
    drawn = small("ordinary", state, 4)
    inputs = Inputs(drawn.q, drawn.k, drawn.v, np.array([i]), np.array([f]), drawn.C_0, drawn.n_0, drawn.m_0)
    backward = contract, draw_cotangents(inputs), normalizer_grad
    for forms, arguments in (
        ((functools.partial(chunkwise, chunk_size=chunk_size), recurrent, parallel), (contract,)),
        ((functools.partial(chunkwise_vjp, chunk_size=chunk_size), recurrent_vjp, parallel_vjp), backward),
    ):
        results = [dict(form(BALL, inputs, *arguments).items()) for form in forms]
        for one, other in itertools.combinations(results, 2):
            for name, balls in one.items():
                assert BALL.encloses(balls, other[name]).all(), name


@pytest.mark.parametrize("chunk_size", [0, -1, 2.0, "64", None])
def test_other_chunk_sizes_are_refused(chunk_size):
    for form, arguments in ((chunkwise, ()), (chunkwise_vjp, (Cotangents(),))):
        with pytest.raises(ValueError, match=r"chunk_size is .*; expected an integer of at least 1"):
            form(Float64(), draw(), Contract(), *arguments, chunk_size=chunk_size)
