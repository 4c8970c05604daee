"""The checks at the border of the public functions: every message names argument, value and what is allowed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

KERNEL_DTYPES = ("float32", "float16", "bfloat16")
INPUT_PRECISIONS = ("ieee", "tf32", "tf32x3")
NORMALIZER_GRADS = ("exact", "detached")
MIN_CHUNK, MAX_CHUNK = 16, 256
MIN_DIM, MAX_DIM = 16, 512


def kernel_dtype(autocast_kernel_dtype: Any) -> np.dtype:
    """The dtype that a name or a dtype stands for. ValueError if the kernels do not support it."""
    try:
        dtype = jnp.dtype(autocast_kernel_dtype)
    except TypeError:
        dtype = None
    if dtype is None or dtype.name not in KERNEL_DTYPES:
        raise ValueError(
            f"Unsupported kernel dtype {autocast_kernel_dtype!r}: autocast_kernel_dtype is one of "
            f"{', '.join(KERNEL_DTYPES)}, by name or as a dtype."
        )
    return dtype


def check_arguments(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    i: jax.Array,
    f: jax.Array,
    c_initial: jax.Array | None,
    n_initial: jax.Array | None,
    m_initial: jax.Array | None,
    *,
    eps: float,
    chunk_size: int,
    norm_val: float,
    input_precision: str,
    normalizer_grad: str,
) -> None:
    """Raise ValueError for anything that the kernels cannot serve."""
    if np.ndim(q) != 4:
        raise ValueError(f"q has shape {np.shape(q)}; expected (B, NH, S, DHQK), four axes.")
    batch, heads, length, dhqk = np.shape(q)
    _check_shape("k", k, "(B, NH, S, DHQK)", (batch, heads, length, dhqk))
    if np.ndim(v) != 4:
        raise ValueError(f"v has shape {np.shape(v)}; expected (B, NH, S, DHHV), four axes.")
    dhhv = np.shape(v)[3]
    _check_shape("v", v, "(B, NH, S, DHHV)", (batch, heads, length, dhhv))
    _check_shape("i", i, "(B, NH, S)", (batch, heads, length))
    _check_shape("f", f, "(B, NH, S)", (batch, heads, length))
    for name, size in (("B", batch), ("NH", heads), ("S", length)):
        if size < 1:
            raise ValueError(f"{name} is {size} in q of shape {np.shape(q)}; expected at least 1.")
    for name, size in (("DHQK", dhqk), ("DHHV", dhhv)):
        if not MIN_DIM <= size <= MAX_DIM:
            raise ValueError(f"{name} is {size}; the kernels serve {MIN_DIM} to {MAX_DIM}.")
    _check_chunk_size(chunk_size)
    _check_not_negative("eps", eps)
    _check_not_negative("norm_val", norm_val)
    if input_precision not in INPUT_PRECISIONS:
        raise ValueError(f"input_precision is {input_precision!r}; expected one of {', '.join(INPUT_PRECISIONS)}.")
    if normalizer_grad not in NORMALIZER_GRADS:
        raise ValueError(f"normalizer_grad is {normalizer_grad!r}; expected one of {', '.join(NORMALIZER_GRADS)}.")
    _check_initial_state(c_initial, n_initial, m_initial, (batch, heads, dhqk, dhhv))


def _check_shape(name: str, array: Any, axes: str, expected: tuple[int, ...]) -> None:
    if np.shape(array) != expected:
        raise ValueError(f"{name} has shape {np.shape(array)}; expected {axes} = {expected}, from the other shapes.")


def _check_chunk_size(chunk_size: int) -> None:
    is_integer = isinstance(chunk_size, int | np.integer) and not isinstance(chunk_size, bool)
    if not is_integer or not MIN_CHUNK <= chunk_size <= MAX_CHUNK or chunk_size & (chunk_size - 1):
        raise ValueError(f"chunk_size is {chunk_size!r}; expected a power of two from {MIN_CHUNK} to {MAX_CHUNK}.")


def _check_not_negative(name: str, value: float) -> None:
    # A comparison, because NaN is neither.
    if not (isinstance(value, int | float | np.number) and 0.0 <= value < float("inf")):
        raise ValueError(f"{name} is {value!r}; expected a finite Python number, at least 0.")


def _check_initial_state(c: Any, n: Any, m: Any, sizes: tuple[int, int, int, int]) -> None:
    batch, heads, dhqk, dhhv = sizes
    given = {"c_initial": c, "n_initial": n, "m_initial": m}
    missing = [name for name, array in given.items() if array is None]
    if len(missing) == 3:
        return
    if missing:
        present = [name for name in given if name not in missing]
        raise ValueError(
            f"{', '.join(missing)} is None but {', '.join(present)} is given; "
            "an initial state is all three of c_initial, n_initial, m_initial, or none."
        )
    _check_shape("c_initial", c, "(B, NH, DHQK, DHHV)", (batch, heads, dhqk, dhhv))
    _check_shape("n_initial", n, "(B, NH, DHQK)", (batch, heads, dhqk))
    _check_shape("m_initial", m, "(B, NH)", (batch, heads))
    for name, array in given.items():
        # Values are known only outside of jit.
        if isinstance(array, jax.core.Tracer):
            continue
        values = np.asarray(array, np.float32)
        # m = -inf is the empty state that a reset with i = -inf leaves behind.
        allowed = np.isfinite(values) | (values == -np.inf) if name == "m_initial" else np.isfinite(values)
        if not allowed.all():
            where = tuple(int(index) for index in np.argwhere(~allowed)[0])
            also = " or -inf" if name == "m_initial" else ""
            raise ValueError(f"{name}{list(where)} is {values[where]}; expected finite values{also}.")
