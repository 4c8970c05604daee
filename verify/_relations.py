"""Relations: what the results of a correct subject have to do with each other. They need no oracle, at any length.

Some hold bit by bit, where the subject makes the same sums for the same shapes. The others hold but for rounding, and
are judged on the scatter of the subject itself (``verify._scatter``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from verify._case import Case
from verify._error_scales import FLOAT32_TINY
from verify._problem import GRADIENT_OF, make_problem
from verify._reference import TOKENS
from verify._scatter import (
    STATE,
    Apart,
    Arrays,
    Call,
    Given,
    exactly,
    in_float64,
    nudge,
    nudged,
    on_scale,
    scale_of,
    scatter,
)
from verify._verdict import Outcome

_BY_TOKEN = ("q", "k", "v", "i", "f")
# What token t returns and gets of the tokens up to t alone.
_CAUSAL = ("h", "n", "m", "dq")


class Runs:
    """A subject under a relation.

    Attributes:
        given: the inputs of the case.
        case: the case itself.
    """

    def __init__(self, given: Given, call: Call) -> None:
        self.given, self.case, self._call = given, given.case, call

    def __call__(self, given: Given) -> Arrays:
        """What the subject returns; shapes are checked."""
        # A copy: the subject may write what the next call returns to the same memory.
        outputs = {name: array.copy() for name, array in self._call(given).items()}
        for name, array in outputs.items():
            if array.shape != (wanted := _shapes(given)[name]):
                raise RefusedError(Outcome.WRONG_SHAPE, f"{name} has shape {array.shape}; expected {wanted}")
        return outputs

    @functools.cached_property
    def base(self) -> Arrays:
        """What the subject returns for the inputs of the case; no output is NaN."""
        return self.without_nan(self(self.given))

    @functools.cached_property
    def scatter(self) -> Arrays:
        """The scatter of ``base``."""
        return self.scatter_of(self.given, self.base)

    def scatter_of(self, given: Given, outputs: Arrays) -> Arrays:
        """The scatter of the outputs for other inputs."""
        return scatter(lambda rng: self.without_nan(self(nudged(given, rng))), outputs, self.case.seed)

    def without_nan(self, outputs: Arrays) -> Arrays:
        """The outputs; RefusedError if one is NaN.

        A gradient may be NaN where h left its dtype or d_t may be 0, and that of an empty initial state anywhere.
        """
        sure = self.case.eps > 0.0 and np.isfinite(outputs["h"]).all() and not self.case.initial.startswith("empty")
        for name in [name for name in outputs if sure or name not in GRADIENT_OF.values()]:
            if count := int(np.isnan(outputs[name]).sum()):
                raise RefusedError(Outcome.NONFINITE, f"{count} elements of {name} are NaN")
        return outputs


class RefusedError(Exception):
    """Results that have no relation to anything."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome


def _shapes(given: Given) -> dict[str, tuple[int, ...]]:
    *lead, length, dhqk = given.arrays["q"].shape
    dhhv = given.arrays["v"].shape[-1]
    ends = {"h": (length, dhhv), "n": (length,), "m": (length,), "C_last": (dhqk, dhhv), "n_last": (dhqk,)}
    shapes = {name: (*lead, *end) for name, end in (*ends.items(), ("m_last", ()))}
    return shapes | {GRADIENT_OF[name]: array.shape for name, array in given.arrays.items()}


def _at_tokens(outputs: Arrays, part: slice, names: tuple[str, ...] = tuple(TOKENS)) -> Arrays:
    return {name: outputs[name][:, :, part] for name in names if name in outputs}


def _cuts(case: Case) -> list[int]:
    """A token inside of a chunk and one at a chunk's edge, as far as the length allows."""
    edge = max(case.chunk_size, case.length // 2 // case.chunk_size * case.chunk_size)
    return [cut for cut in dict.fromkeys((_inside(case), edge)) if cut < case.length]


def _inside(case: Case) -> int:
    middle = max(1, case.length // 2)
    return middle + 1 if middle % case.chunk_size == 0 and middle + 1 < case.length else middle


def _prefix_causality(runs: Runs) -> Iterator[Apart]:
    rng = np.random.default_rng([runs.case.seed, 1])
    yield from _with_another_future(runs, lambda name, array: _other_tokens(name, array, rng))


def _nan_causality(runs: Runs) -> Iterator[Apart]:
    yield from _with_another_future(runs, lambda _, array: np.full_like(array, np.nan))


def _with_another_future(runs: Runs, change: Callable[[str, np.ndarray], np.ndarray]) -> Iterator[Apart]:
    arrays = {name: runs.given.arrays[name] for name in _BY_TOKEN}
    other = {name: change(name, array) for name, array in arrays.items()}
    for cut in _cuts(runs.case):
        mixed = {
            name: np.concatenate([array[:, :, :cut], other[name][:, :, cut:]], 2) for name, array in arrays.items()
        }
        changed = runs(runs.given.but(**mixed))
        yield from exactly(*(_at_tokens(outputs, slice(cut), _CAUSAL) for outputs in (changed, runs.base)))


def _other_tokens(name: str, array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    # i above all there was: a stabilizer that sees it is another one.
    above = np.max(array, initial=0.0, where=np.isfinite(array)).astype(np.float64) + 10.0 if name == "i" else 0.0
    return (above + rng.standard_normal(array.shape)).astype(array.dtype)


def _gradient_causality(runs: Runs) -> Iterator[Apart]:
    dh = runs.given.cotangents["h"]
    other = np.random.default_rng([runs.case.seed, 2]).standard_normal(dh.shape).astype(dh.dtype)
    for cut in _cuts(runs.case):
        mixed = np.concatenate([other[:, :, :cut], dh[:, :, cut:]], 2)
        changed = runs(replace(runs.given, cotangents={**runs.given.cotangents, "h": mixed}))
        yield from exactly(_at_tokens(changed, slice(cut, None)), _at_tokens(runs.base, slice(cut, None)))


def _permutation(runs: Runs, axis: int) -> Iterator[Apart]:
    def roll(arrays: Arrays) -> Arrays:
        return {name: np.roll(array, 1, axis) for name, array in arrays.items()}

    given = replace(runs.given, arrays=roll(runs.given.arrays), cotangents=roll(runs.given.cotangents))
    yield from exactly(runs(given), roll(runs.base))


def _nan_in_one_head(runs: Runs) -> Iterator[Apart]:
    sick = np.zeros((runs.case.batch, runs.case.heads), bool)
    sick[runs.case.batch // 2, runs.case.heads // 2] = True
    arrays = {name: array.copy() for name, array in runs.given.arrays.items()}
    for name in _BY_TOKEN:
        arrays[name][sick] = np.nan
    changed = runs(runs.given.but(**arrays))
    # Of the sick head anything may come.
    yield from exactly(
        {name: np.where(_like(sick, array), runs.base[name], array) for name, array in changed.items()}, runs.base
    )


def _like(heads: np.ndarray, array: np.ndarray) -> np.ndarray:
    return heads.reshape(heads.shape + (1,) * (array.ndim - 2))


def _repeatability(runs: Runs) -> Iterator[Apart]:
    first = runs.base
    yield from exactly(runs(runs.given), first)
    between = replace(runs.case, length=runs.case.length // 2 + 1, heads=runs.case.heads + 1)
    other = make_problem(between)
    runs(Given(between, other.arrays, other.cotangents))
    yield from exactly(runs(runs.given), first)


def _padding(runs: Runs) -> Iterator[Apart]:
    length, more = runs.case.length, runs.case.chunk_size + 1
    neutral = {"i": -np.inf, "f": np.inf}

    def pad(name: str, array: np.ndarray) -> np.ndarray:
        widths = [(0, more if axis == 2 else 0) for axis in range(array.ndim)]
        return np.pad(array, widths, constant_values=neutral.get(name, 0.0))

    arrays = {name: pad(name, array) if name in _BY_TOKEN else array for name, array in runs.given.arrays.items()}
    cotangents = {name: pad(name, array) if name == "h" else array for name, array in runs.given.cotangents.items()}
    padded = runs(Given(replace(runs.case, length=length + more), arrays, cotangents))
    yield from on_scale(
        padded | _at_tokens(padded, slice(length)), runs.base, scale_of(runs.given, runs.base, runs.scatter)
    )


def _two_pieces(runs: Runs) -> Iterator[Apart]:
    pieces = _in_pieces(runs)
    # The state that is handed over is rounded, and the gradient that comes back.
    moved = scatter(lambda rng: _in_pieces(runs, rng), pieces, runs.case.seed)
    yield from on_scale(pieces, runs.base, scale_of(runs.given, runs.base, runs.scatter, moved))


def _in_pieces(runs: Runs, rng: np.random.Generator | None = None) -> Arrays:
    """The outputs of two runs put together; what passes between them is nudged by the generator, if there is one."""

    def hand_over(array: np.ndarray) -> np.ndarray:
        array = array.astype(np.float32)
        return array if rng is None else nudge(array, rng, least=FLOAT32_TINY)

    cut = _inside(runs.case)
    head, tail = (_piece(runs.given, part) for part in (slice(cut), slice(cut, None)))
    first = runs(head.forward())
    state = {initial: hand_over(first[last]) for initial, last in STATE.items()}
    second = runs(tail.but(**state))
    if runs.given.cotangents:
        back = {last: hand_over(second.pop(GRADIENT_OF[initial])) for initial, last in STATE.items()}
        first = runs(replace(head, cotangents=head.cotangents | back))
    joined = {name: np.concatenate([first[name], second[name]], 2) for name in second.keys() & TOKENS.keys()}
    return first | second | joined


def _piece(given: Given, part: slice) -> Given:
    arrays = {name: array[:, :, part] if name in _BY_TOKEN else array for name, array in given.arrays.items()}
    if part.start:
        arrays = {name: arrays[name] for name in _BY_TOKEN}
    last = part.stop is None
    cotangents = {
        name: array[:, :, part] if name == "h" else array
        for name, array in given.cotangents.items()
        if name == "h" or last
    }
    return Given(replace(given.case, length=arrays["q"].shape[2]), arrays, cotangents)


def _chunk_size(runs: Runs) -> Iterator[Apart]:
    size = runs.case.chunk_size
    other = replace(runs.case, chunk_size=size // 2 if size >= 32 else 2 * size)
    yield from on_scale(runs(replace(runs.given, case=other)), runs.base, scale_of(runs.given, runs.base, runs.scatter))


def _without_last_states(runs: Runs) -> Iterator[Apart]:
    of_h = {name: array for name, array in runs.given.cotangents.items() if name == "h"}
    given = replace(runs.given, cotangents=of_h)
    asked, without = runs.without_nan(runs(given)), runs(replace(given, last_states=False))
    scale = scale_of(given, asked, runs.scatter_of(given, asked))
    yield from on_scale(without, {name: array for name, array in asked.items() if name in without}, scale)


def _linearity_in_v(runs: Runs) -> Iterator[Apart]:
    # x = 2x - x, exact in every dtype; which of the two is in which part is drawn for every element.
    rng = np.random.default_rng([runs.case.seed, 3])
    arrays = {name: array for name, array in runs.given.arrays.items() if name in ("v", "c_initial")}
    factors = {name: np.where(rng.integers(0, 2, array.shape), 2, -1) for name, array in arrays.items()}

    def part(factor_of: Callable[[np.ndarray], np.ndarray]) -> Arrays:
        scaled = {name: array * factor_of(factors[name]).astype(array.dtype) for name, array in arrays.items()}
        return in_float64(runs(runs.given.but(**scaled)))

    one, two = part(lambda factor: factor), part(lambda factor: 1 - factor)
    with np.errstate(invalid="ignore"):
        total = one | {name: one[name] + two[name] for name in ("h", "C_last") if name in one}
    if runs.case.dtype == "float16":
        # What left its range in one of the three says nothing of the others.
        beyond = np.isinf(one["h"]) | np.isinf(two["h"]) | np.isinf(runs.base["h"])
        total["h"] = np.where(beyond, runs.base["h"], total["h"])
    yield from on_scale(total, runs.base, scale_of(runs.given, runs.base, runs.scatter))


def _scaling_of_v(runs: Runs) -> Iterator[Apart]:
    four = {name: 4 * array for name, array in runs.given.arrays.items() if name in ("v", "c_initial")}
    scaled = in_float64(runs(runs.given.but(**four)))
    wanted = in_float64(runs.base)
    for name in ("h", "C_last"):
        if name in wanted:
            # Below the smallest normal number digits are lost.
            lost = np.abs(wanted[name]) < FLOAT32_TINY
            scaled[name] = np.where(lost & (np.abs(scaled[name]) < 8 * FLOAT32_TINY), wanted[name], scaled[name] / 4)
    yield from exactly(scaled, wanted)


def _input_gate_shift(runs: Runs) -> Iterator[Apart]:
    i, m_0 = (runs.given.arrays[name] for name in ("i", "m_initial"))
    # Away from zero, so that no digit of i + shift is finer than one of i.
    shift = float(np.copysign(64.0, np.mean(i, dtype=np.float64, where=np.isfinite(i))))
    near = runs.given.but(i=_on_grid(i, shift), m_initial=_on_grid(m_0, shift))
    moved = {name: (near.arrays[name] + shift).astype(near.arrays[name].dtype) for name in ("i", "m_initial")}
    far = near.but(**moved)
    base, wanted = runs(near), runs(far)
    scale = scale_of(far, wanted, runs.scatter_of(far, wanted))
    yield from on_scale(
        base | {name: base[name].astype(np.float64) + shift for name in ("m", "m_last") if name in base}, wanted, scale
    )


def _on_grid(x: np.ndarray, shift: float) -> np.ndarray:
    """x rounded so far that x + shift is a number of its dtype too."""
    import ml_dtypes

    exact = x.astype(np.float64)
    with np.errstate(invalid="ignore"):
        _, exponents = np.frexp(np.maximum(np.abs(exact), np.abs(exact + shift)))
        unit = np.ldexp(float(ml_dtypes.finfo(x.dtype).eps), exponents - 1)
        return np.where(np.isfinite(exact), np.rint(exact / unit) * unit, exact).astype(x.dtype)


@dataclass(frozen=True)
class Relation:
    """A relation.

    Attributes:
        name: as in the id of a case.
        says: one sentence.
        compare: runs the subject; yields how far apart is what should be equal.
        needs: parameters that the subject's signature must have.
        asks: of a case, what it must be; and the words for it.
        outcome: where the relation does not hold.
    """

    name: str
    says: str
    compare: Callable[[Runs], Iterator[Apart]]
    needs: tuple[str, ...] = ()
    asks: tuple[Callable[[Case], bool], str] = (lambda _: True, "")
    outcome: Outcome = Outcome.RELATION_BROKEN


def _is_long(case: Case) -> bool:
    return case.length >= 2


def _is_determined(case: Case) -> bool:
    # Two roundings of a q.n that cancels to nothing else have no relation to one another, nor have gradients on the two
    # sides of a kink. Where q.n cancels, exp(-m) may underflow.
    has_floor = case.eps > 0.0 or (case.norm_val > 0.0 and not case.regime.startswith("cancellation"))
    return has_floor and not (case.cotangents != "none" and case.regime.startswith("kink"))


_LONG = (_is_long, "at least 2 tokens")
_DETERMINED = (_is_determined, "eps above 0, or norm_val but in cancellation; and no gradients at a kink")
_ALL = (
    Relation(
        "prefix_causality",
        "h, n, m and dq of a token are bitwise the same whatever the tokens after it are.",
        _prefix_causality,
        asks=_LONG,
    ),
    Relation(
        "nan_causality",
        "h, n and m of a token are bitwise the same if all tokens after it are NaN.",
        _nan_causality,
        asks=(lambda case: _is_long(case) and case.cotangents == "none", "at least 2 tokens, and no cotangents"),
    ),
    Relation(
        "gradient_causality",
        "The gradients of a token are bitwise the same whatever the cotangents of h before it are.",
        _gradient_causality,
        asks=(lambda case: _is_long(case) and case.cotangents in ("h", "all"), "2 tokens and a cotangent of h"),
    ),
    Relation(
        "batch_permutation",
        "Sequences that change places take their outputs and gradients with them, bitwise.",
        functools.partial(_permutation, axis=0),
        asks=(lambda case: case.batch >= 2, "a batch of at least 2"),
    ),
    Relation(
        "head_permutation",
        "Heads that change places take their outputs and gradients with them, bitwise.",
        functools.partial(_permutation, axis=1),
        asks=(lambda case: case.heads >= 2, "at least 2 heads"),
    ),
    Relation(
        "nan_in_one_head",
        "If all tokens of one head are NaN, outputs and gradients of the others are bitwise the same.",
        _nan_in_one_head,
        asks=(lambda case: case.batch * case.heads >= 2, "at least 2 heads"),
    ),
    Relation(
        "repeatability",
        "The same call gives the same bits again, also after a call with another shape.",
        _repeatability,
        outcome=Outcome.NONDETERMINISTIC,
    ),
    Relation(
        "padding",
        "Neutral tokens at the end (i = -inf, f = +inf, the rest 0) change neither the rows before nor the last state.",
        _padding,
        asks=_DETERMINED,
    ),
    Relation(
        "two_pieces",
        "A sequence in two pieces, the state passed on and its gradient back, is the sequence as a whole.",
        _two_pieces,
        needs=(*STATE, "return_last_states"),
        asks=(lambda case: _is_long(case) and _is_determined(case), f"{_LONG[1]}; {_DETERMINED[1]}"),
    ),
    Relation(
        "without_last_states",
        "h and the gradients of h are the same where the last state is not asked for.",
        _without_last_states,
        needs=("return_last_states",),
        asks=_DETERMINED,
    ),
    Relation(
        "chunk_size",
        "Another chunk size gives the same outputs and gradients.",
        _chunk_size,
        needs=("chunk_size",),
        asks=_DETERMINED,
    ),
    Relation(
        "linearity_in_v",
        "h and C of v_1 + v_2 are the sums of those of v_1 and v_2.",
        _linearity_in_v,
        asks=(lambda case: case.cotangents == "none", "no cotangents"),
    ),
    Relation(
        "scaling_of_v",
        "4 v and 4 C_0 give 4 h and 4 C, bitwise.",
        _scaling_of_v,
        asks=(lambda case: case.dtype != "float16" and case.cotangents == "none", "no float16, and no cotangents"),
    ),
    Relation(
        "input_gate_shift",
        "Where |q.n| is the denominator, i + s and m_0 + s give m + s and change nothing else.",
        _input_gate_shift,
        asks=(
            lambda case: (
                case.eps == case.norm_val == 0.0
                and case.initial != "none"
                and not case.regime.startswith("cancellation")
            ),
            "eps and norm_val 0, an initial state, and a q.n that does not cancel",
        ),
    ),
)
RELATIONS: dict[str, Relation] = {relation.name: relation for relation in _ALL}
