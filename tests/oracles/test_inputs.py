"""Inputs and constants that cannot be are refused, by name."""

import dataclasses

import numpy as np
import pytest

import oracles
from oracles import Contract, Cotangents, Float64, parallel_vjp, recurrent_vjp
from tests.oracles.drawing import draw, draw_cotangents


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


@pytest.mark.parametrize("form", [recurrent_vjp, parallel_vjp], ids=lambda form: form.__name__)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"h": np.ones((2, 9, 4))}, r"cotangent h has shape \(2, 9, 4\); expected \(2, 9, 3\), from the inputs"),
        ({"C_last": np.ones((2, 3, 4))}, r"cotangent C_last has shape \(2, 3, 4\); expected \(2, 4, 3\)"),
        ({"n_last": np.ones((2, 3))}, r"cotangent n_last has shape \(2, 3\); expected \(2, 4\)"),
        ({"m_last": np.ones(1)}, r"cotangent m_last has shape \(1,\); expected \(2,\)"),
    ],
)
def test_cotangents_that_do_not_fit(form, change, message):
    inputs = draw()
    cotangents = dataclasses.replace(draw_cotangents(inputs), **change)
    with pytest.raises(ValueError, match=message):
        form(Float64(), inputs, Contract(), cotangents)


@pytest.mark.parametrize("form", [recurrent_vjp, parallel_vjp], ids=lambda form: form.__name__)
@pytest.mark.parametrize("word", ["Exact", "", None])
def test_another_normalizer_grad(form, word):
    with pytest.raises(ValueError, match=f"normalizer_grad is {word!r}; expected exact or detached"):
        form(Float64(), draw(), Contract(), Cotangents(), word)


@pytest.mark.parametrize("form", [recurrent_vjp, parallel_vjp], ids=lambda form: form.__name__)
def test_an_absent_initial_state_has_no_gradient(form):
    names = [name for name, _ in form(Float64(), draw(), Contract(), Cotangents()).items()]
    assert names == ["dq", "dk", "dv", "di", "df"]
    names = [name for name, _ in form(Float64(), draw(state="warm"), Contract(), Cotangents()).items()]
    assert names == ["dq", "dk", "dv", "di", "df", "dC_0", "dn_0", "dm_0"]


def test_public_names():
    assert sorted(oracles.__all__) == [
        "Arithmetic",
        "Ball",
        "Contract",
        "Cotangents",
        "EnclosureError",
        "Float64",
        "Gradients",
        "Inputs",
        "MPMath",
        "MonteCarlo",
        "NormalizerGrad",
        "Outputs",
        "Precision",
        "RunningError",
        "chunkwise",
        "chunkwise_and_vjp",
        "chunkwise_vjp",
        "enclose",
        "parallel",
        "parallel_vjp",
        "recurrent",
        "recurrent_and_vjp",
        "recurrent_vjp",
        "unstabilized",
    ]  # fmt: skip
    assert all(hasattr(oracles, name) for name in oracles.__all__)
