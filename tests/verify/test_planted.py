"""Every planted wrong subject fails, each on the case that is hard for it; docs/planted.py has the smoke tier."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from tests.subjects import float32
from tests.subjects.planted import BASE, GRADES, GROUPS, PLANTED
from verify import Case, Outcome, judge
from verify._cache import ReferenceCache, default_directory
from verify._subject import make_subject


def verdict_of(function, case):
    reference, *_ = ReferenceCache(default_directory()).fetch(case)
    with np.errstate(all="ignore"):
        execution = make_subject("planted", function).execute(case)
    return execution.failure or judge(case, execution.outputs, reference)


def case_of(planted):
    return replace(BASE, **planted.seen)


@pytest.mark.parametrize("name", PLANTED)
def test_planted_fault_is_seen(name):
    verdict = verdict_of(PLANTED[name].function, case_of(PLANTED[name]))
    assert verdict.outcome in (Outcome.INACCURATE, Outcome.NONFINITE), verdict.reason


def test_without_a_fault_the_same_cases_pass():
    for case in {case_of(planted) for planted in PLANTED.values()}:
        verdict = verdict_of(float32.chunkwise, case)
        assert verdict.outcome is Outcome.PASS, (case.id, verdict.reason)


@pytest.mark.parametrize("name", ["gradients do not cross chunks", "df as a difference of sums"])
def test_a_fault_is_seen_where_rounding_may_carry_q_n_but_not_the_denominator_to_0(name):
    case = replace(BASE, regime="forget@10", dtype="bfloat16", length=64, initial="none", cotangents="all")
    assert verdict_of(PLANTED[name].function, case).outcome is Outcome.INACCURATE
    assert verdict_of(float32.chunkwise, case).outcome is Outcome.PASS


@pytest.mark.parametrize("seed", range(4))
def test_without_eps_a_row_whose_q_n_is_lost_has_no_gradient(seed):
    # h is infinite or no number there, which is allowed, and so are the gradients that have it in them.
    case = Case("cancellation@0", length=8, dhqk=2, dhhv=2, eps=0.0, initial="warm@1000", cotangents="all", seed=seed)
    verdict = verdict_of(float32.recurrence, case)
    assert verdict.outcome is Outcome.PASS, verdict.reason


def test_there_are_faults_of_every_group_and_grade():
    assert len(PLANTED) >= 40
    for names, counts in (
        (GROUPS, Counter(planted.group for planted in PLANTED.values())),
        (GRADES, Counter(planted.grade for planted in PLANTED.values())),
    ):
        assert counts.keys() == set(names)
        assert min(counts.values()) >= 3
    assert all(planted.does.endswith(".") for planted in PLANTED.values())
