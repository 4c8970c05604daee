"""The reference of every stage: what it should be, how far rounding may move it, and how far correct kernels are.

As ``verify._reference`` has it for the outputs of a case: values from float64 with the running error bound of that
computation itself, bounds from the recurrence in the case's precision (from chunks, where a token has no such stage),
the noise floor by Monte Carlo arithmetic in both orders, of which the noisier counts.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from oracles import MonteCarlo, Precision, RunningError
from verify._case import Case
from verify._errors import UsageError
from verify._measurement import FLOAT32_HUGE
from verify._problem import Problem
from verify._reference import (
    BY_TOKENS_UP_TO,
    CHANNELS,
    FLOAT32_TINY,
    REPLICATES,
    Reference,
    _allow_conversion_of_m,
    _may_leave_float32,
    _root_mean_square,
    _rounded_up,
    _underflow,
    _without_gradient,
)
from verify._trace._stages import BY_NAME, FRAMES
from verify._trace._walk import Task, by_chunks, by_tokens

# Of states between the chunks. With two replicates each copy of so many is 0.8 GiB, with sixteen it would be 4.6.
MOST_NUMBERS = 2**25
_MANY_NUMBERS = 2**21
# Stages that are stored as operands of dots.
_OPERANDS = ("C_entering", "dC_leaving")


def task_of(case: Case, problem: Problem, chunk_size: int, block_size: int) -> Task:
    """What the oracle has to walk.

    Raises:
        UsageError: if the states between the chunks are too many numbers to be held.
    """
    numbers = _numbers(case, block_size)
    if numbers > MOST_NUMBERS:
        raise UsageError(
            f"case {case.id} has {numbers:,} numbers of states; a trace takes {MOST_NUMBERS:,}: shrink it."
        )
    cotangents = problem.exact_cotangents if case.cotangents != "none" else None
    return Task(problem.inputs, problem.contract, cotangents, chunk_size, block_size)


def _numbers(case: Case, block_size: int) -> int:
    return case.batch * case.heads * case.dhqk * case.dhhv * -(-case.length // block_size)


def stage_reference(
    case: Case, problem: Problem, task: Task, replicates: int = REPLICATES
) -> tuple[Reference, dict[str, np.ndarray]]:
    """The reference of every stage, and the frames that its values are relative to.

    Only stages with calibrated thresholds have a noise floor; its last axis is 1 where the stage has channels. Without
    replicates none has.
    """
    units = Precision.of(case.dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        exact = by_chunks(RunningError(Precision.of("float64"), depth=task.chunk_size), task)
        bounding = RunningError(units, depth=task.chunk_size)
        rounded = by_chunks(bounding, task)
        if case.length <= BY_TOKENS_UP_TO:
            rounded |= by_tokens(bounding, task)
    frames = {name: np.asarray(exact.pop(name).x) for name in FRAMES}
    values = {name: np.asarray(number.x) for name, number in exact.items()}
    errors = {name: np.broadcast_to(exact[name].e, value.shape) for name, value in values.items()}
    bounds = {name: rounded[name].e + errors[name] for name in values}
    for name in set(_OPERANDS) & set(values):
        bounds[name] = bounds[name] + units.operand * np.abs(values[name])
    noise = _noise(case, task, units, values, replicates) if replicates else {}
    _convert(values, bounds, noise)
    for name, stage in BY_NAME.items():
        if stage.backward and name in bounds:
            bounds[name] = bounds[name] + _underflow(case, problem)
    unknown = _unknown(case, task, values, bounds, rounded)
    for name, beyond in unknown.items():
        values[name], bounds[name] = np.where(beyond, 0.0, values[name]), np.where(beyond, np.inf, bounds[name])
    return Reference(values, _rounded_up(bounds), unknown, _rounded_up(errors), noise), frames


def _noise(
    case: Case, task: Task, units: Precision, values: dict[str, np.ndarray], replicates: int
) -> dict[str, np.ndarray]:
    floors: dict[str, np.ndarray] = {}
    if _numbers(case, task.block_size) > _MANY_NUMBERS:
        replicates = 2
    for order in (by_chunks, by_tokens) if case.length <= BY_TOKENS_UP_TO else (by_chunks,):
        arithmetic = MonteCarlo(units, replicates, zlib.crc32(case.id.encode()), nearest=True)
        with np.errstate(invalid="ignore", over="ignore"):
            numbers = order(arithmetic, task)
        for name, value in values.items():
            if BY_NAME[name].like is None or name not in numbers:
                continue
            floor = arithmetic.noise(numbers[name], value)
            if name in _OPERANDS:
                floor = np.hypot(floor, units.operand * np.abs(value))
            if _has_channels(name):
                floor = _root_mean_square(floor)
            floor = np.where(floor > 0.0, np.hypot(floor, FLOAT32_TINY), floor)
            floors[name] = np.maximum(floor, floors.get(name, 0.0))
    # What the measurement knows as an output with channels, it gives the axis itself.
    return {
        name: floor[..., None] if _has_channels(name) and name not in CHANNELS else floor
        for name, floor in floors.items()
    }


def _has_channels(name: str) -> bool:
    return BY_NAME[name].axes[-1:] in (("qk",), ("hv",))


def _convert(values: dict[str, np.ndarray], bounds: dict[str, np.ndarray], noise: dict[str, np.ndarray]) -> None:
    """Allow for a change of base of m, as where a subject returns it."""
    names = ("m", "m_last", "m_entering", "C_last", "n_last")
    parts = [{name: part[name] for name in names if name in part} for part in (values, bounds, noise)]
    _allow_conversion_of_m(*parts)
    bounds.update(parts[1])
    noise.update(parts[2])


def _unknown(
    case: Case, task: Task, values: dict[str, np.ndarray], bounds: dict[str, np.ndarray], rounded: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Where anything is right: beyond float32, after a row without a gradient, or where the oracle has no number."""
    without = {}
    if task.cotangents is not None:
        without = _without_gradient(case, np.arange(case.length), rounded["h"])
    unknown = {}
    for name in values:
        beyond = np.isnan(values[name]) | np.isnan(bounds[name]) | without.get(name, False)
        if name in ("dC_0", "dn_0"):
            beyond = beyond | _may_leave_float32(name, rounded[name], task.inputs)
        if name == "numerator":
            # exp(-m) may leave the range of float32, and d_t be inf or 0.
            beyond = beyond | ~((values["n"] > FLOAT32_TINY) & (values["n"] < FLOAT32_HUGE))[..., None]
        if name == "inverse":
            # A row whose d_t is 0 to float32 passes no gradient.
            beyond = beyond | (values[name] >= FLOAT32_HUGE)
        if without and BY_NAME[name].backward:
            # The rows before it are judged by what is returned.
            beyond = beyond | (name not in without)
        if beyond.any():
            unknown[name] = np.broadcast_to(beyond, values[name].shape)
    return unknown
