"""How far an output is from the reference, in three ways.

    normwise       ||x - r||_F / ||r||_F
    componentwise  max_j |x_j - r_j| / |r_j|          over r_j != 0
    ratio          max_j |x_j - r_j| / bound_j        the running error bound of the reference

Total for every pair of floats: equal values (infinities too) have error 0, a NaN or an infinity that
the reference does not have has error inf, a bound of inf is undecided and gives ratio 0.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from verify._errors import SuiteError
from verify._reference import FLOAT32_TINY, Reference

FLOAT32_HUGE = 2.0**126


@dataclass(frozen=True)
class Measurement:
    """One output of one case.

    Attributes:
        output: h, n, m, C_last, n_last, m_last, or a gradient: dq, dk, dv, di, df, dC_0, dn_0, dm_0.
        normwise, componentwise, ratio: see the head of this module.
        normwise_bound: ||bound||_F / ||r||_F: what rounding may reach; a finer error goes unseen.
        worst: index of the largest ratio, and what was got and wanted there.
        nonfinite: elements that are NaN or infinite and should not be.
        undecided: share of elements whose bound is at least |r|, about which nothing can be said.
        digest: BLAKE2b of the output's bytes in C order, as returned: equal means bitwise equal.
    """

    output: str
    normwise: float
    componentwise: float
    ratio: float
    normwise_bound: float
    worst: tuple[int, ...]
    got: float
    wanted: float
    nonfinite: int
    undecided: float
    digest: str


def measure(outputs: dict[str, np.ndarray], reference: Reference) -> list[Measurement]:
    """Measure every output that the subject returned; shapes must already fit.

    Raises:
        SuiteError: if the reference itself is NaN, or one of its bounds.
    """
    aligned = _align_states(outputs, reference)
    return [_measure_one(name, actual, reference, outputs[name]) for name, actual in aligned.items()]


def _align_states(outputs: dict[str, np.ndarray], reference: Reference) -> dict[str, np.ndarray]:
    # C and n mean something only together with the m they are relative to: bring them to the reference's.
    aligned = {name: array.astype(np.float64) for name, array in outputs.items()}
    if "m_last" in aligned:
        with np.errstate(invalid="ignore", over="ignore"):
            same = aligned["m_last"] == reference.values["m_last"]
            factor = np.exp(np.where(same, 0.0, aligned["m_last"] - reference.values["m_last"]))
            aligned["C_last"] = aligned["C_last"] * factor[..., None, None]
            aligned["n_last"] = aligned["n_last"] * factor[..., None]
    if "n" in aligned:
        # exp(-m) may leave the range of float32 on either side, and is then saturated.
        aligned["n"] = np.clip(aligned["n"], FLOAT32_TINY, FLOAT32_HUGE)
    return aligned


def _measure_one(name: str, actual: np.ndarray, reference: Reference, returned: np.ndarray) -> Measurement:
    wanted, bound = reference.values[name], reference.bounds[name]
    if np.isnan(wanted).any() or np.isnan(bound).any():
        raise SuiteError(f"the reference of output {name} is NaN.")
    if name == "n":
        wanted = np.clip(wanted, FLOAT32_TINY, FLOAT32_HUGE)
    actual = _saturate(actual, wanted, bound, returned.dtype)
    actual = np.where(reference.unknown.get(name, False), wanted, actual)

    finite = np.isfinite(wanted)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        error = np.where(actual == wanted, 0.0, np.abs(actual - wanted))
        error = np.where(np.isnan(error), np.inf, error)
        ratios = np.where(error == 0.0, 0.0, np.where(np.isinf(bound) & np.isfinite(actual), 0.0, error / bound))
        ratios = np.where(np.isnan(ratios), np.inf, ratios)
        relative = np.where((wanted == 0.0) | (error == 0.0), 0.0, error / np.abs(wanted))
        relative = np.where(np.isnan(relative), np.inf, relative)
    worst = np.unravel_index(int(np.argmax(ratios)), ratios.shape)
    norm = float(np.linalg.norm(wanted[finite]))
    return Measurement(
        output=name,
        normwise=_quotient(float(np.linalg.norm(error)), norm),
        componentwise=float(relative.max()),
        ratio=float(ratios.max()),
        normwise_bound=_quotient(float(np.linalg.norm(bound[finite])), norm),
        worst=tuple(int(index) for index in worst),
        got=float(actual[worst]),
        wanted=float(wanted[worst]),
        nonfinite=int(np.sum(~np.isfinite(actual) & (actual != wanted))),
        undecided=float(np.mean(bound >= np.maximum(np.abs(wanted), FLOAT32_TINY))),
        digest=hashlib.blake2b(returned.tobytes(), digest_size=16).hexdigest(),
    )


def _saturate(actual: np.ndarray, wanted: np.ndarray, bound: np.ndarray, dtype: np.dtype) -> np.ndarray:
    # Where the right value is beyond the largest number of the dtype, or rounding may carry it there, inf is right.
    import ml_dtypes

    largest = float(ml_dtypes.finfo(dtype).max)
    same_side = np.isfinite(wanted) & (np.sign(actual) == np.sign(wanted))
    overflow = np.isinf(actual) & same_side & (np.abs(wanted) + bound >= largest)
    return np.where(overflow, wanted, actual)


def _quotient(error: float, norm: float) -> float:
    if error == 0.0:
        return 0.0
    return error / norm if norm > 0.0 else float("inf")
