"""The arrays that a case stands for, deterministic in the case alone."""

from __future__ import annotations

import contextlib
import functools
import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from oracles import Contract, Cotangents, Inputs
from verify._case import Case
from verify._initial_states import generate_initial
from verify._regimes import choose_tokens, generate_gates

_COTANGENT_OF = {
    "none": (),
    "h": ("h",),
    "last": ("C_last", "n_last", "m_last"),
    "all": ("h", "C_last", "n_last", "m_last"),
}
# The parameters that are differentiated, and the names of their gradients.
GRADIENT_OF = {
    **{name: f"d{name}" for name in ("q", "k", "v", "i", "f")},
    "c_initial": "dC_0",
    "n_initial": "dn_0",
    "m_initial": "dm_0",
}
NUMPY_DTYPES: dict[str, np.dtype] = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16)}
# Another interpreter (``run --python``) may have NumPy alone.
with contextlib.suppress(ModuleNotFoundError):
    import ml_dtypes

    NUMPY_DTYPES["bfloat16"] = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True)
class Problem:
    """What the subject receives, and what the oracle receives: the same numbers.

    Attributes:
        arrays: q, k, v, i in the case's dtype; f, and c_initial, n_initial, m_initial where the
            case has an initial state, in float32.
        contract: the constants of the definition.
        cotangents: by output, as far as the case has them: h in the case's dtype, C_last, n_last and
            m_last in float32.
    """

    arrays: dict[str, np.ndarray]
    contract: Contract
    cotangents: dict[str, np.ndarray]

    @functools.cached_property
    def inputs(self) -> Inputs:
        """The values of the arrays in float64."""
        exact = {name: array.astype(np.float64) for name, array in self.arrays.items()}
        state = (exact.get(name) for name in ("c_initial", "n_initial", "m_initial"))
        return Inputs(exact["q"], exact["k"], exact["v"], exact["i"], exact["f"], *state)

    @functools.cached_property
    def exact_cotangents(self) -> Cotangents:
        """The values of the cotangents in float64."""
        return Cotangents(**{name: array.astype(np.float64) for name, array in self.cotangents.items()})

    def __reduce__(self) -> tuple[Any, ...]:
        # What goes to a worker is what the subject gets.
        return Problem, (self.arrays, self.contract, self.cotangents)


def make_problem(case: Case) -> Problem:
    """Draw the arrays.

    Dtype, chunk size and constants do not change what is drawn, only how it is rounded; but a regime
    that chooses its tokens sees them all. The cotangents are drawn apart from the rest.
    """
    drawn = f"{case.regime}:{case.batch}:{case.heads}:{case.length}:{case.dhqk}:{case.dhhv}:{case.initial}"
    seeds = [case.seed, zlib.crc32(drawn.encode())]
    rng = np.random.default_rng(seeds)
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
    contract = Contract(case.eps, case.norm_val, case.stabilize_correctly)
    problem = Problem(arrays, contract, _draw_cotangents(case, np.random.default_rng([*seeds, 1])))
    chosen = choose_tokens(case.regime, problem.inputs, contract)
    if chosen is None:
        return problem
    return replace(problem, arrays=arrays | {name: getattr(chosen, name).astype(storage) for name in ("q", "k", "v")})


def _draw_cotangents(case: Case, rng: np.random.Generator) -> dict[str, np.ndarray]:
    # All are drawn, whatever the case has of them: those that two cases share are the same.
    shapes = {
        "h": (case.length, case.dhhv),
        "C_last": (case.dhqk, case.dhhv),
        "n_last": (case.dhqk,),
        "m_last": (),
    }
    dtypes = {"h": NUMPY_DTYPES[case.dtype]}
    drawn = {
        name: np.asarray(rng.standard_normal((case.batch, case.heads, *shape)), dtypes.get(name, np.float32))
        for name, shape in shapes.items()
    }
    return {name: drawn[name] for name in _COTANGENT_OF[case.cotangents]}
