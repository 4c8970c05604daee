"""The two scales of a reference: correct float32 implementations lie on them, small systematic errors far above.

The calibration measures this for the whole smoke tier; here are a few of its regimes. A planted error must have ten
times the z of every correct implementation, in the same output of a case of the smoke tier.
"""

import dataclasses
import functools

import numpy as np
import pytest

from tests.subjects import float32
from verify import Case, compute_reference, judge, load_subject, make_problem
from verify._tiers import TIERS

BASE = Case(length=70, dhqk=32, dhhv=32, chunk_size=32, cotangents="all")
JUDGED = ("h", "dq", "dk", "dv", "df")
CORRECT = [
    load_subject(name)
    for name in (
        "tests.subjects.float32:recurrence",
        "tests.subjects.float32:parallel",
        "kernels.xla_chunkwise:mlstm_chunkwise_xla",
    )
]


@functools.cache
def reference(case):
    return compute_reference(case)


@functools.cache
def measured(case, subject):
    """By output: what the subject's error is on both scales."""
    with np.errstate(all="ignore"):
        outputs = subject.call(case, make_problem(case))
    return {one.output: one for one in judge(case, outputs, reference(case)).measurements}


@pytest.mark.parametrize(
    ("regime", "correct"),
    [("ordinary", True), ("forget@-10", True), ("input_gates@-20", False), ("soft_capped@15", True), ("reset", False)],
)
def test_correct_implementations_lie_on_both_scales(regime, correct):
    case = dataclasses.replace(BASE, regime=regime, stabilize_correctly=correct)
    for subject in CORRECT:
        on_scales = measured(case, subject)
        assert max(one.ratio for one in on_scales.values()) <= 1.0, subject.name
        z = {output: on_scales[output].rms_z for output in JUDGED}
        assert all(0.05 <= rms_z <= 3.0 for rms_z in z.values()), (subject.name, z)


@pytest.mark.parametrize("initial", ["warm@50", "empty@1000"])
@pytest.mark.parametrize("subject", CORRECT[:2], ids=lambda subject: subject.name)
def test_initial_states_are_differentiated(subject, initial):
    case = Case(heads=2, length=33, dhqk=16, dhhv=16, chunk_size=16, initial=initial, cotangents="all")
    on_scales = measured(case, subject)
    assert {"dC_0", "dn_0", "dm_0"} <= on_scales.keys()
    assert max(one.ratio for one in on_scales.values()) <= 1.0
    assert not any(one.nonfinite for one in on_scales.values())


@pytest.mark.parametrize(
    ("fault", "form", "output", "case"),
    [
        ("n scaled", "recurrence", "h", "ordinary:constant"),
        ("bf16 state", "recurrence", "h", "ordinary:correct"),
        ("TF32 dots", "parallel", "h", "ordinary:correct"),
        ("max of log f", "recurrence", "h", "ordinary:constant"),
    ],
)
def test_small_systematic_errors_stand_out(fault, form, output, case):
    regime, mode = case.split(":")
    case = dataclasses.replace(BASE, regime=regime, stabilize_correctly=mode == "correct")
    assert case in TIERS["smoke"].cases()
    right = load_subject(f"tests.subjects.float32:{form}")
    wrong = dataclasses.replace(right, function=functools.partial(right.function, fault=fault))
    largest = max(measured(case, subject)[output].rms_z for subject in CORRECT)
    assert measured(case, wrong)[output].rms_z > 10.0 * largest


def test_every_fault_stands_out_in_a_test():
    parameters = test_small_systematic_errors_stand_out.pytestmark[0].args[1]
    assert [fault for fault, *_ in parameters] == list(float32.FAULTS)
