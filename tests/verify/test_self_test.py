"""The self-test passes, and sees every arithmetic that is not what it claims."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest

import oracles
import verify._self_test
from verify import SuiteError
from verify._self_test import self_test


def test_passes_and_leaves_nothing_out():
    assert self_test() == []


class Coarse(oracles.Float64):
    """Has 30 bits."""

    def exp(self, x):
        return np.asarray(oracles.Float64.exp(self, x)) * (1.0 + 2.0**-30 * np.sign(np.sin(1e9 * np.maximum(x, -1.0))))


class Single(oracles.Float64):
    """Takes inputs as float32."""

    def array(self, values):
        return np.asarray(np.asarray(values, np.float32), np.float64)


class FewDigits(oracles.MPMath):
    """Claims 50 digits and has 20."""

    def __init__(self, digits):
        super().__init__(20)


class Overconfident(oracles.Ball):
    """Its radii are all 0."""

    def exp(self, x):
        return self.array(self.to_float64(super().exp(x)))


class Quiet(oracles.MonteCarlo):
    """Perturbs by half of what it should."""

    def noise(self, x, reference):
        return super().noise(x, reference) / 2


@pytest.mark.parametrize(
    ("name", "arithmetic", "told"),
    [
        ("Float64", Coarse, "Float64: recurrent and parallel"),
        ("Float64", Single, "Float64: h changes by -?0 times"),
        ("MPMath", FewDigits, r"MPMath\(50\): recurrent and parallel"),
        ("Ball", Overconfident, r"Ball\(120\): recurrent and parallel|are not inside"),
        ("MonteCarlo", Quiet, "stored numbers of float32 scatter by 0.28"),
    ],
)
def test_an_arithmetic_that_is_not_what_it_claims_is_seen(monkeypatch, name, arithmetic, told):
    monkeypatch.setattr(verify._self_test, name, arithmetic)
    with pytest.raises(SuiteError, match=told):
        self_test()


def test_a_bound_that_does_not_hold_is_seen(monkeypatch):
    def without_bound(ar, problem):
        numbers = recurrent(ar, problem)
        if isinstance(ar, oracles.RunningError):
            return {name: SimpleNamespace(x=number.x, e=0.0 * number.e - 1e-12) for name, number in numbers.items()}
        return numbers

    recurrent = verify._self_test._recurrent
    monkeypatch.setattr(verify._self_test, "_recurrent", without_bound)
    with pytest.raises(SuiteError, match="outside of its bound"):
        self_test()


@pytest.mark.parametrize("package", ["mpmath", "flint"])
def test_a_missing_package_is_named(monkeypatch, package):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find_spec(name))
    monkeypatch.setattr(verify._self_test, {"mpmath": "MPMath", "flint": "Ball"}[package], None)
    (left_out,) = self_test()
    assert f"({package} is not installed)" in left_out
