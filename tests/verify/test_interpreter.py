"""The worker under another interpreter: it needs NumPy and what the subject imports, and finds nothing else of ours."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.verify.environment import environment
from verify import Case, Outcome, UsageError, load_subject, run_case
from verify._backend import BackendOption
from verify._interpreter import find_interpreter
from verify._isolation import IsolatedSubject, Limits
from verify._problem import make_problem
from verify._subject import Subject, make_subject
from verify.cli._opening import IsolateOption, open_subject

ROOT = Path(__file__).resolve().parents[2]
CASE = Case(regime="kink@0.01", length=5, dhqk=4, dhhv=3, initial="warm@1")
SUBJECT = """
import importlib.util
import numpy as np
from oracles import Contract, Float64, Inputs, recurrent

_OURS = ("jax", "triton", "ml_dtypes", "mpmath", "flint", "rich", "typer", "threadpoolctl", "pyarrow", "pytest")
FOUND = [name for name in _OURS if importlib.util.find_spec(name)]


def mlstm(q, k, v, i, f, c_initial=None, n_initial=None, m_initial=None, return_last_states=False, eps=1e-6,
          stabilize_correctly=True, norm_val=1.0, autocast_kernel_dtype=None):
    assert not FOUND, FOUND
    assert all(type(array) is np.ndarray for array in (q, k, v, i, f))
    assert q.dtype == autocast_kernel_dtype
    state = [None if part is None else part.astype(float) for part in (c_initial, n_initial, m_initial)]
    inputs = Inputs(*(array.astype(float) for array in (q, k, v, i, f)), *state)
    out = recurrent(Float64(), inputs, Contract(eps, norm_val, stabilize_correctly))
    last = tuple(np.asarray(part, np.float32) for part in (out.C_last, out.n_last, out.m_last))
    h = np.asarray(out.h, q.dtype)
    if q.shape[2] == 7:
        q[...] = 0.0
    return (h, last) if return_last_states else h
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    return environment(tmp_path_factory.mktemp("environment"), np)


@pytest.fixture(scope="module")
def subject(python, tmp_path_factory):
    directory = tmp_path_factory.mktemp("subject")
    (directory / "plain.py").write_text(SUBJECT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.delenv("PYTHONPATH", raising=False)
        with IsolatedSubject("plain:mlstm", BackendOption.auto, Limits(), python=python) as isolated:
            yield isolated


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_numpy_alone_is_enough_for_the_forward_pass(subject, dtype):
    result = run_case(replace(CASE, dtype=dtype), subject)
    assert result.verdict.outcome is Outcome.PASS, result.verdict.reason
    assert {measured.output for measured in result.verdict.measurements} == {"h", "C_last", "n_last", "m_last"}


@pytest.mark.parametrize(
    ("case", "told"),
    [
        (replace(CASE, dtype="bfloat16"), "its Python has no ml_dtypes, which bfloat16 needs"),
        (replace(CASE, cotangents="all"), "its Python has no JAX, which gradients need (--no-gradients"),
    ],
)
def test_what_needs_more_is_unsupported(subject, case, told):
    verdict = run_case(case, subject).verdict
    assert verdict.outcome is Outcome.UNSUPPORTED
    assert told in verdict.reason


def test_an_array_of_numpy_that_is_written_to_is_seen(subject):
    verdict = run_case(replace(CASE, length=7), subject).verdict
    assert verdict.outcome is Outcome.CHANGED_INPUTS, verdict.reason
    assert verdict.reason.startswith("wrote to what it was given: q\n")


def test_the_environment_is_the_interpreters(subject, python):
    found = subject.started.environment
    assert found["interpreter"] == str(python)
    assert (found["backend"], found["device"], found["packages"]["jax"]) == (None, None, None)
    assert found["suite"]["packages"]["numpy"] == np.__version__


def test_the_arrays_are_those_of_this_process():
    class Recorded(Subject):
        def call(self, case, problem):
            assert problem is given
            return super().call(case, problem)

    loaded, given = load_subject("tests.subjects.correct:mlstm"), make_problem(CASE)
    execution = Recorded(loaded.name, loaded.function, loaded.parameters).execute(CASE, given)
    assert execution.failure is None, execution.failure


def script(path, text, mode=0o755):
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: path, "does not exist; expected the path of a Python from 3.11 on that has NumPy"),
        (lambda path: path.mkdir() or path, "is not executable"),
        (lambda path: script(path, "#!/bin/sh\n", 0o644), "is not executable"),
        (lambda path: script(path, "#!/bin/sh\necho no >&2; exit 3"), r"is no Python \(no\)"),
        (lambda path: script(path, "#!/bin/sh\nexit 3"), r"is no Python \(it ended with exit code 3\)"),
        (lambda path: script(path, "\x7fELF"), "is no Python"),
        (lambda path: script(path, "#!/bin/sh\necho Python 3 9\necho NumPy 2.0.2"), "is Python 3.9; expected"),
        (environment, r"has no NumPy \(ModuleNotFoundError: No module named 'numpy'\)"),
    ],
)
def test_what_is_no_interpreter_is_told(tmp_path, make, told):
    path = make(tmp_path / "python")
    with pytest.raises(UsageError, match=rf"--python {path} {told}"):
        find_interpreter(path)


def test_a_relative_path_and_a_link_stay_what_they_are(python, monkeypatch):
    monkeypatch.chdir(python.parents[1])
    assert find_interpreter(Path("bin/python")) == python
    assert python.is_symlink()


def test_what_lies_in_the_current_directory_is_no_numpy(python, tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise RuntimeError('not NumPy')")
    monkeypatch.chdir(tmp_path)
    assert find_interpreter(python) == python


def test_a_gpu_cannot_be_asked_for_without_jax(python, tmp_path, monkeypatch):
    (tmp_path / "plain.py").write_text(SUBJECT)
    monkeypatch.chdir(tmp_path)
    told = pytest.raises(UsageError, match=f"--backend is gpu, and {python} has no JAX")
    with IsolatedSubject("plain:mlstm", BackendOption.gpu, Limits(), python=python) as isolated, told:
        _ = isolated.started


def test_not_in_this_process(python):
    opened = open_subject("plain:mlstm", BackendOption.auto, IsolateOption.none, Limits, python)
    with pytest.raises(UsageError, match=r"--python .* is for a process of its own, which --isolate none"), opened:
        pass


def test_a_run_records_it_and_is_gone_on_with_under_it(python, tmp_path):
    (tmp_path / "plain.py").write_text(SUBJECT)
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    cases = [word for length in (2, 3) for word in ("--case", replace(CASE, length=length).id)]
    options = ("--subject", "plain:mlstm", "--python", str(python), "--jobs", "0", "--out", "run")
    for arguments in ((*cases, *options), ("--resume", "run", "--jobs", "0")):
        done = subprocess.run(
            [sys.executable, "-m", "verify", "run", *arguments],
            cwd=tmp_path, env=variables, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "2 planned, 2 executed: 2 pass" in done.stdout
        assert f"--subject plain:mlstm --python {python}" in done.stdout
        results = (tmp_path / "run" / "results.jsonl").read_text().splitlines()
        (tmp_path / "run" / "results.jsonl").write_text(results[0] + "\n")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["environment"]["interpreter"] == str(python)


def test_arrays_are_in_c_order_also_without_jax(monkeypatch):
    monkeypatch.setattr("verify._subject._array_module", lambda: np)
    orders = []

    def subject(q, k, v, i, f):
        orders.extend(array.flags.c_contiguous for array in (q, k, v, i, f))
        return v

    # Its tokens are one, repeated.
    run_case(Case(regime="repeated", length=4), make_subject("subject", subject))
    assert orders == [True] * 5
