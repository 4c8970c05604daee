"""Which cases a tier has, and why.

A tier is a list made by rules, not a Cartesian product: every regime in both modes, then one
dimension varied at a time around a base case. Nearly every case has all gradients. What a tier
leaves out is written beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from verify._case import DTYPES, Case
from verify._regimes import regime_tokens
from verify._relation_cases import relation_cases


@dataclass(frozen=True)
class Tier:
    """A named list of cases.

    Attributes:
        name: as on the command line.
        covers, leaves_out: one sentence each.
        make: the cases, in order, duplicates allowed.
    """

    name: str
    covers: str
    leaves_out: str
    make: Callable[[], Iterator[Case]]

    def cases(self) -> list[Case]:
        """The cases, each once."""
        return list(dict.fromkeys([*self.make(), *relation_cases(self.name)]))


def _smoke() -> Iterator[Case]:
    base = Case(length=70, dhqk=32, dhhv=32, chunk_size=32, cotangents="all")
    for regime in regime_tokens():
        for correct in (True, False):
            yield replace(base, regime=regime, stabilize_correctly=correct)
    yield from _variations(base, lengths=(1, 31, 32, 33, 128), chunk_sizes=(16, 64, 128))
    yield replace(base, dhqk=48, dhhv=80)
    yield replace(base, dhqk=96, dhhv=16)
    # The state is still empty while exp(-m) is already beyond float32.
    yield replace(base, regime="dead_input", initial="empty@-1000")
    yield Case(heads=2, length=512, cotangents="all")


def _standard() -> Iterator[Case]:
    base = Case(heads=2, length=512, cotangents="all")
    for dtype in DTYPES:
        for regime in regime_tokens():
            for correct in (True, False):
                yield replace(base, regime=regime, dtype=dtype, stabilize_correctly=correct)
        yield from _variations(
            replace(base, dtype=dtype), lengths=(1, 63, 64, 65, 509, 2048), chunk_sizes=(16, 32, 128, 256)
        )
        for dhqk, dhhv in ((16, 16), (48, 80), (80, 48), (96, 96), (128, 256), (256, 512), (512, 512)):
            yield replace(base, dtype=dtype, heads=1, length=200, dhqk=dhqk, dhhv=dhhv)
        for regime in ("ordinary", "forget@10", "soft_capped@15"):
            yield replace(base, regime=regime, dtype=dtype, heads=1, length=8192)
    yield from _smoke()


def _variations(base: Case, *, lengths: tuple[int, ...], chunk_sizes: tuple[int, ...]) -> Iterator[Case]:
    for length in lengths:
        yield replace(base, length=length)
        yield replace(base, length=length, initial="warm@2")
    for chunk_size in chunk_sizes:
        yield replace(base, chunk_size=chunk_size)
    yield replace(base, batch=2, heads=3)
    for initial in ("warm@-50", "warm@50", "empty@1000"):
        for correct in (True, False):
            yield replace(base, initial=initial, stabilize_correctly=correct)
    for norm_val, eps in ((10.0, 1e-6), (0.1, 1e-2), (1.0, 0.0), (0.0, 1e-6)):
        yield replace(base, norm_val=norm_val, eps=eps, regime="input_gates@-20")
        yield replace(base, norm_val=norm_val, eps=eps, stabilize_correctly=False)
    for cotangents in ("none", "h", "last"):
        for initial in ("none", "warm@2"):
            yield replace(base, cotangents=cotangents, initial=initial)
    # exp(-m) is beyond float32 for every token.
    yield replace(base, regime="input_gates@-100", initial="warm@-100")
    # Without norm_val and eps only the stabilizer's freedom keeps these from underflow.
    yield replace(base, initial="empty@1000", norm_val=0.0, eps=0.0, cotangents="none")
    yield replace(base, regime="input_gates@-100", norm_val=0.0, eps=0.0)
    for dtype in DTYPES:
        yield replace(base, dtype=dtype)
        yield replace(base, dtype=dtype, initial="warm@2", length=base.chunk_size + 1)


TIERS: dict[str, Tier] = {
    tier.name: tier
    for tier in (
        Tier(
            "smoke",
            "every regime in both modes at S=70; lengths around the chunk, chunk sizes, dims, initial states, "
            "norm_val, eps and dtypes one at a time; all gradients, and a few cases with fewer cotangents or none; "
            "made for Triton's interpreter on two cores",
            "S above 512, dims above 96, and the 16-bit dtypes outside of ordinary gates",
            _smoke,
        ),
        Tier(
            "standard",
            "every regime in both modes and all dtypes at S=512, S up to 8192, dims from 16 to 512, all with "
            "gradients, and all of smoke; made for a GPU",
            "S above 8192, and combinations of two unusual settings",
            _standard,
        ),
    )
}
