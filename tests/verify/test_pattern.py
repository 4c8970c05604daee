"""The description of what happened is the shortest one that is true."""

from hypothesis import given
from hypothesis import strategies as st

from tests.verify.recording import CASES
from verify import Case
from verify._pattern import patterns

AMONG = [(output, case.id) for output in ("h", "df") for case in CASES]


def where(holds, among=AMONG):
    return [
        (pattern.outputs, pattern.where, pattern.happened, pattern.excepted)
        for pattern in patterns([item for item in among if holds(item[0], Case.parse(item[1]))], among)
    ]


def test_a_regime_as_a_whole_and_one_dtype():
    found = where(lambda output, case: output == "df" and "forget" in case.regime and case.dtype == "bfloat16")
    assert found == [(("df",), "dtype bfloat16; regime forget", 12, 0)]


def test_outputs_with_the_same_pattern_stand_together():
    assert where(lambda output, case: case.dtype == "float32") == [(("h", "df"), "dtype float32", 18, 0)]


def test_everywhere():
    assert where(lambda output, case: output == "h") == [(("h",), "everywhere", 36, 0)]


def test_numbers_by_a_limit_and_values_by_what_they_are_not():
    assert where(lambda output, case: case.length > 64)[0][1] == "length 70 and more"
    assert where(lambda output, case: case.regime != "ordinary")[0][1] == "regime forget"
    assert where(lambda output, case: case.regime != "forget@60")[0][1] == "regime not forget@60"


def test_one_exception_is_named_as_such():
    odd = CASES[0].id
    assert where(lambda output, case: case.dtype == "float32" and case.id != odd)[0][1:] == ("dtype float32", 17, 1)


def test_one_case_is_named_by_its_id():
    odd = CASES[4].id
    assert where(lambda output, case: output == "h" and case.id == odd) == [(("h",), odd, 1, 0)]


@given(st.sets(st.sampled_from(CASES), min_size=1))
def test_counts_are_those_of_the_cases(chosen):
    ids = {case.id for case in chosen}
    among = [("h", case.id) for case in CASES]
    (pattern,) = patterns([("h", name) for name in ids], among)
    assert pattern.happened == len(ids)
    assert pattern.among == len(CASES)
    assert 0 <= pattern.excepted <= len(CASES) - len(ids)
    if pattern.where == "everywhere":
        assert pattern.excepted == len(CASES) - len(ids)
