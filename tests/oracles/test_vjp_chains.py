"""The VJP of a sequence is that of its segments, chained; and which states are kept on the way changes no bit."""

import dataclasses

import numpy as np
import pytest

import oracles._recurrent_vjp
from oracles import Contract, Cotangents, Float64, MPMath, recurrent, recurrent_vjp
from tests.oracles.deviation import deviation
from tests.oracles.drawing import GATES, STATES, draw, draw_cotangents

DIGITS = 50
NEAR = 10.0 ** (10 - DIGITS)
MP = MPMath(DIGITS)
# The empty state, d_t = 0, makes 0 * inf, which is replaced by 0.
THROWN_AWAY = "ignore:invalid value encountered in multiply:RuntimeWarning"

CASES = [
    (gates, state, correct, normalizer_grad, length)
    for gates in GATES
    for state in STATES
    for correct in (True, False)
    for normalizer_grad in ("exact", "detached")
    for length in ((2, 3, 4, 5, 10) if gates == "ordinary" else (2, 5))
]
normalizer_grads = pytest.mark.parametrize("normalizer_grad", ["exact", "detached"])


def cut(inputs, start, stop, state=None):
    """Tokens start..stop - 1, entered with ``state`` or, if None, with that of the inputs."""
    tokens = {name: getattr(inputs, name)[:, start:stop] for name in "qkvif"}
    return dataclasses.replace(inputs, **tokens, **(state or {}))


def segments_against_the_whole(gates, state, correct, normalizer_grad, length):
    contract, middle = Contract(stabilize_correctly=correct), (length + 1) // 2
    inputs = draw(gates, state, length=length, dhqk=2, dhhv=2, lead=(1,))
    cotangents = draw_cotangents(inputs)
    first = cut(inputs, 0, middle)
    passed = recurrent(MP, first, contract)
    handed_on = {f"{name}_0": getattr(passed, f"{name}_last") for name in ("C", "n", "m")}
    second = cut(inputs, middle, length, handed_on)
    late_cotangents = dataclasses.replace(cotangents, h=cotangents.h[:, middle:])
    late = recurrent_vjp(MP, second, contract, late_cotangents, normalizer_grad)
    early_cotangents = Cotangents(cotangents.h[:, :middle], late.C_0, late.n_0, late.m_0)
    early = recurrent_vjp(MP, first, contract, early_cotangents, normalizer_grad)
    joined = {f"d{n}": np.concatenate([getattr(early, n), getattr(late, n)], axis=1) for n in "qkvif"}
    joined |= {f"d{n}": getattr(early, n) for n in ("C_0", "n_0", "m_0") if inputs.C_0 is not None}
    return deviation(joined, recurrent_vjp(MP, inputs, contract, cotangents, normalizer_grad), negligible=NEAR)


@pytest.mark.parametrize(
    ("gates", "state", "correct", "normalizer_grad", "length"), CASES, ids=["-".join(map(str, case)) for case in CASES]
)
def test_segments_chain(gates, state, correct, normalizer_grad, length):
    assert segments_against_the_whole(gates, state, correct, normalizer_grad, length) <= NEAR


@pytest.mark.filterwarnings(THROWN_AWAY)
@normalizer_grads
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 16, 17])
def test_which_states_are_kept_changes_no_bit(length, normalizer_grad, monkeypatch):
    for gates, state in (("ordinary", "none"), ("both", "warm"), ("reset", "empty")):
        inputs = draw(gates, state, length=length)
        arguments = Float64(), inputs, Contract(), draw_cotangents(inputs), normalizer_grad
        plain = recurrent_vjp(*arguments)
        for stride in {1, 2, 3, length, length + 1}:
            with monkeypatch.context() as patch:
                patch.setattr(oracles._recurrent_vjp, "stride_of", lambda *_, stride=stride: stride)
                for (name, value), (_, other) in zip(plain.items(), recurrent_vjp(*arguments).items(), strict=True):
                    np.testing.assert_array_equal(value, other, err_msg=name)
