"""Case ids: the inverse of parse, and errors that say where."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from verify import Case, CaseError, UsageError
from verify._case import COTANGENTS, DTYPES
from verify._regimes import regime_tokens
from verify._tiers import TIERS

FINITE = [tier for tier in TIERS.values() if not tier.endless]

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
    cotangents=st.sampled_from(sorted(COTANGENTS)),
    seed=st.integers(0, 2**64),
)


@settings(derandomize=True)
@given(cases)
@example(Case(seed=2**53 + 1))
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
        ("ordinary", "forget@ 10", "regime 'forget@ 10' needs a finite number"),
        ("ordinary", "forget@1_0", "regime 'forget@1_0' needs a finite number"),
        ("ordinary", "init@3", "regime 'init@3' has a parameter; init takes none"),
        ("S64", "S6x", "shape is 'B1-NH1-S6x-QK64-HV64-L64'; expected B1-NH1"),
        ("S64", "S0", "length is 0; expected at least 1"),
        ("float32", "float64", "dtype is 'float64'; expected one of float32, float16, bfloat16"),
        ("correct", "right", "mode is 'right'; expected correct or constant"),
        ("nv1.0", "1.0", "norm_val is '1.0'; expected nv and a number"),
        ("nv1.0", "nv1.0.0", "norm_val is 'nv1.0.0'; expected nv and a number"),
        ("eps1e-06", "eps.", "eps is 'eps.'; expected eps and a number"),
        ("eps1e-06", "eps-1", "eps is 'eps-1'; expected eps and a number"),
        ("none", "cold", "initial state 'cold' is unknown; expected one of none, warm@NUMBER, empty@NUMBER"),
        ("seed0", f"seed{2**63}", f"seed is {2**63}; expected less than 2\\^63"),
        ("-L64", f"-L{2**64}", f"chunk_size is {2**64}; expected less than 2\\^63"),
        ("seed0", "seed-1", "seed is 'seed-1'; expected seed and a number"),
        (":fw", ":back", "cotangents is 'back'; expected one of fw, vjp-h, vjp-last, vjp-all"),
        # An id from before cases had cotangents.
        (":fw", "", "has 8 fields; expected 9: regime:shape:dtype:mode:norm_val:eps:initial:cotangents:seed"),
    ],
)
def test_error_says_which_field(old, new, message):
    with pytest.raises(UsageError, match=message):
        Case.parse(GOOD.replace(old, new))


@pytest.mark.parametrize(
    "change",
    [{"seed": -1}, {"eps": -1.0}, {"norm_val": float("nan")}, {"dtype": "half"}, {"heads": 0}, {"cotangents": "C"}],
)
def test_fields_are_checked(change):
    with pytest.raises(CaseError, match=next(iter(change))):
        Case(**change)


@pytest.mark.parametrize("tier", FINITE, ids=lambda tier: tier.name)
def test_tier_has_each_case_once_and_every_regime_in_both_modes(tier):
    listed = tier.cases()
    assert len({case.id for case in listed}) == len(listed)
    for regime in regime_tokens():
        assert {case.stabilize_correctly for case in listed if case.regime == regime} == {True, False}
    assert {case.dtype for case in listed} == set(DTYPES)
    assert any(case.length % case.chunk_size for case in listed)


@pytest.mark.parametrize("tier", FINITE, ids=lambda tier: tier.name)
def test_tier_has_gradients_where_they_are_known_to_break(tier):
    wanted = {
        "saturated forget gates": lambda case: case.regime in ("forget@-60", "forget@-10", "forget@20"),
        "a few gates saturated": lambda case: case.regime == "saturated_mix@30",
        "|q.n| next to norm_val exp(-m)": lambda case: case.regime == "kink@0.01",
        "exp(-m) beyond float32": lambda case: (case.regime, case.initial) == ("input_gates@-100", "warm@-100"),
        "i = -inf": lambda case: case.regime == "dead_input",
        "f = -inf": lambda case: case.regime == "reset",
        "f = +inf": lambda case: case.regime == "kept",
        "S = 1": lambda case: case.length == 1,
        "S one more than the chunk": lambda case: case.length == case.chunk_size + 1,
        "no eps": lambda case: case.eps == 0.0,
        "no norm_val": lambda case: case.norm_val == 0.0,
        "an initial state": lambda case: case.initial == "warm@2",
        "an initial state of zeros": lambda case: case.initial == "empty@1000",
        "float16": lambda case: case.dtype == "float16",
        "bfloat16": lambda case: case.dtype == "bfloat16",
    }
    with_gradients = [case for case in tier.cases() if case.cotangents == "all"]
    assert [what for what, holds in wanted.items() if not any(map(holds, with_gradients))] == []
    # The last state alone is left to the shorter tiers.
    assert {case.cotangents for case in tier.cases()} >= set(COTANGENTS) - ({"last"} if tier.name == "full" else set())
