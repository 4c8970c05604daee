"""Gate regimes: named generators of input and forget gate preactivations, hard on purpose.

A regime may choose the queries, keys and values as well, knowing everything else.
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
        tokens: (inputs, constants, parameter) -> inputs with other q, k, v, float64; None leaves them as drawn.
    """

    name: str
    stresses: str
    parameters: tuple[float, ...]
    generate: Callable[[np.random.Generator, tuple[int, ...], float], Gates]
    tokens: Callable[[Inputs, Contract, float], Inputs] | None = None


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
    empty = rng.integers(0, shape[-1], shape[:-1])[..., None]
    for gate in (i, f):
        np.put_along_axis(gate, empty, -np.inf, axis=-1)
    return i, f


def _kept(rng: np.random.Generator, shape: tuple[int, ...], _: float) -> Gates:
    return rng.standard_normal(shape), np.full(shape, np.inf)


def _saturated_mix(rng: np.random.Generator, shape: tuple[int, ...], level: float) -> Gates:
    return rng.standard_normal(shape), np.where(rng.random(shape) < 0.02, -level, level)


def _balanced(rng: np.random.Generator, shape: tuple[int, ...], level: float) -> Gates:
    f = level + rng.standard_normal(shape)
    forgotten = np.minimum(f, 0.0) - np.log1p(np.exp(-np.abs(f)))
    return np.cumsum(forgotten, axis=-1) + rng.standard_normal(shape), f


def _needle(rng: np.random.Generator, shape: tuple[int, ...], height: float) -> Gates:
    i, f = rng.standard_normal(shape), 20.0 + rng.standard_normal(shape)
    i[..., 0] = height
    return i, f


def _alternating(rng: np.random.Generator, shape: tuple[int, ...], level: float) -> Gates:
    signs = (-1.0) ** np.arange(shape[-1])
    return level * signs + rng.standard_normal(shape), level * signs + rng.standard_normal(shape)


def _edge(rng: np.random.Generator, shape: tuple[int, ...], level: float) -> Gates:
    # With f = -4 the token before, 4 higher, weighs as much as the token: both m and what is read alternate.
    signs, f = (-1.0) ** np.arange(shape[-1]), np.full(shape, -4.0)
    # m_0, 0 without an initial state, would take many tokens to fall to the edge.
    f[..., 0] = -2000.0
    return level + 2.0 * signs + 0.25 * rng.standard_normal(shape), f


def _one_sign(rng: np.random.Generator, shape: tuple[int, ...], _: float) -> Gates:
    return rng.normal(0.0, 0.25, shape), 10.0 + rng.standard_normal(shape)


def _repeated(rng: np.random.Generator, shape: tuple[int, ...], _: float) -> Gates:
    i, f = rng.standard_normal((*shape[:-1], 1)), 3.0 + rng.standard_normal((*shape[:-1], 1))
    return np.repeat(i, shape[-1], axis=-1), np.repeat(f, shape[-1], axis=-1)


def _zeros(_rng: np.random.Generator, shape: tuple[int, ...], _: float) -> Gates:
    return np.zeros(shape), np.zeros(shape)


def _at_the_kink(inputs: Inputs, contract: Contract, distance: float) -> Inputs:
    """q_t scaled so that |c q_t.n_t| = (1 +- distance) b_t, the sides alternating with t.

    A q_t for which no number does that, or none that float16 could hold, stays as it is.
    """
    dot, m = _query_dot_n(inputs)
    sides = 1.0 + distance * (-1.0) ** np.arange(inputs.q.shape[-2])
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        b = contract.norm_val * (np.exp(-m) if contract.stabilize_correctly else 1.0)
        q = inputs.q * (sides * b / np.abs(dot))[..., None]
    largest = np.max(np.abs(q), axis=-1, keepdims=True)
    return replace(inputs, q=np.where((largest > 0.0) & (largest < 2.0**15), q, inputs.q))


def _orthogonal(inputs: Inputs, _contract: Contract, _: float) -> Inputs:
    """q_t orthogonal to n_t, of standard normal entries: mixed from what was drawn and the same, moved by a channel.

    Where n_t is zero, or there is one channel, q_t stays as it is.
    """
    if inputs.q.shape[-1] == 1:
        return inputs
    moved = np.roll(inputs.q, 1, axis=-1)
    dot, dot_moved = _query_dot_n(inputs)[0][..., None], _query_dot_n(replace(inputs, q=moved))[0][..., None]
    size = np.hypot(dot, dot_moved)
    mixed = (dot_moved * inputs.q - dot * moved) / np.where(size > 0.0, size, 1.0)
    return replace(inputs, q=np.where(size > 0.0, mixed, inputs.q))


def _query_dot_n(inputs: Inputs) -> Gates:
    """(c q_t.n_t, relative to m_t; m_t) by the oracle."""
    # With v = 1, C is n. Without norm_val and eps the denominator is |c q_t.n_t|, and h its sign.
    states = {} if inputs.n_0 is None else {"C_0": inputs.n_0[..., None]}
    ones = np.ones_like(inputs.v[..., :1])
    outputs = recurrent(Float64(), replace(inputs, v=ones, **states), Contract(eps=0.0, norm_val=0.0))
    return np.where(outputs.n > 0.0, np.sign(outputs.h[..., 0]) * outputs.n, 0.0), outputs.m


def _near_one(inputs: Inputs, _contract: Contract, _: float) -> Inputs:
    """q, k and v between 1/2 and 3/2."""
    q, k, v = (1.0 + np.tanh(array) / 2.0 for array in (inputs.q, inputs.k, inputs.v))
    return replace(inputs, q=q, k=k, v=v)


def _one_token(inputs: Inputs, _contract: Contract, _: float) -> Inputs:
    q, k, v = (np.broadcast_to(array[..., :1, :], array.shape) for array in (inputs.q, inputs.k, inputs.v))
    return replace(inputs, q=q, k=k, v=v)


def _without_some(inputs: Inputs, _contract: Contract, _: float) -> Inputs:
    """Of every four tokens one without q, one without k, one without v; in the first quarter no k at all."""
    place = np.arange(inputs.q.shape[-2])
    keys = (place % 4 != 1) & (place >= len(place) // 4)
    q, k, v = inputs.q * (place % 4 != 0)[:, None], inputs.k * keys[:, None], inputs.v * (place % 4 != 2)[:, None]
    return replace(inputs, q=q, k=k, v=v)


_ALL = (
    Regime("ordinary", "Standard normal gates: what every peer tests.", (), _ordinary),
    Regime("init", "The published initialisation, i near -10 and f from 3 to 6: nearly no input.", (), _init),
    Regime(
        "forget",
        "Saturated forget gates, f near the parameter: at -10 all is forgotten, at +10 and beyond nothing.",
        (-1000.0, -60.0, -20.0, -10.0, 10.0, 20.0, 60.0, 1000.0),
        _forget,
    ),
    Regime(
        "input_gates",
        "i near the parameter: exp(-m) leaves the range of float32 both ways, and q.n cancels when it wins.",
        (-1000.0, -100.0, -60.0, -20.0, 20.0, 60.0, 100.0, 1000.0),
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
        "i goes to the parameter in eight steps: rising, the running maximum moves late in a chunk; falling, what "
        "comes late weighs nothing.",
        (60.0, -60.0),
        _staircase,
    ),
    Regime("reset", "f = -inf now and then: differences of prefix sums become NaN.", (), _reset),
    Regime(
        "dead_input",
        "i = -inf at the start and for a third of the tokens, at one with f = -inf: the empty state, where m is -inf.",
        (),
        _dead_input,
    ),
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
        "needle",
        "i at the parameter at t = 0 and forget gates that keep it: what was written first is still read at the end.",
        (12.0,),
        _needle,
    ),
    Regime(
        "alternating",
        "Both gates near plus and minus the parameter in turns: m jumps back and forth with every token.",
        (20.0,),
        _alternating,
    ),
    Regime(
        "edge",
        "m on both sides of the parameter in turns: at 88 exp(-m) is next to float32's smallest normal number, at -88 "
        "next to its largest.",
        (88.0, -88.0),
        _edge,
    ),
    Regime(
        "kink",
        "|q.n| next to norm_val exp(-m), by the parameter above and below: the gradient of the normalizer switches.",
        (0.01, 1e-7),
        _ordinary,
        _at_the_kink,
    ),
    Regime(
        "cancellation",
        "q orthogonal to n: of |q.n| only rounding is left, which exp(-m) is above, and next to if i is near 8.",
        (0.0, 8.0),
        _input_gates,
        _orthogonal,
    ),
    Regime(
        "one_sign",
        "q, k and v between 1/2 and 3/2, nothing is forgotten, all weigh alike: what is rounded to one side adds up, "
        "while roundings to nearest average out.",
        (),
        _one_sign,
        _near_one,
    ),
    Regime(
        "repeated",
        "All tokens of a head are the same: errors of the same sign add up, and equal maxima are ties.",
        (),
        _repeated,
        _one_token,
    ),
    Regime(
        "zeros",
        "Both gates 0, and q, k or v zero in most tokens, k in all of the first quarter: 0 / 0 is near.",
        (),
        _zeros,
        _without_some,
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


def choose_tokens(text: str, inputs: Inputs, contract: Contract) -> Inputs | None:
    """The inputs with the q, k and v that the regime chooses, float64; None if it takes them as drawn."""
    name, parameter = split_parameter("regime", text, _TAKES)
    choose = REGIMES[name].tokens
    return None if choose is None else choose(inputs, contract, 0.0 if parameter is None else parameter)
