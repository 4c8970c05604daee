"""A failure as a program of its own, which needs NumPy and the subject, and as a test for pytest.

Both have the input, and what is right: the recurrent form in float64, or the numbers of the reference where this form
is not enough (gradients, special values, what leaves float64); and by how much the subject may be off that.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from verify._calibration import limit
from verify._measurement import Measurement
from verify._problem import GRADIENT_OF
from verify._reference import CHANNELS, TOKENS, Reference
from verify._shrink._failure import Failure
from verify._shrink._input import Input
from verify._shrink._reduction import Found
from verify._subject import RETURNS, Signature
from verify._verdict import OF_CASE_DTYPE, Finding, Outcome, finding

PROGRAM, TEST, ARRAYS = "reproduce.py", "test_reproduce.py", "arrays.npz"
MOST_LINES = 59
_WIDTH = 110
# For a bound of infinity, within which infinity itself is not right.
_HUGE = float(np.finfo(np.float64).max)
# Gates beyond these have exponentials that leave float64.
_LARGEST_GATE = 300.0
# What the definition in the program returns.
_DEFINED = ("h", "C_last", "n_last", "m_last")


@dataclass(frozen=True)
class Origin:
    """Where a failure comes from.

    Attributes:
        subject: its name.
        signature: of the subject.
        case_id: what was shrunk.
        has_jax: whether the subject gets JAX arrays.
        environment: variables that its process has beside those of the user.
        seconds: that a call may take.
    """

    subject: str
    signature: Signature
    case_id: str
    has_jax: bool
    environment: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 900.0


def render(found: Found, failure: Failure, origin: Origin) -> dict[str, bytes]:
    """The files of a failure by name: ``PROGRAM``, ``TEST``, and ``ARRAYS`` where they do not fit in the others."""
    stored: dict[str, np.ndarray] = {}
    # With the definition, with numbers in its place, and with all numbers elsewhere.
    for defined, elsewhere in ((True, None), (False, None), (False, stored)):
        programs = _Reproducer(found, failure, origin, elsewhere, defined=defined).programs()
        if max(text.count("\n") for text in programs.values()) <= MOST_LINES:
            break
    files = {name: text.encode() for name, text in programs.items()}
    if not stored:
        return files
    archive = io.BytesIO()
    np.savez_compressed(archive, **stored)  # type: ignore[arg-type]
    return {**files, ARRAYS: archive.getvalue()}


class _Reproducer:
    """The texts of both programs.

    Args:
        found: the input.
        failure: what the input shows.
        origin: where it comes from.
        stored: takes the arrays; None writes them into the text.
        defined: whether the text may have the definition.
    """

    def __init__(
        self,
        found: Found,
        failure: Failure,
        origin: Origin,
        stored: dict[str, np.ndarray] | None,
        *,
        defined: bool,
    ) -> None:
        self.found, self.failure, self.origin, self.stored, self.defined = found, failure, origin, stored, defined
        self.case, self.problem = found.input.case, found.input.problem
        self.numbers = "jnp" if origin.has_jax else "np"
        self.options = origin.signature.options(self.case)

    def programs(self) -> dict[str, str]:
        templates = Environment(
            loader=PackageLoader("verify"),
            autoescape=False,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        template = templates.get_template("reproduce.py.j2")
        values = self.values()
        return {
            PROGRAM: template.render(values, test="", imports=self.imports(values["kind"], test=False)),
            TEST: template.render(values, test=self.test_name, imports=self.imports(values["kind"], test=True)),
        }

    @property
    def test_name(self) -> str:
        words = [self.origin.subject.partition(":")[2], self.failure.outcome.value]
        measured = self.measured()
        words[1:1] = [measured[0].output] if measured else []
        return re.sub(r"\W+", "_", "_".join(words)).lower()

    def imports(self, kind: str, *, test: bool) -> list[str]:
        lines = {
            "import os": bool(self.origin.environment),
            "import subprocess": kind == "death",
            "import sys": kind == "death" or not test,
            "from pathlib import Path": self.stored is not None,
            " ": True,
            "import jax": bool(self.problem.cotangents),
            "import jax.numpy as jnp": self.origin.has_jax,
            "import numpy as np": True,
            "from ml_dtypes import bfloat16": not self.origin.has_jax and self.case.dtype == "bfloat16",
            "from numpy import inf, nan  # noqa: F401": kind == "distance",
        }
        # The blank line parts what Python has from what it has not.
        return "\n".join(line.strip() for line, used in lines.items() if used).strip().split("\n")

    def values(self) -> dict[str, Any]:
        module, _, name = self.origin.subject.partition(":")
        return {
            "told": textwrap.shorten(self.told(), 115, placeholder="..."),
            "origin": self.origin.case_id,
            "subject_module": module,
            "subject_callable": name,
            "environment": self.origin.environment,
            "stored": ARRAYS if self.stored is not None else "",
            "arrays": {name: self.array(name, array) for name, array in self.problem.arrays.items()},
            "cotangents": {name: self.array(f"d{name}", array) for name, array in self.problem.cotangents.items()},
            "options": self.options_text(),
            "seconds": self.origin.seconds,
            "structure": self.structure(),
            "pulled": self.structure(pulled=True),
            "eps": repr(self.case.eps),
            "norm_val": repr(self.case.norm_val),
            "stabilize_correctly": self.case.stabilize_correctly,
            "state": self.state(),
            "definition": "",
            "expected_m": "",
            "output": "",
            "result": "np.asarray(jax.block_until_ready((h, gradients))[0])"
            if self.problem.cotangents
            else "np.asarray(h)",
            **self.checked(),
        }

    def told(self) -> str:
        measured = self.measured()
        reason = self.found.verdict.reason.partition("\n")[0]
        where = f"{self.origin.subject} in {self.case.dtype}"
        told = f"{where}: {reason}" if measured else f"{where}: {self.failure.outcome.value}: {reason}"
        # It stands in a docstring.
        return told.replace("\\", "/").replace('"', "'")

    def measured(self) -> tuple[Measurement, Finding] | None:
        """The output that is furthest off among those that failed, and by which check."""
        failing = self.failure.outputs_of(self.found.verdict)
        measured = [(one, finding([one])) for one in self.found.verdict.measurements if one.output in failing]
        return max(measured, key=lambda pair: pair[1].excess, default=None)

    def checked(self) -> dict[str, Any]:
        """What the program does with the result."""
        measured = self.measured()
        if measured is not None and self.found.reference is not None:
            return self.distance(*measured, self.found.reference)
        outcome = self.failure.outcome
        if outcome in (Outcome.WRONG_SHAPE, Outcome.WRONG_DTYPE):
            return self.form(self.found.verdict.reason.partition(" ")[0])
        if outcome is Outcome.CHANGED_INPUTS:
            return {"kind": "changed"}
        died = self.found.verdict.reason.startswith("its worker")
        return {"kind": "death" if died else "error"}

    def form(self, output: str) -> dict[str, Any]:
        shape = self.found.reference.shape(output, self.case.length) if self.found.reference else ()
        expected = shape, self.case.dtype if output in OF_CASE_DTYPE else "float32"
        return {"kind": "form", "output": output, "result": self.result(output), "expected": repr(expected)}

    def distance(self, measured: Measurement, found: Finding, reference: Reference) -> dict[str, Any]:
        output, relative = measured.output, measured.output in ("C_last", "n_last")
        allowed, scale, right = self.allowed(measured, found, reference)
        definition = _DEFINED.index(output) if output in _DEFINED and self.is_defined() else ""
        result = self.result(output)
        if relative:
            axes = "[..., None, None]" if output == "C_last" else "[..., None]"
            result = f"np.asarray({output}, np.float64) * shift{axes}"
        return {
            "kind": "distance",
            "output": output,
            "result": result,
            "definition": str(definition),
            "expected": "" if definition != "" else self.exact("expected", reference.values[output]),
            "expected_m": self.exact("expected_m", reference.values["m_last"]) if relative else "",
            "allowed": self.exact("allowed", allowed),
            "scale": scale,
            "right": right,
        }

    def allowed(self, measured: Measurement, found: Finding, reference: Reference) -> tuple[np.ndarray, str, str]:
        """How far each element may be off, what that is, and the expression that holds where all is right."""
        output = measured.output
        bound = reference.bounds[output].astype(np.float64)
        unknown = reference.unknown.get(output, np.zeros(bound.shape, bool))
        by_bound = self.failure.proved or found.check == "ratio"
        if by_bound:
            allowed = np.where(np.isinf(bound), _HUGE, bound)
            scale = f"The running error bound: how far rounding in {self.case.dtype} may move a correct kernel."
        else:
            noise = reference.noise[output][..., None] if output in CHANNELS else reference.noise[output]
            most = limit(found.check, output, measured.counted)
            allowed = np.where(np.isinf(bound), np.inf, most * np.broadcast_to(noise, bound.shape))
            allowed = np.maximum(allowed + reference.errors.get(output, 0.0), 1e-300)
            scale = f"{most:g} times the noise floor of correct kernels, which they exceed once in 10^8 times."
        right = "(abs(got - expected) <= allowed) | (got == expected) | (allowed == inf)"
        if not by_bound and found.check == "rms_z":
            scale += " It is for all elements together."
            rms = "np.sqrt(np.mean((abs(got - expected) / allowed)[allowed < inf] ** 2))"
            right = f"np.full(got.shape, {rms} <= 1)"
        return np.where(unknown, np.inf, allowed), scale, right

    def is_defined(self) -> bool:
        """Whether the program has the recurrent form, which stays in float64 and needs no special values."""
        arrays = self.problem.arrays
        gates = [arrays[name].astype(np.float64) for name in ("i", "f", "m_initial") if name in arrays]
        small = all(np.abs(gate).max() <= _LARGEST_GATE for gate in gates)
        finite = all(np.isfinite(array.astype(np.float64)).all() for array in arrays.values())
        rows = self.found.reference is not None and self.found.reference.rows is not None
        return self.defined and finite and small and not rows and (self.case.eps > 0 or self.case.norm_val > 0)

    def result(self, output: str) -> str:
        gradients = {gradient: name for name, gradient in GRADIENT_OF.items()}
        text = f'gradients["{gradients[output]}"]' if output in gradients else output
        rows = self.found.reference.rows if self.found.reference else None
        if rows is not None and output in TOKENS:
            text = f"np.take({text}, {self.exact('rows', rows)}, {TOKENS[output]})"
        return f"np.asarray({text})"

    def structure(self, *, pulled: bool = False) -> str:
        """What the subject returns; or the cotangents in the same form."""
        wanted = [RETURNS[name] for name in RETURNS if name in self.options]
        cotangents = self.problem.cotangents

        def leaf(name: str) -> str:
            if not pulled:
                return name
            return f'cotangents["{name}"]' if name in cotangents else f"zeros({name})"

        if not wanted:
            return f"{leaf('h')}"
        parts = [leaf("h"), *(f"({', '.join(map(leaf, names))})" for names in wanted)]
        return f"({', '.join(parts)})" if pulled or cotangents else ", ".join(parts)

    def options_text(self) -> str:
        texts = {name: repr(value) for name, value in self.options.items()}
        if "autocast_kernel_dtype" in texts:
            texts["autocast_kernel_dtype"] = self.dtype(self.case.dtype)
        text = f"dict({', '.join(f'{name}={value}' for name, value in texts.items())})"
        return text if len(text) < _WIDTH else text.replace(", return_last", ",\n    return_last")

    def state(self) -> str:
        if "m_initial" in self.problem.arrays:
            return '*(np.asarray(arrays[name], np.float64) for name in ("c_initial", "n_initial", "m_initial"))'
        batch, heads, dhqk, dhhv = self.case.batch, self.case.heads, self.case.dhqk, self.case.dhhv
        shapes = (batch, heads, dhqk, dhhv), (batch, heads, dhqk), (batch, heads)
        return ", ".join(f"np.zeros({shape})" for shape in shapes)

    def dtype(self, name: str) -> str:
        return "bfloat16" if name == "bfloat16" and self.numbers == "np" else f"{self.numbers}.{name}"

    def array(self, name: str, array: np.ndarray) -> str:
        """An array that the subject gets."""
        return self.text(name, array, self.numbers, self.dtype(array.dtype.name))

    def exact(self, name: str, array: np.ndarray) -> str:
        """An array of this program's own."""
        return self.text(name, array, "np", "")

    def text(self, name: str, array: np.ndarray, numbers: str, dtype: str) -> str:
        of_dtype = f", {dtype}" if dtype else ""
        # NumPy's files and texts know no bfloat16, whose numbers float32 has.
        plain = array.astype(np.float32) if array.dtype.name == "bfloat16" else array
        if self.stored is not None:
            self.stored[name] = plain
            return f'{numbers}.asarray(stored["{name}"]{of_dtype})' if dtype else f'stored["{name}"]'
        for value, maker in ((0.0, "zeros"), (1.0, "ones")):
            if array.size and np.all(plain == value) and not np.signbit(plain).any():
                return f"{numbers}.{maker}({array.shape}{of_dtype})"
        digits = np.array2string(plain, _WIDTH, separator=", ", threshold=array.size + 1, floatmode="unique")
        return f"{numbers}.array({digits}{of_dtype})"


def describe(given: Input) -> str:
    """The sizes of an input in a few words."""
    case = given.case
    sizes = f"B={case.batch} NH={case.heads} S={case.length} DHQK={case.dhqk} DHHV={case.dhhv} L={case.chunk_size}"
    return f"{sizes}, {given.elements} numbers"
