"""The probe of the probe: that the oracles have the precision they claim, asked before they judge.

On a case of a few tokens:

    resolves   v (1 + delta) gives h (1 + delta), as h is linear in v: delta = 2^-40 in Float64, 10^-(digits - 5) in
               MPMath and Ball
    agree      recurrent and parallel outputs and gradients, to delta
    inside     MPMath inside the balls, and Float64 within its own running error bound of them
    noise      numbers that Monte Carlo arithmetic stores scatter by their unit

Arithmetics whose package is missing are left out and named.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import Any

import numpy as np

from oracles import (
    Arithmetic,
    Ball,
    Float64,
    MonteCarlo,
    MPMath,
    Precision,
    RunningError,
    parallel,
    parallel_vjp,
    recurrent,
    recurrent_vjp,
)
from verify._case import Case
from verify._errors import SuiteError
from verify._problem import Problem, make_problem

DIGITS = 50
# 36 digits: what MPMath computes must be inside.
BITS = 120
_PACKAGES = {"MPMath": "mpmath", "Ball": "flint"}
_CASE = Case(length=5, dhqk=3, dhhv=2, chunk_size=16, cotangents="all")
_WARM = replace(_CASE, initial="warm@1", stabilize_correctly=False)


def self_test() -> list[str]:
    """Run all checks that this machine has packages for.

    Returns:
        The arithmetics that were left out, each with the package that is missing.

    Raises:
        SuiteError: naming the check that failed, and by how much.
    """
    missing = {name for name, package in _PACKAGES.items() if importlib.util.find_spec(package) is None}
    checked: list[tuple[str, Arithmetic, float]] = [("Float64", Float64(), 2.0**-40)]
    if "MPMath" not in missing:
        checked.append((f"MPMath({DIGITS})", MPMath(DIGITS), 10.0 ** (5 - DIGITS)))
    if "Ball" not in missing:
        checked.append((f"Ball({BITS})", Ball(BITS), 10.0 ** (5 - int(BITS * np.log10(2.0)))))
    for case in (_CASE, _WARM):
        problem = make_problem(case)
        for name, ar, delta in checked:
            _check_agree(name, ar, problem, delta)
        if "Ball" not in missing:
            _check_inside(problem, with_mpmath="MPMath" not in missing)
    for name, ar, delta in checked:
        _check_resolves(name, ar, make_problem(_CASE), delta)
    _check_noise()
    return [f"{name} ({_PACKAGES[name]} is not installed)" for name in _PACKAGES if name in missing]


def _recurrent(ar: Arithmetic, problem: Problem) -> dict[str, Any]:
    given = ar, problem.inputs, problem.contract
    return dict([*recurrent(*given).items(), *recurrent_vjp(*given, problem.exact_cotangents).items()])


def _parallel(ar: Arithmetic, problem: Problem) -> dict[str, Any]:
    given = ar, problem.inputs, problem.contract
    return dict([*parallel(*given).items(), *parallel_vjp(*given, problem.exact_cotangents).items()])


def _check_agree(name: str, ar: Arithmetic, problem: Problem, delta: float) -> None:
    one, other = _recurrent(ar, problem), _parallel(ar, problem)
    for output, number in one.items():
        scale = np.max(np.abs(ar.to_float64(number)))
        apart = float(np.max(np.abs(ar.to_float64(number - other[output]))) / scale)
        _require(
            apart <= delta, f"{name}: recurrent and parallel {output} differ by {apart:.2g} of it, not {delta:.2g}"
        )


def _check_resolves(name: str, ar: Arithmetic, problem: Problem, delta: float) -> None:
    # Without an initial state h is linear in v.
    v = ar.array(problem.inputs.v) * (ar.array(1.0) + ar.array(delta))
    scaled = replace(problem.inputs, v=getattr(v, "x", v))
    for form in (recurrent, parallel):
        before, after = form(ar, problem.inputs, problem.contract).h, form(ar, scaled, problem.contract).h
        seen = ar.to_float64(after - before) / (ar.to_float64(before) * delta)
        worst = float(seen.ravel()[np.argmax(np.abs(seen - 1.0))])
        _require(abs(worst - 1.0) < 0.1, f"{name}: h changes by {worst:.3g} times {delta:.2g} where v changes by that")


def _check_inside(problem: Problem, *, with_mpmath: bool) -> None:
    ball = Ball(BITS)
    proved = _recurrent(ball, problem)
    computed = _recurrent(RunningError(Precision.of("float64"), depth=1), problem)
    anchors = _recurrent(MPMath(DIGITS), problem) if with_mpmath else {}
    for output, balls in proved.items():
        number, middle = computed[output], ball.to_float64(balls)
        off = float(np.max(np.abs(number.x - middle) - number.e - ball.radius(balls)))
        # The midpoint is itself rounded to float64.
        _require(
            off <= 2.0**-53 * float(np.max(np.abs(middle))), f"Float64: {output} is {off:.2g} outside of its bound"
        )
        if output in anchors:
            outside = int(np.sum(~ball.encloses(balls, anchors[output])))
            _require(not outside, f"Ball({BITS}): {outside} numbers of {output} by MPMath({DIGITS}) are not inside")


def _check_noise() -> None:
    for name in ("float32", "bfloat16"):
        precision = Precision.of(name)
        ar = MonteCarlo(precision, 16, 0)
        one = np.ones(4096)
        scatter = float(np.sqrt(np.mean(ar.noise(ar.output(ar.array(one)), one) ** 2)) / precision.storage)
        _require(
            0.5 < scatter < 0.65, f"MonteCarlo: stored numbers of {name} scatter by {scatter:.3g} units, not 0.577"
        )


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise SuiteError(f"self-test: {otherwise}.")
