"""Thresholds: from samples whose tail is known, from runs, and from a file that may be damaged."""

import json
import math

import numpy as np
import pytest

from tests.subjects import float32
from tests.verify.synthetic_run import measured, result
from verify import Case, SuiteError, UsageError, load_subject, run_case
from verify import _calibration as calibration
from verify._calibration import RATE, STATISTICS, Tail, _continued, calibrate, limit, thresholds
from verify._verdict import Outcome, finding
from verify.cli._calibrate import calibrate_command

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("size", [2_000, 50_000])
def test_an_exponential_tail_is_continued_to_the_rate(size):
    tail = Tail.of(RNG.exponential(size=size).tolist())
    exact = -math.log(RATE)
    # Not below but by chance, and above by no more than the confidence interval is wide.
    assert exact < tail.threshold * 1.05
    assert tail.threshold < exact * 1.6


def test_a_normal_tail_is_covered():
    tail = Tail.of(np.abs(RNG.standard_normal(20_000)).tolist())
    assert 5.7 < tail.threshold < 15.0
    assert tail.threshold > tail.largest


@pytest.mark.parametrize("values", [[1.0] * 5, [0.0] * 500, [math.inf] + [1.0] * 500])
def test_a_sample_without_a_tail(values):
    with pytest.raises(UsageError, match="have no tail to be fitted"):
        Tail.of(values)


def run(outcome=Outcome.PASS, ratio=0.5, count=400):
    places = [number / count for number in range(count)]
    results = [
        result(Case(seed=seed), measured(ratio=ratio, rms_z=1.0 + place, largest_z=2.0 + place), outcome=outcome)
        for seed, place in enumerate(places)
    ]
    environment = {"device": "cpu", "backend": "interpret", "packages": {"jax": "0.11.2"}}
    manifest = {"subject": "a:b", "environment": environment, "command": ["run"], "definition": "d"}
    return manifest, results


def test_a_calibration_names_what_it_rests_on():
    content = calibrate([run(), run()])
    assert [entry["measurements"] for entry in content["runs"]] == [400, 400]
    assert content["tails"]["rms_z"]["h"]["count"] == 800
    assert content["tails"]["rms_z"]["h"]["largest"] == 2.0


@pytest.mark.parametrize(("outcome", "ratio"), [("nonfinite", 0.5), ("crash", 0.5), ("inaccurate", 1.5)])
def test_what_cannot_be_correct_does_not_calibrate(outcome, ratio):
    told = outcome if outcome != "inaccurate" else "h is 1.5 times its bound"
    with pytest.raises(UsageError, match=f"a:b is no correct implementation: ordinary:.*:seed0: {told}"):
        calibrate([run(Outcome(outcome), ratio)])


def test_the_file_has_every_statistic_of_every_output():
    for statistic in STATISTICS:
        assert set(thresholds()[statistic]) == {
            "h", "n", "m", "C_last", "n_last", "m_last", "dq", "dk", "dv", "di", "df", "dC_0", "dn_0", "dm_0",
        }  # fmt: skip
        assert all(tail.threshold > tail.largest > 0.0 for tail in thresholds()[statistic].values())


def test_a_number_that_may_be_as_large_may_be_one_of_few():
    for output in thresholds()["rms_z"]:
        rms, largest = (thresholds()[statistic][output].threshold for statistic in STATISTICS)
        for count in (1, 6, 64):
            assert limit("rms_z", output, count) == pytest.approx(math.sqrt(rms**2 + largest**2 / count))
            assert limit("largest_z", output, count) == largest
        assert limit("rms_z", output, 10**9) == pytest.approx(rms, rel=1e-3)


@pytest.mark.parametrize("content", ["", "{}", '{"schema": 0}', json.dumps({"schema": 1, "tails": {}})])
def test_a_damaged_file_is_named(tmp_path, monkeypatch, content):
    monkeypatch.setattr(calibration, "CALIBRATION", tmp_path / "calibration.json")
    (tmp_path / "calibration.json").write_text(content)
    thresholds.cache_clear()
    try:
        with pytest.raises(SuiteError, match=r"calibration.json cannot be read"):
            thresholds()
    finally:
        thresholds.cache_clear()


def test_the_command_wants_runs(tmp_path):
    with pytest.raises(UsageError, match=r"manifest\.json cannot be read"):
        calibrate_command([tmp_path], tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


CASE = Case(length=20, dhqk=16, dhhv=16, chunk_size=16, cotangents="all")


def test_an_error_below_the_bound_is_seen_by_z():
    subject = load_subject("tests.subjects.float32:recurrence")
    assert run_case(CASE, subject).verdict.outcome.value == "pass"

    def scaled(*, fault="n scaled", **arguments):
        return float32.recurrence(**arguments, fault=fault)

    verdict = run_case(CASE, type(subject)("scaled", scaled, subject.parameters)).verdict
    below = [measured for measured in verdict.measurements if measured.ratio <= 1.0]
    assert verdict.outcome.value == "inaccurate"
    assert finding(below).check in STATISTICS
    assert finding(below).excess > 1.0


def test_the_precision_that_errors_fit_is_told():
    subject = load_subject("tests.subjects.float32:recurrence")

    def truncated(**arguments):
        return float32.recurrence(**arguments, fault="TF32 dots")

    verdict = run_case(CASE, type(subject)("truncated", truncated, subject.parameters)).verdict
    assert verdict.precision == "tf32"
    assert verdict.reason.endswith("claims float32, behaves as tf32")
    assert run_case(CASE, subject).verdict.precision == "float32"


def test_a_tail_that_is_heavier_further_out_ends_later():
    ordinary = np.abs(RNG.standard_normal(4_000))
    # One regime in a hundred is four times as noisy.
    mixed = np.concatenate([ordinary, 4.0 * np.abs(RNG.standard_normal(40))])
    assert Tail.of(mixed.tolist()).threshold > 1.8 * Tail.of(ordinary.tolist()).threshold
    assert Tail.of(mixed.tolist()).threshold > 1.2 * _continued(sorted(mixed.tolist(), reverse=True), 81)[0]
