"""The reference of every stage: what it should be, how far rounding may move it, and how far correct kernels are.

The steps are those of ``verify._error_scales``, as for the outputs of a case; what is walked is here.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from oracles import Precision
from verify._case import Case
from verify._error_scales import FLOAT32_TINY, Arrays, Bounded, Kinds, Orders, may_leave_float32, without_gradient
from verify._errors import UsageError
from verify._measurement import FLOAT32_HUGE
from verify._problem import Problem
from verify._reference import CHANNELS, REPLICATES, Reference
from verify._trace._stages import BY_NAME, FRAMES, STAGES
from verify._trace._walk import Task, by_chunks, by_tokens

# Of states between the chunks. With two replicates each copy of so many is 0.8 GiB, with sixteen it would be 4.6.
MOST_NUMBERS = 2**25
_MANY_NUMBERS = 2**21
_KINDS = Kinds(
    channels=[stage.name for stage in STAGES if stage.axes[-1:] in (("qk",), ("hv",))],
    gradients=[stage.name for stage in STAGES if stage.backward],
    stabilizers=("m", "m_last", "m_entering"),
    operands=("C_entering", "dC_leaving"),
    without_noise=[stage.name for stage in STAGES if stage.like is None],
)


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


def stage_reference(case: Case, problem: Problem, task: Task, replicates: int = REPLICATES) -> tuple[Reference, Arrays]:
    """The reference of every stage, and the frames that its values are relative to.

    Only stages with calibrated thresholds have a noise floor; its last axis is 1 where the stage has channels. Without
    replicates none has.
    """
    orders = Orders(partial(by_chunks, task=task), partial(by_tokens, task=task))
    if _numbers(case, task.block_size) > _MANY_NUMBERS:
        replicates = min(replicates, 2)
    with np.errstate(invalid="ignore", over="ignore"):
        bounded = Bounded.of(orders, case, problem, Precision.of(case.dtype), task.chunk_size)
        frames = {name: bounded.values.pop(name) for name in FRAMES}
        bounds, noise = bounded.scales(orders, _KINDS, replicates, replicates)
    # What the measurement knows as an output with channels, it gives the axis itself.
    for name in noise.keys() & set(_KINDS.channels) - set(CHANNELS):
        noise[name] = noise[name][..., None]
    return Reference.of(bounded, bounds, noise, _unknown(case, task, bounded, bounds)), frames


def _unknown(case: Case, task: Task, bounded: Bounded, bounds: Arrays) -> Arrays:
    """Where anything is right: beyond float32, after a row without a gradient, or where the oracle has no number."""
    values, rounded, without = bounded.values, bounded.rounded, Arrays()
    if task.cotangents is not None:
        without = without_gradient(case, np.arange(case.length), rounded["h"])
    unknown = {}
    for name in values:
        beyond = np.isnan(values[name]) | np.isnan(bounds[name]) | without.get(name, False)
        if name in ("dC_0", "dn_0"):
            beyond = beyond | may_leave_float32(name, rounded[name], task.inputs)
        if name == "numerator":
            # exp(-m) may leave the range of float32, and d_t be inf or 0.
            beyond = beyond | ~((values["n"] > FLOAT32_TINY) & (values["n"] < FLOAT32_HUGE))[..., None]
        if name in ("n", "inverse"):
            # The denominator of the empty state divides 0.
            beyond = beyond | np.isneginf(values["m"])
        if name == "inverse":
            # A row whose d_t is 0 to float32 passes no gradient.
            beyond = beyond | (values[name] >= FLOAT32_HUGE)
        if without and BY_NAME[name].backward:
            # The rows before it are judged by what is returned.
            beyond = beyond | (name not in without)
        if beyond.any():
            unknown[name] = np.broadcast_to(beyond, values[name].shape)
    return unknown
