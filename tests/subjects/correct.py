"""A correct subject: the definition step by step in NumPy float64, rounded once at the end.

The state is held relative to ``inner``, which leaves out the m_0 of an empty initial state: exp(i - 1000)
underflows even in float64.
"""

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
    occupied = np.any(C != 0, (-2, -1)) | np.any(n != 0, -1)
    inner = np.where(occupied, m, -np.inf)
    rows = []
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        for t in range(q.shape[2]):
            phi = np.minimum(f[..., t], 0) - np.log1p(np.exp(-abs(f[..., t])))
            m = np.maximum(phi + m, i[..., t])
            entering, inner = inner, np.maximum(phi + inner, i[..., t])
            base = np.where(np.isneginf(inner), 0.0, inner)
            excess = np.exp(m - base)
            keep, take = np.exp(phi + (entering - base)), np.exp(i[..., t] - base)
            C = keep[..., None, None] * C + take[..., None, None] * k[:, :, t, :, None] * v[:, :, t, None, :]
            n = keep[..., None] * n + take[..., None] * k[:, :, t]
            floor = np.exp(-base) if stabilize_correctly else excess
            d = np.maximum(abs(scale * np.sum(q[:, :, t] * n, -1)), norm_val * floor if norm_val else 0.0)
            d = d + (eps * excess if eps else 0.0)
            rows.append(scale * np.einsum("bhkv,bhk->bhv", C, q[:, :, t]) / d[..., None])
    h = np.stack(rows, 2).astype(storage if storage != np.float64 else ml_dtypes.bfloat16)
    to_m = np.exp(base - np.where(np.isneginf(m), 0.0, m))
    last = tuple(state.astype(np.float32) for state in (C * to_m[..., None, None], n * to_m[..., None], m))
    return (h, last) if return_last_states else h
