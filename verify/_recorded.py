"""What was recorded of a subject: a run, or a baseline; what a comparison of two of them rests on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verify._case import Case
from verify._measurement import Measurement
from verify._problem import NUMPY_DTYPES
from verify._run import read_results
from verify._runner import Result
from verify._verdict import OF_CASE_DTYPE, Outcome

# What of the environment may move a kernel, and what it belongs to. Other entries belong to the toolchain.
SOURCE = ("commit", "mlstm-verify", "mlstm-kernels")
DEVICE = ("device", "backend", "driver")
# The oracle's, whose source is in the digest of the definition; where the packages lie.
_IRRELEVANT = ("mpmath", "interpreter", "packages")
# Digits of a digest that are kept: two outputs that differ share them once in 2^64.
DIGITS = 16


@dataclass(frozen=True)
class Level:
    """How far one output of one case was off.

    Attributes:
        output: its name.
        digest: the first digits of the digest of its bytes.
        ratio, rms_z, largest_z, nonfinite: as in ``Measurement``.
        ulp: the error at the largest ratio, in units in the last place of the output's dtype there.
    """

    output: str
    digest: str
    ratio: float
    rms_z: float
    largest_z: float
    ulp: float
    nonfinite: int


@dataclass(frozen=True)
class CaseRecord:
    """One case.

    Attributes:
        id: its name; before that of the case there may be a relation and a slash.
        case: what it is.
        outcome: the verdict.
        levels: of what was measured, by output.
    """

    id: str
    case: Case
    outcome: Outcome
    levels: Mapping[str, Level]


@dataclass(frozen=True)
class Recorded:
    """A run or a baseline.

    Attributes:
        path: the run directory, or the baseline's file.
        is_baseline: which of them.
        started: when the run was, ISO 8601.
        subject: ``module:callable``.
        definition: digest of the mathematics, the arrays and the scales; equal means the same references.
        conditions: commit, device, driver and versions by name, as text; absent where there is none.
        planned: how many cases were.
        cases: what was recorded, by case id.
    """

    path: Path
    is_baseline: bool
    started: str
    subject: str
    definition: str
    conditions: Mapping[str, str]
    planned: int
    cases: Mapping[str, CaseRecord]


def recorded_run(directory: Path) -> Recorded:
    """A run directory as a record; raises as ``read_results`` does."""
    manifest, results = read_results(directory)
    return Recorded(
        directory,
        False,
        manifest["started"],
        manifest["subject"],
        manifest["definition"],
        _conditions(manifest["environment"]),
        len(manifest["planned"]),
        {result.case.id: _case_record(result) for result in results},
    )


def _conditions(environment: dict[str, Any]) -> dict[str, str]:
    packages = environment.get("packages") or {}
    both = {name: value for name, value in {**environment, **packages}.items() if name not in _IRRELEVANT}
    both["dirty"] = "yes" if both.get("dirty") else None
    # nvidia-smi tells the driver once for each GPU.
    lines = {name: dict.fromkeys(str(value).splitlines()) for name, value in both.items() if value is not None}
    return {name: " ".join(each) for name, each in lines.items()}


def _case_record(result: Result) -> CaseRecord:
    levels = {measured.output: _level(result.case, measured) for measured in result.verdict.measurements}
    return CaseRecord(result.case.id, result.case, result.verdict.outcome, levels)


def _level(case: Case, measured: Measurement) -> Level:
    return Level(
        output=measured.output,
        digest=measured.digest[:DIGITS],
        ratio=measured.ratio,
        rms_z=measured.rms_z,
        largest_z=measured.largest_z,
        ulp=_ulp(case, measured),
        nonfinite=measured.nonfinite,
    )


def _ulp(case: Case, measured: Measurement) -> float:
    import ml_dtypes

    got, wanted = measured.got, measured.wanted
    if got == wanted:
        return 0.0
    if not (math.isfinite(got) and math.isfinite(wanted)):
        return math.inf
    numbers = ml_dtypes.finfo(NUMPY_DTYPES[case.dtype if measured.output in OF_CASE_DTYPE else "float32"])
    exponent = max(math.frexp(wanted)[1] - 1 if wanted else numbers.minexp, int(numbers.minexp))
    return abs(got - wanted) / math.ldexp(1.0, exponent - int(numbers.nmant))
