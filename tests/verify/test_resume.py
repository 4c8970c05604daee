"""A killed run goes on where it was; the shards of a run are put together to the run as a whole."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verify import Case, UsageError
from verify._export import read_table
from verify._run import MANIFEST, RESULTS, SCHEMA, RunWriter, read_results, result_record
from verify.cli._selection import choose_shard

ROOT = Path(__file__).resolve().parents[2]
CASES = [Case(length=length, dhqk=4, dhhv=4, chunk_size=16) for length in range(1, 8)]
SELECTED = [word for case in CASES for word in ("--case", case.id)]
CORRECT = ("--subject", "tests.subjects.correct:mlstm", "--jobs", "0")


def verify(*arguments):
    command = [sys.executable, "-m", "verify", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(*arguments):
    process = verify(*arguments)
    out, err = process.communicate()
    return process.returncode, out, err


def records(directory):
    return [{**result_record(result), "seconds": 0.0} for result in read_results(directory)[1]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole") / "run"
    assert finish("run", *SELECTED, *CORRECT, "--out", directory)[0] == 0
    return directory


def test_a_killed_run_goes_on(whole, tmp_path):
    process = verify("run", *SELECTED, *CORRECT, "--out", tmp_path / "run")
    results, deadline = tmp_path / "run" / RESULTS, time.monotonic() + 120
    while not results.exists() or results.read_text().count("\n") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.communicate()
    with results.open("a") as lines:
        lines.write('{"case": "torn')
    code, out, _ = finish("export", tmp_path / "run")
    assert code == 0
    assert "results.parquet: " in out
    before = results.read_text().rpartition("\n")[0] + "\n"
    code, out, err = finish("run", "--resume", tmp_path / "run", "--jobs", "0")
    assert code == 0, err
    assert "7 planned, 7 executed: 7 pass" in out
    assert results.read_text().startswith(before)
    assert read_table(tmp_path / "run" / "results.parquet").num_rows == 7
    assert records(tmp_path / "run") == records(whole)


def test_a_finished_run_has_nothing_to_go_on_with(whole):
    before = (whole / RESULTS).read_text()
    code, out, _ = finish("run", "--resume", whole)
    assert code == 0
    assert "7 planned, 7 executed" in out
    assert (whole / RESULTS).read_text() == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--subject", "other:one"], "is a run of tests.subjects.correct:mlstm; --subject is other:one"),
        (["-k", "S1"], "goes on with the cases of that run; -k cannot be given"),
        (["--no-gradients"], "goes on with the cases of that run; --no-gradients cannot be given"),
    ],
)
def test_options_may_not_contradict_the_run(whole, arguments, told):
    code, _, err = finish("run", "--resume", whole, *arguments)
    assert code == 2
    assert told in " ".join(err.split())


def test_a_plan_that_does_not_parse_is_named(whole, tmp_path):
    text = (whole / MANIFEST).read_text()
    (tmp_path / MANIFEST).write_text(text.replace("ordinary", "odd"))
    code, _, err = finish("run", "--resume", tmp_path)
    assert code == 2
    assert f"{tmp_path / MANIFEST} plans what is no case: regime 'odd' is unknown" in " ".join(err.split())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"definition": "another"}, "definition was another, is "),
        ({"environment": {"packages": {"jax": "0.0.1"}}}, "jax was 0.0.1, is "),
        ({"environment": {"device": "a GPU"}}, "device was a GPU, is "),
        ({"schema": 0}, f"has schema 0; this version reads {SCHEMA}"),
    ],
)
def test_a_run_under_other_conditions_is_not_gone_on_with(whole, tmp_path, change, told):
    manifest = json.loads((whole / MANIFEST).read_text())
    environment = {**manifest["environment"], **change.get("environment", {})}
    (tmp_path / MANIFEST).write_text(json.dumps({**manifest, **change, "environment": environment}))
    (tmp_path / RESULTS).write_text((whole / RESULTS).read_text())
    with pytest.raises(UsageError, match=told):
        RunWriter.resume(tmp_path)


def test_shards_are_put_together(whole, tmp_path):
    running = [
        verify("run", *SELECTED, *CORRECT, "--shard", f"{number}/3", "--out", tmp_path / f"{number}")
        for number in (1, 2, 3)
    ]
    for process in running:
        process.communicate()
    code, out, err = finish("merge", *(tmp_path / name for name in "213"), "--out", tmp_path / "merged")
    assert code == 0, err
    assert "7 planned, 7 executed: 7 pass" in out
    assert records(tmp_path / "merged") == records(whole)
    merged, unsharded = (json.loads((path / MANIFEST).read_text()) for path in (tmp_path / "merged", whole))
    assert merged["planned"] == unsharded["planned"]
    first, second = (read_table(path / "results.parquet").drop(["seconds"]) for path in (tmp_path / "merged", whole))
    assert first.equals(second)
    for name in ("measurements.parquet", "curves.parquet"):
        assert (tmp_path / "merged" / name).read_bytes() == (whole / name).read_bytes()

    before = (tmp_path / "1" / MANIFEST).read_text()
    (tmp_path / "file").write_text("")
    for out, told in (("1", "is one of the shards"), ("file/merged", "cannot be written")):
        code, _, err = finish("merge", *(tmp_path / name for name in "123"), "--out", tmp_path / out)
        assert (code, told in " ".join(err.split())) == (2, True), err
    assert (tmp_path / "1" / MANIFEST).read_text() == before

    for which, told in (("12", "shard 3/3 is missing"), ("113", "")):
        code, _, err = finish("merge", *(tmp_path / name for name in which), "--out", tmp_path / f"not{which}")
        assert code == 2
        assert told in err
    code, _, err = finish("merge", whole, "--out", tmp_path / "not")
    assert code == 2
    assert "is no shard" in err
    other = json.loads((tmp_path / "3" / MANIFEST).read_text())
    other["environment"]["packages"]["jax"] = "0.0.1"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / MANIFEST).write_text(json.dumps(other))
    (tmp_path / "other" / RESULTS).write_text((tmp_path / "3" / RESULTS).read_text())
    code, _, err = finish("merge", *(tmp_path / name for name in ("1", "2", "other")), "--out", tmp_path / "not")
    assert code == 2
    assert "is of a run under other conditions than" in " ".join(err.split())
    assert "is 0.0.1" in " ".join(err.split())
    lines = (tmp_path / "2" / RESULTS).read_text().splitlines(keepends=True)
    (tmp_path / "2" / RESULTS).write_text("".join(lines[:-1]))
    code, _, err = finish("merge", *(tmp_path / name for name in "123"), "--out", tmp_path / "not")
    assert code == 2
    assert re.search(r"2 is unfinished: 1 cases are missing", " ".join(err.split()))


@pytest.mark.parametrize("shard", ["0/3", "4/3", "3", "1/0", "a/b", "8/9"])
def test_shards_that_cannot_be(shard):
    told = "--shard 8/9 selects none of 7" if shard == "8/9" else f"--shard is '{shard}'"
    with pytest.raises(UsageError, match=told):
        choose_shard(CASES, shard)


@given(total=st.integers(1, 7))
def test_every_case_is_in_one_shard(total):
    parts = [choose_shard(CASES, f"{number}/{total}") for number in range(1, total + 1)]
    assert sorted(case.length for part in parts for case in part) == [case.length for case in CASES]
