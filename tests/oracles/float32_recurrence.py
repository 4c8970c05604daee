"""The definition and its VJP step by step in float32 NumPy: correct, if not careful; or with a planted fault."""

from typing import NamedTuple

import numpy as np

from verify import make_problem

F = np.float32


class Token(NamedTuple):
    """A token's gates and rows: what the way back needs again."""

    forget: np.ndarray
    take_in: np.ndarray
    a: np.ndarray
    b: np.ndarray
    d: np.ndarray
    h: np.ndarray


def first_head(case):
    """The arrays and the cotangents of a case, of its first head alone."""
    problem = make_problem(case)
    return ({name: array[0, 0] for name, array in arrays.items()} for arrays in (problem.arrays, problem.cotangents))


def forward(case, *, fault=""):
    """The states (C, n, m) before the first and after every token, and the tokens."""
    x, _ = first_head(case)
    c = F(case.dhqk) ** F(-0.5)
    C, n, m = np.zeros((case.dhqk, case.dhhv), F), np.zeros(case.dhqk, F), F(0)
    if case.initial != "none":
        C, n, m = x["c_initial"], x["n_initial"], x["m_initial"]
    states, tokens = [(C, n, m)], []
    for q, k, v, i, f in zip(*(x[name] for name in "qkvif"), strict=True):
        phi = min(f, F(0)) - np.log1p(np.exp(-abs(f)))
        entering, m = m, max(phi + (F(0) if fault == "max of log f" else m), i)
        # m = -inf is the empty state: nothing is kept and nothing is taken in.
        base = m if np.isfinite(m) else F(0)
        forget, take_in = np.exp(phi + (entering - base)), np.exp(i - base)
        C = forget * C + np.outer(take_in * k, v)
        n = forget * n + take_in * k * (F(1.01) if fault == "n scaled" else F(1))
        b = F(case.norm_val) * (np.exp(-base) if case.stabilize_correctly and fault != "exp(-m) dropped" else F(1))
        a = c * (q @ n)
        d = max(abs(a), b) + F(case.eps)
        states.append((C, n, m))
        tokens.append(Token(forget, take_in, a, b, d, c * (q @ C) / d))
    return states, tokens


def outputs(case, *, fault=""):
    """h and m of every token."""
    states, tokens = forward(case, fault=fault)
    return {"h": np.array([token.h for token in tokens]), "m": np.array([m for _, _, m in states[1:]])}


def gradients(case, *, fault=""):
    """dq, dk, dv, di, df, and dC_0, dn_0, dm_0 if the case has an initial state."""
    x, of = first_head(case)
    states, tokens = forward(case)
    c, length = F(case.dhqk) ** F(-0.5), case.length
    got = {f"d{name}": np.zeros_like(x[name]) for name in "qkvif"}
    D, E = of["C_last"], of["n_last"]
    if fault == "dC_last ignored":
        D = np.zeros_like(D)
    last = np.sum(D * states[-1][0]) + E @ states[-1][1]
    M = of["m_last"] - last
    through_m = np.zeros(length, F)
    # The part of dk within a chunk, for the fault that drops the rest of di.
    D_chunk, E_chunk = np.zeros_like(D), np.zeros_like(E)
    for t in reversed(range(length)):
        (C, n, m), (C_before, n_before, m_before), token = states[t + 1], states[t], tokens[t]
        q, k, v, i, f, dh = (*(x[name][t] for name in "qkvif"), of["h"][t])
        phi = min(f, F(0)) - np.log1p(np.exp(-abs(f)))
        row, y = dh / token.d, dh @ token.h
        gamma = -y / token.d if abs(token.a) > token.b else F(0)
        gamma *= F(1) if fault == "sign(a) forgotten" else np.sign(token.a)
        if fault == "normalizer's gradient dropped":
            gamma = F(0)
        kappa = F(case.eps) / token.d if case.stabilize_correctly or abs(token.a) > token.b else F(1)
        if not np.isfinite(m):
            row, gamma = np.zeros_like(row), F(0)
        M = M - kappa * y if np.isfinite(m) else F(0)
        if (t + 1) % case.chunk_size == 0:
            D_chunk, E_chunk = np.zeros_like(D), np.zeros_like(E)
        D, E = D + c * np.outer(q, row), E + c * gamma * q
        D_chunk, E_chunk = D_chunk + c * np.outer(q, row), E_chunk + c * gamma * q
        got["dq"][t] = c * (C @ row + gamma * n)
        got["dk"][t] = token.take_in * (D @ v + E)
        got["dv"][t] = token.take_in * (D.T @ k)
        inside = token.take_in * (D_chunk @ v + E_chunk)
        carried = M if phi + m_before >= i else F(0)
        of_k = inside if fault == "di of later chunks dropped" else got["dk"][t]
        got["di"][t] = k @ of_k + (M - carried)
        M, through_m[t] = carried, carried
        D, E = token.forget * D, token.forget * E
        D_chunk, E_chunk = token.forget * D_chunk, token.forget * E_chunk
        got["df"][t] = np.sum(D * C_before) + E @ n_before + carried
    if fault == "df as a difference of cumsums":
        difference = np.sum(x["q"] * got["dq"] - x["k"] * got["dk"], -1)
        got["df"] = np.cumsum(difference[::-1], dtype=F)[::-1] + last + through_m
    magnitude = np.exp(-abs(x["f"]))
    got["df"] *= np.where(x["f"] < 0, F(1), magnitude) / (F(1) + magnitude)
    if fault == "df of the next token":
        got["df"] = np.roll(got["df"], -1)
    if case.initial != "none":
        got |= {"dC_0": D, "dn_0": E, "dm_0": np.sum(D * states[0][0]) + E @ states[0][1] + M}
    return got
