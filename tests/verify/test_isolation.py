"""Whatever a subject does to its process is an outcome of one case; the other cases are finished, and right."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.subjects.deadly import WAYS, deadly
from verify import Case, Outcome, UsageError, load_subject, run_case
from verify._backend import BackendOption
from verify._isolation import Limits
from verify._run import RESULTS, result_record
from verify._side_by_side import variables
from verify.cli._opening import IsolateOption, open_subject, worker_count

ROOT = Path(__file__).resolve().parents[2]
DEADLY = "tests.subjects.deadly:deadly"
LENGTH = {way.__name__: length for length, way in WAYS.items()}


def case_of(length):
    return Case(length=length, dhqk=4, dhhv=4, chunk_size=16)


def start(directory, *lengths, options=(), subject=DEADLY, cwd=ROOT):
    """A run of the deadly subject, which says at its end whether the main process has imported JAX."""
    # A shell that starts the tests in the background has Ctrl-C ignored, which would be inherited.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "import atexit, sys; from verify.cli import main; atexit.register(lambda: print('imported JAX:', 'jax' in "
    code += "sys.modules, file=sys.stderr)); main()"
    ids = [word for length in lengths for word in ("--case", case_of(length).id)]
    directory.mkdir(exist_ok=True)
    files = {name: str(directory / name) for name in ("ENDED", "HANGS", "SICK")}
    return subprocess.Popen(
        [sys.executable, "-c", code, "run", *ids, "--subject", subject, "--out", str(directory / "run"), *options],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **files},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def records(directory):
    return [json.loads(line) for line in (directory / "run" / RESULTS).read_text().splitlines()]


def ends(pid):
    """Whether a process, which is not a child of this one, ends in some seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        # In a container, nobody may wait for an orphan that has ended.
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_each_way_to_die_is_an_outcome_and_the_run_goes_on(tmp_path):
    expected = {
        "abort": ("crash", "its worker died of SIGABRT; tried once more alone, as its first worker died of SIGABRT"),
        "segfault": ("crash", "its worker died of SIGSEGV; tried once more alone"),
        "end": ("crash", "its worker ended with exit code 3; tried once more alone"),
        "end_the_first_time": ("pass", "threshold); tried once more alone, as its first worker ended with exit code 7"),
        "allocate": ("out-of-memory", "GiB and was killed (--memory 0.6)"),
        "exhaust": ("out-of-memory", "RuntimeError: RESOURCE_EXHAUSTED: Out of memory"),
        "overwrite": ("changed-inputs", "wrote to what it was given: q"),
        "give_away": ("changed-inputs", "wrote to what it was given: q"),
    }
    lengths = [length for name in expected for length in (LENGTH[name], LENGTH[name] + 20)]
    run = start(tmp_path, *lengths, options=["--json", "--memory", "0.6"])
    out, err = run.communicate()
    assert run.returncode == 1, err
    document = json.loads(out)
    assert document["results"] == records(tmp_path)
    assert [result["case"] for result in document["results"]] == document["planned"]
    assert len(document["planned"]) == len(lengths)
    results = {Case.parse(result["case"]).length: result for result in document["results"]}
    for name, (outcome, told) in expected.items():
        result = results[LENGTH[name]]
        assert result["outcome"] == outcome, result
        assert told in result["reason"].splitlines()[0]
        assert len(result["reason"]) < 3000
        other = result_record(run_case(case_of(LENGTH[name] + 20), load_subject("tests.subjects.wrong:bare")))
        assert {**results[LENGTH[name] + 20], "seconds": 0} == {**other, "seconds": 0}
    assert f"length {LENGTH['abort']}\nFatal Python error: Aborted" in results[LENGTH["abort"]]["reason"]
    assert "in segfault" in results[LENGTH["segfault"]]["reason"]
    # What the worker wrote in the case before is not in it.
    assert results[LENGTH["allocate"]]["reason"].splitlines()[1:] == [f"length {LENGTH['allocate']}"]
    assert all(f"length {length}\n" in err for length in lengths)
    assert "imported JAX: False" in err


def test_a_worker_of_its_own_for_each_case_and_a_time_limit(tmp_path):
    fresh = [length for length, way in WAYS.items() if way.__name__ == "refuse_a_second_call"]
    run = start(tmp_path, LENGTH["hang"], *fresh, options=["--isolate", "case", "--timeout", "3"])
    _, err = run.communicate()
    assert run.returncode == 1, err
    hung, *others = records(tmp_path)
    assert hung["outcome"] == "timeout"
    assert "its worker was not done in 3 seconds and was killed" in hung["reason"]
    assert 3 <= hung["seconds"] < 30
    assert [result["outcome"] for result in others] == ["pass", "pass"]
    assert ends((tmp_path / "HANGS").read_text())


@pytest.mark.parametrize(
    ("sent", "code", "workers"),
    [(signal.SIGKILL, -signal.SIGKILL, 1), (signal.SIGINT, 130, 1), (signal.SIGINT, 130, 2)],
)
def test_no_worker_outlives_the_run(tmp_path, sent, code, workers):
    run = start(tmp_path, 1, LENGTH["hang"], options=["--jobs", "0", "--workers", str(workers)])
    deadline = time.monotonic() + 120
    # Side by side, the other case may be done later.
    files = tmp_path / "HANGS", tmp_path / "run" / RESULTS
    while not all(file.exists() and file.read_text() for file in files):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    run.send_signal(sent)
    _, err = run.communicate(timeout=60)
    assert run.returncode == code, err
    assert ends((tmp_path / "HANGS").read_text())
    assert [result["outcome"] for result in records(tmp_path)] == ["pass"]
    assert "Traceback" not in err


def test_side_by_side_the_records_are_those_of_one_process(tmp_path):
    lengths = [1, LENGTH["abort"], 20, LENGTH["end"], *range(21, 26)]
    for workers in (1, 3):
        run = start(tmp_path / str(workers), *lengths, options=["--workers", str(workers)])
        _, err = run.communicate()
        assert run.returncode == 1, err
    one, three = (
        # A traceback has addresses.
        [{**record, "seconds": 0, "reason": record["reason"].partition("\n")[0]} for record in records(directory)]
        for directory in (tmp_path / "1", tmp_path / "3")
    )
    assert three == one
    assert [record["outcome"] for record in one] == ["pass", "crash", "pass", "crash", *["pass"] * 5]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--workers", "2", "--isolate", "none"], "--workers is 2, and --isolate none starts no process"),
        (["--workers", "2", "--scheduler", "tcp://127.0.0.1:1"], "--workers 2 is of this machine; --scheduler has"),
    ],
)
def test_workers_where_there_can_be_none(tmp_path, options, told):
    run = start(tmp_path, 1, options=options)
    _, err = run.communicate()
    assert run.returncode == 2
    assert told in err


@pytest.mark.parametrize(
    ("workers", "cases", "devices", "count"),
    [
        (None, 7, [], 1),
        (None, 17, [], 3),
        (None, 900, [], 4),
        (None, 900, ["0"], 1),
        (None, 900, ["0", "1"], 2),
        (6, 900, ["0"], 6),
        (6, 2, [], 2),
    ],
)
def test_how_many_workers(monkeypatch, workers, cases, devices, count):
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    assert worker_count(workers, IsolateOption.worker, [None] * cases, devices) == count
    # An iterator of cases has no length.
    assert worker_count(workers, IsolateOption.worker, iter(()), devices) == (workers or len(devices) or 4)


def test_workers_share_the_gpus(monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE", raising=False)
    assert variables(0, 1, ["3"]) == {}
    assert variables(1, 2, []) == {}
    assert variables(1, 2, ["3", "5"]) == {"CUDA_VISIBLE_DEVICES": "5"}
    shared = {"CUDA_VISIBLE_DEVICES": "5", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.250"}
    assert variables(3, 5, ["3", "5"]) == shared


def test_a_device_that_computes_no_more_ends_the_run(tmp_path):
    run = start(tmp_path, 1, LENGTH["make_sick"], 20)
    _, err = run.communicate()
    assert run.returncode == 3, err
    assert "after a worker died, nothing runs on cpu any more: TypeError" in err
    assert [result["outcome"] for result in records(tmp_path)] == ["pass"]


def test_a_subject_that_dies_at_its_import_starts_nothing(tmp_path):
    (tmp_path / "dies.py").write_text("import os\nprint('at import')\nos._exit(4)")
    run = start(tmp_path, 1, subject="dies:f", cwd=tmp_path)
    out, err = run.communicate()
    assert run.returncode == 2
    assert "subject 'dies:f' cannot be imported: its worker ended with exit code 4" in err
    assert not (tmp_path / "run").exists()
    assert out == ""


def test_in_this_process_if_asked(monkeypatch):
    monkeypatch.setattr("verify.cli._opening.choose_backend", lambda _: None)
    with open_subject(DEADLY, BackendOption.auto, IsolateOption.none, Limits) as subject:
        assert subject.function is deadly


def test_in_this_process_too_an_exit_is_a_crash(tmp_path, monkeypatch):
    verdict = run_case(case_of(20), load_subject("tests.subjects.wrong:exits")).verdict
    assert verdict.outcome is Outcome.CRASH
    assert verdict.reason.startswith("SystemExit: 0\n")
    (tmp_path / "exits.py").write_text("import sys\nsys.exit(0)")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="subject 'exits:f' cannot be imported: SystemExit: 0"):
        load_subject("exits:f")
    (tmp_path / "wordless.py").write_text("from tests.subjects.wrong import WordlessError\nraise WordlessError")
    with pytest.raises(UsageError, match=r"cannot be imported: WordlessError: \(its __str__ raised ValueError\)"):
        load_subject("wordless:f")


def test_a_cotangent_is_an_input():
    case = replace(case_of(20), cotangents="h")
    verdict = run_case(case, load_subject("tests.subjects.deadly:overwrites_the_cotangent")).verdict
    assert verdict.outcome is Outcome.CHANGED_INPUTS, verdict.reason
    assert verdict.reason.startswith("wrote to what it was given: the cotangent of h\n")


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"seconds": 0.0}, "--timeout is 0; expected more than 0 seconds"),
        ({"memory": -(2**30)}, "--memory is -1; expected more than 0 GiB"),
    ],
)
def test_limits_that_cannot_be(limits, told):
    with pytest.raises(UsageError, match=told):
        Limits(**limits)
