"""The expression of -k, against Python's own evaluation, and its errors."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verify import Case, UsageError
from verify._tiers import TIERS
from verify.cli._selection import select_cases

WORDS = ("S1", "float32", "correct", "soft_capped", "@60", "zzz")
words = st.sampled_from(WORDS)
expressions = st.recursive(
    words,
    lambda inner: st.one_of(
        inner.map("not {}".format),
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(" ".join),
        inner.map("({})".format),
    ),
    max_leaves=8,
)


@settings(derandomize=True, max_examples=200)
@given(expressions)
def test_expression_means_what_python_means(expression):
    def holds(case):
        source = expression
        for place, word in enumerate(WORDS):
            source = source.replace(word, f"w{place}_")
        return eval(source, {f"w{place}_": word in case.id for place, word in enumerate(WORDS)})

    wanted = [case for case in TIERS["smoke"].cases() if holds(case)]
    if wanted:
        assert select_cases("smoke", [], expression) == wanted
    else:
        with pytest.raises(UsageError, match="selects none of"):
            select_cases("smoke", [], expression)


@pytest.mark.parametrize("expression", ["", "and", "S1 and", "(S1", "S1)", "S1 S2", "not", "or S1", "()"])
def test_expression_that_does_not_parse(expression):
    with pytest.raises(UsageError, match="does not parse at"):
        select_cases("smoke", [], expression)


def test_ids_replace_the_tier():
    case = Case(length=7)
    assert select_cases("smoke", [case.id], None) == [case]
    assert select_cases("smoke", [case.id, Case().id, case.id], None) == [case, Case()]


def test_unknown_tier():
    with pytest.raises(UsageError, match="--tier is 'huge'; expected one of smoke, standard"):
        select_cases("huge", [], None)


def test_without_gradients_each_forward_case_is_there_once():
    plain = select_cases("smoke", [], "ordinary and S70", gradients=False)
    assert {case.cotangents for case in plain} == {"none"}
    assert len(set(plain)) == len(plain)
    # -k is for the ids of the tier, whatever is then left out of them.
    assert select_cases("smoke", [], "vjp-last", gradients=False) == [
        dataclasses.replace(case, cotangents="none") for case in select_cases("smoke", [], "vjp-last")
    ]
    case = Case(cotangents="all")
    assert select_cases("smoke", [case.id], None, gradients=False) == [dataclasses.replace(case, cotangents="none")]
