"""How far two results of one subject are apart, on a scale that comes from the subject itself.

The scatter of a row of an output x, which is all that stands at one index but the last where the output has channels:

    scatter   the root mean square, over the channels and ``REPLICATES`` runs, of x(nudged inputs) - x(inputs)
    scale     sqrt(r (scatter^2 + scatter_2^2 + ...) + (u rms(x))^2 + (2^-24 M rms(x))^2 + t^2)
    z         |x_1 - x_2| / scale of the row

Nudged inputs are the inputs moved by one unit in the last place of their dtype, up or down at random: q, k, v, f, the
initial state, and i where it is float32. (Gates are computed in float32: what a 16-bit i loses, it has lost before the
subject sees it.) u rms(x) is half a unit in the last place of the output's dtype. M is the largest |m_t| and |i_t| of
the head: a stabilizer of that size in float32 rounds, and as no result depends on it, no nudged input tells. (For m
itself, 2^-24 M without rms(x). For gradients of the initial state M is at least -b_S, the exponent of its decay, and
for those of token s from the last state alone b_s - b_S.)
t is what the products of a chunk's tokens and channels may lose below the smallest normal number of float32. What left
its dtype stands for the first power of two that does.

Where two results are the same in exact arithmetic, rounding puts them as far apart as the problem is ill conditioned,
and so does the nudging: z needs no oracle and no tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from verify._error_scales import FLOAT32_TINY
from verify._measurement import brought_to
from verify._reference import CHANNELS

if TYPE_CHECKING:
    from verify._case import Case

Arrays = dict[str, np.ndarray]
REPLICATES = 8
UNIT_32 = 2.0**-24
BLOCK = 16
_FORGOTTEN = 1e6
_UNDERFLOW = 104.0
STATE = {"c_initial": "C_last", "n_initial": "n_last", "m_initial": "m_last"}


@dataclass(frozen=True)
class Given:
    """What a subject is called with.

    Attributes:
        case: for the options of the call.
        arrays: by parameter.
        cotangents: by output; none: the forward pass alone.
        last_states: whether the last state is asked for, of a subject that returns it.
    """

    case: Case
    arrays: Arrays
    cotangents: Arrays
    last_states: bool = True

    def but(self, **arrays: np.ndarray) -> Given:
        """The same with some arrays replaced."""
        return replace(self, arrays={**self.arrays, **arrays})

    def forward(self) -> Given:
        """The same without cotangents."""
        return replace(self, cotangents={})


Call = Callable[[Given], Arrays]


def nudged(given: Given, rng: np.random.Generator) -> Given:
    """Every input moved by one unit in the last place; zeros and infinities stay, since they mean something."""
    kept = ("i",) if given.case.dtype != "float32" else ()
    return given.but(**{name: nudge(array, rng) for name, array in given.arrays.items() if name not in kept})


def nudge(array: np.ndarray, rng: np.random.Generator, *, least: float = 0.0) -> np.ndarray:
    """Every element that is neither zero nor infinite moved by one unit in the last place, or by ``least`` if more."""
    up = rng.integers(0, 2, array.shape, np.int8).astype(bool)
    target = np.where(up, np.inf, -np.inf).astype(array.dtype)
    moved = np.nextafter(array, target)
    if least:
        moved = np.where(abs(array) < least, np.where(up, least, -least), moved)
    movable = np.isfinite(array) & ((array != 0) | (least > 0))
    return np.where(movable, moved, array).astype(array.dtype)


@dataclass(frozen=True)
class Apart:
    """How far an output is from what it should equal.

    Attributes:
        output: its name.
        size: its elements.
        differ: how many of them are not equal; NaN equals NaN, and 0 equals -0.
        place: index of the element with the largest z.
        got, wanted: the values there.
        rms_z: over all elements.
        row_z: the largest root mean square z of a row.
        undecided: elements whose scale is not finite.
    """

    output: str
    size: int
    differ: int
    place: tuple[int, ...]
    got: float
    wanted: float
    rms_z: float
    row_z: float
    undecided: int = 0


def exactly(got: Arrays, wanted: Arrays) -> Iterator[Apart]:
    """Every output against what it should equal bit by bit: z is 0 or infinite."""
    for name in wanted:
        yield _apart(name, got[name], wanted[name], np.zeros(got[name].shape))


def on_scale(got: Arrays, wanted: Arrays, scale: Arrays) -> Iterator[Apart]:
    """Every output against what it should equal but for rounding."""
    got, wanted = _in_reach(got, wanted), _in_reach(wanted, wanted)
    if "m_last" in got:
        got = brought_to(got, wanted["m_last"])
    for name in wanted:
        yield _apart(name, got[name], wanted[name], _by_channel(name, scale[name]))


def in_float64(outputs: Mapping[str, np.ndarray]) -> Arrays:
    """The same values."""
    return {name: np.asarray(array, np.float64) for name, array in outputs.items()}


def _in_reach(outputs: Mapping[str, np.ndarray], of: Mapping[str, np.ndarray]) -> Arrays:
    """In float64; infinities of a dtype that ``of`` has as numbers, but for those of m, which mean something."""
    import ml_dtypes

    outputs = in_float64(outputs)
    for name in outputs.keys() & of.keys() - {"m", "m_last"}:
        end = 2.0 ** ml_dtypes.finfo(of[name].dtype).maxexp
        outputs[name] = np.clip(outputs[name], -end, end)
    return outputs


def scale_of(given: Given, base: Arrays, *scatters: Arrays) -> Arrays:
    """The scale of every row of the outputs ``base`` for these inputs."""
    import ml_dtypes

    scale = {}
    b = _summed_log_forget_gates(given)
    stabilizer = _largest_stabilizer(given, b)
    tiny = FLOAT32_TINY * given.case.chunk_size * max(given.case.dhqk, given.case.dhhv)
    numbers = _in_reach(base, base)
    for name, array in base.items():
        size = root_mean_square(name, numbers[name])
        dtype = ml_dtypes.finfo(array.dtype)
        # Below the smallest normal number of float16 one rounding is as large as at it.
        parts = [float(dtype.eps) / 2 * np.maximum(size, float(dtype.smallest_normal)), np.asarray(tiny)]
        # m itself is off by one rounding of that size; all else as exp(m) is.
        of = np.ones_like(size) if name in ("m", "m_last") else size
        rounded = _largest_exponent(given, name, b, stabilizer)
        parts.append(UNIT_32 * rounded.reshape(rounded.shape + (1,) * (size.ndim - rounded.ndim)) * of)
        roundings = _roundings(given.case, name)
        if name in ("m", "m_last"):
            parts.append(UNIT_32 * roundings * np.where(np.isfinite(size), size, 0.0))
        parts += [np.sqrt(roundings) * scatter[name] for scatter in scatters]
        with np.errstate(all="ignore"):
            scale[name] = np.sqrt(sum(part**2 for part in parts))
    return scale


def _roundings(case: Case, name: str) -> np.ndarray | float:
    # By token, for an output that depends on the tokens up to there. A relation halves chunks of 32 and more.
    size = case.chunk_size // 2 if case.chunk_size >= 32 else case.chunk_size
    if name in ("h", "n", "m"):
        return np.maximum(1.0, np.arange(case.length) // size)
    return max(1.0, case.length // size)


def _summed_log_forget_gates(given: Given) -> np.ndarray:
    # b_t = sum_{r <= t} phi_r, where f = -inf counts as a number that forgets all.
    return np.cumsum(np.maximum(-np.logaddexp(0.0, -given.arrays["f"].astype(np.float64)), -_FORGOTTEN), axis=-1)


def _largest_exponent(given: Given, name: str, b: np.ndarray, stabilizer: np.ndarray) -> np.ndarray:
    # Of a gradient that comes from far away as a whole, also that of its decay, up to where exp underflows: sums of
    # many gates round more than the gates, and gates that are 0 are not nudged.
    if name in ("dC_0", "dn_0", "dm_0"):
        return np.maximum(stabilizer, np.minimum(-b[..., -1], _UNDERFLOW))
    if name in ("dk", "dv", "di", "df") and "h" not in given.cotangents:
        return np.maximum(stabilizer[..., None], np.minimum(b - b[..., -1:], _UNDERFLOW))
    return stabilizer


def _largest_stabilizer(given: Given, b: np.ndarray) -> np.ndarray:
    # Of every head: m_t = b_t + max(m_0, max_{s <= t} (i_s - b_s)). What went through f = -inf is forgotten, and its m
    # is no stabilizer of anything.
    i = given.arrays["i"].astype(np.float64)
    m_0 = given.arrays["m_initial"].astype(np.float64) if "m_initial" in given.arrays else np.zeros(i.shape[:-1])
    m = b + np.maximum(m_0[..., None], np.maximum.accumulate(i - b, axis=-1))
    sizes = np.abs(np.concatenate([m, i, m_0[..., None]], axis=-1))
    return np.max(sizes, axis=-1, initial=0.0, where=sizes < _FORGOTTEN / 2)


def scatter(run: Callable[[np.random.Generator], Arrays], base: Arrays, seed: int) -> Arrays:
    """The scatter of every row of ``base``.

    Args:
        run: the outputs for inputs that are nudged by this generator.
        base: the outputs for the inputs themselves.
        seed: of the generators.
    """
    exact = _in_reach(base, base)
    squares = {name: np.zeros(array.shape) for name, array in exact.items()}
    for replicate in range(REPLICATES):
        outputs = _in_reach(run(np.random.default_rng([seed, replicate])), base)
        if "m_last" in outputs:
            outputs = brought_to(outputs, exact["m_last"])
        with np.errstate(all="ignore"):
            for name, array in exact.items():
                # An infinite m that stays so does not move.
                squares[name] += np.where(outputs[name] == array, 0.0, outputs[name] - array) ** 2 / REPLICATES
    return {name: _pooled(name, root_mean_square(name, np.sqrt(square))) for name, square in squares.items()}


def _pooled(name: str, x: np.ndarray) -> np.ndarray:
    """The root mean square over blocks of tokens, or over all heads, for a gradient that has no channels.

    Such a one is a sum that may cancel to nothing but a few roundings, which by chance are the same in all replicates.
    """
    if name == "dm_0":
        return np.full(x.shape, np.sqrt(np.mean(x**2)))
    if name not in ("di", "df"):
        return x
    # The last block has what is left over, too: one token alone would be such a chance again.
    starts = np.arange(0, max(1, x.shape[2] - BLOCK + 1), BLOCK)
    sizes = np.diff([*starts, x.shape[2]])
    with np.errstate(all="ignore"):
        return np.repeat(np.sqrt(np.add.reduceat(x**2, starts, axis=2) / sizes), sizes, axis=2)


def root_mean_square(name: str, x: np.ndarray) -> np.ndarray:
    """Of every row: over the last axis of an output that has channels there."""
    with np.errstate(all="ignore"):
        return np.sqrt(np.mean(x**2, axis=-1)) if name in CHANNELS else np.abs(x)


def _by_channel(name: str, scale: np.ndarray) -> np.ndarray:
    return scale[..., None] if name in CHANNELS else scale


def _apart(name: str, got: np.ndarray, wanted: np.ndarray, scale: np.ndarray) -> Apart:
    with np.errstate(all="ignore"):
        same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
        error = np.where(same, 0.0, np.abs(got.astype(np.float64) - wanted.astype(np.float64)))
        # One of them is NaN or infinite.
        error = np.where(np.isfinite(error), error, np.inf)
        undecided = np.broadcast_to(~np.isfinite(scale), error.shape) & np.isfinite(error)
        z = np.where(same | undecided, 0.0, error / scale)
        # Two infinities over one another.
        z = np.where(np.isnan(z), np.inf, z)
        rows = root_mean_square(name, z)
        place = np.unravel_index(int(np.argmax(z)), z.shape)
        return Apart(
            output=name,
            size=z.size,
            differ=int(np.sum(~same)),
            place=tuple(int(index) for index in place),
            got=float(got[place]),
            wanted=float(wanted[place]),
            rms_z=float(np.sqrt(np.mean(z**2))),
            row_z=float(rows.max()),
            undecided=int(undecided.sum()),
        )
