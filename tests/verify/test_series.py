"""A step planted in a series is found at its run, for its outputs, with what changed there."""

import numpy as np
import pytest

from tests.verify.recording import CASES, records, write_run
from verify import UsageError
from verify._series import find_steps, read_series


def write_series(directory, change, count=12, **conditions):
    """Runs whose names are not in the order of their start; ``change`` has the number of the run before the rest."""
    for number in range(1, count + 1):
        of = records(lambda case, output, number=number: change(number, case, output))
        here = {name: value(number) for name, value in conditions.items()}
        write_run(directory / f"run-{count - number}", of, f"2026-11-{number:02}T00:00:00+00:00", **here)
    return find_steps(read_series(directory))


def told(found):
    return [(pattern.outputs, pattern.where) for pattern in found]


def test_a_step_at_the_seventh_of_twelve(tmp_path):
    def change(number, case, output):
        if number >= 7 and output == "df" and "forget" in case.regime and case.dtype == "bfloat16":
            return {"rms_z": 4.0, "digest": "1" * 32}
        return {"digest": "2" * 32} if number >= 7 and output == "h" else {}

    series = write_series(tmp_path, change, triton=lambda number: "3.7.0" if number >= 7 else "3.6.0")
    (step,) = series.steps
    assert (step.number, step.record.path.name) == (7, "run-5")
    assert [(axis.name, axis.before, axis.after) for axis in step.axes] == [("triton", "3.6.0", "3.7.0")]
    assert told(step.worse) == [(("df",), "dtype bfloat16; regime forget")]
    assert told(step.bits) == [(("h",), "everywhere")]
    assert not step.better + series.unrepeatable


@pytest.mark.parametrize("to", [7, 12])
def test_a_level_that_moves_among_bits_that_never_repeat(tmp_path, to):
    rng = np.random.default_rng(0)

    def change(number, case, output):
        digest = rng.bytes(16).hex()
        level = 4.0 if to > number >= 5 else 0.7
        return {"rms_z": level + rng.uniform(-0.3, 0.3), "digest": digest} if output == "df" else {}

    series = write_series(tmp_path, change)
    # From 5 on; and back again at 7.
    assert [(step.number, bool(step.worse), bool(step.better)) for step in series.steps] == [
        (5, True, False),
        (to, False, True),
    ]
    assert all(told(step.worse + step.better) == [(("df",), "everywhere")] for step in series.steps)
    assert told(series.unrepeatable) == [(("df",), "everywhere")]


def test_one_run_that_strays_is_two_changes_of_bits(tmp_path):
    series = write_series(
        tmp_path, lambda number, case, output: {"digest": "1" * 32} if number == 4 and case == CASES[0] else {}
    )
    assert [step.number for step in series.steps] == [4, 5]
    assert not any(step.worse + step.better for step in series.steps)


def test_an_outcome_that_changes_is_a_step(tmp_path):
    write_run(tmp_path / "a", started="2026-11-01T00:00:00+00:00")
    write_run(tmp_path / "b", records(outcome=lambda case: "crash"), started="2026-11-02T00:00:00+00:00")
    (step,) = find_steps(read_series(tmp_path)).steps
    assert (step.number, len(step.outcomes)) == (2, len(CASES))


def test_a_creep_is_a_step_where_it_has_gone_too_far(tmp_path):
    levels = (0.5, 1.2, 1.9, 2.8)
    series = write_series(tmp_path, lambda number, case, output: {"rms_z": levels[number - 1]}, count=4)
    assert [step.number for step in series.steps] == [3]


def test_a_quiet_series_has_no_step(tmp_path):
    assert not write_series(tmp_path, lambda number, case, output: {}, count=3).steps


def test_what_is_no_series(tmp_path):
    with pytest.raises(UsageError, match=r"--runs .* has 0 run directories; a series needs at least 2"):
        read_series(tmp_path)
    with pytest.raises(UsageError, match=r"--runs .*none cannot be read"):
        read_series(tmp_path / "none")
