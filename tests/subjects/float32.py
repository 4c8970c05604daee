"""Correct subjects in NumPy float32, recurrence, parallel and chunkwise, and the same with a small systematic error.

Straightforward formulas of docs/method.md, sections 1, 2 and 12, with two stabilizers and with sums of gates that
never subtract. [C | n] is one matrix, n being C for v = 1. Everything is float32; they run outside of jax.jit only.

``fault`` plants an error as kernels have had it:

    n scaled       n is too large by 1e-5
    bf16 state     C and n are rounded to bfloat16 between tokens (the recurrence alone has such a state)
    TF32 dots      operands of dots lose all but 10 bits of their fraction
    max of log f   m_t = max(phi_t, i_t), with no running sum of the phi

``fault="m as one number"`` is none, but the rougher recurrence that comes to mind first: m is rounded at every token.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

FAULTS = ("n scaled", "bf16 state", "TF32 dots", "max of log f")
F = np.float32
quiet = np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore")


def recurrence(
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
    *,
    form=None,
    fault="",
):
    initial = None if c_initial is None else (c_initial, n_initial, m_initial)
    constants = Constants(eps, norm_val, stabilize_correctly, fault, chunk_size)
    h, last = _mlstm(form or Recurrence, constants, q, k, v, i, f, initial)
    return (h, last) if return_last_states else h


@functools.wraps(recurrence)
def parallel(*arrays, **options):
    return recurrence(*arrays, form=Parallel, **options)


@functools.wraps(recurrence)
def with_m_as_one_number(*arrays, **options):
    return recurrence(*arrays, fault="m as one number", **options)


@functools.wraps(recurrence)
def chunkwise(q, k, v, i, f, *initial, **options):
    """Takes 16-bit inputs, too: they are float32 inside, and what is returned is rounded once."""
    wide = [x.astype(F) for x in (q, k, v, i)]
    returned = recurrence(*wide, f, *initial, form=Chunkwise, **options)
    if isinstance(returned, tuple):
        return returned[0].astype(q.dtype), returned[1]
    return returned.astype(q.dtype)


class Constants(NamedTuple):
    eps: float
    norm_val: float
    stabilize_correctly: bool
    fault: str
    chunk_size: int


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _mlstm(form, constants, *inputs):
    return _with_inputs(form, constants, *inputs)[0]


@quiet
def _with_inputs(form, constants, *inputs):
    made = form(constants, *inputs)
    h, *_ = rows(constants, made.readout, made.m, made.inner)
    last = made.last * column(np.exp(made.inner[..., -1] - finite(made.m[..., -1])), 2)
    return (in_jax(h), tuple(map(in_jax, (last[..., :-1], last[..., -1], made.m[..., -1])))), inputs


@quiet
def _back(form, constants, inputs, cotangents):
    dh, (dC, dn, dm) = np.asarray(cotangents[0]), map(np.asarray, cotangents[1])
    made = form(constants, *inputs)
    dlast = np.concatenate([dC, dn[..., None]], -1)
    to_m = column(np.exp(made.inner[..., -1] - finite(made.m[..., -1])), 2)
    through_m = np.where(np.isneginf(made.m[..., -1]), F(0), dm - np.sum(dlast * to_m * made.last, (-2, -1)))
    of_rows = row_cotangents(constants, made.readout, made.m, made.inner, dh)
    (dq, dk, dv, di, dphi), D, D_of_m, dm_0 = made.back(*of_rows, dlast * to_m, dlast, through_m)
    # sigma(-f)
    df = dphi * np.exp(-np.maximum(made.f, 0)) / (1 + np.exp(-abs(made.f)))
    gradients = [in_jax(gradient) for gradient in (dq, dk, dv, di, df)]
    if inputs[5] is None:
        return (*gradients, None)
    D = np.where(column(np.isneginf(made.inner_0), 2), D_of_m, D)
    return (*gradients, (in_jax(D[..., :-1]), in_jax(D[..., -1]), in_jax(dm_0)))


_mlstm.defvjp(_with_inputs, _back)


def in_jax(x):
    # JAX would hide that something was computed in float64.
    if x.dtype != F:
        raise TypeError(f"{x.dtype} in a float32 subject")
    return jnp.asarray(x)


def finite(m):
    """m as a subtrahend: exp(-inf - finite(-inf)) is 0."""
    return np.where(np.isneginf(m), F(0), m)


def column(x, axes=1):
    return x.reshape(*x.shape, *(1,) * axes)


def transposed(x):
    return np.swapaxes(x, -1, -2)


def rows(constants, readout, m, inner):
    """h_t, d_t and whether |a_t| > b_t, relative to ``inner``."""
    N, a = readout[..., :-1], readout[..., -1]
    excess = np.exp(m - finite(inner))
    b = times(constants.norm_val, np.exp(-finite(inner)) if constants.stabilize_correctly else excess)
    d = np.maximum(abs(a), b) + times(constants.eps, excess)
    return quotient(N, column(d)), d, abs(a) > b


def times(constant, power):
    """0 times a power that overflows is 0."""
    return F(constant) * power if constant else F(0)


def quotient(x, d):
    return np.where(x == 0, F(0), x / d)


def row_cotangents(constants, readout, m, inner, dh):
    """[x | gamma] relative to ``inner`` and relative to m, and mu; all 0 where the state is empty."""

    def of_row(readout, inner):
        h, d, above = rows(constants, readout, m, inner)
        y = np.sum(dh * h, -1)
        gamma = np.where(above, -np.sign(readout[..., -1]) * quotient(y, d), F(0))
        row = np.concatenate([quotient(dh, column(d)), column(gamma)], -1)
        return np.where(column(np.isneginf(inner)), F(0), row), y, d, above

    row, *_ = of_row(readout, inner)
    # eps / d_t has no overflow relative to m.
    row_of_m, y, d, above = of_row(readout * column(np.exp(inner - finite(m))), m)
    kappa = F(constants.eps) / d if constants.eps else np.zeros_like(d)
    kappa = kappa if constants.stabilize_correctly else np.where(above, kappa, F(1))
    # Without eps kappa is 0, also where d_t underflows and y overflows.
    return row, row_of_m, np.where(np.isneginf(inner) | (y == 0) | (kappa == 0), F(0), -kappa * y)


class Form:
    """What both forms have: the inputs, [C_0 | n_0], m_0, and the stabilizer without the m_0 of an empty state.

    A form makes, for all tokens, ``readout`` = [N | a] relative to ``inner``, m and inner, and ``last``: [C | n]
    after them, relative to inner.
    """

    def __init__(self, constants, *inputs):
        *arrays, initial = inputs
        self.fault, self.chunk_size = constants.fault, constants.chunk_size
        self.q, self.k, v, self.i, self.f = map(np.asarray, arrays)
        lead, self.c = self.q.shape[:2], F(self.q.shape[-1] ** -0.5)
        one = np.full((*v.shape[:-1], 1), 1 + 1e-5 if self.fault == "n scaled" else 1, F)
        self.v = np.concatenate([v, one], -1)
        self.phi = np.minimum(self.f, 0) - np.log1p(np.exp(-abs(self.f)))
        self.start, self.m_0 = np.zeros((*lead, self.q.shape[-1], self.v.shape[-1]), F), np.zeros(lead, F)
        if initial is not None:
            C, n, self.m_0 = map(np.asarray, initial)
            self.start = np.concatenate([C, column(n)], -1)
        self.inner_0 = np.where(np.any(self.start != 0, (-2, -1)), self.m_0, F(-np.inf))
        self.run()

    def dot(self, x, y):
        return self.operand(x) @ self.operand(y)

    def operand(self, x):
        if self.fault != "TF32 dots":
            return x
        return (np.ascontiguousarray(x).view(np.uint32) & np.uint32(0xFFFFE000)).view(F)


class Stabilizer(NamedTuple):
    """m as the number it comes from, i_s or m_0, and the sum of log forgets since.

    As one number it would be rounded at every token, next to a phi_t that may be much smaller.
    """

    top: np.ndarray
    faded: np.ndarray

    @property
    def m(self):
        return self.top + self.faded

    def fades_to(self, phi, i, fault):
        """Whether the next m comes from this one, not from i."""
        m = phi if fault == "max of log f" else self.top + (self.faded + phi)
        return (m >= i) & ~np.isneginf(m)

    def next(self, phi, i, fault):
        stays = self.fades_to(phi, i, fault)
        if fault == "max of log f":
            return Stabilizer(np.maximum(phi, i), np.zeros_like(i))
        after = Stabilizer(np.where(stays, self.top, i), np.where(stays, self.faded + phi, F(0)))
        return Stabilizer(after.m, np.zeros_like(i)) if fault == "m as one number" else after

    def forget(self, phi, after):
        """exp(phi_t + m_{t-1} - m_t)."""
        return column(np.exp((self.faded + phi - after.faded) + (self.top - finite(after.top))), 2)

    def take_in(self, i):
        """exp(i_t - m_t)."""
        return column(np.exp((i - finite(self.top)) - self.faded), 2)

    def rounded_off(self):
        """exp of what m lost as one number."""
        return column(np.exp((self.top - finite(self.m)) + self.faded), 2)


class Recurrence(Form):
    """Token by token, the states kept in a list."""

    def run(self):
        zero = np.zeros_like(self.m_0)
        self.states, read = [(self.start, Stabilizer(self.m_0, zero), Stabilizer(self.inner_0, zero))], []
        for t in range(self.q.shape[2]):
            (state, *before), gates = self.states[-1], self.gates(t)
            m, inner = (stabilizer.next(*gates, self.fault) for stabilizer in before)
            update = inner.take_in(self.i[..., t]) * column(self.k[:, :, t]) * self.v[:, :, t, None, :]
            state = before[1].forget(self.phi[..., t], inner) * state + update
            if self.fault == "bf16 state":
                state = state.astype(ml_dtypes.bfloat16).astype(F)
            self.states.append((state, m, inner))
            read.append(self.c * self.dot(self.q[:, :, t, None, :], state)[..., 0, :])
        self.readout = np.stack(read, 2)
        self.m, self.inner = (np.stack([after[number].m for after in self.states[1:]], -1) for number in (1, 2))
        self.last = inner.rounded_off() * state

    def gates(self, t):
        return self.phi[..., t], self.i[..., t]

    def back(self, x, x_of_m, mu, D, D_of_m, M):
        _, m, inner = self.states[-1]
        D, D_of_m = inner.rounded_off() * D, m.rounded_off() * D_of_m
        arrays = (self.q, self.k, self.v[..., :-1], self.i, self.f)
        dq, dk, dv, di, dphi = gradients = [np.zeros_like(array) for array in arrays]
        for t in reversed(range(self.q.shape[2])):
            (before, m_before, inner_before), (after, m, inner) = self.states[t : t + 2]
            q, k, row = column(self.q[:, :, t]), self.k[:, :, t], x[:, :, t, None, :]
            phi, i = self.gates(t)
            M = np.where(np.isneginf(m.m), F(0), M + mu[..., t])
            dq[:, :, t] = self.c * self.dot(row, transposed(after))[..., 0, :]
            D = D + self.c * q * row
            take_in = inner.take_in(i)[..., 0]
            dk[:, :, t] = take_in * self.dot(D, column(self.v[:, :, t]))[..., 0]
            dv[:, :, t] = take_in * self.dot(k[..., None, :], D)[..., 0, :-1]
            stays = m_before.fades_to(phi, i, self.fault)
            di[..., t] = np.sum(k * dk[:, :, t], -1) + np.where(stays, F(0), M)
            M = np.where(stays, M, F(0))
            D = inner_before.forget(phi, inner) * D
            dphi[..., t] = np.sum(D * before, (-2, -1)) + M
            D_of_m = m_before.forget(phi, m) * (D_of_m + self.c * q * x_of_m[:, :, t, None, :])
        return gradients, D, D_of_m, np.sum(D * self.start, (-2, -1)) + M


class Parallel(Form):
    """All pairs of a target t = 1..S and a source s = 0..S at once; source 0 is the initial state."""

    def run(self):
        target, source = np.ogrid[1 : self.q.shape[2] + 1, 0 : self.q.shape[2] + 1]
        self.past = source <= target
        # Masked running sums: phi_r of all r with s < r <= t.
        self.sums = np.cumsum(np.where(source < target, column(self.phi), F(0)), -2)
        self.m, self.origin = self.largest(self.m_0)
        self.inner, _ = self.largest(self.inner_0)
        self.w = self.weights(self.inner_0, self.inner)
        self.scores = self.c * self.dot(self.q, transposed(self.k))
        pairs = self.w[..., 1:] * self.scores
        kept = self.w[..., :1] * (self.c * self.dot(self.q, self.start))
        self.readout = self.dot(pairs, self.v) + kept
        of_last = self.w[..., -1, :]
        taken_in = self.dot(transposed(column(of_last[..., 1:]) * self.k), self.v)
        self.last = column(of_last[..., 0], 2) * self.start + taken_in

    def sources(self, m_0):
        return np.concatenate([column(m_0), self.i], -1)[..., None, :]

    def largest(self, m_0):
        """The stabilizer of every target, and the source it comes from."""
        logs = np.where(self.past, self.sums + self.sources(m_0), F(-np.inf))
        m = np.maximum(self.phi, self.i) if self.fault == "max of log f" else np.max(logs, -1)
        return m, np.argmax(logs, -1)

    def weights(self, m_0, m):
        exponents = self.sums + (self.sources(m_0) - column(finite(m)))
        return np.exp(np.where(self.past, exponents, F(-np.inf)))

    def back(self, x, x_of_m, mu, D, D_of_m, M):
        start, of_last = self.start, self.w[..., -1, :]
        omega, c = column(of_last[..., 1:]), self.c
        values, last_v = self.dot(x, transposed(self.v)), self.dot(self.v, transposed(D))
        to_start = c * self.dot(x, transposed(start))
        pairs = c * (self.w[..., 1:] * values)
        dq = self.dot(pairs, self.k) + self.w[..., :1] * to_start
        dk = self.dot(transposed(pairs), self.q) + omega * last_v
        scores = self.w[..., 1:] * self.scores
        dv = (self.dot(transposed(scores), x) + omega * self.dot(self.k, D))[..., :-1]
        # The shares G of all pairs, the last row that of the last state.
        shares = np.concatenate([self.w[..., :1] * np.sum(self.q * to_start, -1, keepdims=True), scores * values], -1)
        of_state = np.concatenate([column(np.sum(D * start, (-2, -1))), np.sum(self.k * last_v, -1)], -1)
        shares = np.concatenate([shares, (of_last * of_state)[..., None, :]], -2)
        through_m = np.concatenate([mu, column(M)], -1)
        origin = np.concatenate([self.origin, self.origin[..., -1:]], -1)
        shares += np.where(np.arange(shares.shape[-1]) == column(origin), column(through_m), F(0))
        self.through_m_0 = np.sum(np.where(origin == 0, through_m, F(0)), -1)
        back = [self.to_initial(self.w, x, D)]
        back.append(self.to_initial(self.weights(self.m_0, self.m), x_of_m, D_of_m))
        of_sources = np.sum(shares, -2)
        return (dq, dk, dv, of_sources[..., 1:], straddling(shares)), *back, of_sources[..., 0]

    def to_initial(self, w, x, D):
        return self.dot(transposed(w[..., :1] * (self.c * self.q)), x) + w[..., -1, :1, None] * D


class Chunkwise(Form):
    """The parallel form over one chunk after the other, each on the state that the last one left."""

    def run(self):
        self.chunks, state = [], (self.start, self.m_0, self.inner_0)
        for span in self.spans():
            chunk = self.chunk(span, *state)
            self.chunks.append(chunk)
            state = chunk.last, chunk.m[..., -1], chunk.inner[..., -1]
        self.readout = np.concatenate([chunk.readout for chunk in self.chunks], 2)
        self.m = np.concatenate([chunk.m for chunk in self.chunks], 2)
        self.inner = np.concatenate([chunk.inner for chunk in self.chunks], 2)
        self.last = chunk.last

    def spans(self):
        return [slice(first, first + self.chunk_size) for first in range(0, self.q.shape[2], self.chunk_size)]

    def chunk(self, span, start, m_0, inner_0):
        chunk = Parallel.__new__(Parallel)
        tokens = {name: getattr(self, name)[:, :, span] for name in ("q", "k", "v", "i", "f", "phi")}
        vars(chunk).update(vars(self) | tokens, start=start, m_0=m_0, inner_0=inner_0)
        chunk.run()
        return chunk

    def back(self, x, x_of_m, mu, D, D_of_m, M):
        of_chunks = []
        for chunk, span in reversed(list(zip(self.chunks, self.spans(), strict=True))):
            of_rows = (array[:, :, span] for array in (x, x_of_m, mu))
            gradients, D, D_of_m, dm_0 = chunk.back(*of_rows, D, D_of_m, M)
            of_chunks.insert(0, gradients)
            M = np.where(np.isneginf(chunk.m_0), F(0), chunk.through_m_0)
        gradients = [np.concatenate(parts, 2) for parts in zip(*of_chunks, strict=True)]
        return gradients, D, D_of_m, dm_0


def straddling(shares):
    """dphi_t: the sum of G over the sources s < t and the targets t' >= t."""
    target, source = np.ogrid[1 : shares.shape[-2] + 1, 0 : shares.shape[-1]]
    return np.sum(np.where(target > source, np.cumsum(shares, -1), F(0)), -2)[..., :-1]
