"""The departures that are known: each a change of inputs, constants, places of the form, outputs or gradients.

What is written here is all there is of a departure: oracle, bound and noise floor are computed through it. A departure
of what goes in says what autodiff would make of the gradient; that a kernel does not pass a gradient at all is another.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import inf, log
from typing import Any

import numpy as np

from oracles import Arithmetic, Float64, MonteCarlo, RunningError
from oracles._cotangents import Adjoint
from verify._diagnosis._reading import Change, Numbers, Reading
from verify._problem import NUMPY_DTYPES

# Unit roundoff and half the distance of the subnormal numbers.
FORMATS = {"bfloat16": (2.0**-8, 2.0**-134), "float16": (2.0**-11, 2.0**-25), "tf32": (2.0**-11, 2.0**-137)}
_STATE = ("C_0", "n_0", "m_0")


@dataclass(frozen=True)
class Departure:
    """One way to depart from the contract.

    Attributes:
        axis: what it is about; of one axis there is one departure at a time.
        name: what is done, as a part of a sentence.
        backward: whether it leaves what is returned as it is, and changes gradients alone.
        apply: reading -> the reading with it; None where it changes nothing.
    """

    axis: str
    name: str
    backward: bool
    apply: Callable[[Reading], Reading | None]


def _scaled(ar: Arithmetic, numbers: Numbers, **factors: float) -> Numbers:
    present = {name: factor for name, factor in factors.items() if name in numbers}
    return numbers | {name: numbers[name] * ar.array(factor) for name, factor in present.items()}


def _scaling(**factors: float) -> Change:
    return lambda ar, numbers: _scaled(ar, numbers, **factors)


def rounded(array: np.ndarray, name: str) -> np.ndarray:
    """The nearest numbers of a format, float64."""
    if name != "tf32":
        with np.errstate(over="ignore"):
            return array.astype(np.float32).astype(NUMPY_DTYPES[name]).astype(np.float64)
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + 0x0FFF + ((bits >> 13) & 1)) & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)


def stored(ar: Arithmetic, number: Any, name: str) -> Any:
    """A number as it is kept in a format: in an arithmetic with errors one more of them."""
    if not isinstance(ar, RunningError | MonteCarlo):
        return number
    unit, tiny = FORMATS[name]
    coarse = copy.copy(ar)
    coarse.precision = replace(ar.precision, storage=unit, storage_tiny=tiny)
    return coarse.output(number)


def _storing(name: str, *outputs: str) -> Change:
    return lambda ar, numbers: numbers | {key: stored(ar, numbers[key], name) for key in outputs if key in numbers}


# Scale


def _scale_missing(reading: Reading) -> Reading:
    root = reading.case.dhqk**0.5
    return reading.with_inputs(_scaling(dq=root), q=reading.inputs.q * root)


def _scale_twice(reading: Reading) -> Reading:
    root = reading.case.dhqk**0.5
    return reading.with_inputs(_scaling(dq=1 / root), q=reading.inputs.q / root)


def _scale_on_keys_too(reading: Reading) -> Reading:
    root = reading.case.dhqk**0.5
    return reading.with_inputs(_scaling(dk=1 / root), k=reading.inputs.k / root)


def _scale_of_values(reading: Reading) -> Reading | None:
    ratio = (reading.case.dhqk / reading.case.dhhv) ** 0.5
    return reading.with_inputs(_scaling(dq=ratio), q=reading.inputs.q * ratio) if ratio != 1.0 else None


def _scale_in_state(reading: Reading) -> Reading:
    root = reading.case.dhqk**0.5
    q, k = reading.inputs.q * root, reading.inputs.k / root
    return reading.with_inputs(_scaling(dq=root, dk=1 / root), q=q, k=k)


# Gates


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return Float64().sigmoid(x)


def _log_sigmoid(x: np.ndarray) -> np.ndarray:
    return Float64().log_sigmoid(x)


def _input_sigmoid(reading: Reading) -> Reading:
    slope = _sigmoid(-reading.inputs.i)
    return reading.with_inputs(lambda ar, numbers: _times(ar, numbers, "di", slope), i=_log_sigmoid(reading.inputs.i))


def _times(ar: Arithmetic, numbers: Numbers, name: str, factor: np.ndarray) -> Numbers:
    return numbers | {name: numbers[name] * ar.array(factor)} if name in numbers else numbers


def _swapped(reading: Reading) -> Reading:
    def change(_: Arithmetic, numbers: Numbers) -> Numbers:
        return numbers | ({"di": numbers["df"], "df": numbers["di"]} if "di" in numbers else {})

    return reading.with_inputs(change, i=reading.inputs.f, f=reading.inputs.i)


def _no_sigmoid(reading: Reading) -> Reading:
    return reading.at(forgets=lambda f: (f, np.full(f.shape, np.inf)))


def _twice_sigmoid(reading: Reading) -> Reading:
    slope = _sigmoid(-reading.inputs.f)
    return reading.with_inputs(lambda ar, numbers: _times(ar, numbers, "df", slope), f=_log_sigmoid(reading.inputs.f))


def _no_forgetting(reading: Reading) -> Reading:
    return reading.with_inputs(f=np.full_like(reading.inputs.f, np.inf))


def _no_input_gate(reading: Reading) -> Reading:
    return reading.with_inputs(_scaling(di=0.0), i=np.zeros_like(reading.inputs.i))


def _own_forget_gate(reading: Reading) -> Reading:
    slope = _sigmoid(-reading.inputs.f)

    def change(ar: Arithmetic, numbers: Numbers) -> Numbers:
        return numbers | ({"df": numbers["df"] + numbers["di"] * ar.array(slope)} if "di" in numbers else {})

    return reading.with_inputs(change, i=reading.inputs.i + _log_sigmoid(reading.inputs.f))


def _forgets_rounded(name: str) -> Callable[[Reading], Reading]:
    return lambda reading: reading.at(forgets=lambda f: (rounded(_log_sigmoid(f), name), -f))


# Initial state


def _initial_ignored(reading: Reading) -> Reading | None:
    if reading.inputs.C_0 is None or reading.inputs.n_0 is None or reading.inputs.m_0 is None:
        return None
    shapes = {f"d{name}": getattr(reading.inputs, name).shape for name in _STATE}

    def change(ar: Arithmetic, numbers: Numbers) -> Numbers:
        zeros = {name: ar.array(np.zeros(shape)) for name, shape in shapes.items()}
        return numbers | (zeros if "dq" in numbers else {})

    return reading.with_inputs(change, C_0=None, n_0=None, m_0=None)


def _factor_of(name: str, factor: float) -> Callable[[Reading], Reading | None]:
    def apply(reading: Reading) -> Reading | None:
        array = getattr(reading.inputs, name)
        return (
            None if array is None else reading.with_inputs(_scaling(**{f"d{name}": factor}), **{name: factor * array})
        )

    return apply


def _no_initial_m(reading: Reading) -> Reading | None:
    if reading.inputs.C_0 is not None:
        return None
    B, NH = reading.inputs.lead
    _, dhqk, dhhv = reading.inputs.sizes

    def change(_: Arithmetic, numbers: Numbers) -> Numbers:
        return {name: number for name, number in numbers.items() if name not in ("dC_0", "dn_0", "dm_0")}

    zeros = {"C_0": np.zeros((B, NH, dhqk, dhhv)), "n_0": np.zeros((B, NH, dhqk))}
    return reading.with_inputs(change, m_0=np.full((B, NH), -np.inf), **zeros)


# Constants


def _constants(**constants: Any) -> Callable[[Reading], Reading | None]:
    def apply(reading: Reading) -> Reading | None:
        contract = replace(reading.contract, **constants)
        return None if contract == reading.contract else replace(reading, contract=contract)

    return apply


def _eps_at(place: str) -> Callable[[Reading], Reading | None]:
    return lambda reading: reading.at(eps=place) if reading.contract.eps else None


# What is returned


def _m_in_base_2(reading: Reading) -> Reading:
    of_base = 1 / log(2.0)
    cotangents = reading.cotangents
    if cotangents is not None and cotangents.m_last is not None:
        cotangents = replace(cotangents, m_last=cotangents.m_last * of_base)
    return reading.changing(_scaling(m=of_base, m_last=of_base), cotangents=cotangents)


def _last_of(tokens: Callable[[Reading], int]) -> Callable[[Reading], Reading | None]:
    def apply(reading: Reading) -> Reading | None:
        length = tokens(reading)
        return replace(reading, last_length=length) if 0 < length < reading.case.length else None

    return apply


def _h_stored(name: str) -> Callable[[Reading], Reading | None]:
    def apply(reading: Reading) -> Reading | None:
        if reading.case.dtype == name:
            return None
        return reading.changing(_storing(name, "h"), slack={"h": FORMATS[name][0]})

    return apply


def _carried(name: str) -> Callable[[Reading], Reading | None]:
    def apply(reading: Reading) -> Reading | None:
        if reading.case.length <= reading.case.chunk_size:
            return None
        changed = reading.at(carry=lambda ar, matrix: stored(ar, matrix, name))
        return replace(changed, coarseness=FORMATS[name][0])

    return apply


# Casts


def _cast(name: str, *inputs: str) -> Callable[[Reading], Reading | None]:
    def apply(reading: Reading) -> Reading | None:
        arrays = {key: getattr(reading.inputs, key) for key in inputs if getattr(reading.inputs, key) is not None}
        cast = {key: rounded(array, name) for key, array in arrays.items()}
        if all(np.array_equal(cast[key], arrays[key]) for key in cast):
            return None
        gradients = [f"d{key}" for key in cast]
        slack = dict.fromkeys(gradients, FORMATS[name][0])
        return reading.with_inputs(_storing(name, *gradients), **cast).changing(None, slack=slack)

    return apply


# Gradients


def _gradients(change: Callable[[Reading], Change], **slack: float) -> Callable[[Reading], Reading | None]:
    def apply(reading: Reading) -> Reading | None:
        return None if reading.cotangents is None else reading.changing(change(reading), slack=slack)

    return apply


def _gradient_places(**places: Any) -> Callable[[Reading], Reading | None]:
    return lambda reading: None if reading.cotangents is None else reading.at(**places)


def _no_cotangent(*names: str) -> Callable[[Reading], Reading | None]:
    def apply(reading: Reading) -> Reading | None:
        given = reading.cotangents
        if given is None or all(getattr(given, name) is None for name in names):
            return None
        return replace(reading, cotangents=replace(given, **dict.fromkeys(names)))

    return apply


def _cotangent_of_h_rounded(name: str) -> Callable[[Reading], Reading | None]:
    def apply(reading: Reading) -> Reading | None:
        given = reading.cotangents
        if given is None or given.h is None or reading.case.dtype == name:
            return None
        return replace(reading, cotangents=replace(given, h=rounded(given.h, name)))

    return apply


def _zero(name: str) -> Callable[[Reading], Reading | None]:
    return _gradients(lambda _: _scaling(**{name: 0.0}))


def _scaled_gradient(name: str, power: float) -> Callable[[Reading], Reading | None]:
    return _gradients(lambda reading: _scaling(**{name: reading.case.dhqk**power}))


def _constant_as_correct(reading: Reading) -> Reading | None:
    if reading.cotangents is None or reading.problem.contract.stabilize_correctly:
        return None
    return reading.at(kappa_correct=True)


def _as_asked(reading: Reading) -> Reading | None:
    asked = reading.problem.contract.stabilize_correctly
    if reading.cotangents is None or reading.contract.stabilize_correctly == asked:
        return None
    return reading.at(kappa_correct=asked)


def _eps_not_differentiated(reading: Reading) -> Reading | None:
    inside = reading.cotangents is not None and reading.places.eps == "inside"
    return reading.at(eps_differentiated=False) if inside else None


def _m_0_without_m(reading: Reading) -> Change:
    C_0, n_0 = reading.inputs.C_0, reading.inputs.n_0

    def change(ar: Arithmetic, numbers: Numbers) -> Numbers:
        if "dm_0" not in numbers or C_0 is None or n_0 is None:
            return numbers
        through_state = ar.dot(numbers["dC_0"], ar.array(C_0)) + ar.sum(numbers["dn_0"] * ar.array(n_0))
        return numbers | {"dm_0": through_state}

    return change


def _di_without_m(reading: Reading) -> Change:
    k = reading.inputs.k

    def change(ar: Arithmetic, numbers: Numbers) -> Numbers:
        return numbers | ({"di": ar.sum(numbers["dk"] * ar.array(k))} if "dk" in numbers else {})

    return change


def _sum_of_differences(reading: Reading, ar: Arithmetic, numbers: Numbers) -> Any:
    """The sum of q.dq - k.dk over this token and all later ones, times sigmoid(-f)."""
    q, k, slope = ar.array(reading.inputs.q), ar.array(reading.inputs.k), _sigmoid(-reading.inputs.f)
    apart = ar.sum(q * numbers["dq"]) - ar.sum(k * numbers["dk"])
    return ar.cumsum(apart[..., ::-1], -1)[..., ::-1] * ar.array(slope)


def _df_by_sums(reading: Reading) -> Change:
    def change(ar: Arithmetic, numbers: Numbers) -> Numbers:
        if "df" not in numbers:
            return numbers
        return numbers | {"df": _sum_of_differences(reading, ar, numbers)}

    return change


def _df_with_their_noise(reading: Reading) -> Change:
    exact: dict[str, np.ndarray] = {}

    def change(ar: Arithmetic, numbers: Numbers) -> Numbers:
        if "df" not in numbers:
            return numbers
        if not exact:
            plain = {name: Float64().array(_nominal(ar, numbers[name])) for name in ("dq", "dk")}
            exact["sums"] = _sum_of_differences(reading, Float64(), plain)
        # The value stays; the errors are those of sums that cancel.
        return numbers | {"df": numbers["df"] + (_sum_of_differences(reading, ar, numbers) - ar.array(exact["sums"]))}

    return change


def _nominal(ar: Arithmetic, number: Any) -> np.ndarray:
    # Of replicates the one without errors.
    return np.asarray(number.x[0] if isinstance(ar, MonteCarlo) else ar.to_float64(number))


def _df_of_next(_: Reading) -> Change:
    def change(ar: Arithmetic, numbers: Numbers) -> Numbers:
        if "df" not in numbers:
            return numbers
        df = numbers["df"]
        return numbers | {"df": ar.concatenate([df[..., 1:], df[..., :1]])}

    return change


def _df_of_phi(reading: Reading) -> Reading | None:
    if reading.cotangents is None:
        return None
    forgets = reading.places.forgets or (lambda f: (_log_sigmoid(f), -f))
    return reading.at(forgets=lambda f: (forgets(f)[0], np.full(f.shape, np.inf)))


def _state_stops(reading: Reading) -> Reading | None:
    def stop(ar: Arithmetic, adjoint: Adjoint) -> Adjoint:
        nothing = ar.array(0.0)
        of_m = None if adjoint.D_of_m is None else nothing * adjoint.D_of_m
        return Adjoint(nothing * adjoint.D, adjoint.M, of_m)

    return _back_between_chunks(reading, stop)


def _m_stops(reading: Reading) -> Reading | None:
    def stop(ar: Arithmetic, adjoint: Adjoint) -> Adjoint:
        return replace(adjoint, M=ar.array(0.0) * adjoint.M)

    return _back_between_chunks(reading, stop)


def _back_between_chunks(reading: Reading, what: Callable[[Arithmetic, Adjoint], Adjoint]) -> Reading | None:
    if reading.cotangents is None or reading.case.length <= reading.case.chunk_size:
        return None
    return reading.at(carry_back=what)


def _carried_back(name: str) -> Callable[[Reading], Reading | None]:
    def keep(ar: Arithmetic, adjoint: Adjoint) -> Adjoint:
        of_m = None if adjoint.D_of_m is None else stored(ar, adjoint.D_of_m, name)
        return Adjoint(stored(ar, adjoint.D, name), adjoint.M, of_m)

    def apply(reading: Reading) -> Reading | None:
        changed = _back_between_chunks(reading, keep)
        return None if changed is None else replace(changed, coarseness=FORMATS[name][0])

    return apply


def _all() -> Iterator[Departure]:
    def forward(axis: str, name: str, apply: Callable[[Reading], Reading | None]) -> Departure:
        return Departure(axis, name, False, apply)

    def backward(axis: str, name: str, apply: Callable[[Reading], Reading | None]) -> Departure:
        return Departure(axis, name, True, apply)

    yield forward("mode", "norm_val is not scaled by exp(-m)", _constants(stabilize_correctly=False))
    yield forward(
        "mode", "norm_val is scaled by exp(-m) in the mode constant too", _constants(stabilize_correctly=True)
    )
    yield forward("norm_val", "norm_val is taken for 1", _constants(norm_val=1.0))
    yield forward("norm_val", "norm_val is ignored, the denominator is |q.n| + eps", _constants(norm_val=0.0))
    yield forward("eps", "eps is inside the maximum", _eps_at("inside"))
    yield forward("eps", "eps is ignored", _constants(eps=0.0))
    yield forward("eps", "eps is taken for 1e-6", _constants(eps=1e-6))
    yield forward("eps", "eps is not scaled to the stabilizer in use", _eps_at("unscaled"))
    yield forward("absolute value", "q.n has no absolute value", lambda reading: reading.at(absolute=False))
    yield forward("scale", "the scale DHQK^-1/2 is missing", _scale_missing)
    yield forward("scale", "the scale is 1/DHQK", _scale_twice)
    yield forward("scale", "the keys are scaled by DHQK^-1/2 once more, also in the state", _scale_on_keys_too)
    yield forward("scale", "the scale is DHHV^-1/2", _scale_of_values)
    yield forward("scale", "the scale is on the keys, and so in the state", _scale_in_state)
    yield forward("input gate", "the input gate is sigmoid(i), not exp(i)", _input_sigmoid)
    yield forward("input gate", "the input gate is ignored", _no_input_gate)
    yield forward("input gate", "a token is decayed by its own forget gate", _own_forget_gate)
    yield forward("gates", "i and f are swapped", _swapped)
    yield forward("forget gate", "f is taken for log sigmoid(f)", _no_sigmoid)
    yield forward("forget gate", "log sigmoid is applied twice to f", _twice_sigmoid)
    yield forward("forget gate", "the forget gate is ignored", _no_forgetting)
    yield forward("initial state", "the initial state is ignored", _initial_ignored)
    yield forward("initial state", "C_0 is taken for 0", _factor_of("C_0", 0.0))
    yield forward("initial state", "n_0 is taken for 0", _factor_of("n_0", 0.0))
    yield forward("m_0", "m_0 is taken for 0", _factor_of("m_0", 0.0))
    yield forward("m_0", "m_0 is read in units of log 2", _factor_of("m_0", log(2.0)))
    yield forward("m_0", "m_0 is multiplied by log2 e", _factor_of("m_0", 1 / log(2.0)))
    yield forward("m_0", "without an initial state m_0 is -inf, not 0", _no_initial_m)
    yield forward("units of m", "m is returned in units of log 2", _m_in_base_2)
    yield forward("last state", "the last state is not scaled by exp(-m)", lambda reading: reading.at(last="zero"))
    yield forward("last state", "the last state is relative to another m", lambda reading: reading.at(last="inner"))
    yield forward("last state", "n_last is relative to another m", lambda reading: reading.at(last="n inner"))
    yield forward(
        "last state", "the last state lacks the last token", _last_of(lambda reading: reading.case.length - 1)
    )
    yield forward("last state", "the last state has whole chunks alone", _last_of(_whole_chunks))
    for name in FORMATS:
        yield forward("cast of q, k, v", f"q, k and v are cast to {name}", _cast(name, "q", "k", "v"))
    for name in ("bfloat16", "float16"):
        yield forward("cast of i", f"i is cast to {name}", _cast(name, "i"))
        yield forward("cast of f", f"f is cast to {name}", _cast(name, "f"))
        yield forward("cast of f", f"log sigmoid(f) is cast to {name}", _forgets_rounded(name))
        yield forward("cast of the initial state", f"the initial state is cast to {name}", _cast(name, *_STATE))
        yield forward("storage of h", f"h is rounded to {name}", _h_stored(name))
        yield forward("storage of states", f"states are kept in {name} between chunks", _carried(name))

    dropped = {"through_qn": False, "through_m": False, "through_m_last": False}
    yield backward("normalizer", "the normalizer's gradient is dropped (detached)", _gradient_places(**dropped))
    yield backward("normalizer", "the gradient of |q.n| is dropped", _gradient_places(through_qn=False))
    yield backward("normalizer", "the gradient of |q.n| has the sign of q.n's", _gradient_places(signed=False))
    through_m = {"through_m": False, "through_m_last": False}
    yield backward("stabilizer", "the stabilizer's gradient is dropped", _gradient_places(**through_m))
    yield backward("stabilizer", "the gradient of rows through m is dropped", _gradient_places(through_m=False))
    yield backward("stabilizer", "the mode constant is differentiated as correct", _constant_as_correct)
    yield backward("stabilizer", "the gradient through m is that of the mode asked for", _as_asked)
    yield backward("eps gradient", "the gradient is that of an eps outside the maximum", _eps_not_differentiated)
    yield backward("stabilizer", "the stabilizer's gradient stops at chunk edges", _m_stops)
    yield backward("state gradient", "the gradient of the state stops at chunk edges", _state_stops)
    yield backward("di", "di lacks the stabilizer's gradient", _gradients(_di_without_m))
    yield backward("dm_0", "dm_0 lacks the stabilizer's gradient", _gradients(_m_0_without_m))
    for name in ("dC_0", "dn_0", "dm_0"):
        yield backward(name, f"{name} is 0", _zero(name))
    for name in ("C_last", "n_last", "m_last"):
        yield backward(f"cotangent of {name}", f"the cotangent of {name} is ignored", _no_cotangent(name))
    yield backward("df", "df is 0", _zero("df"))
    yield backward("df", "df is that of the next token", _gradients(_df_of_next))
    yield backward("df", "df lacks the factor sigmoid(-f)", _df_of_phi)
    yield backward(
        "df", "df is a cumulative sum of q.dq - k.dk, without the last state", _gradients(_df_by_sums, df=inf)
    )
    yield backward("df", "df is a difference of cumulative sums", _gradients(_df_with_their_noise, df=inf))
    for name in ("dq", "dk"):
        yield backward(name, f"{name} lacks the scale DHQK^-1/2", _scaled_gradient(name, 0.5))
        yield backward(name, f"{name} has the scale DHQK^-1/2 twice", _scaled_gradient(name, -0.5))
    for name in ("bfloat16", "float16"):
        yield backward(
            "storage of state gradients", f"gradients of states are kept in {name} between chunks", _carried_back(name)
        )
        yield backward("cotangent of h", f"the cotangent of h is rounded to {name}", _cotangent_of_h_rounded(name))
        for gradient in ("dq", "dk", "dv"):
            slack = {gradient: FORMATS[name][0]}
            stores = _gradients(lambda _, key=gradient, kind=name: _storing(kind, key), **slack)  # type: ignore[misc]
            yield backward(f"storage of {gradient}", f"{gradient} is rounded to {name}", stores)


def _whole_chunks(reading: Reading) -> int:
    return reading.case.length // reading.case.chunk_size * reading.case.chunk_size


DEPARTURES = tuple(_all())
