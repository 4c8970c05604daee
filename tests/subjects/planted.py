"""Planted wrong subjects: the chunkwise form of ``float32`` with one fault each, as kernels have had them.

A fault is either edits of that form's source, each a text and what replaces it, or a change around it, of what goes in
and what comes out (``planted_around``). ``PLANTED`` has all of them by name. Some are published bugs, named as
owner/repository#number.

Grades: easy (wrong nearly everywhere), medium (in the regimes or settings made for it), hard (small, or rarely there).
"""

import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.subjects import float32
from tests.subjects.planted_around import AROUND
from verify import Case

SOURCE = inspect.getsource(float32)
GROUPS = ("stabilizer", "gates", "precision", "states", "causality", "gradients", "special values")
GRADES = ("easy", "medium", "hard")
BASE = Case(length=40, dhqk=32, dhhv=32, chunk_size=16, cotangents="all")


@dataclass(frozen=True)
class Planted:
    """A wrong subject.

    Attributes:
        name: short and unique.
        does: what it does instead of the right thing, one sentence.
        group, grade: see the head of this module.
        edits: of the source of ``float32``; or
        around: what is made of the correct subject.
        seen: fields of a case beside ``BASE`` that sees it.
    """

    name: str
    does: str
    group: str
    grade: str
    edits: tuple[tuple[str, str], ...] = ()
    around: Callable[..., Any] | None = None
    seen: dict[str, Any] = field(default_factory=dict)

    @property
    def function(self):
        if self.around is not None:
            return self.around(float32.chunkwise)
        return edited(*self.edits).chunkwise


def edited(*edits):
    """The module ``float32`` with its source edited."""
    source = SOURCE
    for text, replacement in edits:
        if source.count(text) != 1:
            raise ValueError(f"tests/subjects/float32.py has {text!r} {source.count(text)} times, not once: plant anew")
        source = source.replace(text, replacement)
    module = types.ModuleType("planted")
    exec(compile(source, "float32.py with a planted fault", "exec"), vars(module))
    return module


_DENOMINATOR = "d = np.maximum(abs(a), b) + times(constants.eps, excess)"
_B = "b = times(constants.norm_val, np.exp(-finite(inner)) if constants.stabilize_correctly else excess)"
_PHI = "self.phi = np.minimum(self.f, 0) - np.log1p(np.exp(-abs(self.f)))"
_M = "self.m, self.origin = self.largest(self.m_0)"
_LOGS = "logs = np.where(self.past, self.sums + self.sources(m_0), F(-np.inf))"
_SUMS = "self.sums = np.cumsum(np.where(source < target, column(self.phi), F(0)), -2)"
_PREFIX = """prefix = np.concatenate([np.zeros_like(self.phi[..., :1]), np.cumsum(self.phi, -1)], -1)
        differences = column(prefix[..., 1:]) - prefix[..., None, :]
        """
_EXP = "return np.exp(np.where(self.past, exponents, F(-np.inf)))"
_OPERAND = 'if self.fault != "TF32 dots":\n            return x\n'
_STATE = "state = chunk.last, chunk.m[..., -1], chunk.inner[..., -1]"
_STORED_LAST = "last = made.last * column(np.exp(made.inner[..., -1] - finite(made.m[..., -1])), 2)"
_M_LAST = "last[..., -1], made.m[..., -1])))), inputs"
_KEPT = "kept = self.w[..., :1] * (self.c * self.dot(self.q, self.start))"
_ABOVE = "return quotient(N, column(d)), d, abs(a) > b"
_GAMMA = "gamma = np.where(above, -np.sign(readout[..., -1]) * quotient(y, d), F(0))"
_MU = "np.where(np.isneginf(inner) | (y == 0) | (kappa == 0), F(0), -kappa * y)"
_KAPPA = "kappa = kappa if constants.stabilize_correctly else np.where(above, kappa, F(1))"
_DF = "df = dphi * np.exp(-np.maximum(made.f, 0)) / (1 + np.exp(-abs(made.f)))"
_TO_PREVIOUS = "M = np.where(np.isneginf(chunk.m_0), F(0), chunk.through_m_0)"
_DLAST = "dlast = np.concatenate([dC, dn[..., None]], -1)"
_EXCESS_OF_LAST = "dm - np.sum(dlast * to_m * made.last, (-2, -1))"
_BFLOAT16 = ".astype(ml_dtypes.bfloat16).astype(F)"
_AT_MINUS_20 = {"regime": "input_gates@-20"}
# m_last is a sum of log forgets that comes out near 0.
_CONSTANT = {"stabilize_correctly": False}


def _dots(mask):
    # Operands of dots lose the bits that the mask does.
    return (
        (_OPERAND, ""),
        ("np.uint32(0xFFFFE000)", f"np.uint32({mask})"),
    )


_EDITED = (
    # stabilizer
    Planted(
        "max of log f for the sum",
        "The state's m enters the maximum with phi_t alone, not with the sum of log forgets since the chunk began.",
        "stabilizer",
        "medium",
        (
            (
                _M,
                _M + "\n        of_tokens = np.where(self.past, self.sums + self.i_sources(), F(-np.inf))[..., 1:]"
                "\n        self.m = np.maximum(self.phi + column(self.m_0), np.max(of_tokens, -1))",
            ),
            (
                "    def sources(self, m_0):",
                "    def i_sources(self):\n        return self.sources(self.m_0)\n\n    def sources(self, m_0):",
            ),
        ),
        seen={"regime": "soft_capped@15", **_CONSTANT},
    ),
    Planted(
        "max of log f for all",
        "m_t = max(phi_t, i_t), with no running sum of the phi at all.",
        "stabilizer",
        "easy",
        (("self.fault, self.chunk_size = constants.fault", 'self.fault, self.chunk_size = "max of log f"'),),
        seen=_CONSTANT,
    ),
    Planted(
        "eps inside the maximum",
        "d = max(|a|, b, eps), so that eps is nearly never there.",
        "stabilizer",
        "hard",
        ((_DENOMINATOR, "d = np.maximum(np.maximum(abs(a), b), times(constants.eps, excess))"),),
        seen={"norm_val": 0.1, "eps": 1e-2, **_CONSTANT},
    ),
    Planted(
        "eps without exp(m - m')",
        "eps is added as it is to a denominator that is relative to another stabilizer than m.",
        "stabilizer",
        "hard",
        ((_DENOMINATOR, "d = np.maximum(abs(a), b) + F(constants.eps)"),),
        seen={**_AT_MINUS_20, "norm_val": 0.0},
    ),
    Planted(
        "norm_val without exp(-m)",
        "The denominator has norm_val where it should have norm_val exp(-m).",
        "stabilizer",
        "easy",
        ((_B, "b = times(constants.norm_val, excess)"),),
    ),
    Planted(
        "norm_val is 1",
        "norm_val is taken for 1.",
        "stabilizer",
        "medium",
        ((_B, _B.replace("constants.norm_val", "1.0")),),
        seen={"norm_val": 10.0},
    ),
    Planted(
        "m_0 of an empty state kept",
        "A large m_0 of an initial state of zeros makes every token underflow.",
        "stabilizer",
        "medium",
        (
            (
                "self.inner_0 = np.where(np.any(self.start != 0, (-2, -1)), self.m_0, F(-np.inf))",
                "self.inner_0 = self.m_0",
            ),
        ),
        seen={"initial": "empty@1000", "norm_val": 0.0, "eps": 0.0, "cotangents": "none"},
    ),
    Planted(
        "no initial m",
        "m_0 is -inf, not 0, where no initial state is given.",
        "stabilizer",
        "medium",
        (("self.v.shape[-1]), F), np.zeros(lead, F)", "self.v.shape[-1]), F), np.full(lead, -np.inf, F)"),),
        seen=_AT_MINUS_20,
    ),
    Planted(
        "last state not brought to m",
        "The last C and n are relative to another stabilizer than the m that is returned with them.",
        "stabilizer",
        "medium",
        ((_STORED_LAST, "last = made.last"),),
        seen=_AT_MINUS_20,
    ),
    Planted(
        "n_last not brought to m",
        "As before, of n alone.",
        "stabilizer",
        "medium",
        ((_STORED_LAST, _STORED_LAST + "\n    last[..., -1] = made.last[..., -1]"),),
        seen=_AT_MINUS_20,
    ),
    Planted(
        "m_last without the state",
        "m_last is the largest of the last chunk's own tokens, also where the state that enters it wins.",
        "stabilizer",
        "medium",
        (
            (
                _M_LAST,
                "last[..., -1], np.max((made.chunks[-1].sums + made.chunks[-1].sources(made.m_0))[..., -1, 1:], -1))"
                "))), inputs",
            ),
        ),
        seen={"initial": "warm@50"},
    ),
    Planted(
        "m at least 0",
        "The running maximum starts at 0.",
        "stabilizer",
        "medium",
        ((_M, _M + "\n        self.m = np.maximum(self.m, F(0))"),),
        seen={"regime": "forget@-10", **_CONSTANT},
    ),
    Planted(
        "exp of a sum as a product",
        "exp(sum of phi) exp(i - m) where it should be exp of the sum: 0 times infinity.",
        "stabilizer",
        "medium",
        (
            (
                _EXP,
                "return np.where(self.past, np.exp(self.sums) * np.exp(self.sources(m_0) - column(finite(m))), F(0))",
            ),
        ),
        seen={"regime": "balanced@-3", "chunk_size": 64},
    ),
    Planted(
        "masked by a product after exp",
        "The causal mask is a factor 0 after exp, which may have overflowed (fla-org/flash-linear-attention#99).",
        "stabilizer",
        "hard",
        ((_EXP, "return self.past * np.exp(exponents)"),),
        seen={"regime": "spike@200"},
    ),
    Planted(
        "exp(-m) no larger than exp(30)",
        "exp(-m) is clamped.",
        "stabilizer",
        "medium",
        ((_B, _B.replace("np.exp(-finite(inner))", "np.exp(np.minimum(-finite(inner), 30))")),),
        seen={"regime": "input_gates@-60"},
    ),
    # gates
    Planted(
        "log of a sigmoid",
        "log(1 / (1 + exp(-f))): no digits left for large f, -inf below -88.",
        "gates",
        "hard",
        ((_PHI, "self.phi = np.log(F(1) / (F(1) + np.exp(-self.f)))"),),
        seen={"regime": "forget@-100", "initial": "warm@50"},
    ),
    Planted(
        "own forget gate included",
        "What a token takes in is decayed by its own forget gate at once.",
        "gates",
        "easy",
        ((_SUMS, _SUMS.replace("source < target", "source <= target")),),
    ),
    Planted(
        "forget gate late at chunk edges",
        "The forget gate of a chunk's first token does not act on the state that enters the chunk.",
        "gates",
        "medium",
        (
            (
                "        chunk.run()\n",
                "        chunk.phi = chunk.phi * (np.arange(chunk.phi.shape[-1]) + span.start != span.start)"
                ".astype(F) if span.start else chunk.phi\n        chunk.run()\n",
            ),
        ),
    ),
    Planted(
        "log forgets in bfloat16",
        "phi is rounded to bfloat16.",
        "gates",
        "medium",
        ((_PHI, _PHI + f"\n        self.phi = self.phi{_BFLOAT16}"),),
    ),
    Planted(
        "sums of log forgets in float16",
        "The running sums of phi are rounded to float16.",
        "gates",
        "medium",
        ((_SUMS, _SUMS + "\n        self.sums = self.sums.astype(np.float16).astype(F)"),),
    ),
    Planted(
        "log2(e) in bfloat16",
        "exp(x) is exp2(1.4453125 x).",
        "gates",
        "easy",
        ((_EXP, _EXP.replace("np.exp(", "np.exp2(F(1.4453125) * ")),),
    ),
    Planted(
        "log2(e) of six digits",
        "exp(x) is exp2(1.44269 x).",
        "gates",
        "hard",
        ((_EXP, _EXP.replace("np.exp(", "np.exp2(F(1.44269) * ")),),
        seen={"regime": "forget@-10"},
    ),
    Planted(
        "differences of prefix sums",
        "Sums of log forgets are differences of prefix sums, in float32 and inside a chunk.",
        "gates",
        "hard",
        (
            (
                _SUMS,
                _SUMS + f"\n        {_PREFIX}self.sums = np.where(np.isfinite(differences), differences, self.sums)",
            ),
        ),
        seen={"regime": "edge@88", "length": 70, "chunk_size": 32},
    ),
    Planted(
        "decay factors above 1 above the diagonal",
        "exp of differences of prefix sums, masked by a factor 0 where they are positive (state-spaces/mamba#354).",
        "gates",
        "medium",
        ((_SUMS, f"{_PREFIX}self.sums = differences"), (_EXP, "return self.past * np.exp(exponents)")),
        seen={"regime": "forget@-60"},
    ),
    # precision
    Planted(
        "n scaled by 1.00001",
        "n is too large by 1e-5.",
        "precision",
        "hard",
        (('1 + 1e-5 if self.fault == "n scaled" else 1', "1 + 1e-5"),),
    ),
    Planted(
        "n scaled by 1.0001",
        "n is too large by 1e-4.",
        "precision",
        "medium",
        (('1 + 1e-5 if self.fault == "n scaled" else 1', "1 + 1e-4"),),
    ),
    Planted(
        "dots in TF32",
        "Operands of float32 dots keep 10 bits of their fraction (triton-lang/triton#1671).",
        "precision",
        "medium",
        _dots("0xFFFFE000"),
    ),
    Planted("dots in bfloat16", "Operands of dots keep 7 bits.", "precision", "easy", _dots("0xFFFF0000")),
    Planted(
        "dots of 16 bits", "Operands of dots keep 16 bits of their fraction.", "precision", "hard", _dots("0xFFFFFF80")
    ),
    Planted(
        "state in bfloat16 between chunks",
        "C and n are stored in bfloat16.",
        "precision",
        "medium",
        ((_STATE, _STATE.replace("chunk.last", f"chunk.last{_BFLOAT16}")),),
    ),
    Planted(
        "state in float16 between chunks",
        "C and n are stored in float16.",
        "precision",
        "medium",
        ((_STATE, _STATE.replace("chunk.last", "chunk.last.astype(np.float16).astype(F)")),),
    ),
    Planted(
        "accumulators in float16",
        "N and a are sums in float16.",
        "precision",
        "easy",
        (
            (
                "self.readout = self.dot(pairs, self.v) + kept",
                "self.readout = (self.dot(pairs, self.v) + kept).astype(np.float16).astype(F)",
            ),
        ),
    ),
    Planted(
        "reciprocal of 18 bits",
        "h = N (1 / d), with 18 bits of 1 / d.",
        "precision",
        "hard",
        (
            (
                "return np.where(x == 0, F(0), x / d)",
                "return np.where(x == 0, F(0), x * (F(1) / d).view(np.uint32).__and__(np.uint32(0xFFFFFFE0)).view(F))",
            ),
        ),
    ),
    Planted(
        "scale in bfloat16",
        "DHQK^-1/2 is rounded to bfloat16.",
        "precision",
        "medium",
        (("F(self.q.shape[-1] ** -0.5)", "F(ml_dtypes.bfloat16(self.q.shape[-1] ** -0.5))"),),
    ),
    # states
    Planted(
        "padding forgets",
        "What fills the last chunk has f = 0: the last state is halved for each such token.",
        "states",
        "easy",
        (("self.last = chunk.last", "self.last = chunk.last * F(0.5) ** F(-self.q.shape[2] % self.chunk_size)"),),
    ),
    Planted(
        "last token of a chunk not taken in",
        "The state that leaves a chunk lacks the chunk's last token.",
        "states",
        "easy",
        (
            (
                "taken_in = self.dot(transposed(column(of_last[..., 1:]) * self.k), self.v)",
                "taken_in = self.dot(transposed(column(of_last[..., 1:]) * self.k)[..., :-1], self.v[:, :, :-1])",
            ),
        ),
    ),
    # causality
    Planted(
        "token does not see itself",
        "The causal mask leaves out the diagonal.",
        "causality",
        "easy",
        (("self.past = source <= target", "self.past = (source < target) | (source == 0)"),),
    ),
    Planted(
        "stabilizer of the whole chunk",
        "m_t is the largest over all tokens of the chunk, later ones too.",
        "causality",
        "medium",
        ((_LOGS, "logs = self.sums + self.sources(m_0)"),),
        seen=_CONSTANT,
    ),
    Planted(
        "first token of a chunk without the state",
        "The first token of a chunk does not read the state that enters it.",
        "causality",
        "medium",
        ((_KEPT, _KEPT + "\n        kept[:, :, 0] = 0"),),
    ),
    # gradients
    Planted(
        "normalizer held constant",
        "No gradient of the denominator and the stabilizer (NX-AI/mlstm_kernels#16).",
        "gradients",
        "easy",
        ((_GAMMA, "gamma = F(0) * y"), (_MU, "F(0) * y"), (_EXCESS_OF_LAST, "F(0) * dm")),
    ),
    Planted(
        "switch of the gradient 2 % late",
        "The denominator is |a| from |a| = b on, its gradient from |a| = 1.02 b on.",
        "gradients",
        "hard",
        ((_ABOVE, _ABOVE.replace("abs(a) > b", "abs(a) > F(1.02) * b")),),
        seen={"regime": "kink@0.01"},
    ),
    Planted(
        "switch of the gradient at b + eps",
        "The gradient switches where |a| = b + eps, not b.",
        "gradients",
        "hard",
        ((_ABOVE, _ABOVE.replace("abs(a) > b", "abs(a) > b + times(constants.eps, excess)")),),
        seen={"regime": "kink@0.01", "eps": 1e-2},
    ),
    Planted(
        "sign of q.n forgotten",
        "The gradient of |a| is that of a.",
        "gradients",
        "easy",
        ((_GAMMA, _GAMMA.replace("-np.sign(readout[..., -1])", "-F(1)")),),
    ),
    Planted(
        "mode constant differentiated as correct",
        "kappa is eps / d also where the denominator is norm_val.",
        "gradients",
        "medium",
        ((_KAPPA, ""),),
        seen={"regime": "init", **_CONSTANT},
    ),
    Planted(
        "no gradient through eps exp(m)",
        "mu is 0 in mode correct.",
        "gradients",
        "hard",
        ((_MU, f"{_MU} * (not constants.stabilize_correctly)"),),
        seen={"norm_val": 0.1, "eps": 1e-2, "regime": "forget@10"},
    ),
    Planted(
        "1 - sigmoid in df",
        "df has 1 - sigma(f), which cancels for large f.",
        "gradients",
        "medium",
        ((_DF, "df = dphi * (1 - 1 / (1 + np.exp(-made.f)))"),),
        seen={"regime": "forget@20"},
    ),
    Planted(
        "df without the state",
        "df lacks what passed from the state that entered the chunk (fla-org/flash-linear-attention#1142).",
        "gradients",
        "medium",
        (("np.cumsum(shares, -1), F(0))", "np.cumsum(shares * (np.arange(shares.shape[-1]) > 0), -1), F(0))"),),
    ),
    Planted(
        "df as a difference of sums",
        "df is the reverse cumulative sum of q.dq - k.dk (mlstm_kernels, limit_chunk).",
        "gradients",
        "medium",
        (
            (
                "return np.sum(np.where(target > source, np.cumsum(shares, -1), F(0)), -2)[..., :-1]",
                "of_targets, of_sources = np.sum(shares, -1), np.sum(shares, -2)\n"
                "    after = np.cumsum(of_targets[..., ::-1], -1)[..., ::-1][..., :-1]\n"
                "    return after - np.cumsum(of_sources[..., :0:-1], -1)[..., ::-1]",
            ),
        ),
        seen={"regime": "forget@-60"},
    ),
    Planted(
        "di without m",
        "The input gate that m came from does not get what passes through m.",
        "gradients",
        "medium",
        (
            (
                "column(through_m), F(0))\n        self.through",
                "column(through_m) * (column(origin) == 0), F(0))\n        self.through",
            ),
        ),
    ),
    Planted(
        "M stops at chunk edges",
        "What passes back through m is not handed to the chunk before.",
        "gradients",
        "hard",
        ((_TO_PREVIOUS, "M = F(0) * chunk.through_m_0"),),
        seen={"regime": "kept"},
    ),
    Planted(
        "gradients do not cross chunks",
        "The gradient of a state is dropped at the chunk's edge.",
        "gradients",
        "easy",
        ((_TO_PREVIOUS, _TO_PREVIOUS + "\n            D = F(0) * D"),),
    ),
    Planted(
        "gradient of the state in bfloat16",
        "dC and dn are bfloat16 between chunks (fla-org/flash-linear-attention#36).",
        "gradients",
        "medium",
        ((_TO_PREVIOUS, _TO_PREVIOUS + f"\n            D = D{_BFLOAT16}"),),
    ),
    Planted(
        "cotangent of the last C ignored",
        "No gradient comes back through C_last.",
        "gradients",
        "easy",
        ((_DLAST, _DLAST.replace("[dC,", "[0 * dC,")),),
    ),
    Planted(
        "cotangent of the last m ignored",
        "No gradient comes back through m_last.",
        "gradients",
        "medium",
        ((_EXCESS_OF_LAST, _EXCESS_OF_LAST.replace("dm -", "0 * dm -")),),
        seen={"cotangents": "last"},
    ),
    Planted(
        "dm_0 missing",
        "The gradient of m_0 is 0.",
        "gradients",
        "medium",
        (("in_jax(D[..., -1]), in_jax(dm_0)", "in_jax(D[..., -1]), in_jax(0 * dm_0)"),),
        seen={"initial": "warm@2"},
    ),
    Planted(
        "dn_0 missing",
        "The gradient of n_0 is 0.",
        "gradients",
        "medium",
        (("in_jax(D[..., -1]), in_jax(dm_0)", "in_jax(0 * D[..., -1]), in_jax(dm_0)"),),
        seen={"initial": "warm@2"},
    ),
    Planted(
        "no gradient of an empty state",
        "The gradient of an initial state of zeros is relative to the stabilizer that ignores it.",
        "gradients",
        "medium",
        (("D = np.where(column(np.isneginf(made.inner_0), 2), D_of_m, D)", "D = D + 0"),),
        seen={"initial": "empty@2"},
    ),
    # special values
    Planted(
        "NaN for an empty state",
        "exp(m - m) for m = -inf.",
        "special values",
        "medium",
        (("return np.where(np.isneginf(m), F(0), m)", "return m"),),
        seen={"regime": "dead_input"},
    ),
    Planted(
        "NaN after a reset",
        "Differences of prefix sums: -inf - -inf after f = -inf.",
        "special values",
        "medium",
        ((_SUMS, f"{_PREFIX}self.sums = differences"),),
        seen={"regime": "reset"},
    ),
    Planted(
        "NaN for f = +inf",
        "phi = f - log(1 + exp(f)).",
        "special values",
        "medium",
        ((_PHI, "self.phi = self.f - np.logaddexp(self.f, F(0))"),),
        seen={"regime": "kept"},
    ),
    Planted(
        "0 times exp(-m)",
        "norm_val = 0 times an exp(-m) that overflows.",
        "special values",
        "medium",
        (("return F(constant) * power if constant else F(0)", "return F(constant) * power"),),
        seen={"regime": "input_gates@-100", "norm_val": 0.0, "eps": 0.0},
    ),
    Planted(
        "0 / 0",
        "N = 0 over d = 0 is not taken for 0.",
        "special values",
        "hard",
        (("return np.where(x == 0, F(0), x / d)", "return x / d"),),
        seen={"regime": "dead_input", "norm_val": 0.0, "eps": 0.0},
    ),
)


def _all():
    around = (
        Planted(name, does, group, grade, around=fault, seen=seen) for name, does, group, grade, fault, seen in AROUND
    )
    return (*_EDITED, *around)


PLANTED = {planted.name: planted for planted in _all()}
