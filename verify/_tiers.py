"""Which cases a tier has, and why.

A tier is made by rules, not a Cartesian product: every regime in both modes at one shape, then a covering array, in
which every two levels of different factors meet (three in the full tier), then what an array cannot express, each
with its reason; then the corpus of what searches found. A soak draws cases until it is told to stop. What a tier leaves
out is written beside it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from verify._case import COTANGENTS, DTYPES, Case
from verify._corpus import read_corpus
from verify._covering import Factors, covering_array
from verify._digits import three_digits
from verify._regimes import REGIMES, regime_tokens
from verify._relation_cases import relation_cases


@dataclass(frozen=True)
class Tier:
    """A named list of cases.

    Attributes:
        name: as on the command line.
        covers, leaves_out: one sentence each.
        make: seed -> the cases, in order, duplicates allowed.
        endless: whether the cases have no end.
    """

    name: str
    covers: str
    leaves_out: str
    make: Callable[[int], Iterator[Case]]
    endless: bool = False

    def draw(self, seed: int = 0) -> Iterator[Case]:
        """The cases with that seed, each once. Those of an endless tier, and of the corpus, have seeds of their own."""
        if self.endless:
            return each_once(self.make(seed))
        relations = (replace(case, seed=seed) for case in relation_cases(self.name))
        return each_once(itertools.chain(self.make(seed), relations, read_corpus()))

    def cases(self, seed: int = 0) -> list[Case]:
        """All cases of a tier that has an end."""
        return list(self.draw(seed))


def each_once(cases: Iterable[Case]) -> Iterator[Case]:
    """The cases without those that came before; there may be no end of them."""
    seen = set()
    for case in cases:
        if case not in seen:
            seen.add(case)
            yield case


# A length is (a, b): a chunks and b tokens.
_ONE, _BEFORE, _CHUNK, _AFTER = (0, 1), (1, -1), (1, 0), (1, 1)
# 0 / 0 where q.n is 0: without both of these (but see _without_normalizer), and without eps where q is 0 and
# exp(-m) underflows even in float64.
EXCLUDED: tuple[dict[str, Any], ...] = ({"norm_val": 0.0, "eps": 0.0}, {"regime": "zeros", "eps": 0.0})
# Where a row is free, it has the first level of a factor.
_ANYWHERE: Factors = {
    "stabilize_correctly": (True, False),
    "norm_val": (1.0, 10.0, 0.1, 0.0),
    "eps": (1e-6, 1e-2, 0.0),
}
_STATES = ("warm@2", "none", "warm@-50", "warm@50", "warm@-1000", "empty@1000")
_COTANGENTS = ("all", "h", "last", "none")

SMOKE: Factors = {
    **_ANYWHERE,
    "regime": ("ordinary", "input_gates", "reset", "dead_input", "kink"),
    "tokens": (_AFTER, _BEFORE, _CHUNK, _ONE, (0, 37)),
    "chunk_size": (16, 32, 64),
    "dims": ((32, 32), (16, 32), (48, 16)),
    "heads": ((1, 1), (1, 2), (2, 1)),
    "initial": ("warm@2", "none", "warm@50", "warm@-1000", "empty@1000"),
    "dtype": DTYPES,
    "cotangents": _COTANGENTS,
}
# A kernel is compiled anew for dims, chunk size and dtype: nine of these, in which any two of them meet.
_DIMS, _CHUNKS = ((64, 64), (48, 80), (128, 32)), (16, 64, 128)
_COMPILED = tuple((_DIMS[a], _CHUNKS[b], DTYPES[(a + b) % 3]) for a in range(3) for b in range(3))
STANDARD: Factors = {
    **_ANYWHERE,
    "regime": tuple(REGIMES),
    "tokens": (_AFTER, _BEFORE, _CHUNK, _ONE, (0, 131), (0, 521)),
    "compiled": _COMPILED,
    "heads": ((1, 1), (2, 3), (1, 4)),
    "initial": _STATES,
    "cotangents": _COTANGENTS,
}
FULL: Factors = {
    **_ANYWHERE,
    "norm_val": (1.0, 10.0, 0.0),
    "regime": tuple(REGIMES),
    "tokens": (_AFTER, _BEFORE, _CHUNK, _ONE, (0, 523)),
    "chunk_size": (16, 64, 256),
    "dims": _DIMS,
    "heads": ((1, 1), (2, 3), (1, 5)),
    "initial": ("warm@2", "none", "far"),
    "dtype": DTYPES,
    "cotangents": ("all", "h", "none"),
}
_FAR = ("warm@-50", "warm@50", "warm@-1000", "warm@1000", "empty@-1000", "empty@1000")


def covering_cases(factors: Factors, strength: int) -> list[Case]:
    """The cases of a covering array. The parameters of a regime take turns over its rows, as do the far states."""
    parameters = {name: itertools.cycle(_tokens_of(name)) for name in REGIMES}
    far = itertools.cycle(_FAR)
    cases = []
    for row in covering_array(factors, strength, excluded_of(factors)):
        initial = next(far) if row["initial"] == "far" else row["initial"]
        cases.append(_case({**row, "regime": next(parameters[row["regime"]]), "initial": initial}))
    return cases


def excluded_of(factors: Factors) -> list[dict[str, Any]]:
    """What of ``EXCLUDED`` these factors could have."""
    return [row for row in EXCLUDED if all(level in factors[factor] for factor, level in row.items())]


def _case(row: Mapping[str, Any]) -> Case:
    fields = dict(row)
    if "compiled" in fields:
        fields["dims"], fields["chunk_size"], fields["dtype"] = fields.pop("compiled")
    chunks, tokens = fields.pop("tokens")
    (dhqk, dhhv), (batch, heads) = fields.pop("dims"), fields.pop("heads")
    length = chunks * fields["chunk_size"] + tokens
    return Case(**fields, length=length, dhqk=dhqk, dhhv=dhhv, batch=batch, heads=heads)


def _tokens_of(name: str) -> list[str]:
    return [token for token in regime_tokens() if token.partition("@")[0] == name]


# The search takes seconds.
_smoke_array = functools.cache(lambda: covering_cases(SMOKE, 2))
_standard_array = functools.cache(lambda: covering_cases(STANDARD, 2))
_full_array = functools.cache(lambda: covering_cases(FULL, 3))


def _every_regime(base: Case) -> Iterator[Case]:
    for regime in regime_tokens():
        for correct in (True, False):
            yield replace(base, regime=regime, stabilize_correctly=correct)


def _without_normalizer(base: Case) -> Iterator[Case]:
    """Without norm_val and eps, which no array has together: only the stabilizer's freedom keeps these from 0 / 0."""
    yield replace(base, initial="empty@1000", norm_val=0.0, eps=0.0, cotangents="none")
    yield replace(base, regime="input_gates@-100", norm_val=0.0, eps=0.0)
    # The empty state has 0 / 0, which is 0.
    yield replace(base, regime="dead_input", norm_val=0.0, eps=0.0)


def _beyond_float32(base: Case) -> Iterator[Case]:
    """A state and gates beyond float32 on the same side, which arrays leave to chance."""
    yield replace(base, regime="input_gates@-100", initial="warm@-100")
    # The state is still empty while exp(-m) is already beyond float32.
    yield replace(base, regime="dead_input", initial="empty@-1000")
    # Above the diagonal, too, exponents are beyond what float32 has an exp of.
    yield replace(base, regime="spike@200")
    # exp(f) is 0 in float32, and what it multiplies is large.
    yield replace(base, regime="forget@-100", initial="warm@50")
    # A state of this size has digits that 16 bits have not.
    yield replace(base, dtype="bfloat16", initial="warm@50")


def _smoke() -> Iterator[Case]:
    base = Case(length=70, dhqk=32, dhhv=32, chunk_size=32, cotangents="all")
    yield from _every_regime(base)
    yield from _smoke_array()
    yield from _without_normalizer(base)
    yield from _beyond_float32(base)
    # Six heads, in which batch and heads can be told apart, and dims of several tiles: dear in the interpreter.
    yield replace(base, batch=2, heads=3, length=16, dhqk=16, dhhv=16, chunk_size=16, initial="warm@-50")
    yield replace(base, dhqk=48, dhhv=80, length=33)
    # Longer: what grows along t; and forgetting so slow that 1 + exp(-f) has few digits of it.
    yield replace(base, regime="forget@10", length=512, dhqk=16, dhhv=16, chunk_size=128)
    # Between b and b + eps.
    yield replace(base, regime="kink@0.01", eps=0.05, stabilize_correctly=False)


def _standard() -> Iterator[Case]:
    base = Case(length=257, cotangents="all")
    for dtype in DTYPES:
        yield from _every_regime(replace(base, dtype=dtype))
        yield from _without_normalizer(replace(base, dtype=dtype))
        yield from _beyond_float32(replace(base, dtype=dtype))
        # What adds up over all tokens takes many of them to stand out.
        for regime in ("ordinary", "forget@10", "soft_capped@15", "one_sign"):
            yield replace(base, regime=regime, dtype=dtype, length=2048)
    yield from _standard_array()
    yield replace(base, length=8192, regime="forget@10")
    # The largest dims, which take long to compile.
    yield replace(base, length=200, dhqk=128, dhhv=256)
    yield replace(base, length=200, dhqk=512, dhhv=512, dtype="bfloat16")


def _full() -> Iterator[Case]:
    base = Case(length=2048, cotangents="all")
    for dtype in ("float32", "bfloat16"):
        yield from _every_regime(replace(base, dtype=dtype))
    yield from _full_array()
    for dtype in DTYPES:
        yield from _without_normalizer(replace(base, dtype=dtype))
        yield from _beyond_float32(replace(base, dtype=dtype))
        for dhqk, dhhv in ((16, 16), (96, 96), (128, 256), (256, 512), (512, 512)):
            yield replace(base, dtype=dtype, length=200, dhqk=dhqk, dhhv=dhhv)
    yield from _long()


def _long() -> Iterator[Case]:
    """Lengths to a million, the longer the smaller the rest; more chunks, and more heads, than 16 bits count."""
    for length in (512, 8192, 65_536):
        for regime in ("ordinary", "forget@10", "soft_capped@15"):
            yield Case(regime=regime, length=length, dhqk=32, dhhv=32, cotangents="all")
        yield Case(regime="needle@12", length=length, dhqk=32, dhhv=32, dtype="bfloat16", cotangents="all")
    yield Case(length=131_072, cotangents="all")
    yield Case(regime="forget@20", length=262_144, dhqk=16, dhhv=16)
    yield Case(regime="forget@20", length=1_048_576, dhqk=16, dhhv=16, chunk_size=256)
    yield Case(length=65_537 * 16, dhqk=16, dhhv=16, chunk_size=16)
    yield Case(batch=16, heads=4097, length=3, dhqk=16, dhhv=16, chunk_size=16, initial="warm@2")


def _soak(seed: int) -> Iterator[Case]:
    rng = np.random.default_rng(seed)
    while True:
        yield _random_case(rng)


def _random_case(rng: np.random.Generator) -> Case:
    def one_of(*choices: Any) -> Any:
        return choices[rng.integers(len(choices))]

    name, at, parameter = one_of(*regime_tokens()).partition("@")
    norm_val = one_of(1.0, 1.0, 0.0, three_digits(10.0 ** rng.uniform(-3, 3)))
    eps = one_of(1e-6, three_digits(10.0 ** rng.uniform(-8, 0)), 0.0)
    if {"norm_val": norm_val, "eps": eps} == EXCLUDED[0] or {"regime": name, "eps": eps} == EXCLUDED[1]:
        eps = 1e-6
    return Case(
        regime=f"{name}@{three_digits(float(parameter) * rng.uniform(0.5, 1.5)):g}" if at else name,
        batch=one_of(1, 1, 2, 3),
        heads=one_of(1, 1, 2, 5),
        length=int(2.0 ** rng.uniform(0, 11)),
        dhqk=one_of(16, 32, 64, int(rng.integers(16, 129))),
        dhhv=one_of(16, 32, 64, int(rng.integers(16, 129))),
        chunk_size=one_of(16, 32, 64, 128, 256),
        dtype=one_of(*DTYPES),
        stabilize_correctly=one_of(True, False),
        norm_val=norm_val,
        eps=eps,
        initial=one_of("none", f"warm@{rng.normal(0, 3):.2g}", f"{one_of('warm', 'empty')}@{rng.normal(0, 500):.3g}"),
        cotangents=one_of("all", "all", *COTANGENTS),
        seed=int(rng.integers(2**31)),
    )


def _with_seed(make: Callable[[], Iterator[Case]]) -> Callable[[int], Iterator[Case]]:
    return lambda seed: (replace(case, seed=seed) for case in make())


TIERS: dict[str, Tier] = {
    tier.name: tier
    for tier in (
        Tier(
            "smoke",
            "every regime in both modes at S=70; a covering array of strength 2 over five regimes, lengths around the "
            "chunk, chunk sizes 16 to 64, dims, heads, modes, norm_val, eps, dtypes, initial states and cotangents; "
            "one case at S=512; made for Triton's interpreter on two cores",
            "S above 512, dims above 80, chunks above 128, more than six heads, and most regimes outside of float32 "
            "and of the shape S=70",
            _with_seed(_smoke),
        ),
        Tier(
            "standard",
            "every regime in both modes and all dtypes at S=257, DHQK=DHHV=64; a covering array of strength 2 over all "
            "regimes, lengths from 1 to 521, dims, chunk sizes, dtypes, heads, modes, norm_val, eps, initial states "
            "and cotangents; S of 2048 in four regimes and 8192 in one, dims of 128 x 256 and 512 x 512; made for a "
            "GPU",
            "S above 8192, more than six heads, and triples of unusual settings",
            _with_seed(_standard),
        ),
        Tier(
            "full",
            "every regime in both modes at S=2048, float32 and bfloat16; a covering array of strength 3 over all "
            "regimes, lengths from 1 to 523, chunk sizes 16 to 256, dims, dtypes, heads, modes, norm_val, eps, initial "
            "states and cotangents; dims from 16 to 512; S from 512 to 1,048,576, more than 65,535 chunks, and more "
            "than 65,535 heads; made for a GPU",
            "gradients above S of 131,072, large dims in long sequences, and most regimes above S of 2048",
            _with_seed(_full),
        ),
        Tier(
            "soak",
            "random cases, drawn from --seed until --minutes are over: any regime with its parameter varied by half, "
            "S below 2048, dims of 16 to 128, and everything else",
            "S of 2048 and more, and any promise of what it meets",
            _soak,
            endless=True,
        ),
    )
}
