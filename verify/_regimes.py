"""Gate regimes: named generators of input and forget gate preactivations, hard on purpose.

A regime may choose the queries as well, knowing everything else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from oracles import Contract, Float64, Inputs, recurrent
from verify._parameter import split_parameter

Gates = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Regime:
    """A gate regime.

    Attributes:
        name: the field's word for it.
        stresses: one sentence on what it is hard for.
        parameters: values used by the tiers; empty if the regime takes none.
        generate: (generator, shape (B, NH, S), parameter) -> (i, f), float64.
        queries: (inputs, constants, parameter) -> q, float64; None leaves q as drawn.
    """

    name: str
    stresses: str
    parameters: tuple[float, ...]
    generate: Callable[[np.random.Generator, tuple[int, ...], float], Gates]
    queries: Callable[[Inputs, Contract, float], np.ndarray] | None = None


def _ordinary(rng: np.random.Generator, shape: tuple[int, ...], _: float) -> Gates:
    return rng.standard_normal(shape), rng.standard_normal(shape)


def _init(rng: np.random.Generator, shape: tuple[int, ...], _: float) -> Gates:
    heads = shape[1]
    bias = np.linspace(3.0, 6.0, heads)[None, :, None]
    return rng.normal(-10.0, 0.1, shape), bias + rng.normal(0.0, 0.1, shape)


def _forget(rng: np.random.Generator, shape: tuple[int, ...], level: float) -> Gates:
    return rng.standard_normal(shape), level + rng.standard_normal(shape)


def _input_gates(rng: np.random.Generator, shape: tuple[int, ...], level: float) -> Gates:
    return level + rng.standard_normal(shape), 3.0 + rng.standard_normal(shape)


def _soft_capped(rng: np.random.Generator, shape: tuple[int, ...], cap: float) -> Gates:
    return cap * np.tanh(2.0 * rng.standard_normal(shape)), cap * np.tanh(2.0 * rng.standard_normal(shape))


def _spike(rng: np.random.Generator, shape: tuple[int, ...], height: float) -> Gates:
    i, f = rng.standard_normal(shape), 3.0 + rng.standard_normal(shape)
    position = rng.integers(0, shape[-1], shape[:-1])
    np.put_along_axis(i, position[..., None], height, axis=-1)
    return i, f


def _staircase(rng: np.random.Generator, shape: tuple[int, ...], height: float) -> Gates:
    length = shape[-1]
    steps = np.minimum(8, length)
    stairs = height * np.floor(np.arange(length) * steps / length) / steps
    return stairs + rng.standard_normal(shape), 5.0 + rng.standard_normal(shape)


def _reset(rng: np.random.Generator, shape: tuple[int, ...], _: float) -> Gates:
    i, f = rng.standard_normal(shape), 3.0 + rng.standard_normal(shape)
    f[rng.random(shape) < 0.05] = -np.inf
    np.put_along_axis(f, rng.integers(0, shape[-1], shape[:-1])[..., None], -np.inf, axis=-1)
    return i, f


def _dead_input(rng: np.random.Generator, shape: tuple[int, ...], _: float) -> Gates:
    i, f = rng.standard_normal(shape), 3.0 + rng.standard_normal(shape)
    i[rng.random(shape) < 0.3] = -np.inf
    i[..., 0] = -np.inf
    return i, f


def _kept(rng: np.random.Generator, shape: tuple[int, ...], _: float) -> Gates:
    return rng.standard_normal(shape), np.full(shape, np.inf)


def _saturated_mix(rng: np.random.Generator, shape: tuple[int, ...], level: float) -> Gates:
    return rng.standard_normal(shape), np.where(rng.random(shape) < 0.02, -level, level)


def _balanced(rng: np.random.Generator, shape: tuple[int, ...], level: float) -> Gates:
    f = level + rng.standard_normal(shape)
    forgotten = np.minimum(f, 0.0) - np.log1p(np.exp(-np.abs(f)))
    return np.cumsum(forgotten, axis=-1) + rng.standard_normal(shape), f


def _queries_at_the_kink(inputs: Inputs, contract: Contract, distance: float) -> np.ndarray:
    """q_t scaled so that |c q_t.n_t| = (1 +- distance) b_t, the sides alternating with t.

    A q_t for which no number does that, or none that float16 could hold, stays as it is.
    """
    # Without norm_val and eps the denominator is |c q_t.n_t|; v, which it does not depend on, is left out.
    states = {} if inputs.C_0 is None else {"C_0": inputs.C_0[..., :0]}
    outputs = recurrent(Float64(), replace(inputs, v=inputs.v[..., :0], **states), Contract(eps=0.0, norm_val=0.0))
    sides = 1.0 + distance * (-1.0) ** np.arange(inputs.q.shape[-2])
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        b = contract.norm_val * (np.exp(-outputs.m) if contract.stabilize_correctly else 1.0)
        q = inputs.q * (sides * b / outputs.n)[..., None]
    largest = np.max(np.abs(q), axis=-1, keepdims=True)
    return np.where((largest > 0.0) & (largest < 2.0**15), q, inputs.q)


_ALL = (
    Regime("ordinary", "Standard normal gates: what every peer tests.", (), _ordinary),
    Regime("init", "The published initialisation, i near -10 and f from 3 to 6: nearly no input.", (), _init),
    Regime(
        "forget",
        "Saturated forget gates, f near the parameter: at -10 all is forgotten, at +10 and beyond nothing.",
        (-60.0, -10.0, 10.0, 20.0),
        _forget,
    ),
    Regime(
        "input_gates",
        "i near the parameter: exp(-m) leaves the range of float32 both ways, and q.n cancels when it wins.",
        (-100.0, -20.0, 20.0, 100.0),
        _input_gates,
    ),
    Regime(
        "soft_capped",
        "Gates soft-capped at the parameter with random signs: m jumps at every step.",
        (15.0,),
        _soft_capped,
    ),
    Regime(
        "spike",
        "One input gate at the parameter, once: the stabilizer jumps and everything before it fades.",
        (50.0,),
        _spike,
    ),
    Regime(
        "staircase",
        "i rises to the parameter in eight steps: the running maximum moves late in a chunk.",
        (60.0,),
        _staircase,
    ),
    Regime("reset", "f = -inf now and then: differences of prefix sums become NaN.", (), _reset),
    Regime("dead_input", "i = -inf at the start and for a third of the tokens: the empty state.", (), _dead_input),
    Regime("kept", "f = +inf everywhere: nothing is forgotten, and f has no gradient.", (), _kept),
    Regime(
        "saturated_mix",
        "2 % of f at minus the parameter in a field of plus the parameter: differences of prefix sums drown.",
        (30.0,),
        _saturated_mix,
    ),
    Regime(
        "balanced",
        "i falls as fast as the gates near the parameter forget: all tokens weigh alike, and exp(-m) leaves float32.",
        (-3.0,),
        _balanced,
    ),
    Regime(
        "kink",
        "|q.n| next to norm_val exp(-m), by the parameter above and below: the gradient of the normalizer switches.",
        (0.01,),
        _ordinary,
        _queries_at_the_kink,
    ),
)

REGIMES: dict[str, Regime] = {regime.name: regime for regime in _ALL}
_TAKES = {name: bool(regime.parameters) for name, regime in REGIMES.items()}


def check_regime(text: str) -> None:
    """Raise UsageError unless ``text`` names a regime, with a parameter where it needs one."""
    split_parameter("regime", text, _TAKES)


def regime_tokens() -> list[str]:
    """Every regime as the tiers use it: ``name`` or ``name@parameter``."""
    tokens = []
    for name, regime in REGIMES.items():
        tokens += [f"{name}@{value:g}" for value in regime.parameters] or [name]
    return tokens


def generate_gates(text: str, rng: np.random.Generator, shape: tuple[int, ...]) -> Gates:
    """(i, f) of the regime, float64, of shape (B, NH, S)."""
    name, parameter = split_parameter("regime", text, _TAKES)
    return REGIMES[name].generate(rng, shape, 0.0 if parameter is None else parameter)


def choose_queries(text: str, inputs: Inputs, contract: Contract) -> np.ndarray | None:
    """The queries that the regime chooses for these inputs, float64; None if it takes them as drawn."""
    name, parameter = split_parameter("regime", text, _TAKES)
    choose = REGIMES[name].queries
    return None if choose is None else choose(inputs, contract, 0.0 if parameter is None else parameter)
