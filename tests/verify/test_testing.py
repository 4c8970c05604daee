"""What another project's tests see: what fails, with words to act on, and what does not."""

import os
import subprocess
import sys
import unittest
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.subjects import wrong
from tests.subjects.correct import mlstm
from verify import Case, Outcome, UsageError
from verify.testing import assert_verified, check, matrix

ROOT = Path(__file__).resolve().parents[2]
TINY = Case(length=5, dhqk=4, dhhv=4, chunk_size=16, cotangents="all")
LONGER = replace(TINY, length=7)
FORWARD = Case(length=5, dhqk=4, dhhv=4)
INIT = Case(regime="init", length=5, dhqk=4, dhhv=4)
IGNORES = "tests.subjects.wrong:ignores_exp_m"


def test_a_correct_kernel_passes_and_its_results_are_returned():
    results = assert_verified(mlstm, cases=[TINY, LONGER.id])
    assert [result.case for result in results] == [TINY, LONGER]
    assert all(result.verdict.outcome is Outcome.PASS for result in results)
    assert check(mlstm, TINY.id).verdict == results[0].verdict


def test_a_wrong_kernel_fails_with_the_worst_first_and_what_repeats_it():
    worse = replace(INIT, regime="balanced@-3")
    with pytest.raises(AssertionError) as caught:
        assert_verified(wrong.ignores_exp_m, cases=[replace(FORWARD, stabilize_correctly=False), INIT, worse])
    first, *lines = str(caught.value).splitlines()
    assert first == f"2 of 3 cases failed for {IGNORES}, the worst first:"
    assert [line for line in lines if line.startswith("inaccurate ")] == [
        f"inaccurate {case.id}" for case in (worse, INIT)
    ]
    assert "times the bound" in lines[1]
    assert lines[-1] == f"repeat the worst: verify.testing.check(kernel, {worse.id!r})"


def test_the_line_that_repeats_a_named_kernel_is_a_command():
    with pytest.raises(
        AssertionError, match=rf"\nrepeat the worst: mlstm-verify run --case {INIT.id} --subject {IGNORES}$"
    ):
        check(IGNORES, INIT)


def test_an_error_that_the_kernel_raises_is_shown_with_its_place():
    def kernel(q, k, v, i, f):
        raise RuntimeError("no such thing")

    with pytest.raises(AssertionError, match=r"(?s)crash .*RuntimeError: no such thing.*in kernel"):
        assert_verified(kernel, cases=[replace(TINY, cotangents="none")])


def test_more_failures_than_are_shown_are_counted():
    cases = [replace(INIT, seed=seed) for seed in range(12)]
    with pytest.raises(AssertionError, match=r"^12 of 12 cases failed(.|\n)*\.\.\. and 2 more, none worse\n"):
        assert_verified(wrong.ignores_exp_m, cases=cases)


def test_what_the_kernel_lacks_is_skipped_and_all_of_it_is_no_success():
    needs = replace(TINY, norm_val=2.0, cotangents="none")
    with pytest.raises(unittest.SkipTest, match="its signature has no norm_val"):
        check(wrong.bare, needs)
    with pytest.raises(AssertionError, match=r"^nothing was verified: .*bare supports none of 1 cases: .* norm_val"):
        assert_verified(wrong.bare, cases=[needs])
    results = assert_verified(wrong.bare, cases=[needs, replace(needs, norm_val=1.0)])
    assert [result.verdict.outcome for result in results] == [Outcome.UNSUPPORTED, Outcome.PASS]


def test_a_kernel_without_a_last_state_is_asked_for_the_gradients_of_h():
    assert check(wrong.bare_vjp, TINY).case == replace(TINY, cotangents="h")


def test_matrix_is_the_tier_narrowed():
    assert matrix() == matrix("smoke")
    chosen = matrix(k="ordinary and bfloat16", gradients=False, seed=7)
    assert {(case.regime, case.dtype, case.cotangents, case.seed) for case in chosen} == {
        ("ordinary", "bfloat16", "none", 7)
    }
    assert len(chosen) == len(set(chosen))


def test_references_are_kept_where_asked_and_computed_beside(tmp_path):
    assert_verified(mlstm, cases=[TINY, LONGER], cache=tmp_path / "references", jobs=1)
    assert len(list((tmp_path / "references").iterdir())) == 2


def test_a_named_kernel_may_be_isolated():
    with pytest.raises(AssertionError, match=r"crash .*\n .*SIGABRT"):
        assert_verified("tests.subjects.deadly:deadly", cases=[replace(FORWARD, length=2), INIT], isolate=True)


@pytest.mark.parametrize(
    ("kernel", "options", "message"),
    [
        (3, {}, "subject '3' is a int; expected a callable"),
        (lambda q: q, {}, "has no parameter k, v, i, f"),
        ("kernels", {}, "expected module:callable"),
        (mlstm, {"tier": "huge"}, "tier is 'huge'"),
        (mlstm, {"cases": []}, "cases is empty"),
        (mlstm, {"cases": "ordinary"}, "cases is 'ordinary'; expected a list of cases or ids"),
        (mlstm, {"cases": [3]}, "a case is 3; expected a Case or its id"),
        (mlstm, {"jobs": -1}, "jobs is -1; expected at least 0"),
        (mlstm, {"cases": ["ordinary"]}, "case id 'ordinary' has 1 fields"),
        (mlstm, {"k": "nothing_has_this"}, "selects none of"),
        (mlstm, {"isolate": True}, "isolate needs a kernel by its name, module:callable; got a function"),
    ],
)  # fmt: skip
def test_bad_usage(kernel, options, message):
    with pytest.raises(UsageError, match=message):
        assert_verified(kernel, **options)


def test_pytest_and_junit_have_a_test_for_every_case(tmp_path):
    (tmp_path / "test_mine.py").write_text(
        "import pytest\n"
        "from tests.subjects.wrong import bare\n"
        "from verify import Case\n"
        "from verify.testing import check\n"
        "CASES = [Case(length=5, dhqk=4, dhhv=4, norm_val=norm_val) for norm_val in (1.0, 2.0)]\n"
        "@pytest.mark.parametrize('case', CASES, ids=lambda case: case.id)\n"
        "def test_mine(case):\n"
        "    check(bare, case)\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--junitxml=junit.xml", "test_mine.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout
    passed, skipped = ElementTree.parse(tmp_path / "junit.xml").iter("testcase")
    assert passed.get("name") == f"test_mine[{replace(FORWARD, norm_val=1.0).id}]"
    assert list(passed) == []
    assert skipped.get("name") == f"test_mine[{replace(FORWARD, norm_val=2.0).id}]"
    assert "norm_val" in skipped.find("skipped").get("message")
