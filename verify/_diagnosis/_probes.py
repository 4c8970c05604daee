"""The cases of a diagnosis: few and small, so that every departure is visible in one, and any two differ in one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from verify._case import Case


def probes(dtype: str, chunk_size: int, dim: int, seed: int = 0) -> Iterator[Case]:
    """The cases, the plainest first.

    Args:
        dtype: of the cases.
        chunk_size: L; sequences have two chunks, but for one that ends within the second.
        dim: DHQK and DHHV.
        seed: of all cases.

    Raises:
        CaseError: as ``Case`` does.
    """
    plain = Case(
        regime="ordinary",
        length=2 * chunk_size,
        dhqk=dim,
        dhhv=dim,
        chunk_size=chunk_size,
        dtype=dtype,
        cotangents="h",
        seed=seed,
    )
    warm = replace(plain, initial="warm@2")
    yield plain
    # A state that enters, with h and the last state differentiated apart: gradients add up.
    yield warm
    # Here m comes from m_0, and what passes through it crosses all chunks.
    yield replace(plain, regime="forget@10", initial="warm@4", cotangents="last")
    # eps is 1 % of a denominator near 1.
    yield replace(warm, eps=1e-2)
    # Where forgetting saturates, df as a difference of sums drowns.
    yield replace(plain, regime="forget@-10")
    # Without an initial state m comes from m_0 = 0, far above what the state holds.
    faint = replace(plain, regime="input_gates@-20", cotangents="none")
    yield faint
    # There eps alone keeps the denominator up.
    yield replace(faint, norm_val=0.0, eps=1e-2)
    yield replace(plain, dhhv=2 * dim, cotangents="none")
    # norm_val rules about half of the rows, in both modes.
    yield replace(plain, norm_val=4.0, eps=1e-2)
    yield replace(warm, norm_val=0.5, stabilize_correctly=False, eps=1e-2)
    yield replace(warm, length=2 * chunk_size - chunk_size // 4 - 1, cotangents="all")
