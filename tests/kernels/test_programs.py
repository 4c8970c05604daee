"""The program that a stage is said to come from is the one that computes it; the grids are those of the launches."""

import math
from collections import defaultdict

import jax.numpy as jnp
import pytest

from kernels import BACKEND, mlstm_chunkwise_triton_stablef
from kernels import launch as launching
from kernels.triton_stablef import _backward, _forward
from verify import Case
from verify._problem import make_problem
from verify._trace._place import judge_stages, place_of, program_of
from verify._trace._scales import stage_reference, task_of
from verify._trace._stages import Stages

CASE = Case(heads=2, length=20, dhqk=33, dhhv=33, chunk_size=16, initial="warm@2", cotangents="all")
SIZES = [CASE, Case(length=66, dhqk=16, dhhv=80, chunk_size=128, dtype="bfloat16", cotangents="h")]


def stages_of(case):
    problem = make_problem(case)
    given, cotangents = (
        {name: jnp.asarray(array) for name, array in arrays.items()} for arrays in (problem.arrays, problem.cotangents)
    )
    options = {"chunk_size": case.chunk_size, "autocast_kernel_dtype": case.dtype}
    return Stages.of("", mlstm_chunkwise_triton_stablef.stages(**given, cotangents=cotangents, **options))


@pytest.mark.parametrize("case", SIZES, ids=lambda case: case.shape)
def test_grids_are_those_of_the_launches(case, monkeypatch):
    launched = defaultdict(set)

    def record(kernel, *arguments, programs, **constants):
        launched[kernel.fn.__name__].add(programs)
        return launching.launch(kernel, *arguments, programs=programs, **constants)

    for module in (_forward, _backward):
        monkeypatch.setattr(module, "launch", record)
    told = defaultdict(set)
    for program in stages_of(case).programs.values():
        if program["axes"]:
            told[program["kernel"]].add(math.prod(axis[1] for axis in program["axes"]))
    assert told == launched


@pytest.fixture(scope="module")
def reference():
    problem = make_problem(CASE)
    return stage_reference(CASE, problem, task_of(CASE, problem, CASE.chunk_size, CASE.chunk_size))


# In the recurrences: of C, of n beside it, of the second block of qk.
POISONED = [
    ("mlstm_chunkwise_gates", 3),
    ("mlstm_chunkwise_fw_recurrent", 1),
    ("mlstm_chunkwise_fw_parallel", 2),
    ("mlstm_chunkwise_bw_recurrent", 7),
    ("mlstm_chunkwise_bw_parallel_qk", 5),
    ("mlstm_chunkwise_inner", 1),
]


@pytest.mark.skipif(BACKEND == "gpu", reason="a program is left out in the interpreter")
@pytest.mark.parametrize(("kernel", "pid"), POISONED)
def test_program_that_stores_nothing_is_named(kernel, pid, reference, monkeypatch):
    from triton.runtime.interpreter import interpreter_builder as builder

    running = []
    interpret = launching._interpret

    def remember(kernel, *arguments):
        running[:] = [kernel.fn.__name__]
        return interpret(kernel, *arguments)

    def unless_poisoned(store):
        return lambda *given: None if (running[0], builder.grid_idx[0]) == (kernel, pid) else store(*given)

    monkeypatch.setattr(launching, "_interpret", remember)
    for name in ("create_store", "create_masked_store"):
        monkeypatch.setattr(builder, name, unless_poisoned(getattr(builder, name)))
    stages = stages_of(CASE)
    first = next(judged for judged in judge_stages(stages, *reference) if judged.is_out)
    assert first.found.check == "nonfinite"
    named = program_of(place_of(first, first.first(), stages, CASE.length), stages, CASE.heads)
    assert (named["kernel"], named["pid"]) == (kernel, pid)
