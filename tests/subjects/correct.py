"""A correct subject: the definition step by step in NumPy float64, rounded once at the end, and its gradients.

The state is held relative to ``inner``, which leaves out the m_0 of an empty initial state: exp(i - 1000)
underflows even in float64. The gradients go back token by token through all the states, kept in a list.
``mlstm`` runs outside of jax.jit only.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np


def mlstm(
    q,
    k,
    v,
    i,
    f,
    c_initial=None,
    n_initial=None,
    m_initial=None,
    return_last_states=False,
    eps=1e-6,
    chunk_size=64,
    autocast_kernel_dtype="float32",
    stabilize_correctly=True,
    norm_val=1.0,
):
    initial = None if c_initial is None else (c_initial, n_initial, m_initial)
    h, last = _mlstm(Constants(eps, norm_val, stabilize_correctly), q, k, v, i, f, initial)
    return (h, last) if return_last_states else h


class Constants(NamedTuple):
    eps: float
    norm_val: float
    stabilize_correctly: bool


class State(NamedTuple):
    C: np.ndarray
    n: np.ndarray
    m: np.ndarray
    inner: np.ndarray


class Row(NamedTuple):
    """What token t read: N and a relative to inner, the denominator relative to inner and to m, and h."""

    N: np.ndarray
    a: np.ndarray
    d: np.ndarray
    d_of_m: np.ndarray
    above: np.ndarray
    h: np.ndarray


quiet = np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _mlstm(constants, q, k, v, i, f, initial):
    states, rows = forward(constants, *in_float64(q, k, v, i, f), initial)
    storage = np.asarray(q).dtype
    h = np.stack([row.h for row in rows], 2).astype(storage if storage != np.float64 else ml_dtypes.bfloat16)
    return jnp.asarray(h), tuple(jnp.asarray(state, jnp.float32) for state in definition_state(states[-1]))


def _with_inputs(constants, *inputs):
    return _mlstm(constants, *inputs), inputs


@quiet
def _back(constants, inputs, cotangents):
    gradients, of_initial = backward(constants, inputs, cotangents)
    rounded = [jnp.asarray(gradient, array.dtype) for gradient, array in zip(gradients, inputs[:5], strict=True)]
    if inputs[5] is None:
        return (*rounded, None)
    return (*rounded, tuple(jnp.asarray(gradient, jnp.float32) for gradient in of_initial))


_mlstm.defvjp(_with_inputs, _back)


def in_float64(*arrays):
    return [np.asarray(array, np.float64) for array in arrays]


def finite(m):
    """m as a subtrahend: exp(-inf - finite(-inf)) is 0."""
    return np.where(np.isneginf(m), 0.0, m)


@quiet
def start(q, v, initial):
    lead = q.shape[:2]
    zeros = np.zeros((*lead, q.shape[-1], v.shape[-1])), np.zeros((*lead, q.shape[-1])), np.zeros(lead)
    C, n, m = zeros if initial is None else in_float64(*initial)
    occupied = np.any(C != 0, (-2, -1)) | np.any(n != 0, -1)
    return State(C, n, m, np.where(occupied, m, -np.inf))


@quiet
def forward(constants, q, k, v, i, f, initial):
    """The states before the first and after every token, and the row of every token."""
    states, rows = [start(q, v, initial)], []
    phi = np.minimum(f, 0) - np.log1p(np.exp(-abs(f)))
    for t in range(q.shape[2]):
        before = states[-1]
        m = np.maximum(phi[..., t] + before.m, i[..., t])
        inner = np.maximum(phi[..., t] + before.inner, i[..., t])
        keep, take = np.exp(phi[..., t] + (before.inner - finite(inner))), np.exp(i[..., t] - finite(inner))
        C = keep[..., None, None] * before.C + take[..., None, None] * k[:, :, t, :, None] * v[:, :, t, None, :]
        n = keep[..., None] * before.n + take[..., None] * k[:, :, t]
        states.append(State(C, n, m, inner))
        rows.append(read(constants, q[:, :, t], states[-1]))
    return states, rows


def read(constants, q, state):
    scale = q.shape[-1] ** -0.5
    excess = np.exp(state.m - finite(state.inner))
    N, a = scale * np.einsum("bhkv,bhk->bhv", state.C, q), scale * np.sum(q * state.n, -1)
    b = times(constants.norm_val, np.exp(-finite(state.inner)) if constants.stabilize_correctly else excess)
    d = np.maximum(abs(a), b) + times(constants.eps, excess)
    b_of_m = times(constants.norm_val, np.exp(-finite(state.m)) if constants.stabilize_correctly else 1.0)
    d_of_m = np.maximum(abs(a) * np.exp(state.inner - finite(state.m)), b_of_m) + constants.eps
    h = np.where(N == 0, 0.0, N / d[..., None])
    return Row(N, a, d, d_of_m, abs(a) > b, h)


def times(constant, power):
    """0 times a power that overflows is 0."""
    return constant * power if constant else 0.0


def definition_state(state):
    """(C, n, m) relative to the definition's m."""
    to_m = np.exp(state.inner - finite(state.m))
    return state.C * to_m[..., None, None], state.n * to_m[..., None], state.m


@quiet
def backward(constants, inputs, cotangents):
    """Gradients of q, k, v, i, f, and of the initial state.

    D and E are the gradients of exp(inner) C and exp(inner) n, as they are before token t + 1; D_0 and E_0 the
    same relative to m, for an empty initial state. M is the gradient of m with these held fixed.
    """
    *arrays, initial = inputs
    q, k, v, i, f = in_float64(*arrays)
    states, rows = forward(constants, q, k, v, i, f, initial)
    dh, (dC, dn, dm) = np.asarray(cotangents[0], np.float64), in_float64(*cotangents[1])
    C_last, n_last, _ = definition_state(states[-1])
    to_m = np.exp(states[-1].inner - finite(states[-1].m))
    D, E, D_0, E_0 = dC * to_m[..., None, None], dn * to_m[..., None], dC, dn
    M = dm - np.sum(dC * C_last, (-2, -1)) - np.sum(dn * n_last, -1)
    phi = np.minimum(f, 0) - np.log1p(np.exp(-abs(f)))
    scale = q.shape[-1] ** -0.5
    gradients = [np.zeros_like(array) for array in (q, k, v, i, f)]
    dq, dk, dv, di, df = gradients
    for t in reversed(range(q.shape[2])):
        before, after, row = states[t], states[t + 1], rows[t]
        # An empty initial state has an m nevertheless.
        filled, filled_of_m = ~np.isneginf(after.inner), ~np.isneginf(after.m)
        qt, kt, vt, dht = q[:, :, t], k[:, :, t], v[:, :, t], dh[:, :, t]
        y = np.sum(dht * row.h, -1)
        slope = np.where(row.above, -np.sign(row.a) * y, 0.0)
        x, gamma = quotient(dht, row.d[..., None], filled[..., None]), quotient(slope, row.d, filled)
        x_of_m = quotient(dht, row.d_of_m[..., None], filled_of_m[..., None])
        gamma_of_m = quotient(slope, row.d_of_m, filled_of_m)
        kappa = quotient(np.full(y.shape, constants.eps), row.d_of_m, filled_of_m)
        if not constants.stabilize_correctly:
            kappa = np.where(row.above, kappa, 1.0)
        M = np.where(np.isneginf(after.m), 0.0, M - kappa * y)

        dq[:, :, t] = scale * (np.einsum("bhkv,bhv->bhk", after.C, x) + gamma[..., None] * after.n)
        D, E = D + scale * qt[..., :, None] * x[..., None, :], E + scale * gamma[..., None] * qt
        take = np.exp(i[..., t] - finite(after.inner))[..., None]
        dk[:, :, t] = take * (np.einsum("bhkv,bhv->bhk", D, vt) + E)
        dv[:, :, t] = take * np.einsum("bhkv,bhk->bhv", D, kt)
        from_before = phi[..., t] + before.m >= i[..., t]
        di[:, :, t] = np.sum(kt * dk[:, :, t], -1) + np.where(from_before, 0.0, M)
        M = np.where(from_before, M, 0.0)
        keep = np.exp(phi[..., t] + (before.inner - finite(after.inner)))
        D, E = keep[..., None, None] * D, keep[..., None] * E
        dphi = np.sum(D * before.C, (-2, -1)) + np.sum(E * before.n, -1) + M
        df[:, :, t] = dphi * np.exp(-np.maximum(f[..., t], 0)) / (1 + np.exp(-abs(f[..., t])))

        D_0, E_0 = D_0 + scale * qt[..., :, None] * x_of_m[..., None, :], E_0 + scale * gamma_of_m[..., None] * qt
        keep = np.exp(phi[..., t] + (before.m - finite(after.m)))
        D_0, E_0 = keep[..., None, None] * D_0, keep[..., None] * E_0
    empty = np.isneginf(states[0].inner)
    dm_0 = np.sum(D * states[0].C, (-2, -1)) + np.sum(E * states[0].n, -1) + M
    return gradients, (np.where(empty[..., None, None], D_0, D), np.where(empty[..., None], E_0, E), dm_0)


def quotient(x, d, filled):
    """x / d, and 0 where x is, or where the state is empty."""
    return np.where(filled & (x != 0), x / d, 0.0)
