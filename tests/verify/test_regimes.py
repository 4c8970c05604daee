"""Every regime keeps its promise: what its gates, and the tokens it chooses, do to the recurrence."""

import dataclasses

import numpy as np
import pytest

from oracles import Float64, recurrent
from verify import Case, make_problem
from verify._regimes import generate_gates, regime_tokens

BASE = Case(heads=2, length=70, dhqk=16, dhhv=16, cotangents="all")
INFINITE = {"reset": (False, True), "dead_input": (True, True), "kept": (False, True)}
FLOAT32 = np.finfo(np.float32)
both_modes = pytest.mark.parametrize("correct", [True, False])


def problem_of(regime, **changes):
    return make_problem(dataclasses.replace(BASE, regime=regime, **changes))


def gates(token, length=70):
    return generate_gates(token, np.random.default_rng(3), (2, 4, length))


def terms_of_q_dot_n(problem):
    """c q_t n_t by channel, relative to m_t, by a recurrence written down here."""
    inputs = problem.inputs
    i, f, q, k = (array[0] for array in (inputs.i, inputs.f, inputs.q, inputs.k))
    n, m, terms = np.zeros_like(q[:, 0]), np.zeros(len(q)), []
    for t in range(q.shape[1]):
        kept = m - np.log1p(np.exp(-f[:, t]))
        m = np.maximum(kept, i[:, t])
        n = np.exp(kept - m)[:, None] * n + np.exp(i[:, t] - m)[:, None] * k[:, t]
        terms.append(q.shape[-1] ** -0.5 * q[:, t] * n)
    return np.stack(terms, 1)


@pytest.mark.parametrize("token", regime_tokens())
def test_gates_are_deterministic_and_infinite_only_on_purpose(token):
    infinite = INFINITE.get(token, (False, False))
    for gate, again, expected in zip(gates(token), gates(token), infinite, strict=True):
        np.testing.assert_array_equal(gate, again)
        assert np.isinf(gate).any() == expected
        assert not np.isnan(gate).any()


@pytest.mark.parametrize("token", regime_tokens())
@pytest.mark.parametrize("initial", ["none", "empty@-1000", "warm@1000"])
def test_tokens_are_finite(token, initial):
    problem = problem_of(token, initial=initial, dtype="float16")
    assert all(np.isfinite(getattr(problem.inputs, name)).all() for name in ("q", "k", "v"))


def test_the_needle_weighs_most_at_the_end():
    i, f = gates("needle@12", 4096)
    kept = np.flip(np.cumsum(np.flip(-np.log1p(np.exp(-f)), -1), -1), -1)
    weights = np.exp(i + np.append(kept[..., 1:], np.zeros((2, 4, 1)), -1))
    assert (weights[..., 0] > weights[..., 1:].sum(-1)).all()


def test_both_gates_alternate():
    for gate in gates("alternating@20"):
        assert (np.sign(gate) == (-1.0) ** np.arange(70)).all()


@pytest.mark.parametrize(("token", "edge"), [("edge@88", FLOAT32.tiny), ("edge@-88", FLOAT32.max)])
def test_exp_of_minus_m_crosses_the_edge_of_float32_with_every_token(token, edge):
    problem = problem_of(token)
    above = np.exp(-recurrent(Float64(), problem.inputs, problem.contract).m) > edge
    assert (above[..., 1:] != above[..., :-1]).all()


def test_a_dead_input_where_all_is_forgotten_leaves_the_empty_state():
    problem = problem_of("dead_input", initial="warm@2")
    i, f = problem.inputs.i, problem.inputs.f
    empty = np.isneginf(i) & np.isneginf(f)
    assert (empty.sum(-1) == 1).all()
    outputs = recurrent(Float64(), problem.inputs, problem.contract)
    assert np.isneginf(outputs.m[empty]).all()
    assert (outputs.h[empty] == 0.0).all()


def test_a_falling_staircase_falls():
    stairs = gates("staircase@-60", 200)[0].mean(axis=(0, 1))
    assert stairs[:25].mean() - stairs[-25:].mean() > 45


@both_modes
@pytest.mark.parametrize(("dtype", "unit"), [("float32", 2.0**-24), ("float16", 2.0**-11), ("bfloat16", 2.0**-8)])
def test_of_q_dot_n_cancellation_leaves_rounding(dtype, unit, correct):
    for token in ("cancellation@0", "cancellation@8"):
        terms = terms_of_q_dot_n(problem_of(token, dtype=dtype, stabilize_correctly=correct))
        # q is of the usual size, and no term is off by more than half a unit.
        assert (np.abs(terms.sum(-1)) <= unit * np.abs(terms).sum(-1)).all()
        assert np.median(np.abs(terms).sum(-1)) > 0.5


def test_cancellation_takes_initial_states_into_account():
    case = dataclasses.replace(BASE, regime="cancellation@0", initial="warm@5", norm_val=0.0, eps=0.0)
    problem = make_problem(case)
    plain = make_problem(dataclasses.replace(case, regime="input_gates@0"))
    d, usual = (recurrent(Float64(), each.inputs, each.contract).n for each in (problem, plain))
    assert np.median(d) < 1e-5 * np.median(usual)


@both_modes
def test_the_kink_within_rounding_has_both_sides(correct):
    problem = problem_of("kink@1e-07", stabilize_correctly=correct)
    m = recurrent(Float64(), problem.inputs, problem.contract).m
    relative = np.abs(terms_of_q_dot_n(problem).sum(-1)) / (np.exp(-m[0]) if correct else 1.0)
    assert np.median(np.abs(relative - 1.0)) < 1e-6
    assert 0.2 < (relative > 1.0).mean() < 0.8


def test_of_one_sign_nothing_cancels_and_no_token_stands_out():
    inputs = problem_of("one_sign", dtype="bfloat16").inputs
    for name in ("q", "k", "v"):
        array = getattr(inputs, name)
        assert ((array >= 0.5) & (array <= 1.5)).all(), name
        # Roundings of equal numbers are equal: they would not average out.
        assert len(np.unique(array)) > 50, name
    kept = np.flip(np.cumsum(np.flip(-np.log1p(np.exp(-inputs.f)), -1), -1), -1)
    weights = np.exp(inputs.i + kept)
    weights /= weights.sum(-1, keepdims=True)
    # As many as 60 of 70 equal tokens would be.
    assert (1.0 / (weights**2).sum(-1) > 60).all()


def test_repeated_tokens_are_one():
    inputs = problem_of("repeated").inputs
    for name, axis in (("q", -2), ("k", -2), ("v", -2), ("i", -1), ("f", -1)):
        assert (np.ptp(getattr(inputs, name), axis=axis) == 0.0).all(), name
    assert np.ptp(inputs.i[..., 0]) > 0.0


@both_modes
def test_zeros_give_exact_zeros(correct):
    problem = problem_of("zeros", stabilize_correctly=correct)
    assert (problem.inputs.i == 0.0).all()
    assert (problem.inputs.f == 0.0).all()
    h = recurrent(Float64(), problem.inputs, problem.contract).h
    # The first token with both k and v is number 19.
    zero = (np.arange(70) % 4 == 0) | (np.arange(70) < 19)
    assert (h[..., zero, :] == 0.0).all()
    assert (h[..., ~zero, :] != 0.0).any(axis=-1).all()
    for name in ("q", "k", "v"):
        assert (getattr(problem.inputs, name) == 0.0).all(-1).any(), name
