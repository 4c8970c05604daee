"""Measures kernels against oracles: case -> problem -> reference and result -> measurement -> verdict -> run."""

from verify._case import Case as Case
from verify._case import CaseError as CaseError
from verify._errors import SuiteError as SuiteError
from verify._errors import UsageError as UsageError
from verify._measurement import Measurement as Measurement
from verify._measurement import measure as measure
from verify._problem import Problem as Problem
from verify._problem import make_problem as make_problem
from verify._reference import Reference as Reference
from verify._reference import compute_reference as compute_reference
from verify._runner import Result as Result
from verify._runner import run_case as run_case
from verify._subject import Subject as Subject
from verify._subject import load_subject as load_subject
from verify._verdict import Outcome as Outcome
from verify._verdict import Verdict as Verdict
from verify._verdict import judge as judge

__all__ = [
    "Case",
    "CaseError",
    "Measurement",
    "Outcome",
    "Problem",
    "Reference",
    "Result",
    "Subject",
    "SuiteError",
    "UsageError",
    "Verdict",
    "compute_reference",
    "judge",
    "load_subject",
    "make_problem",
    "measure",
    "run_case",
]
