"""Every combination of levels occurs in a covering array, and nothing that is excluded."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verify._covering import combinations, covering_array
from verify._tiers import FULL, SMOKE, STANDARD, excluded_of

factors = st.lists(st.integers(1, 4), min_size=3, max_size=5).map(
    lambda sizes: {f"factor{place}": tuple(range(size)) for place, size in enumerate(sizes)}
)


def assert_covers(rows, factors, strength, excluded):
    found = {frozenset(chosen) for row in rows for chosen in itertools.combinations(row.items(), strength)}
    missing = [row for row in combinations(factors, strength, excluded) if frozenset(row.items()) not in found]
    assert missing == []
    assert not any(apart.items() <= row.items() for row in rows for apart in excluded)
    assert all(row[name] in levels for row in rows for name, levels in factors.items())


@settings(derandomize=True, max_examples=50)
@given(factors, st.integers(2, 3))
def test_every_combination_of_levels_occurs(factors, strength):
    last = {name: levels[-1] for name, levels in factors.items() if len(levels) > 1}
    excluded = [dict(itertools.islice(last.items(), 2))] if len(last) > 1 else []
    rows = covering_array(factors, strength, excluded)
    assert_covers(rows, factors, strength, excluded)


@pytest.mark.parametrize(
    ("factors", "strength", "largest"),
    [(SMOKE, 2, 60), (STANDARD, 2, 200), (FULL, 3, 450)],
    ids=["smoke", "standard", "full"],
)
def test_the_arrays_of_the_tiers(factors, strength, largest):
    rows = covering_array(factors, strength, excluded_of(factors))
    assert_covers(rows, factors, strength, excluded_of(factors))
    assert len(rows) <= largest


def test_same_factors_same_rows():
    assert covering_array(SMOKE, 2, []) == covering_array(SMOKE, 2, [])


def test_combinations_are_counted():
    two = {"a": (1, 2), "b": (1, 2, 3), "c": (1,)}
    assert len(list(combinations(two, 2, []))) == 2 * 3 + 2 + 3
    # Of a pair that is excluded, and of three of which two are.
    assert len(list(combinations(two, 2, [{"a": 1, "b": 1}]))) == 10
    assert len(list(combinations(two, 3, [{"a": 1, "b": 1}]))) == 5
