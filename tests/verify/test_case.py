"""Case ids: the inverse of parse, and errors that say where."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verify import Case, CaseError, UsageError
from verify._case import DTYPES
from verify._regimes import regime_tokens
from verify._tiers import TIERS

sizes = st.integers(1, 10**7)
constants = st.floats(0.0, 1e300, allow_nan=False)
initials = st.one_of(
    st.just("none"), st.floats(-1e6, 1e6).map("warm@{!r}".format), st.integers(-1000, 1000).map("empty@{}".format)
)
cases = st.builds(
    Case,
    regime=st.sampled_from(regime_tokens()),
    batch=sizes,
    heads=sizes,
    length=sizes,
    dhqk=sizes,
    dhhv=sizes,
    chunk_size=sizes,
    dtype=st.sampled_from(DTYPES),
    stabilize_correctly=st.booleans(),
    norm_val=constants,
    eps=constants,
    initial=initials,
    seed=st.integers(0, 2**31),
)


@settings(derandomize=True, deadline=None)
@given(cases)
def test_parse_is_the_inverse_of_id(case):
    assert Case.parse(case.id) == case
    assert " " not in case.id


GOOD = Case().id


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ordinary", "ordinry", "regime 'ordinry' is unknown; expected one of ordinary, init"),
        ("ordinary", "forget", "regime 'forget' needs a finite number"),
        ("ordinary", "forget@inf", "regime 'forget@inf' needs a finite number"),
        ("ordinary", "init@3", "regime 'init@3' has a parameter; init takes none"),
        ("S64", "S6x", "shape is 'B1-NH1-S6x-QK64-HV64-L64'; expected B1-NH1"),
        ("S64", "S0", "length is 0; expected at least 1"),
        ("float32", "float64", "dtype is 'float64'; expected one of float32, float16, bfloat16"),
        ("correct", "right", "mode is 'right'; expected correct or constant"),
        ("nv1.0", "1.0", "norm_val is '1.0'; expected nv and a number"),
        ("eps1e-06", "eps-1", "eps is 'eps-1'; expected eps and a number"),
        ("none", "cold", "initial state 'cold' is unknown; expected one of none, warm@NUMBER, empty@NUMBER"),
        ("seed0", "seed-1", "seed is 'seed-1'; expected seed and a number"),
        (":seed0", "", "has 7 fields; expected 8: regime:shape:dtype"),
    ],
)
def test_error_says_which_field(old, new, message):
    with pytest.raises(UsageError, match=message):
        Case.parse(GOOD.replace(old, new))


@pytest.mark.parametrize(
    "change", [{"seed": -1}, {"eps": -1.0}, {"norm_val": float("nan")}, {"dtype": "half"}, {"heads": 0}]
)
def test_fields_are_checked(change):
    with pytest.raises(CaseError, match=next(iter(change))):
        Case(**change)


@pytest.mark.parametrize("tier", TIERS.values(), ids=lambda tier: tier.name)
def test_tier_has_each_case_once_and_every_regime_in_both_modes(tier):
    listed = tier.cases()
    assert len({case.id for case in listed}) == len(listed)
    for regime in regime_tokens():
        assert {case.stabilize_correctly for case in listed if case.regime == regime} == {True, False}
    assert {case.dtype for case in listed} == set(DTYPES)
    assert any(case.length % case.chunk_size for case in listed)


def test_standard_reaches_8192_in_every_dtype():
    assert {case.dtype for case in TIERS["standard"].cases() if case.length >= 8192} == set(DTYPES)
