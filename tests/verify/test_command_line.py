"""The command line as a user meets it: exit codes, messages, JSON, the table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernels import BACKEND
from verify import Case
from verify._relation_cases import parse_case
from verify.cli import main

ROOT = Path(__file__).resolve().parents[2]
TINY = Case(length=5, dhqk=4, dhhv=4, chunk_size=16)
GRADIENTS = Case(length=5, dhqk=16, dhhv=16, chunk_size=16, cotangents="all")
CORRECT = "tests.subjects.correct:mlstm"


def command(*arguments, cwd=ROOT, **variables):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    line = [sys.executable, "-m", "verify", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, cwd=cwd, env=environment)


def run(tmp_path, *arguments, case=TINY, subject=CORRECT):
    return command("run", "--case", case.id, "--subject", subject, "--out", tmp_path / "run", *arguments)


@pytest.mark.parametrize(
    ("subject", "case", "code", "told"),
    [
        (CORRECT, TINY, 0, "1 planned, 1 executed: 1 pass"),
        ("tests.subjects.wrong:ignores_exp_m", Case(regime="init", length=5, dhqk=4, dhhv=4), 1, "1 inaccurate"),
        ("tests.subjects.wrong:raises", TINY, 1, "worst: MemoryError: no [bold] room"),
        ("tests.subjects.wrong:raises_half_a_character", TINY, 1, r"worst: OSError: no kernel in \udcff.ptx"),
        ("tests.subjects.wrong:raises_without_words", TINY, 1, "worst: WordlessError: (its __str__ raised ValueError)"),
        ("tests.subjects.wrong:is_cancelled", TINY, 1, "worst: Cancelled: by nobody"),
        ("tests.subjects.wrong:bare", Case(norm_val=2.0), 3, "1 unsupported"),
        (
            "tests.subjects.wrong:not_differentiable",
            GRADIENTS,
            1,
            "worst: the VJP (--no-gradients leaves it out) raised",
        ),
    ],
)
def test_exit_code_and_table(tmp_path, subject, case, code, told):
    done = run(tmp_path, subject=subject, case=case)
    assert done.returncode == code, done.stderr
    assert told in done.stdout
    table = done.stdout.split("repeat it:")[0]
    assert max(map(len, table.splitlines())) <= 100 or "MemoryError" in told
    assert "Traceback" not in done.stdout


def test_repeat_line_repeats(tmp_path):
    first = run(
        tmp_path, case=Case(regime="init", length=5, dhqk=4, dhhv=4), subject="tests.subjects.wrong:ignores_exp_m"
    )
    line = first.stdout.split("repeat it:\n")[1].splitlines()[0].split()
    assert line[:2] == ["mlstm-verify", "run"]
    again = command(*line[1:], "--out", tmp_path / "again")
    assert again.returncode == 1
    assert "1 inaccurate" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tier", "huge"], "--tier is 'huge'"),
        (["--case", "ordinary"], "case id 'ordinary' has 1 fields"),
        (["--case", TINY.id.replace("ordinary", "odd")], "regime 'odd' is unknown"),
        (["-k", "nothing_has_this"], "selects none of"),
        (["--subject", "kernels"], "expected module:callable"),
        (["--subject", "tests.subjects.wrong:unsigned"], "has no signature that can be read"),
        (["--subject", "no_such:thing"], "cannot be imported: ModuleNotFoundError"),
        (["--out", "verify"], "verify exists and is not a run"),
        (["--backend", "tpu"], "'tpu' is not one of"),
        (["--jobs", "-1"], "jobs"),
        (["--memory", "nan"], "--memory is nan; expected a number of GiB"),
        (["--memory", "inf"], "--memory is inf; expected a number of GiB"),
    ],
)
def test_bad_usage_is_2_and_starts_nothing(arguments, message, monkeypatch, capsys):
    # In this process: what a subject's own process says of it reaches the message all the same.
    monkeypatch.setattr(sys, "argv", ["mlstm-verify", "run", *arguments])
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    assert ended.value.code == 2
    assert message in told.err
    assert "Traceback" not in told.err
    assert told.out == ""


def test_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    done = command("run", "--case", TINY.id, "--subject", CORRECT, "--out", tmp_path / "file" / "run")
    assert done.returncode == 2
    assert "cannot be written" in done.stderr


def test_error_of_the_suites_own_is_3(tmp_path):
    code = "import verify.cli._run as run; run.print_summary = None; from verify.cli import main; main()"
    arguments = ["run", "--case", TINY.id, "--subject", CORRECT, "--out", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 3
    assert "the suite could not finish" in done.stderr


@pytest.mark.skipif(BACKEND == "gpu", reason="there is a GPU here")
def test_gpu_without_a_gpu_is_an_error(tmp_path):
    done = run(tmp_path, "--backend", "gpu")
    assert done.returncode == 2
    assert "JAX sees no GPU" in done.stderr
    assert not (tmp_path / "run").exists()


def test_json_is_all_there_is_on_stdout(tmp_path):
    done = run(tmp_path, "--json", subject="tests.subjects.wrong:chatty")
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert document["results"][0]["outcome"] == "pass"
    assert document["subject"] == "tests.subjects.wrong:chatty"
    assert document["command"][:2] == ["mlstm-verify", "run"]
    assert "printed by the subject" in done.stderr
    assert "written by the subject" in done.stderr


def test_interrupted_run_keeps_what_was_finished(tmp_path):
    ids = [argument for length in (5, 33, 7) for argument in ("--case", Case(length=length, dhqk=4, dhhv=4).id)]
    subject = ("--subject", "tests.subjects.wrong:interrupted_at_33")
    done = command("run", *ids, *subject, "--out", tmp_path / "a run")
    assert done.returncode == 130
    assert (
        f"interrupted: 1 of 3 cases are recorded; go on with: mlstm-verify run --resume '{tmp_path}/a run'"
        in done.stderr
    )
    assert "Traceback" not in done.stderr
    lines = (tmp_path / "a run" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["outcome"] for line in lines] == ["pass"]


def test_run_directory_of_an_earlier_run_is_replaced(tmp_path):
    run(tmp_path)
    assert run(tmp_path).returncode == 0
    assert len((tmp_path / "run" / "results.jsonl").read_text().splitlines()) == 1


def test_default_directory_is_new_under_runs(tmp_path):
    done = command("run", "--case", TINY.id, "--subject", CORRECT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "runs").glob("*-cases/manifest.json"))) == 1


@pytest.mark.parametrize(
    ("what", "told"),
    # tests/verify/test_tiers.py has those of tiers.
    [("regimes", "soft_capped"), ("subjects", "the default"), ("cases", "dead_input")],
)
def test_lists(what, told):
    done = command("list", what)
    assert done.returncode == 0
    assert told in done.stdout


def test_listed_cases_parse():
    done = command("list", "cases", "--tier", "standard", "-k", "float16")
    assert all(parse_case(line).dtype in ("float16", "bfloat16") for line in done.stdout.splitlines())
    assert "It leaves out" in done.stderr


def test_no_gradients_runs_the_forward_pass_alone(tmp_path):
    subject = "tests.subjects.wrong:not_differentiable"
    done = run(tmp_path, "--no-gradients", "--json", case=GRADIENTS, subject=subject)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["results"]
    assert Case.parse(result["case"]).cotangents == "none"
    assert [measured["output"] for measured in result["measurements"]] == ["h", "C_last", "n_last", "m_last"]


def test_list_of_cases_without_gradients():
    listed = [parse_case(line) for line in command("list", "cases", "--no-gradients").stdout.splitlines()]
    assert {case.cotangents for case in listed} == {"none"}
    assert len(set(listed)) == len(listed) > 50


def test_tier_adapts_to_a_subject_without_a_last_state(tmp_path):
    done = command(
        "run",
        "-k",
        "ordinary and S70 and correct and none and vjp-all",
        "--subject",
        "tests.subjects.wrong:bare_vjp",
        "--json",
        "--out",
        tmp_path / "run",
    )
    document = json.loads(done.stdout)
    assert [Case.parse(case).cotangents for case in document["planned"]] == ["h"]
    assert [result["outcome"] for result in document["results"]] == ["pass"]
