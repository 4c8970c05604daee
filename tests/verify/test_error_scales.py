"""What long sequences and underflow are allowed, beside bounds and noise by chunks."""

import numpy as np
import pytest

from oracles import Float64, recurrent
from verify import Case, Outcome, compute_reference
from verify._error_scales import FLOAT32_TINY, roundings_of_m
from verify._problem import make_problem
from verify._verdict import judge


def m_of(inputs, dtype, step=1):
    """m_t in this dtype, of phi in float32, which are added up over ``step`` tokens before m is."""
    phi = -np.logaddexp(np.float32(0.0), -inputs.f.astype(np.float32)).astype(dtype)
    i, m, made = inputs.i.astype(dtype), inputs.initial_state()[1].astype(dtype), []
    for first in range(0, phi.shape[-1], step):
        within, best = np.zeros_like(m), np.full_like(m, -np.inf)
        for t in range(first, min(first + step, phi.shape[-1])):
            within, best = within + phi[..., t], np.maximum(best + phi[..., t], i[..., t])
            made.append(np.maximum(m + within, best))
        m = made[-1]
    return np.stack(made, -1)


@pytest.mark.parametrize(
    "regime", ["ordinary", "forget@20", "forget@10", "init", "needle@12", "staircase@-60", "reset", "dead_input"]
)
def test_m_that_every_token_rounds_is_off_by_no_more_than_is_allowed(regime):
    inputs = make_problem(Case(regime=regime, length=3000, dhqk=1, dhhv=1, heads=2, batch=2)).inputs
    most, likely = roundings_of_m(inputs)
    with np.errstate(invalid="ignore"):
        exact, made = m_of(inputs, np.float64), m_of(inputs, np.float32)
        off = np.where(exact == made, 0.0, np.abs(made - exact))
    # The phi that are lost may be larger by the roundings that made them.
    assert np.all(off <= most * (1.0 + 2.0**-20))
    assert 0.2 * likely.max() < off.max() < 5.0 * likely.max()


def test_what_a_large_m_absorbs_is_lost_always():
    inputs = make_problem(Case(regime="forget@20", length=8000, dhqk=1, dhhv=1)).inputs
    most, likely = roundings_of_m(inputs)
    assert likely[0, 0, -1] > 0.5 * most[0, 0, -1] > 1e-6


@pytest.mark.parametrize("correct", [True, False])
def test_what_a_kernel_that_rounds_m_at_every_token_returns_of_a_long_sequence(correct, monkeypatch):
    monkeypatch.setattr("verify._error_scales.BY_TOKENS_UP_TO", 100)
    case = Case("forget@20", length=3000, dhqk=2, dhhv=2, chunk_size=256, stabilize_correctly=correct, eps=0.01)
    reference, problem = compute_reference(case), make_problem(case)
    exact = {name: np.asarray(x) for name, x in recurrent(Float64(), problem.inputs, problem.contract).items()}
    off = m_of(problem.inputs, np.float32).astype(np.float64) - exact["m"]
    drifted = dict(exact)
    # d_t and log h_t move with the m that both are relative to.
    drifted["m"], drifted["m_last"] = exact["m"] + off, exact["m_last"] + off[..., -1]
    d = exact["n"] - case.eps
    moved = (d * np.exp(-off) if correct else np.maximum(np.exp(-off) * d, np.where(d > 1.0, 0.0, 1.0))) + case.eps
    drifted["h"] = exact["h"] * (exact["n"] * np.exp(-off) / moved)[..., None]
    drifted["n"] = moved
    for name in ("C_last", "n_last"):
        drifted[name] = exact[name] * np.exp(-off[..., -1]).reshape(-1)[0]
    outputs = {name: x.astype(np.float32) for name, x in drifted.items()}
    assert judge(case, outputs, reference).outcome is Outcome.PASS
    outputs["m"] = (exact["m"] + 20 * off).astype(np.float32)
    assert judge(case, outputs, reference).outcome is Outcome.INACCURATE


def test_a_gradient_may_lose_what_underflows_of_each_product():
    case = Case(
        "input_gates@-100", length=40, dhqk=16, dhhv=16, chunk_size=32, stabilize_correctly=False, cotangents="h"
    )
    noise = compute_reference(case).noise
    assert noise["di"][noise["di"] > 0.0].min() >= np.sqrt(32 * 16) * FLOAT32_TINY
    assert noise["m"].max() < 1e-4
