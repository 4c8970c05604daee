"""The arrays that a case stands for, deterministic in the case alone."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from oracles import Contract, Inputs
from verify._case import Case
from verify._initial_states import generate_initial
from verify._regimes import generate_gates

NUMPY_DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


@dataclass(frozen=True)
class Problem:
    """What the subject receives, and what the oracle receives: the same numbers.

    Attributes:
        arrays: q, k, v, i in the case's dtype; f, and c_initial, n_initial, m_initial where the
            case has an initial state, in float32.
        inputs: the same values in float64.
        contract: the constants of the definition.
    """

    arrays: dict[str, np.ndarray]
    inputs: Inputs
    contract: Contract


def make_problem(case: Case) -> Problem:
    """Draw the arrays. Dtype, chunk size and constants do not change what is drawn, only how it is rounded."""
    drawn = f"{case.regime}:{case.batch}:{case.heads}:{case.length}:{case.dhqk}:{case.dhhv}:{case.initial}"
    rng = np.random.default_rng([case.seed, zlib.crc32(drawn.encode())])
    lead = (case.batch, case.heads)
    storage = NUMPY_DTYPES[case.dtype]
    q, k = (rng.standard_normal((*lead, case.length, case.dhqk)) for _ in range(2))
    v = rng.standard_normal((*lead, case.length, case.dhhv))
    i, f = generate_gates(case.regime, rng, (*lead, case.length))
    arrays = {"q": q.astype(storage), "k": k.astype(storage), "v": v.astype(storage), "i": i.astype(storage)}
    arrays["f"] = f.astype(np.float32)
    state = generate_initial(case.initial, rng, lead, case.dhqk, case.dhhv)
    if state is not None:
        arrays.update(zip(("c_initial", "n_initial", "m_initial"), state, strict=True))
    exact = {name: array.astype(np.float64) for name, array in arrays.items()}
    state_64 = (exact.get(name) for name in ("c_initial", "n_initial", "m_initial"))
    inputs = Inputs(exact["q"], exact["k"], exact["v"], exact["i"], exact["f"], *state_64)
    return Problem(arrays, inputs, Contract(case.eps, case.norm_val, case.stabilize_correctly))
