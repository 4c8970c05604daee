"""The gradients in float64 are those of automatic differentiation of the definition."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oracles import Contract, Float64, recurrent, recurrent_vjp
from tests.oracles.deviation import FAMILIES
from tests.oracles.drawing import STATES, draw, draw_cotangents

# A few roundings of 2^-53 for each of 24 tokens make 1e-14; the rest is for what cancels in q.n.
NEAR = 1e-12
CASES = list(itertools.product((True, False), ("exact", "detached"), STATES, (1e-6, 1e-2)))


def definition(correct, exact, eps, q, k, v, i, f, C_0, n_0, m_0):
    """The recurrence, token after token, of one head; h and the last state. norm_val is 1."""
    hold = (lambda x: x) if exact else jax.lax.stop_gradient

    def step(state, token):
        C, n, before = state
        q, k, v, i, f = token
        phi = jax.nn.log_sigmoid(f)
        m = hold(jnp.maximum(phi + before, i))
        forget, take_in = jnp.exp(phi + before - m), jnp.exp(i - m)
        C, n = forget * C + take_in * jnp.outer(k, v), forget * n + take_in * k
        b = jnp.exp(-m) if correct else 1.0
        c = q.shape[-1] ** -0.5
        d = hold(jnp.maximum(jnp.abs(c * q @ n), b) + eps)
        return (C, n, m), c * q @ C / d

    (C, n, m), h = jax.lax.scan(step, (C_0, n_0, m_0), (q, k, v, i, f))
    return h, C, n, m


@functools.cache
def pull_back(correct, exact):
    def gradients(eps, arguments, cotangents):
        function = functools.partial(definition, correct, exact, eps)
        return jax.vjp(jax.vmap(function), *arguments)[1](cotangents)

    # Most of the time here is compilation; optimization changes no formula.
    return jax.jit(gradients, compiler_options={"xla_backend_optimization_level": 0})


def float64_against_jax(correct, normalizer_grad, state, eps):
    contract = Contract(eps=eps, stabilize_correctly=correct)
    # Random numbers: no tie of a maximum, where JAX halves the gradient.
    inputs = draw(state=state, length=24, dhqk=8, dhhv=8)
    if state == "empty":
        inputs = dataclasses.replace(inputs, m_0=np.array([2.0, -2.0]))
    cotangents = draw_cotangents(inputs)
    matrix, m_0 = inputs.initial_state()
    given = [*(getattr(inputs, name) for name in "qkvif"), matrix[..., :-1], matrix[..., -1], m_0]
    with jax.enable_x64(True):
        of_outputs = tuple(getattr(cotangents, field.name) for field in dataclasses.fields(cotangents))
        by_jax = pull_back(correct, normalizer_grad == "exact")(eps, given, of_outputs)
    names = [f"d{field.name}" for field in dataclasses.fields(inputs)]
    wanted = {name: np.asarray(array) for name, array in zip(names, by_jax, strict=True)}
    assert all(array.dtype == np.float64 for array in wanted.values())

    # Gradients of gates are sums of dh.h and the like that may cancel: one scale for all of them.
    of_gates, h = FAMILIES[1], recurrent(Float64(), inputs, contract).h
    common = max(np.max(np.abs(np.sum(cotangents.h * h, -1))), *(np.max(np.abs(wanted[name])) for name in of_gates))
    figures = []
    for name, value in recurrent_vjp(Float64(), inputs, contract, cotangents, normalizer_grad).items():
        scale = common if name in of_gates else np.max(np.abs(wanted[name]))
        figures.append(float(np.max(np.abs(value - wanted[name])) / scale))
    return max(figures)


@pytest.mark.parametrize(("correct", "normalizer_grad", "state", "eps"), CASES)
def test_float64_agrees_with_automatic_differentiation(correct, normalizer_grad, state, eps):
    assert float64_against_jax(correct, normalizer_grad, state, eps) <= NEAR
