"""How far an output is from the reference, in four ways.

    normwise       ||x - r||_F / ||r||_F
    componentwise  max_j |x_j - r_j| / |r_j|          over r_j != 0
    ratio          max_j |x_j - r_j| / bound_j        the running error bound of the reference
    z              |x_j - r_j| / noise_j              the noise floor of its row: the root mean square, and the largest

Total for every pair of floats: equal values (infinities too) have error 0, a NaN or an infinity that
the reference does not have has error inf, a bound of inf is undecided: ratio 0, and no z.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from verify._errors import SuiteError
from verify._reference import CHANNELS, FLOAT32_TINY, TOKENS, Reference

FLOAT32_HUGE = 2.0**126


@dataclass(frozen=True)
class Measurement:
    """One output of one case, at the rows that the reference keeps.

    Attributes:
        output: h, n, m, C_last, n_last, m_last, or a gradient: dq, dk, dv, di, df, dC_0, dn_0, dm_0.
        normwise, componentwise, ratio: see the head of this module.
        rms_z, largest_z: see there; NaN if the reference has no noise floor.
        normwise_bound: ||bound||_F / ||r||_F: what rounding may reach; a finer error goes unseen.
        worst: index of the largest ratio, and what was got and wanted there.
        nonfinite: elements that are NaN or infinite and should not be; NaN in any row counts.
        undecided: share of elements whose bound is at least |r|, about which nothing can be said.
        digest: BLAKE2b of the output's bytes in C order, as returned: equal means bitwise equal.
    """

    output: str
    normwise: float
    componentwise: float
    ratio: float
    rms_z: float
    largest_z: float
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
    exact = {name: array.astype(np.float64) for name, array in outputs.items()}
    if "m_last" in outputs:
        exact = brought_to(exact, reference.values["m_last"])
    return [_measure_one(name, actual, reference, outputs[name]) for name, actual in exact.items()]


def brought_to(outputs: dict[str, np.ndarray], m_last: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs, float64, with C_last and n_last relative to this m_last: they mean something only together."""
    with np.errstate(invalid="ignore", over="ignore"):
        same = outputs["m_last"] == m_last
        factor = np.exp(np.where(same, 0.0, outputs["m_last"] - m_last))
        return {
            **outputs,
            "C_last": outputs["C_last"] * factor[..., None, None],
            "n_last": outputs["n_last"] * factor[..., None],
        }


def _measure_one(name: str, whole: np.ndarray, reference: Reference, returned: np.ndarray) -> Measurement:
    wanted, bound = reference.values[name], reference.bounds[name].astype(np.float64)
    if np.isnan(wanted).any() or np.isnan(bound).any():
        raise SuiteError(f"the reference of output {name} is NaN.")
    actual, unknown = reference.at_rows(name, whole), reference.unknown.get(name)
    elsewhere = 0 if unknown is not None else int(np.isnan(whole).sum() - np.isnan(actual).sum())
    if name == "n":
        # exp(-m) may leave the range of float32 on either side, and is then saturated.
        actual, wanted = (np.clip(array, FLOAT32_TINY, FLOAT32_HUGE) for array in (actual, wanted))
    actual = _saturate(actual, wanted, bound, returned.dtype)
    actual = actual if unknown is None else np.where(unknown, wanted, actual)

    finite = np.isfinite(wanted)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        error = np.where(actual == wanted, 0.0, np.abs(actual - wanted))
        error = np.where(np.isnan(error), np.inf, error)
        ratios = np.where(error == 0.0, 0.0, np.where(np.isinf(bound) & np.isfinite(actual), 0.0, error / bound))
        ratios = np.where(np.isnan(ratios), np.inf, ratios)
        relative = np.where((wanted == 0.0) | (error == 0.0), 0.0, error / np.abs(wanted))
        relative = np.where(np.isnan(relative), np.inf, relative)
    worst = np.unravel_index(int(np.argmax(ratios)), ratios.shape)
    rms_z, largest_z = _z(error, bound, _noise_of(name, reference))
    norm = float(np.linalg.norm(wanted[finite]))
    return Measurement(
        output=name,
        normwise=_quotient(float(np.linalg.norm(error)), norm),
        componentwise=float(relative.max()),
        ratio=float(ratios.max()),
        rms_z=rms_z,
        largest_z=largest_z,
        normwise_bound=_quotient(float(np.linalg.norm(bound[finite])), norm),
        worst=_place(name, worst, reference),
        got=float(actual[worst]),
        wanted=float(wanted[worst]),
        nonfinite=int(np.sum(~np.isfinite(actual) & (actual != wanted))) + elsewhere,
        undecided=float(np.mean(bound >= np.maximum(np.abs(wanted), FLOAT32_TINY))),
        digest=hashlib.blake2b(returned.tobytes(), digest_size=16).hexdigest(),
    )


def _noise_of(name: str, reference: Reference) -> np.ndarray | None:
    noise = reference.noise.get(name)
    return noise[..., None] if noise is not None and name in CHANNELS else noise


def _z(error: np.ndarray, bound: np.ndarray, noise: np.ndarray | None) -> tuple[float, float]:
    """The root mean square and the largest z, over what is decided and can be off at all."""
    if noise is None:
        return float("nan"), float("nan")
    noise = np.broadcast_to(noise, error.shape).astype(np.float64)
    counted = np.isfinite(bound) & np.isfinite(noise) & ((noise > 0.0) | (error > 0.0))
    if not counted.any():
        return 0.0, 0.0
    with np.errstate(divide="ignore", over="ignore"):
        z = error[counted] / noise[counted]
        return float(np.sqrt(np.mean(z**2))), float(z.max())


def _place(name: str, worst: tuple[np.intp, ...], reference: Reference) -> tuple[int, ...]:
    # The index in the whole output.
    place = [int(index) for index in worst]
    if reference.rows is not None and name in TOKENS:
        place[TOKENS[name]] = int(reference.rows[place[TOKENS[name]]])
    return tuple(place)


def _saturate(actual: np.ndarray, wanted: np.ndarray, bound: np.ndarray, dtype: np.dtype) -> np.ndarray:
    # Where the right value is beyond the largest number of the dtype, or rounding may carry it there, inf is right.
    largest = float(ml_dtypes.finfo(dtype).max)
    same_side = np.isfinite(wanted) & (np.sign(actual) == np.sign(wanted))
    overflow = np.isinf(actual) & same_side & (np.abs(wanted) + bound >= largest)
    return np.where(overflow, wanted, actual)


def _quotient(error: float, norm: float) -> float:
    if error == 0.0:
        return 0.0
    return error / norm if norm > 0.0 else float("inf")
