"""Shrinking: what is kept fails as before and is small; what is written shows the failure, and no more once mended."""

import os
import runpy
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.subjects import float32
from tests.subjects.deadly import overwrite
from tests.subjects.planted import PLANTED
from tests.subjects.wrong import float64_result, one_token_less, returns_nothing
from verify import Case, compute_reference, judge
from verify._shrink._ddmin import ddmin
from verify._shrink._failure import Failure
from verify._shrink._input import AXES, Input, place_of
from verify._shrink._reduction import Found, Reduction
from verify._shrink._reproducer import ARRAYS, MOST_LINES, PROGRAM, TEST, Origin, render
from verify._subject import make_subject
from verify._verdict import Outcome, Verdict
from verify.cli import main

ROOT = Path(__file__).resolve().parents[2]
LARGE = Case(batch=2, heads=2, length=40, dhqk=16, dhhv=32, chunk_size=16, cotangents="all")
NAME = "planted_subject:planted"


def failure_of(function, case, name=NAME):
    """A subject, and its failure on a case."""
    subject, whole = make_subject(name, function), Input.of(case)
    with np.errstate(all="ignore"):
        execution = subject.execute(case, whole.problem)
    if execution.failure:
        return subject, Found(whole, execution.failure, None)
    reference = whole.reference()
    return subject, Found(whole, judge(case, execution.outputs, reference), reference)


def reduced(function, case, evaluations=1000):
    subject, found = failure_of(function, case)
    assert found.verdict.outcome.failed, found.verdict.reason
    reduction = Reduction(subject, found, evaluations)
    reduction.run()
    return subject, reduction


def written(directory, subject, reduction):
    """The files of a reduction, in a directory."""
    origin = Origin(NAME, subject, LARGE.id, has_jax=True)
    for name, content in render(reduction.smallest, reduction.failure, origin).items():
        (directory / name).write_bytes(content)
    return directory


def exit_code(monkeypatch, directory, function):
    """Of the program, with this subject."""
    monkeypatch.setitem(sys.modules, "planted_subject", types.SimpleNamespace(planted=function))
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as ended, np.errstate(all="ignore"):
        runpy.run_path(str(directory / PROGRAM), run_name="__main__")
    return ended.value.code


def run_test(monkeypatch, directory, function):
    """The test that is to be pasted, with this subject."""
    monkeypatch.setitem(sys.modules, "planted_subject", types.SimpleNamespace(planted=function))
    with np.errstate(all="ignore"):
        (test,) = (value for name, value in runpy.run_path(str(directory / TEST)).items() if name.startswith("test_"))
        test()


@given(st.integers(1, 40), st.data())
@settings(max_examples=100)
def test_delta_debugging_finds_what_is_needed(count, data):
    needed = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
    assert ddmin(range(count), lambda kept: needed <= set(kept)) == sorted(needed)


@given(st.integers(0, 2**16), st.integers(2, 12))
@settings(max_examples=100)
def test_delta_debugging_leaves_nothing_that_may_go(seed, count):
    # Any predicate at all, monotone or not, that holds of everything.
    def fails(kept):
        return len(kept) == count or hash((seed, *kept)) % 3 == 0

    kept = ddmin(range(count), fails)
    assert fails(kept)
    assert len(kept) < 2 or not any(fails(kept[:place] + kept[place + 1 :]) for place in range(len(kept)))


@pytest.mark.parametrize("case", [LARGE, replace(LARGE, batch=1, dtype="bfloat16", initial="warm@2", length=5)])
def test_the_reference_of_drawn_arrays_is_that_of_the_case(case):
    ours, wanted = Input.of(case).reference(2), compute_reference(case, replicates=2)
    for part in ("values", "bounds", "errors", "noise"):
        ours_part, wanted_part = getattr(ours, part), getattr(wanted, part)
        assert ours_part.keys() == wanted_part.keys()
        assert all(np.array_equal(ours_part[name], wanted_part[name]) for name in wanted_part)


@given(st.sampled_from(AXES), st.data())
@settings(max_examples=20)
def test_what_is_taken_is_there(axis, data):
    case = replace(LARGE, initial="warm@2", length=3, dhqk=3, dhhv=2)
    whole = Input.of(case)
    kept = sorted(data.draw(st.sets(st.integers(0, whole.size(axis) - 1), min_size=1)))
    taken = whole.take(axis, kept)
    assert taken.size(axis) == len(kept)
    for name in whole.names:
        # Sizes and places agree: every element is the one at its place.
        for index in np.ndindex(taken.array(name).shape):
            place = place_of(name.removeprefix("d") if name in ("dh", "dC_last", "dn_last", "dm_last") else name, index)
            source = tuple(kept[value] if key == axis else value for key, value in place.items())
            assert taken.array(name)[index] == whole.array(name)[source]
    # The oracle takes it as it is.
    assert taken.problem.inputs.sizes == (taken.case.length, taken.case.dhqk, taken.case.dhhv)


# One of every kind of failure and of scale: the definition, its gradients, states, NaN, the noise floor alone.
SHRUNK = {
    "norm_val without exp(-m)": {},
    "normalizer held constant": {},
    "first token of a chunk without the state": {},
    "gates of head 0": {},
    "keys of batch 0": {},
    "C_0 transposed": {"initial": "warm@2", "dhhv": 16},
    "NaN after a reset": {"regime": "reset"},
    "differences of prefix sums": {"regime": "edge@88"},
    "n_last not brought to m": {"regime": "input_gates@-20", "length": 20},
    "forget gate in the kernel's dtype": {"dtype": "bfloat16"},
    "reciprocal of 18 bits": {},
}


@pytest.mark.parametrize("name", SHRUNK)
def test_a_planted_bug_becomes_small_and_shows_itself(tmp_path, monkeypatch, name):
    planted = PLANTED[name].function
    subject, reduction = reduced(planted, replace(LARGE, **SHRUNK[name]))
    case = reduction.smallest.input.case
    assert case.length <= 3
    assert max(case.dhqk, case.dhhv) <= 2
    assert case.batch * case.heads <= 2
    assert reduction.failure.is_again(reduction.smallest.verdict)
    written(tmp_path, subject, reduction)
    assert not (tmp_path / ARRAYS).exists()
    for program in (PROGRAM, TEST):
        lines = (tmp_path / program).read_text().splitlines()
        assert len(lines) < 60
        assert max(map(len, lines)) <= 120
    assert exit_code(monkeypatch, tmp_path, planted) == 1
    assert exit_code(monkeypatch, tmp_path, float32.chunkwise) == 0
    with pytest.raises(AssertionError):
        run_test(monkeypatch, tmp_path, planted)
    run_test(monkeypatch, tmp_path, float32.chunkwise)


def test_the_least_size_of_a_kernel_is_found_and_told():
    def picky(q, k, v, i, f, chunk_size=64):
        if q.shape[-1] < 4 or v.shape[-1] & (v.shape[-1] - 1) or chunk_size < 8:
            raise ValueError(f"DHQK {q.shape[-1]}, DHHV {v.shape[-1]} and chunk size {chunk_size} are not supported")
        return 2.0 * float32.chunkwise(q, k, v, i, f, chunk_size=chunk_size)

    _, reduction = reduced(picky, replace(LARGE, cotangents="none"))
    case = reduction.smallest.input.case
    assert (case.length, case.dhqk, case.dhhv, case.chunk_size) == (1, 4, 1, 8)
    assert "DHQK 2" in reduction.refusals["dhqk", 2]
    assert "chunk size 4" in reduction.refusals["chunk_size", 4]


def test_arrays_that_do_not_fit_are_beside_the_program(tmp_path, monkeypatch):
    planted = PLANTED["normalizer held constant"].function
    subject, found = failure_of(planted, replace(LARGE, dtype="bfloat16"))
    # Nothing is made smaller.
    reduction = Reduction(subject, found, 0)
    written(tmp_path, subject, reduction)
    assert (tmp_path / ARRAYS).exists()
    assert len((tmp_path / PROGRAM).read_text().splitlines()) <= MOST_LINES
    assert exit_code(monkeypatch, tmp_path, planted) == 1
    assert exit_code(monkeypatch, tmp_path, float32.chunkwise) == 0
    with pytest.raises(AssertionError):
        run_test(monkeypatch, tmp_path, planted)


def fails_to_divide(q, k, v, i, f):
    if f.shape[2] > 3:
        raise ZeroDivisionError(f"at {f.shape[2]} tokens")
    return float32.chunkwise(q, k, v, i, f)


def overwrites_k(q, k, v, i, f):
    overwrite(k)
    return float32.chunkwise(q, k, v, i, f)


@pytest.mark.parametrize(
    ("function", "outcome", "length"),
    [
        (one_token_less, Outcome.WRONG_SHAPE, 1),
        (float64_result, Outcome.WRONG_DTYPE, 1),
        (fails_to_divide, Outcome.CRASH, 4),
        (overwrites_k, Outcome.CHANGED_INPUTS, 1),
    ],
)
def test_failures_without_measurements(tmp_path, monkeypatch, function, outcome, length):
    subject, reduction = reduced(function, replace(LARGE, cotangents="none", chunk_size=64))
    assert reduction.failure.outcome is outcome
    assert reduction.smallest.input.case.length == length
    written(tmp_path, subject, reduction)
    if outcome is Outcome.CRASH:
        with pytest.raises(ZeroDivisionError, match="at 4 tokens"):
            run_test(monkeypatch, tmp_path, function)
    else:
        assert exit_code(monkeypatch, tmp_path, function) == 1
    assert exit_code(monkeypatch, tmp_path, float32.chunkwise) == 0


def test_what_returns_no_numbers_is_told_from_what_does(tmp_path, monkeypatch):
    subject, reduction = reduced(returns_nothing, replace(LARGE, cotangents="none"))
    written(tmp_path, subject, reduction)
    assert exit_code(monkeypatch, tmp_path, returns_nothing) == 1
    assert exit_code(monkeypatch, tmp_path, float32.chunkwise) == 0
    with pytest.raises(AssertionError, match="no array of numbers"):
        run_test(monkeypatch, tmp_path, returns_nothing)


def test_a_death_is_shown_by_a_process_of_its_own(tmp_path):
    verdict = Verdict(Outcome.CRASH, "its worker died of SIGABRT")
    given = Input.of(Case(length=2, dhqk=1, dhhv=1))
    subject = make_subject("dies:mlstm", lambda q, k, v, i, f: None)
    origin = Origin("dies:mlstm", subject, given.case.id, has_jax=False)
    files = render(Found(given, verdict, None), Failure.of(verdict), origin)
    (tmp_path / PROGRAM).write_bytes(files[PROGRAM])
    for body, code in (("import os; os.abort()", 1), ("return v", 0)):
        (tmp_path / "dies.py").write_text(f"def mlstm(q, k, v, i, f):\n    {body}\n")
        done = subprocess.run([sys.executable, PROGRAM], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == code, done.stderr


def test_another_failure_is_not_the_same():
    _, found = failure_of(fails_to_divide, replace(LARGE, cotangents="none"))
    _, other = failure_of(lambda q, k, v, i, f: q.none, replace(LARGE, cotangents="none"))
    failure = Failure.of(found.verdict)
    assert failure.is_again(replace(found.verdict, reason="ZeroDivisionError: at 7 tokens\nand where"))
    assert other.verdict.outcome is found.verdict.outcome
    assert not failure.is_again(other.verdict)


def test_the_evaluations_are_an_upper_bound():
    _, reduction = reduced(PLANTED["switch of the gradient 2 % late"].function, replace(LARGE, regime="kink@0.01"), 5)
    assert reduction.evaluations == 5
    assert reduction.failure.is_again(reduction.smallest.verdict)


def shrink(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["mlstm-verify", "shrink", "--isolate", "none", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


WRONG = "tests.subjects.wrong:ignores_exp_m"
FAILING = Case(regime="init", length=12, dhqk=4, dhhv=4)
CORRECT = "tests.subjects.correct:mlstm"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--case", FAILING.id, "--subject", CORRECT], "passes for tests.subjects.correct:mlstm; there is nothing to"),
        (["--case", "ordinary"], "case id 'ordinary' has 1 fields"),
        (["--case", f"repeatability/{FAILING.id}", "--subject", CORRECT], "is a relation"),
        (
            ["--case", replace(FAILING, norm_val=2.0).id, "--subject", "tests.subjects.wrong:bare"],
            "is not supported by",
        ),
        (["--case", FAILING.id, "--subject", "no_such:thing"], "cannot be imported"),
        (["--case", FAILING.id, "--subject", WRONG, "--out", "there"], "has reproduce.py already; replaced with"),
        (["--case", FAILING.id, "--subject", WRONG, "--out", "file"], "is a file; expected a directory"),
        (["--case", FAILING.id, "--subject", WRONG, "--python", sys.executable], "which --isolate none does not start"),
    ],
)
def test_bad_input(tmp_path, monkeypatch, capsys, arguments, message):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / PROGRAM).write_text("kept")
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    assert shrink(monkeypatch, *arguments) == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "there" / PROGRAM).read_text() == "kept"


def test_an_interruption_keeps_the_smallest_so_far(tmp_path, monkeypatch, capsys):
    calls = []

    def interrupted(self, candidate):
        calls.append(candidate)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return judged(self, candidate)

    judged = Reduction._judge
    monkeypatch.setattr(Reduction, "_judge", interrupted)
    assert shrink(monkeypatch, "--case", FAILING.id, "--subject", WRONG, "-o", tmp_path) == 130
    assert "interrupted; the smallest input so far" in capsys.readouterr().out
    assert "S12" in (tmp_path / PROGRAM).read_text()
    assert len(calls) == 3


def test_the_command_writes_a_program_that_fails_by_itself(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = ["shrink", "--case", FAILING.id, "--subject", WRONG, "-o", str(tmp_path / "new" / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "verify", *line], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "ends with exit code 1" in done.stdout
    assert "B=1 NH=1 S=1 DHQK=1 DHHV=1 L=1" in done.stderr
    assert max(map(len, done.stdout.split("recorded")[0].splitlines()[:9])) <= 100
