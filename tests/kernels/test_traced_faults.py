"""Faults planted in the source of the kernels, at known places: the stage and the chunk are named (docs/tracing.py)."""

import functools
import importlib.util
import sys
from pathlib import Path

import pytest

from verify._problem import make_problem
from verify._trace._place import judge_stages, place_of
from verify._trace._scales import stage_reference, task_of
from verify._trace._stages import Stages

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "tracing.py"


def imported():
    specification = importlib.util.spec_from_file_location("tracing", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    # Its dataclasses ask for it.
    sys.modules["tracing"] = module
    specification.loader.exec_module(module)
    return module


TRACING = imported()


@functools.cache
def problem_and_reference(case):
    problem = make_problem(case)
    return problem, stage_reference(case, problem, task_of(case, problem, case.chunk_size, case.chunk_size))


# Some of each pass; docs/tracing.py has more, on cases of their own.
FAULTS = (
    "off by one in the decay",
    "n scaled by 1.001",
    "inter-chunk part missing",
    "no gradient of the normalizer",
    "rows of one block halved in dC",
)


@pytest.mark.parametrize("name", FAULTS)
def test_stage_and_chunk_of_a_fault_are_named(name):
    fault, case = TRACING.FAULTS[name], TRACING.BASE
    problem, reference = problem_and_reference(case)
    with TRACING.planted(fault) as subject:
        stages = Stages.of(subject.name, subject.call_stages(case, problem))
    first = next(judged for judged in judge_stages(stages, *reference) if judged.is_out)
    place = place_of(first, first.first(), stages, case.length)
    assert (place.stage, place.chunk) == (fault.stage, fault.chunk)
