"""Error measures: total for every pair of floats, right where they can be computed by hand."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verify import Case, Outcome, Reference, SuiteError, compute_reference, load_subject, measure, run_case
from verify._error_scales import without_gradient

every_float = st.floats(width=32) | st.sampled_from([0.0, -0.0, math.inf, -math.inf, math.nan])
bounds = st.floats(0.0, 1e30) | st.sampled_from([0.0, math.inf])


def measure_one(actual, wanted, bound, dtype=np.float32):
    reference = Reference({"dm_0": np.array(wanted, np.float64)}, {"dm_0": np.array(bound, np.float64)})
    return measure({"dm_0": np.array(actual, dtype)}, reference)[0]


@settings(derandomize=True, max_examples=400)
@given(actual=every_float, wanted=every_float.filter(lambda x: not math.isnan(x)), bound=bounds)
def test_measures_are_total(actual, wanted, bound):
    measured = measure_one([actual], [wanted], [bound])
    for value in (measured.normwise, measured.componentwise, measured.ratio, measured.undecided):
        assert value >= 0.0
    if actual == wanted:
        assert (measured.normwise, measured.componentwise, measured.ratio, measured.nonfinite) == (0, 0, 0, 0)
    elif math.isnan(actual):
        assert measured.ratio == math.inf
        assert measured.nonfinite == 1
    elif math.isfinite(actual) and math.isfinite(bound) and abs(np.float32(actual) - wanted) > bound:
        assert measured.ratio > 1.0


def test_by_hand():
    measured = measure_one([1.0, 2.5, -4.0], [1.0, 2.0, -4.0], [0.1, 0.25, 0.1])
    assert measured.normwise == 0.5 / math.sqrt(21)
    assert measured.componentwise == 0.25
    assert measured.ratio == 2.0
    assert measured.worst == (1,)
    assert (measured.got, measured.wanted) == (2.5, 2.0)
    assert measured.normwise_bound == pytest.approx(math.sqrt(0.0825 / 21))


def test_infinite_bound_is_undecided_and_not_a_failure():
    measured = measure_one([9.0, 1.0], [1.0, 1.0], [math.inf, 0.1])
    assert measured.ratio == 0.0
    assert measured.undecided == 0.5


def test_infinite_bound_does_not_excuse_nan():
    assert measure_one([math.nan], [1.0], [math.inf]).nonfinite == 1


@pytest.mark.parametrize("n", [-1.0, -math.inf])
def test_no_denominator_is_below_zero(n):
    reference = Reference({"n": np.array([1e-50])}, {"n": np.array([1e-45])})
    right, wrong = (measure({"n": np.array([value], np.float32)}, reference)[0] for value in (0.0, n))
    assert (right.ratio, right.nonfinite) == (0.0, 0)
    assert wrong.ratio > 1.0


def test_nan_in_the_reference_is_the_suites_own_failure():
    with pytest.raises(SuiteError, match="reference of output dm_0 is NaN"):
        measure_one([1.0], [math.nan], [0.1])


@pytest.mark.parametrize(("wanted", "expected"), [(65530.0, 0), (65000.0, 1), (-65530.0, 1)])
def test_overflow_of_float16_is_accepted_only_where_rounding_reaches_it(wanted, expected):
    assert measure_one([np.inf], [wanted], [16.0], np.float16).nonfinite == expected


def test_states_are_compared_relative_to_the_same_m():
    rng = np.random.default_rng(0)
    C, n, m = rng.standard_normal((1, 1, 4, 3)), rng.standard_normal((1, 1, 4)), np.array([[2.0]])
    values = {"h": np.zeros((1, 1, 1, 3)), "C_last": C, "n_last": n, "m_last": m}
    reference = Reference(values, {name: np.full(value.shape, 1e-3) for name, value in values.items()})
    outputs = {"h": values["h"], "C_last": C * np.e, "n_last": n * np.e, "m_last": m - 1.0}
    measured = {one.output: one for one in measure(outputs, reference)}
    assert measured["C_last"].ratio < 1e-9
    assert measured["n_last"].ratio < 1e-9
    assert measured["m_last"].ratio == pytest.approx(1000)
    wrong = {one.output: one for one in measure({**outputs, "m_last": m}, reference)}
    assert wrong["C_last"].ratio > 1.0


def test_empty_last_state_of_both_is_no_error():
    values = {"C_last": np.zeros((1, 1, 2, 2)), "n_last": np.zeros((1, 1, 2)), "m_last": np.full((1, 1), -np.inf)}
    reference = Reference(values, {name: np.zeros(value.shape) for name, value in values.items()})
    assert all(one.ratio == 0.0 and one.nonfinite == 0 for one in measure(dict(values), reference))


@pytest.mark.parametrize(("actual", "ratio"), [(np.inf, 0.0), (-np.inf, math.inf), (65504.0, 4.5)])
def test_beyond_float16_only_infinity_is_right(actual, ratio):
    assert measure_one([actual], [70000.0], [1000.0], np.float16).ratio == pytest.approx(ratio, rel=1e-2)


def test_what_is_beyond_float32_is_unknown_and_nothing_else():
    values = {"dC_0": np.array([[[[0.0, 2.0]]]])}
    bounds = {"dC_0": np.array([[[[np.inf, 0.5]]]])}
    reference = Reference(values, bounds, {"dC_0": np.array([[[[True, False]]]])})
    for beyond in (np.inf, -np.inf, np.nan, 1e30):
        assert measure({"dC_0": np.array([[[[beyond, 2.25]]]], np.float32)}, reference)[0].ratio == 0.5
    assert measure({"dC_0": np.array([[[[0.0, np.nan]]]], np.float32)}, reference)[0].nonfinite == 1


def test_reference_of_an_empty_state_without_a_denominator_says_what_it_does_not_know():
    case = Case(length=5, dhqk=4, dhhv=4, norm_val=0.0, eps=0.0, initial="empty@1000", cotangents="all")
    reference = compute_reference(case)
    assert reference.unknown["dC_0"].all()
    assert set(reference.unknown) <= {"dC_0", "dn_0"}
    assert not any(np.isnan(array).any() for array in (*reference.values.values(), *reference.bounds.values()))


def test_no_gradient_before_an_overflow_also_of_a_token_that_is_not_kept():
    case = Case(length=4, dtype="float16", cotangents="all")
    h = SimpleNamespace(x=np.zeros((1, 1, 4, 2)), e=np.ones((1, 1, 4, 2)))
    assert without_gradient(case, np.array([0, 3]), h) == {}
    h.x[..., 2, 1] = 7e4
    unknown = without_gradient(case, np.array([0, 3]), h)
    assert unknown["df"].tolist() == [[[True, False]]]
    assert not unknown["dq"].any()
    # A denominator that may be 0 leaves float16, and hardly ever float32.
    h.x[..., 2, 1], h.e[..., 1, 0] = 0.0, np.inf
    assert without_gradient(case, np.array([0, 3]), h)["df"].tolist() == [[[True, False]]]
    assert without_gradient(replace(case, dtype="float32"), np.array([0, 3]), h) == {}
    # 0 times an infinite h_t is no number either.
    assert without_gradient(replace(case, cotangents="last"), np.array([0, 3]), h)["df"].tolist() == [[[True, False]]]
    assert without_gradient(replace(case, cotangents="none"), np.array([0, 3]), h) == {}


def test_every_row_is_asked_for_an_overflow(monkeypatch):
    # h of this draw is beyond float16 at token 35, which is not kept.
    case = Case.parse("input_gates@-100:B1-NH1-S40-QK16-HV16-L16:float16:correct:nv0.0:eps0.0:none:vjp-h:seed778")
    kept = np.array([0, 20, 39])
    monkeypatch.setattr("verify._reference.probe_rows", lambda _: kept)
    reference = compute_reference(case, replicates=0)
    assert (np.abs(reference.values["h"]) < 65504).all()
    assert reference.unknown["dv"][0, 0].all(-1).tolist() == [True, True, False]
    assert set(reference.unknown) == {"dq", "dk", "dv", "di", "df"}


def test_power_that_leaves_the_format_may_be_infinite_before_it_is_scaled():
    # exp(-m) overflows in float32, norm_val exp(-m) does not; a kernel that multiplies next has h = 0.
    case = Case.parse("balanced@-3:B1-NH1-S65-QK48-HV80-L64:bfloat16:correct:nv0.1:eps1e-06:warm@2:fw:seed3")
    reference = compute_reference(case)
    between = np.abs(reference.values["h"][0, 0, 30])
    assert 0.0 < between.max() < 2.0**-100
    assert (reference.bounds["h"][0, 0, 30] >= between).all()
    assert (reference.noise["h"][0, 0, 30] > between / 8).all()
    assert run_case(case, load_subject("tests.subjects.float32:chunkwise"), reference).verdict.outcome is Outcome.PASS


def test_bound_of_gradients_knows_what_underflow_may_lose():
    # exp(-m) leaves float32 along the sequence; pairs are lost one by one before h is 0.
    case = Case(regime="balanced@-3", length=70, dhqk=32, dhhv=32, chunk_size=32, cotangents="all")
    reference = compute_reference(case)
    lost = case.length * case.chunk_size * case.dhqk * 2.0**-126
    assert all(reference.bounds[name].min() >= lost for name in ("dq", "dk", "dv", "di", "df"))


def test_equal_measurements_are_equal_where_they_have_no_value():
    one, same, other = (measure_one([actual], [1.0], [1.0]) for actual in (1.5, 1.5, 1.25))
    assert math.isnan(one.rms_z)
    assert one == same
    assert one != other
