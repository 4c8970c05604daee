"""How coarsely a kernel rounds, and where: the units that error bounds and noise floors are made of."""

from __future__ import annotations

from dataclasses import dataclass

_FLOAT32 = {"gates": 2.0**-24, "accumulation": 2.0**-24, "tiny": 2.0**-126, "huge": 2.0**126}
_FLOAT64 = {"gates": 2.0**-53, "accumulation": 2.0**-53, "tiny": 2.0**-1022, "huge": 2.0**1023}


@dataclass(frozen=True)
class Precision:
    """The rounding units of a kernel, each the largest relative error of one rounding.

    Attributes:
        name: what reports call it.
        gates: of exp, log sigmoid, sigmoid, and of the sums of log gates.
        operand: of a computed number that enters a dot; 0 if it enters as it is.
        inputs_round: whether an input loses ``operand`` there too; False where it has the operand format already.
        accumulation: of sums, products, quotients, and the states between.
        storage: of h, dq, dk, dv and di as they are stored.
        storage_tiny: half the distance of the subnormal numbers of that dtype.
        tiny: the underflow threshold of the accumulation format, its smallest normal number.
        huge: the largest denominator whose quotient is right in that format; PTX's div.full gives 0 beyond 2^126.
    """

    name: str
    gates: float
    operand: float
    inputs_round: bool
    accumulation: float
    storage: float
    storage_tiny: float
    tiny: float
    huge: float

    @classmethod
    def of(cls, name: str) -> Precision:
        """By name: float32, tf32, bfloat16, float16, tf32x3 or float64.

        All but float64, which is what the oracle ``Float64`` does itself, have gates, sums and states in float32.

        Raises:
            ValueError: for another name.
        """
        if name not in _KNOWN:
            raise ValueError(f"precision is {name!r}; expected one of {', '.join(_KNOWN)}.")
        return _KNOWN[name]


# TF32 units drop the low bits of an operand instead of rounding them: 2^-10, not 2^-11, inputs included.
# tf32x3, as Triton has it, splits x into x1 = tf32(x), rounded to nearest, and x2 = x - x1, and adds x1 y1, x1 y2 and
# x2 y1. x2 has at most 12 of the 24 bits of x, of which the unit drops one, 2^-23 |x|; and x2 y2, left out, is at most
# 2^-22 |x y|, half for each operand: 2^-22 together.
# float16 kernels may let computed operands enter as TF32, which does not overflow.
_KNOWN = {
    precision.name: precision
    for precision in (
        Precision("float32", operand=0.0, inputs_round=False, storage=2.0**-24, storage_tiny=2.0**-150, **_FLOAT32),
        Precision("tf32", operand=2.0**-10, inputs_round=True, storage=2.0**-24, storage_tiny=2.0**-150, **_FLOAT32),
        Precision("bfloat16", operand=2.0**-8, inputs_round=False, storage=2.0**-8, storage_tiny=2.0**-134, **_FLOAT32),
        Precision("float16", operand=2.0**-10, inputs_round=False, storage=2.0**-11, storage_tiny=2.0**-25, **_FLOAT32),
        Precision("tf32x3", operand=2.0**-22, inputs_round=True, storage=2.0**-24, storage_tiny=2.0**-150, **_FLOAT32),
        # Half the distance of float64's subnormal numbers is no float64 number.
        Precision("float64", operand=0.0, inputs_round=False, storage=2.0**-53, storage_tiny=2.0**-1074, **_FLOAT64),
    )
}
