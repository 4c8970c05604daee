"""The drift section of a report: nothing of equal runs, and the outputs, cases and regressions of what moved."""

import datetime
import re
from pathlib import Path

import pytest

from tests.verify.synthetic_run import measured, result, write_run
from verify import Case, UsageError
from verify._drift import compare
from verify._recorded import recorded_run
from verify._regression import Acknowledgement, Regression
from verify._report_drift import drift_section
from verify._verdict import Outcome
from verify.cli._report import Format, report

CASES = [Case(regime=regime, length=length) for regime in ("ordinary", "reset") for length in (8, 9)]


@pytest.fixture
def base(tmp_path):
    return write_run(tmp_path / "base", *(result(case, measured(rms_z=0.5), measured("dq")) for case in CASES))


def section(current, base, capsys):
    report(current, Path("-"), str(base), Format.markdown)
    return re.search("## Drift against .*?(?=## Environment)", capsys.readouterr().out, re.DOTALL).group()


def test_equal_runs_have_no_table(base, capsys):
    told = section(base, base, capsys)
    assert "no regression. Of 8 outputs of 4 cases: 0 moved, 0 equal to rounding, 8 bitwise equal." in told
    assert "| --- |" not in told


def test_what_moved_is_named(base, tmp_path, capsys):
    results = [
        result(
            case,
            measured(rms_z=3.0 if case.regime == "reset" else 0.5, digest=case.regime.ljust(32, "0")),
            measured("dq"),
        )
        for case in CASES[:3]
    ]
    failed = result(CASES[3], outcome=Outcome.CRASH, precision=None)
    told = section(write_run(tmp_path / "current", *results, failed), base, capsys)
    assert "| `moved, worse` | `h` | `1 of 3` |" in told
    assert f"| `outcome` | `crash, was pass` | `no` | `{CASES[3].id}` |" in told
    assert f"| `pass` | `crash` | `{CASES[3].id}` |" in told
    assert "| `h` | `0.25 to 0.25` | `0.5 to 3` |" in told


def test_what_fails_stands_before_what_is_acknowledged(base):
    known = Acknowledgement("*", "h", "it is known", datetime.date(2027, 1, 1))
    found = [Regression("h", ("a",), "moved", 9.0, (known,)), Regression("dq", ("b", "c"), "moved too", 1.0)]
    shown = drift_section(compare(recorded_run(base), recorded_run(base)), found)
    assert shown.sentence.startswith("1 regression. ")
    (table,) = shown.tables
    assert table.rows == (
        ("dq", "moved too", "no", "2 cases"),
        ("h", "moved", "until 2027-01-01: it is known", "a"),
    )


def test_a_base_without_a_case_in_common_is_an_error(base, tmp_path):
    other = write_run(tmp_path / "other", result(Case(length=70), measured()))
    with pytest.raises(UsageError, match="no case in common"):
        report(other, tmp_path / "file", str(base))
    assert not (tmp_path / "file").exists()
