"""What fails: worse beyond the ratchet, unless it is acknowledged until a day that is not past."""

import datetime

import pytest

from tests.verify.recording import CASES, records, write_run
from verify import UsageError
from verify._drift import compare
from verify._recorded import recorded_run
from verify._regression import OUTCOME, Acknowledgement, read_acknowledgements, regressions

TODAY = datetime.date(2026, 11, 25)


def drift(tmp_path, change, outcome=lambda case: "pass"):
    base = recorded_run(write_run(tmp_path / "base"))
    return compare(base, recorded_run(write_run(tmp_path / "current", records(change, outcome))))


def only_df(**changed):
    return lambda case, output: {**changed, "digest": "1" * 32} if output == "df" and case == CASES[0] else {}


@pytest.mark.parametrize(
    ("before", "after", "fails"),
    [(0.7, 3.0, True), (3.0, 5.9, False), (3.0, 6.1, True), (3.0, 0.1, False), (0.0, 1.8, False), (0.0, 2.0, True)],
)
def test_the_ratchet(tmp_path, before, after, fails):
    base = recorded_run(write_run(tmp_path / "base", records(only_df(rms_z=before))))
    change = only_df(rms_z=after)
    current = records(lambda case, output: change(case, output) and {**change(case, output), "digest": "2" * 32})
    compared = compare(base, recorded_run(write_run(tmp_path / "current", current)))
    assert [one.fails for one in regressions(compared, (), TODAY)] == [True] * fails


def test_a_worse_outcome_fails_and_a_better_one_does_not(tmp_path):
    compared = drift(tmp_path, lambda case, output: {}, lambda case: "crash" if case == CASES[0] else "pass")
    (found,) = regressions(compared, (), TODAY)
    assert (found.output, found.cases, found.told) == (OUTCOME, (CASES[0].id,), "crash, was pass")
    assert not regressions(compare(compared.current, compared.base), (), TODAY)


@pytest.mark.parametrize(
    ("case", "output", "day", "fails"),
    [
        ("*", "df", TODAY, False),
        ("ordinary:*:float32:*", "d?", TODAY, False),
        ("forget*", "df", TODAY, True),
        ("*", "h", TODAY, True),
        ("*", "df", TODAY - datetime.timedelta(days=1), True),
    ],
)
def test_a_known_drift(tmp_path, case, output, day, fails):
    known = Acknowledgement(case, output, "triton 3.7", day)
    (found,) = regressions(drift(tmp_path, only_df(rms_z=5.0)), [known], TODAY)
    assert found.fails is fails
    assert found.expired == ((known,) if day < TODAY else ())


ENTRY = '[[drift]]\ncase = "*"\noutput = "df"\nreason = "why"\nexpires = 2026-11-25\n'


def test_acknowledgements_are_read(tmp_path):
    path = tmp_path / "acknowledged.toml"
    path.write_text(ENTRY * 2)
    assert read_acknowledgements(path) == (Acknowledgement("*", "df", "why", TODAY),) * 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (ENTRY[:-5], "cannot be read"),
        ("\xff", "cannot be read"),
        ("[[drift]\n", "cannot be read"),
        (ENTRY.replace("expires = 2026-11-25", ""), "drift 1 has no expires; expected case, output, reason, expires"),
        (ENTRY + ENTRY + "until = 1\n", "drift 2 has an unknown until"),
        (ENTRY.replace("2026-11-25", '"2026-11-25"'), "expires is '2026-11-25'; expected a date"),
        (ENTRY.replace("2026-11-25", "2026-11-25T00:00:00"), "expected a date"),
        (ENTRY.replace('"why"', '""'), "reason is ''; expected some text"),
        (ENTRY.replace("[[drift]]", "[drift]"), "has drift, which is no list"),
        ("drift = [1]\n", r"drift 1: expected a table \[\[drift\]\], got 1"),
        (ENTRY.replace("[[drift]]", "[[drifts]]"), r"has drifts; expected \[\[drift\]\] entries"),
    ],
)
def test_malformed_acknowledgements(tmp_path, text, told):
    path = tmp_path / "acknowledged.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=f"acknowledged.toml.* {told}"):
        read_acknowledgements(path)
    path.unlink()
    with pytest.raises(UsageError, match=r"acknowledged.toml cannot be read"):
        read_acknowledgements(path)
