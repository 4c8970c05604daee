"""The arrays of a case: deterministic, as the regime says, rounded once."""

import dataclasses

import numpy as np
import pytest

from oracles import Contract, Float64, recurrent
from verify import Case, make_problem
from verify._regimes import REGIMES, generate_gates, regime_tokens

BASE = Case(batch=2, heads=2, length=40, dhqk=8, dhhv=4, initial="warm@5")


def gates(token, length=200):
    return generate_gates(token, np.random.default_rng(3), (2, 4, length))


def test_same_case_same_arrays():
    for name, array in make_problem(BASE).arrays.items():
        np.testing.assert_array_equal(array, make_problem(BASE).arrays[name])


def test_seed_changes_every_array():
    other = make_problem(dataclasses.replace(BASE, seed=1)).arrays
    assert all((array != other[name]).any() for name, array in make_problem(BASE).arrays.items())


@pytest.mark.parametrize(
    "change", [{"chunk_size": 16}, {"stabilize_correctly": False}, {"eps": 0.5}, {"dtype": "bfloat16"}]
)
def test_what_is_no_drawing_matter_changes_rounding_at_most(change):
    plain, other = make_problem(BASE).arrays, make_problem(dataclasses.replace(BASE, **change)).arrays
    for name, array in plain.items():
        np.testing.assert_array_equal(array.astype(other[name].dtype), other[name], err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_oracle_and_subject_get_the_same_numbers(dtype):
    problem = make_problem(dataclasses.replace(BASE, dtype=dtype))
    for name in ("q", "k", "v", "i", "f"):
        np.testing.assert_array_equal(problem.arrays[name].astype(np.float64), getattr(problem.inputs, name))
    assert {problem.arrays[name].dtype.name for name in "qkvi"} == {dtype}
    assert problem.arrays["f"].dtype == np.float32


@pytest.mark.parametrize("token", regime_tokens())
def test_regime_gives_gates_of_the_shape_without_nan(token):
    for length in (1, 2, 33):
        i, f = gates(token, length)
        assert i.shape == f.shape == (2, 4, length)
        assert not np.isnan(i).any()
        assert not np.isnan(f).any()


def test_regimes_do_what_they_say():
    assert np.isneginf(gates("reset")[1]).any(axis=-1).all()
    assert np.isneginf(gates("dead_input")[0][..., 0]).all()
    assert (gates("spike@50")[0].max(axis=-1) == 50).all()
    assert abs(gates("forget@-60")[1].mean() + 60) < 1
    assert abs(gates("input_gates@100")[0].mean() - 100) < 1
    assert np.abs(gates("soft_capped@15")[0]).max() <= 15
    i, f = gates("init")
    assert abs(i.mean() + 10) < 1
    assert 2 < f.min() < f.max() < 7
    i, f = gates("balanced@-3")
    assert np.ptp(i - np.cumsum(-np.log1p(np.exp(-f)), -1)) < 12
    assert i.min() < -500
    i, f = gates("kept")
    assert (f == np.inf).all()
    i, f = gates("saturated_mix@30", 2000)
    assert set(np.unique(f)) == {-30.0, 30.0}
    assert 0.01 < (f == -30).mean() < 0.03
    stairs = gates("staircase@60")[0].mean(axis=(0, 1))
    assert stairs[-25:].mean() - stairs[:25].mean() > 45


def test_every_regime_says_what_it_stresses():
    assert all(regime.stresses.endswith(".") for regime in REGIMES.values())


@pytest.mark.parametrize(("initial", "m_0"), [("warm@5", 5.0), ("empty@-50", -50.0)])
def test_initial_states(initial, m_0):
    arrays = make_problem(dataclasses.replace(BASE, initial=initial)).arrays
    assert np.abs(arrays["m_initial"] - m_0).max() < 6
    assert (arrays["c_initial"] == 0).all() == initial.startswith("empty")


COTANGENTS = {"h": (2, 2, 40, 4), "C_last": (2, 2, 8, 4), "n_last": (2, 2, 8), "m_last": (2, 2)}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    ("which", "names"), [("none", ()), ("h", ("h",)), ("last", tuple(COTANGENTS)[1:]), ("all", tuple(COTANGENTS))]
)
def test_cotangents(which, names, dtype):
    problem = make_problem(dataclasses.replace(BASE, cotangents=which, dtype=dtype))
    assert {name: array.shape for name, array in problem.cotangents.items()} == {n: COTANGENTS[n] for n in names}
    for name, array in problem.cotangents.items():
        assert array.dtype.name == (dtype if name == "h" else "float32")
        np.testing.assert_array_equal(array.astype(np.float64), getattr(problem.exact_cotangents, name))
    assert all(getattr(problem.exact_cotangents, name) is None for name in set(COTANGENTS) - set(names))


def test_cotangents_change_no_input_and_are_those_of_the_case_with_more_of_them():
    plain = make_problem(BASE).arrays
    all_of_them = make_problem(dataclasses.replace(BASE, cotangents="all"))
    for name, array in plain.items():
        np.testing.assert_array_equal(array, all_of_them.arrays[name])
    for which in ("h", "last"):
        for name, array in make_problem(dataclasses.replace(BASE, cotangents=which)).cotangents.items():
            np.testing.assert_array_equal(array, all_of_them.cotangents[name])


@pytest.mark.parametrize("correct", [True, False])
def test_kink_puts_the_denominator_next_to_its_switch_on_both_sides(correct):
    case = dataclasses.replace(BASE, regime="kink@0.01", initial="none", stabilize_correctly=correct, eps=0.0)
    problem = make_problem(case)
    m = recurrent(Float64(), problem.inputs, problem.contract).m
    a = recurrent(Float64(), problem.inputs, Contract(0.0, 0.0, correct)).n
    relative = a / (np.exp(-m) if correct else 1.0)
    # q is rounded to float32, which is seen where q.n cancels.
    np.testing.assert_allclose(np.abs(relative - 1.0), 0.01, rtol=1e-2)
    assert ((relative > 1.0) == (np.arange(case.length) % 2 == 0)).all()
