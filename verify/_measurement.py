"""How far an output is from the reference, in four ways.

    normwise       ||x - r||_F / ||r||_F
    componentwise  max_j |x_j - r_j| / |r_j|          over r_j != 0
    ratio          max_j |x_j - r_j| / bound_j        the running error bound of the reference
    z              |x_j - r_j| / noise_j              the noise floor of its row: the root mean square, and the largest

Total for every pair of floats: equal values (infinities too) have error 0, a NaN or an infinity that
the reference does not have has error inf, a bound of inf is undecided: ratio 0, and no z. By what the oracle may be off
itself the bound is larger and the |x_j - r_j| of z smaller.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from math import nan

import numpy as np

from verify._curve import Curve, curve_of
from verify._error_scales import FLOAT32_TINY
from verify._errors import SuiteError
from verify._reference import CHANNELS, TOKENS, Reference

FLOAT32_HUGE = 2.0**126


@dataclass(frozen=True, eq=False)
class Measurement:
    """One output of one case, at the rows that the reference keeps.

    Attributes:
        output: h, n, m, C_last, n_last, m_last, or a gradient: dq, dk, dv, di, df, dC_0, dn_0, dm_0.
        normwise, componentwise, ratio: see the head of this module.
        rms_z, largest_z: see there; NaN if the reference has no noise floor.
        counted: how many elements these are of: what is decided and can be off at all.
        normwise_bound: ||bound||_F / ||r||_F: what rounding may reach; a finer error goes unseen.
        worst: index of the largest ratio, and what was got and wanted there.
        nonfinite: elements that are NaN or infinite and should not be; NaN in any row counts.
        kinds: these by what was got: ``nan``, ``inf``, ``-inf``; and ``finite``, where infinity was wanted.
        undecided: share of elements whose bound is at least |r|, about which nothing can be said.
        uncertain: share of elements whose bound is mostly what the oracle may be off.
        growth, noise_growth: exponents of the error, and of the noise floor, along the sequence (``verify._curve``).
        curve: error, noise floor and bound along the sequence; None of an output without tokens.
        digest: BLAKE2b of the output's bytes in C order, as returned: equal means bitwise equal.
    """

    output: str
    normwise: float
    componentwise: float
    ratio: float
    rms_z: float
    largest_z: float
    counted: int
    normwise_bound: float
    worst: tuple[int, ...]
    got: float
    wanted: float
    nonfinite: int
    kinds: dict[str, int]
    undecided: float
    uncertain: float
    growth: float
    noise_growth: float
    curve: Curve | None
    digest: str

    def __eq__(self, other: object) -> bool:
        # By all digits, as NaN, which a dataclass of Python 3.13 finds unequal to itself, says that there is no value.
        return isinstance(other, Measurement) and repr(self) == repr(other)

    __hash__ = None  # type: ignore[assignment]  # it has a dict


def measure(outputs: dict[str, np.ndarray], reference: Reference) -> list[Measurement]:
    """Measure every output that the subject returned; shapes must already fit.

    Raises:
        SuiteError: if the reference itself is NaN, or one of its bounds.
    """
    exact = {name: array.astype(np.float64) for name, array in outputs.items()}
    if "m_last" in outputs:
        exact = brought_to(exact, reference.values["m_last"])
    return [measure_one(name, actual, reference, outputs[name]) for name, actual in exact.items()]


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


@dataclass(frozen=True)
class _Comparison:
    """An output beside its reference, at the rows that this keeps; ``elsewhere`` counts NaN in other rows."""

    actual: np.ndarray
    wanted: np.ndarray
    bound: np.ndarray
    error: np.ndarray
    elsewhere: int

    @classmethod
    def of(cls, name: str, whole: np.ndarray, reference: Reference, dtype: np.dtype) -> _Comparison:
        wanted, bound = reference.values[name], reference.bounds[name].astype(np.float64)
        if np.isnan(wanted).any() or np.isnan(bound).any():
            raise SuiteError(f"the reference of output {name} is NaN.")
        actual, unknown = reference.at_rows(name, whole), reference.unknown.get(name)
        elsewhere = 0 if unknown is not None else int(np.isnan(whole).sum() - np.isnan(actual).sum())
        if name == "n":
            # exp(-m) may leave the range of float32 on either side, and is then saturated. No denominator is below 0.
            actual, wanted = (
                np.where(array < 0.0, array, np.clip(array, FLOAT32_TINY, FLOAT32_HUGE)) for array in (actual, wanted)
            )
        actual = _saturate(actual, wanted, bound, dtype)
        actual = actual if unknown is None else np.where(unknown, wanted, actual)
        with np.errstate(invalid="ignore"):
            error = np.where(actual == wanted, 0.0, np.abs(actual - wanted))
        return cls(actual, wanted, bound, np.where(np.isnan(error), np.inf, error), elsewhere)

    @property
    def ratios(self) -> np.ndarray:
        """error / bound; 0 for what is undecided."""
        undecided = np.isinf(self.bound) & np.isfinite(self.actual)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            ratios = np.where((self.error == 0.0) | undecided, 0.0, self.error / self.bound)
        return np.where(np.isnan(ratios), np.inf, ratios)

    @property
    def componentwise(self) -> float:
        """The largest relative error, where the reference is not 0."""
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            relative = np.where((self.wanted == 0.0) | (self.error == 0.0), 0.0, self.error / np.abs(self.wanted))
        return float(np.where(np.isnan(relative), np.inf, relative).max())

    @property
    def kinds(self) -> dict[str, int]:
        """What is not finite and should be, or the other way round, by kind."""
        wrong = self.actual != self.wanted
        counts = {
            "nan": int(np.isnan(self.actual).sum()) + self.elsewhere,
            "inf": int(np.sum(wrong & (self.actual == np.inf))),
            "-inf": int(np.sum(wrong & (self.actual == -np.inf))),
            "finite": int(np.sum(np.isfinite(self.actual) & np.isinf(self.wanted))),
        }
        return {kind: count for kind, count in counts.items() if count}


def measure_one(name: str, whole: np.ndarray, reference: Reference, returned: np.ndarray) -> Measurement:
    """Measure one output, ``whole`` in float64 and as it was returned."""
    compared = _Comparison.of(name, whole, reference, returned.dtype)
    wanted, bound, ratios, kinds = compared.wanted, compared.bound, compared.ratios, compared.kinds
    oracle = np.asarray(reference.errors.get(name, 0.0), np.float64)
    worst = np.unravel_index(int(np.argmax(ratios)), ratios.shape)
    scales = _Scales.of(name, compared, oracle, reference)
    curve = scales.curve(name, whole, reference)
    growth, noise_growth = curve.growth() if curve else (nan, nan)
    finite = np.isfinite(wanted)
    norm = float(np.linalg.norm(wanted[finite]))
    return Measurement(
        output=name,
        normwise=_quotient(float(np.linalg.norm(compared.error)), norm),
        componentwise=compared.componentwise,
        ratio=float(ratios.max()),
        rms_z=scales.rms_z,
        largest_z=scales.largest_z,
        counted=scales.z.size if scales.noise is not None else 0,
        normwise_bound=_quotient(float(np.linalg.norm(bound[finite])), norm),
        worst=_place(name, worst, reference),
        got=float(compared.actual[worst]),
        wanted=float(wanted[worst]),
        nonfinite=sum(count for kind, count in kinds.items() if kind != "finite"),
        kinds=kinds,
        undecided=float(np.mean(bound >= np.maximum(np.abs(wanted), FLOAT32_TINY))),
        uncertain=float(np.mean(np.isfinite(bound) & (2.0 * oracle > bound))),
        growth=growth,
        noise_growth=noise_growth,
        curve=curve,
        digest=hashlib.blake2b(returned.tobytes(), digest_size=16).hexdigest(),
    )


def measure_elements(
    name: str, whole: np.ndarray, reference: Reference, returned: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(ratio, z) of every element, as their largest are in the measurement; z is 0 of what is not counted."""
    compared = _Comparison.of(name, whole, reference, returned.dtype)
    scales = _Scales.of(name, compared, np.asarray(reference.errors.get(name, 0.0), np.float64), reference)
    z = np.zeros(compared.error.shape)
    if scales.noise is not None:
        z[scales.counted] = scales.z
    return compared.ratios, z


@dataclass(frozen=True)
class _Scales:
    """The error beyond what the oracle may be off, the bound, and the noise floor (or None), over what counts."""

    error: np.ndarray
    bound: np.ndarray
    noise: np.ndarray | None

    @classmethod
    def of(cls, name: str, compared: _Comparison, oracle: np.ndarray, reference: Reference) -> _Scales:
        with np.errstate(invalid="ignore"):
            error = np.maximum(compared.error - oracle, 0.0)
        noise = reference.noise.get(name)
        if noise is not None:
            noise = noise[..., None] if name in CHANNELS else noise
            noise = np.broadcast_to(noise, error.shape).astype(np.float64)
        return cls(np.where(np.isnan(error), np.inf, error), compared.bound, noise)

    @functools.cached_property
    def counted(self) -> np.ndarray:
        """What is decided and can be off at all."""
        assert self.noise is not None
        return np.isfinite(self.bound) & np.isfinite(self.noise) & ((self.noise > 0.0) | (self.error > 0.0))

    @functools.cached_property
    def z(self) -> np.ndarray:
        """Of every element that is counted."""
        if self.noise is None:
            return np.array([nan])
        with np.errstate(divide="ignore", over="ignore"):
            return self.error[self.counted] / self.noise[self.counted]

    @property
    def rms_z(self) -> float:
        """The root mean square of z; 0 without any."""
        with np.errstate(over="ignore"):
            return float(np.sqrt(np.mean(self.z**2))) if self.z.size else 0.0

    @property
    def largest_z(self) -> float:
        """The largest z; 0 without any."""
        return float(np.max(self.z, initial=0.0))

    def curve(self, name: str, whole: np.ndarray, reference: Reference) -> Curve | None:
        """Along the tokens, of an output that has some."""
        if name not in TOKENS:
            return None
        axis, length = TOKENS[name], whole.shape[TOKENS[name]]
        counted = np.isfinite(self.bound)
        noise = np.full(self.error.shape, nan) if self.noise is None else self.noise
        others = tuple(dim for dim in range(counted.ndim) if dim != counted.ndim + axis)
        with np.errstate(over="ignore"):
            squares = [
                np.sum(np.where(counted, part, 0.0) ** 2, axis=others) for part in (self.error, noise, self.bound)
            ]
        tokens = np.arange(length) if reference.rows is None else reference.rows
        return curve_of(name, length, tokens, squares, np.sum(counted, axis=others))


def _place(name: str, worst: tuple[np.intp, ...], reference: Reference) -> tuple[int, ...]:
    # The index in the whole output.
    place = [int(index) for index in worst]
    if reference.rows is not None and name in TOKENS:
        place[TOKENS[name]] = int(reference.rows[place[TOKENS[name]]])
    return tuple(place)


def _saturate(actual: np.ndarray, wanted: np.ndarray, bound: np.ndarray, dtype: np.dtype) -> np.ndarray:
    # Where the right value is beyond the largest number of the dtype, or rounding may carry it there, inf is right.
    import ml_dtypes

    largest = float(ml_dtypes.finfo(dtype).max)
    with np.errstate(invalid="ignore"):
        reached = np.sign(actual) * wanted + bound >= largest
    return np.where(np.isinf(actual) & np.isfinite(wanted) & reached, wanted, actual)


def _quotient(error: float, norm: float) -> float:
    if error == 0.0:
        return 0.0
    return error / norm if norm > 0.0 else float("inf")
