"""Which stages are out, and where the first of them begins.

A stage is out by the rule of the verdict: it has a NaN or an infinity that it should not have, an element beyond its
running error bound, or, where it is the quantity of an output at another token, RMS z or a z beyond that output's
calibrated threshold. An element is out by the same rule, RMS z aside. First is the first stage in the order of the
dataflow, and in it the first chunk and step in the direction of the pass, and there the element that is furthest out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from oracles import Precision
from verify._calibration import thresholds
from verify._errors import UsageError
from verify._measurement import Measurement, brought_to, measure_elements, measure_one
from verify._reference import Reference
from verify._trace._stages import FRAMES, STAGES, Stage, Stages
from verify._verdict import Finding, finding

# What is relative to the m' that enters a chunk or block, and to that of a step; the sign of m' in the exponent.
_OF_ENTERING = {"C_entering": 1, "n_entering": 1, "carry_x": -1, "carry_gamma": -1}
_OF_STEP = {"a": 1, "inverse": -1, "gamma": -1}
_OF_BLOCK_END = {"dC_leaving": -1, "dn_leaving": -1}
_OF_LAST = {"dC_last": -1, "dn_last": -1}
_AROUND = 2


@dataclass(frozen=True)
class Judged:
    """One stage of the subject, beside the oracle's.

    Attributes:
        stage: which.
        got: brought to the oracle's frame, float64.
        wanted, ratios, z: of the oracle, and in units of the bound and of the noise floor; by element.
        measured: as of an output.
        found: the check that comes nearest to its threshold, or is furthest beyond.
    """

    stage: Stage
    got: np.ndarray
    wanted: np.ndarray
    ratios: np.ndarray
    z: np.ndarray
    measured: Measurement
    found: Finding

    @property
    def is_out(self) -> bool:
        """Whether correct kernels do not get there."""
        return self.found.excess > 1.0

    @property
    def excess(self) -> np.ndarray:
        """Of every element, over the threshold that it comes nearest to."""
        like = self.stage.like
        by_noise = self.z / thresholds()["largest_z"][like].threshold if like else np.zeros(self.z.shape)
        return np.maximum(self.ratios, by_noise)

    def out(self) -> np.ndarray:
        """The elements that are out; of a stage that is so by RMS z alone, the chunks or steps that are."""
        elements = self.excess > 1.0
        if elements.any() or not self.is_out:
            return elements
        axis = self.flow_axis
        if axis is None:
            return np.ones(elements.shape, bool)
        others = tuple(dim for dim in range(elements.ndim) if dim != axis)
        rms = np.sqrt(np.mean(self.z**2, axis=others, keepdims=True))
        # The limit of few numbers is wider: of a stage that is out as a whole no chunk need be.
        limit = min(thresholds()["rms_z"][self.stage.like or ""].threshold, float(rms.max()))
        return np.broadcast_to(rms >= limit, elements.shape)

    @property
    def flow_axis(self) -> int | None:
        """The axis along which the pass runs."""
        names = self.stage.index_names
        return next((names.index(name) for name in ("chunk", "block", "step") if name in names), None)

    def first(self) -> tuple[int, ...]:
        """The index of the first element that is out, of those at one step the one that is furthest."""
        out = self.out()
        axis = self.flow_axis
        if axis is not None:
            others = tuple(dim for dim in range(out.ndim) if dim != axis)
            along = np.flatnonzero(out.any(axis=others))
            here = along[-1 if self.stage.backward else 0]
            shape = [1] * out.ndim
            shape[axis] = out.shape[axis]
            out = out & (np.arange(out.shape[axis]) == here).reshape(shape)
        score = np.where(out, np.maximum(self.excess, np.finfo(float).tiny), -1.0)
        return tuple(int(index) for index in np.unravel_index(int(np.argmax(score)), score.shape))


@dataclass(frozen=True)
class Place:
    """An element of a stage.

    Attributes:
        stage: which.
        index: by axis: batch, head, chunk or block or step, qk, hv.
        chunk, step: of the subject's chunks and of the sequence; the step that the chunk or block begins with for a
            state that enters it, the one it ends with for a gradient that enters it from behind; -1 for none.
        got, wanted, ratio, z: there.
    """

    stage: str
    index: dict[str, int]
    chunk: int
    step: int
    got: float
    wanted: float
    ratio: float
    z: float


def judge_stages(stages: Stages, reference: Reference, frames: dict[str, np.ndarray]) -> list[Judged]:
    """All stages that the subject has, in the order of the dataflow.

    Raises:
        UsageError: if an array has another shape than its stage.
    """
    _check_shapes(stages, reference, frames)
    framed, reference = _in_frames(stages, frames, reference)
    return [_judge(stage, framed[stage.name], reference, stages) for stage in STAGES if stage.name in framed]


def _judge(stage: Stage, got: np.ndarray, reference: Reference, stages: Stages) -> Judged:
    returned = stages.arrays[stage.name]
    ratios, z = measure_elements(stage.name, got, reference, returned)
    measured = measure_one(stage.name, got, reference, returned)
    if stage.like is None:
        found = Finding(stage.name, "ratio", measured.ratio)
        if measured.nonfinite:
            found = Finding(stage.name, "nonfinite", float("inf"))
    else:
        found = replace(finding([replace(measured, output=stage.like)]), output=stage.name)
    return Judged(stage, got, reference.values[stage.name], ratios, z, measured, found)


def _check_shapes(stages: Stages, reference: Reference, frames: dict[str, np.ndarray]) -> None:
    wanted = {name: array.shape for name, array in (reference.values | frames).items()}
    for name, array in stages.arrays.items():
        if name not in wanted:
            raise UsageError(f"the subject has a stage {name}, which this case has not.")
        if array.shape != wanted[name]:
            raise UsageError(f"stage {name} has shape {array.shape}; expected {wanted[name]}.")


def _in_frames(
    stages: Stages, frames: dict[str, np.ndarray], reference: Reference
) -> tuple[dict[str, np.ndarray], Reference]:
    """In float64 and relative to the oracle's m', whatever m' the subject has chosen; and the reference of that.

    A subject that has another m' has had its own exp and product to get there, whose rounding it is allowed.
    """
    exact = {name: array.astype(np.float64) for name, array in stages.arrays.items()}
    shifts = _Shifts(exact, frames, stages)
    bounds, noise, unit = dict(reference.bounds), dict(reference.noise), Precision.of("float32").gates
    with np.errstate(invalid="ignore", over="ignore"):
        if {"C_last", "n_last", "m_last"} <= set(exact):
            exact = brought_to(exact, reference.values["m_last"])
        for name in set(exact) - set(FRAMES):
            shift = shifts.of(name, exact[name])
            if shift is None:
                continue
            exact[name] = np.where(exact[name] == 0.0, 0.0, exact[name] * np.exp(shift))
            size = np.where((shift != 0.0) & np.isfinite(shift), np.abs(reference.values[name]), 0.0)
            magnitude = np.where(np.isfinite(shift), np.abs(shift), 0.0)
            # As RunningError and MonteCarlo charge an exp, and a product.
            bounds[name] = bounds[name] + unit * (5.0 + 2.0 * magnitude) * size
            if name in noise:
                off = unit * (2.0 + magnitude) * size
                noise[name] = np.hypot(noise[name], np.sqrt(np.mean(off**2, axis=-1, keepdims=True)))
    framed = {name: array for name, array in exact.items() if name not in FRAMES}
    return framed, replace(reference, bounds=bounds, noise=noise)


class _Shifts:
    """The subject's m' less the oracle's, where each stage needs it; what a subject has not is the m it has."""

    def __init__(self, exact: dict[str, np.ndarray], frames: dict[str, np.ndarray], stages: Stages) -> None:
        self.size, self.every = stages.block_size, stages.chunk_size // stages.block_size
        with np.errstate(invalid="ignore"):
            self.step, self.entering = (
                _difference(exact.get(name, exact.get(m)), frames[name])
                for name, m in (("inner", "m"), ("inner_entering", "m_entering"))
            )

    def of(self, name: str, array: np.ndarray) -> np.ndarray | None:
        """What must be added to the exponents of an array, with as many axes; None for nothing."""
        shift = self._shift(name, array)
        return None if shift is None else shift.reshape(shift.shape + (1,) * (array.ndim - shift.ndim))

    def _shift(self, name: str, array: np.ndarray) -> np.ndarray | None:
        if name in _OF_ENTERING and self.entering is not None:
            per_token = name.startswith("carry")
            at = np.repeat(self.entering, self.size, -1) if per_token else self.entering[..., :: self.every]
            return _OF_ENTERING[name] * (at[..., : array.shape[2]])
        if self.step is None:
            return None
        ends = np.append(np.arange(self.size - 1, self.step.shape[-1] - 1, self.size), self.step.shape[-1] - 1)
        if name in _OF_STEP:
            return _OF_STEP[name] * self.step
        if name in _OF_BLOCK_END:
            return _OF_BLOCK_END[name] * self.step[..., ends]
        if name in _OF_LAST:
            return _OF_LAST[name] * self.step[..., -1]
        if name == "kept" and self.entering is not None:
            return self.step[..., ends] - self.entering
        return None


def _difference(got: np.ndarray | None, wanted: np.ndarray) -> np.ndarray | None:
    return None if got is None else np.where(got == wanted, 0.0, got - wanted)


def place_of(judged: Judged, index: tuple[int, ...], stages: Stages, length: int) -> Place:
    """The element at an index."""
    named = dict(zip(judged.stage.index_names, index, strict=True))
    size = {"chunk": stages.chunk_size, "block": stages.block_size}
    step = named.get("step", -1)
    for axis in ("chunk", "block"):
        if axis in named:
            behind = judged.stage.backward and axis == "block"
            step = min((named[axis] + 1) * size[axis], length) - 1 if behind else named[axis] * size[axis]
    if judged.stage.axes[:1] not in (("chunk",), ("block",), ("step",)):
        # Of the last state, or of the initial one.
        step = 0 if judged.stage.name.endswith("_0") else length - 1
    values = (float(array[index]) for array in (judged.got, judged.wanted, judged.ratios, judged.z))
    return Place(judged.stage.name, named, step // stages.chunk_size, step, *values)


def around(judged: Judged, index: tuple[int, ...], stages: Stages, length: int) -> list[Place]:
    """The elements beside one, along the direction of the pass, or along the last axis where there is none."""
    axis = judged.flow_axis
    axis = len(index) - 1 if axis is None else axis
    last = judged.got.shape[axis]
    near = range(max(0, index[axis] - _AROUND), min(last, index[axis] + _AROUND + 1))
    return [place_of(judged, (*index[:axis], here, *index[axis + 1 :]), stages, length) for here in near]


def spread(judged: Judged) -> dict[str, Any]:
    """How much of the stage is out: the share of its elements, and the indices along batch, head and the pass."""
    out = judged.out()
    names = judged.stage.index_names
    axes = [0, 1] + ([judged.flow_axis] if judged.flow_axis is not None else [])
    told: dict[str, Any] = {"elements": int(out.sum()), "of": int(out.size)}
    for axis in axes:
        others = tuple(dim for dim in range(out.ndim) if dim != axis)
        told[names[axis]] = np.flatnonzero(out.any(axis=others)).tolist()
    return told


def program_of(place: Place, stages: Stages, heads: int) -> dict[str, Any] | None:
    """The kernel and the program that computed the element; None if the subject does not say.

    Returns:
        kernel; pid, programs, and the index along each axis of the grid, unless no kernel computes it. An axis
        along which every program has a share is ``null``, and pid the first of them.
    """
    known = stages.programs.get(place.stage)
    if known is None:
        return None
    coordinates = {"head": place.index["batch"] * heads + place.index["head"], "token": place.step}
    coordinates |= {name: place.index[name] for name in ("qk", "hv") if name in place.index}
    pid, programs, indices = 0, 1, dict[str, int | None]()
    for name, count, coordinate, size, period in known["axes"]:
        value = coordinates[coordinate] if isinstance(coordinate, str) else coordinate
        index = None if value is None else (value % period if period else value) // size
        indices[name] = index
        pid, programs = pid * count + (index or 0), programs * count
    told: dict[str, Any] = {"kernel": known["kernel"]}
    return told if not known["axes"] else told | {"pid": pid, "programs": programs, "axes": indices}
