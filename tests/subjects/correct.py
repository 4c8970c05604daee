"""A correct subject: the definition step by step in NumPy float64, rounded once at the end."""

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
    storage = np.asarray(q).dtype
    q, k, v, i, f = (np.asarray(array, np.float64) for array in (q, k, v, i, f))
    lead, scale = q.shape[:2], q.shape[-1] ** -0.5
    C = np.zeros((*lead, k.shape[-1], v.shape[-1])) if c_initial is None else np.asarray(c_initial, np.float64)
    n = np.zeros((*lead, k.shape[-1])) if n_initial is None else np.asarray(n_initial, np.float64)
    m = np.zeros(lead) if m_initial is None else np.asarray(m_initial, np.float64)
    rows = []
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        for t in range(q.shape[2]):
            phi = np.minimum(f[..., t], 0) - np.log1p(np.exp(-abs(f[..., t])))
            entering, m = m, np.maximum(phi + m, i[..., t])
            base = np.where(np.isneginf(m), 0.0, m)
            keep, take = np.exp(phi + (entering - base)), np.exp(i[..., t] - base)
            C = keep[..., None, None] * C + take[..., None, None] * k[:, :, t, :, None] * v[:, :, t, None, :]
            n = keep[..., None] * n + take[..., None] * k[:, :, t]
            floor = norm_val * np.exp(-base) if stabilize_correctly else norm_val
            d = np.maximum(abs(scale * np.sum(q[:, :, t] * n, -1)), floor) + eps
            rows.append(scale * np.einsum("bhkv,bhk->bhv", C, q[:, :, t]) / d[..., None])
    h = np.stack(rows, 2).astype(storage if storage != np.float64 else ml_dtypes.bfloat16)
    last = tuple(state.astype(np.float32) for state in (C, n, m))
    return (h, last) if return_last_states else h
