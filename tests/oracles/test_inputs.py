"""Inputs and constants that cannot be are refused, by name."""

import dataclasses

import numpy as np
import pytest

import oracles
from oracles import Contract
from tests.oracles.drawing import draw


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": np.ones((2, 8, 4))}, r"k has shape \(2, 8, 4\); expected \(2, 9, 4\)"),
        ({"v": np.ones((2, 8, 3))}, r"v has shape \(2, 8, 3\); expected \(2, 9, 3\)"),
        ({"i": np.ones((2, 9, 1))}, "i has shape"),
        ({"f": np.ones(9)}, "f has shape"),
        ({"n_0": None}, "n_0 is None; an initial state is all"),
        ({"C_0": None, "n_0": None}, "C_0, n_0 is None"),
        ({"m_0": np.ones((2, 1))}, r"m_0 has shape \(2, 1\); expected \(2,\)"),
    ],
)
def test_shapes_that_do_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(draw(state="warm"), **change)


def test_no_token():
    with pytest.raises(ValueError, match=r"expected S >= 1"):
        draw(length=0)


@pytest.mark.parametrize("value", [-1e-9, np.nan, np.inf])
@pytest.mark.parametrize("name", ["eps", "norm_val"])
def test_constants(name, value):
    with pytest.raises(ValueError, match=f"{name} is .*; expected a finite number, at least 0"):
        Contract(**{name: value})


def test_public_names():
    assert sorted(oracles.__all__) == [
        "Arithmetic",
        "Contract",
        "Float64",
        "Inputs",
        "MPMath",
        "Outputs",
        "Precision",
        "RunningError",
        "parallel",
        "recurrent",
        "unstabilized",
    ]  # fmt: skip
    assert all(hasattr(oracles, name) for name in oracles.__all__)
