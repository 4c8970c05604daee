"""Over a Dask cluster the records are those of a local run, whatever becomes of a worker or of a case."""

import functools
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("distributed", reason="the extra [cluster] is not installed")

import pyarrow.parquet as parquet
from distributed import KilledWorker, Reschedule
from distributed.utils import json_load_robust

from tests.subjects.deadly import WAYS
from verify import Case, SuiteError, UsageError
from verify._backend import BackendOption
from verify._cache import ReferenceCache
from verify._cluster import Cluster, SubjectOnCluster, _Tasks
from verify._dask_worker import _checked, _Seat, check_process, source_digest
from verify._isolation import IsolatedSubject, Limits
from verify._run import RESULTS, differences, read_results, result_record
from verify._worker import Started
from verify.cli._opening import IsolateOption, open_on_cluster
from verify.cli._scheduler import open_cluster
from verify.cli._selection import draw_cases

ROOT = Path(__file__).resolve().parents[2]
LENGTH = {way.__name__: length for length, way in WAYS.items()}
PLAIN = [Case(length=length, dhqk=4, dhhv=4, chunk_size=16, cotangents="h") for length in range(20, 29)]
SEGFAULT, HANG, UNSUPPORTED = (
    Case(length=LENGTH["segfault"], dhqk=4, dhhv=4, chunk_size=16),
    Case(length=LENGTH["hang_the_first_time"], dhqk=4, dhhv=4, chunk_size=16),
    Case(length=20, dhqk=4, dhhv=4, chunk_size=16, initial="warm@1"),
)
CASES = [*PLAIN[:3], SEGFAULT, UNSUPPORTED, *PLAIN[3:], HANG]
SUBJECT = ("--subject", "tests.subjects.deadly:deadly", "--backend", "interpret")


def start(*command, **environment):
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def verify(*arguments, **environment):
    # A shell that starts the tests in the background has Ctrl-C ignored, which would be inherited.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from verify.cli import main; main()"
    )
    return start("-c", code, *arguments, **environment)


def of(cases):
    return [word for case in cases for word in ("--case", case.id)]


def wait_until(condition, process=None):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.01)


def lines(directory):
    path = directory / RESULTS
    return path.read_text().count("\n") if path.exists() else 0


def records(directory):
    """Without the times, and without what a process that died wrote, which has addresses in it."""
    of_run = map(result_record, read_results(directory)[1])
    return [{**record, "seconds": 0, "reason": record["reason"].split("\n")[0]} for record in of_run]


def children(pid):
    return "".join((task / "children").read_text() for task in Path(f"/proc/{pid}/task").iterdir()).split()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """(address of a scheduler, its three workers, the file that the process of a hanging case is named in)."""
    directory = tmp_path_factory.mktemp("cluster")
    file, hung = directory / "scheduler.json", directory / "hung"
    quiet = {"DASK_LOGGING__DISTRIBUTED": "critical", "DASK_TEMPORARY_DIRECTORY": str(directory)}
    common = ("--scheduler-file", file, "--no-dashboard")
    scheduler = start("-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", "0", *common, **quiet)
    worker = ("-m", "dask", "worker", *common, "--no-nanny", "--nthreads", "2", "--resources", "GPU=1")
    workers = [start(*worker, HUNG=str(hung), **quiet) for _ in range(3)]
    try:
        wait_until(file.exists, scheduler)
        # A file that is there may not be written yet.
        yield json_load_robust(file, timeout=120)["address"], workers, hung
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.communicate()


def test_references_over_a_cluster(cluster, tmp_path):
    arguments = ("references", *of(PLAIN[:4]), "--cache")
    spread = verify(*arguments, tmp_path / "spread", "--scheduler", cluster[0])
    here = verify(*arguments, tmp_path / "here", "--jobs", "1")
    for process in (spread, here):
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert "4 references" in out
        assert "0 were there, 4 computed" in out
    for case in PLAIN[:4]:
        assert ReferenceCache(tmp_path / "spread").read(case) == ReferenceCache(tmp_path / "here").read(case)


def test_a_run_interrupted_and_resumed_with_a_worker_killed_is_as_a_local_run(cluster, tmp_path):
    address, workers, hung = cluster
    # Nothing hangs here.
    hung.touch()
    local = verify("run", *of(CASES), *SUBJECT, "--out", tmp_path / "local", "--jobs", "0", HUNG=str(hung))
    out, err = local.communicate()
    assert local.returncode == 1, err
    options = (*SUBJECT, "--scheduler", address, "--cache", tmp_path / "cache")

    hung.unlink()
    run = verify("run", *of(CASES), *options, "--out", tmp_path / "run")
    wait_until(lambda: lines(tmp_path / "run") >= 4 and hung.exists(), run)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate()
    assert run.returncode == 130, err
    finished = records(tmp_path / "run")
    assert len(finished) >= 4
    assert f"{len(finished)} of 12 cases are recorded; go on with: mlstm-verify run --resume" in err
    wait_until(lambda: not any(children(worker.pid) for worker in workers))

    hung.unlink()
    run = verify("run", "--resume", tmp_path / "run", *options)
    wait_until(lambda: hung.exists() and hung.read_text(), run)
    parent = int(Path(f"/proc/{hung.read_text()}/stat").read_text().rpartition(")")[2].split()[1])
    killed = next(worker for worker in workers if worker.pid == parent)
    killed.kill()
    out, err = run.communicate()
    assert run.returncode == 1, err
    assert re.search(r"12 planned, 12 executed: .*1 crash", out)
    assert [worker.poll() for worker in workers if worker is not killed] == [None, None]
    assert records(tmp_path / "run") == records(tmp_path / "local")
    assert differences(*(read_results(tmp_path / name)[0] for name in ("run", "local"))) == []
    of_segfault = next(record for record in finished + records(tmp_path / "run") if record["case"] == SEGFAULT.id)
    assert "died of SIGSEGV; tried once more alone" in of_segfault["reason"]


def test_a_soak_under_another_interpreter_over_a_cluster(cluster, tmp_path):
    drawn = ("--tier", "soak", "--minutes", "0.02", "--seed", "3", "-k", "S3- and fw")
    options = ("--subject", "tests.subjects.correct:mlstm", "--scheduler", cluster[0], "--out", tmp_path / "run")
    run = verify("run", *drawn, *options, "--python", sys.executable)
    _, err = run.communicate()
    assert run.returncode == 0, err
    manifest, of_run = read_results(tmp_path / "run")
    first = [case.id for case in itertools.islice(draw_cases("soak", "S3- and fw", seed=3), len(of_run))]
    assert [result.case.id for result in of_run] == manifest["planned"] == first != []
    assert manifest["environment"]["interpreter"] == sys.executable
    assert parquet.read_table(tmp_path / "run" / "results.parquet")["case"].to_pylist() == first


def test_an_interpreter_that_a_worker_has_not(cluster, tmp_path):
    options = ("--scheduler", cluster[0], "--out", tmp_path / "run", "--python", tmp_path / "none")
    run = verify("run", *of(PLAIN[:1]), *options)
    _, err = run.communicate()
    assert run.returncode == 2, err
    assert re.search(r"worker tcp://\S+: --python \S+none does not exist", err), err
    assert not (tmp_path / "run").exists()


def test_what_the_workers_interpreter_lacks_needs_no_reference():
    subject = object.__new__(SubjectOnCluster)
    subject.started = Started(None, {}, frozenset({"jax"}))
    assert "has no JAX" in subject.lacks(PLAIN[0])


def connected(workers=(), versions=None):
    """A connection to a cluster of which this is known."""
    client = SimpleNamespace(
        scheduler_info=lambda n_workers: {"workers": {name: {"resources": held} for name, held in workers}},
        get_versions=lambda: versions,
    )
    known = object.__new__(Cluster)
    known.address, known.client = "tcp://there:1", client
    return known


@pytest.mark.parametrize(
    ("workers", "told"),
    [
        ([], "none of its 0 workers has the resource GPU"),
        ([("a", {}), ("b", {"MEMORY": 3})], r"none of its 2 .* dask worker tcp://there:1 --resources GPU=1"),
        ([("a", {"GPU": 1}), ("b", {"GPU": 4})], "worker b has GPU=4; expected one worker for each GPU"),
    ],
)
def test_workers_that_are_no_gpu_workers(workers, told, monkeypatch):
    monkeypatch.setattr("verify._cluster._ARRIVAL_SECONDS", 0)
    with pytest.raises(UsageError, match=told):
        connected(workers).gpu_workers()
    assert connected([("a", {"GPU": 1}), ("b", {})]).gpu_workers() == ["a"]


def test_versions_must_be_the_same():
    packages = {"python": "3.12.3", "dask": "2", "distributed": "2", "cloudpickle": "3", "msgpack": "1"}
    same, other = {"packages": packages}, {"packages": {**packages, "distributed": "1", "msgpack": "0"}}
    connected(versions={"client": same, "scheduler": same, "workers": {"a": same}})._check_versions()
    with pytest.raises(UsageError, match=r"a has other versions .*: distributed is 1, here 2; msgpack is 0, here 1"):
        connected(versions={"client": same, "scheduler": same, "workers": {"a": other}})._check_versions()


def test_workers_must_be_alike():
    environments = {
        "a": {"device": "H100", "packages": {"jax": "1"}},
        "b": {"device": "A100", "packages": {"jax": "2"}},
    }
    subject = object.__new__(SubjectOnCluster)
    subject.cluster, subject._plugin = connected(), ""
    answers = {name: SimpleNamespace(environment=environment) for name, environment in environments.items()}
    subject.cluster.ask_workers = lambda *_, **__: answers
    with pytest.raises(UsageError, match="worker b is not as worker a: device was H100, is A100; jax was 1, is 2"):
        subject._start(["a", "b"])


def test_a_task_that_lost_its_workers_is_no_verdict():
    def lost():
        raise KilledWorker("case", None, 3)

    tasks = _Tasks(connected(), None, print)
    released = []
    assert tasks.result(SimpleNamespace(result=lambda: 1, release=lambda: released.append(1)), CASES[0]) == 1
    tasks.finish()
    assert tasks.result(SimpleNamespace(result=lost, release=lambda: released.append(2)), CASES[0]) is None
    assert released == [1, 2]
    with pytest.raises(SuiteError, match=f"Dask gave up what it lost several workers with: {CASES[0].id};"):
        tasks.finish()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense"])
def test_no_scheduler(address, monkeypatch):
    monkeypatch.setattr("verify._cluster._CONNECT_SECONDS", 0.2)
    with pytest.raises(UsageError, match=rf"--scheduler {address}: no Dask scheduler answers \("):
        open_cluster(address, None)


def test_what_cannot_be_given_together():
    with pytest.raises(UsageError, match="--jobs 2 and --scheduler cannot both be given"):
        open_cluster("tcp://127.0.0.1:1", 2)
    limits = functools.partial(Limits, 1.0)
    opened = open_on_cluster("tcp://127.0.0.1:1", None, "a:b", BackendOption.auto, IsolateOption.none, limits)
    with pytest.raises(UsageError, match="--isolate none and --scheduler cannot both be given"), opened:
        pass


def test_without_the_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "verify._cluster")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r"needs the package distributed, .*mlstm-verify\[cluster\]"):
        open_cluster("tcp://127.0.0.1:1", None)


def test_references_that_a_machine_draws_otherwise_or_that_are_damaged(tmp_path):
    cache = ReferenceCache(tmp_path)
    cache.fetch(CASES[0])
    content, _, _ = cache.read(CASES[0])
    assert _checked(content, CASES[0]).values.keys() == {
        "h",
        "C_last",
        "n_last",
        "m_last",
        "n",
        "m",
        "dq",
        "dk",
        "dv",
        "di",
        "df",
    }
    with pytest.raises(SuiteError, match=f"the reference of case {CASES[0].id} is of other arrays"):
        _checked(content.replace(b'"problem": "', b'"problem": "0', 1), CASES[0])


def test_another_calibration_is_another_source(tmp_path, monkeypatch):
    here = source_digest()
    (tmp_path / "calibration.json").write_text("{}")
    monkeypatch.setattr("verify._dask_worker.CALIBRATION", tmp_path / "calibration.json")
    assert source_digest.__wrapped__() != here


def test_a_process_with_other_source():
    with pytest.raises(UsageError, match="another version of this project than the client"):
        check_process("another")


def test_a_case_that_runs_where_a_worker_ends_is_run_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HUNG", str(tmp_path / "hung"))
    seat = _Seat(lambda: IsolatedSubject(SUBJECT[1], BackendOption.interpret, Limits(60.0)))
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(seat.call, lambda subject: subject.execute(HANG))
        wait_until(lambda: (tmp_path / "hung").exists() and (tmp_path / "hung").read_text())
        start = time.monotonic()
        seat.end()
        with pytest.raises(Reschedule):
            call.result()
    # The limit of the case is a minute.
    assert time.monotonic() < start + 30
    assert not Path("/proc", (tmp_path / "hung").read_text()).exists()
    with pytest.raises(Reschedule):
        seat.call(print)


def test_a_subject_that_nobody_uses_is_ended(monkeypatch):
    monkeypatch.setattr("verify._dask_worker._IDLE_SECONDS", 0.05)
    ended, opened = threading.Event(), []
    subject = SimpleNamespace(stop=print, __exit__=lambda *_: ended.set())
    seat = _Seat(lambda: opened.append(1) or subject)
    assert seat.call(lambda _: 1) == 1
    assert ended.wait(60)
    assert seat.call(lambda _: 2) == 2
    assert len(opened) == 2
    seat.end()
