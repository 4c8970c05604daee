"""Mutants: planted where they say, run from a copy that was provably imported, and killed, or told why not."""

import ast
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import verify._mutants._record
import verify._mutants._text
import verify.cli._mutants
from verify import Case
from verify._backend import BackendOption
from verify._errors import SuiteError
from verify._isolation import IsolatedSubject, Limits
from verify._mutants import CATALOGUE, Mutant, in_reach, order, sampled
from verify._mutants._copy import check_imported, copied, kernels_directory
from verify._mutants._mutant import GRADES, plant
from verify._subject import DEFAULT_SUBJECT
from verify._tiers import TIERS
from verify._variant import Variant
from verify.cli import main

ROOT = Path(__file__).resolve().parents[2]
TINY = Case(length=5, dhqk=16, dhhv=16, chunk_size=16, cotangents="all")
LONGER = dataclasses.replace(TINY, length=18)
BY_NAME = {mutant.name: mutant for mutant in CATALOGUE}
KILLED = BY_NAME["a token does not see itself"]
EQUIVALENT = BY_NAME["padding of f forgets"]
SOURCE = """
import numpy

def first(x):
    y = x + 1  # the first
    return (x
            + 1) * y

class Place:
    def second(self, x):
        return x + 1
"""


def mutant(old, new, function="first", nth=0, **fields):
    return Mutant("m", "Does.", "easy", "file.py", function, old, new, nth, **fields)


def test_the_catalogue():
    assert len(BY_NAME) == len(CATALOGUE)
    killable = [each for each in CATALOGUE if in_reach(each, "standard") and not each.equivalent]
    assert len(killable) >= 80
    assert {each.grade for each in killable} == set(GRADES)
    assert len({each.file for each in killable}) >= 12
    for each in CATALOGUE:
        assert each.does.endswith("."), each
        # What is run first is what would see it if the argument were wrong.
        assert not each.equivalent or each.seen, each


@pytest.mark.parametrize("each", CATALOGUE, ids=lambda each: each.name)
def test_a_mutant_has_its_place(each):
    source = (kernels_directory() / each.file).read_text()
    planted = plant(each, source)
    assert planted.source != ast.unparse(ast.parse(source)) + "\n"
    compile(planted.source, each.file, "exec")


@pytest.mark.parametrize("tier", ["smoke", "standard"])
def test_where_a_mutant_is_expected_there_is_a_case(tier):
    cases = TIERS[tier].cases()
    for each in CATALOGUE:
        if in_reach(each, tier) and each.seen:
            likely = order(dataclasses.replace(each, equivalent="x"), cases)
            assert likely, f"no case of the tier {tier} has {each.seen}: {each.name}"
            assert order(each, cases)[0] == likely[0]


def test_it_is_planted_at_one_place():
    planted = plant(mutant("x + 1", "x - 1", nth=2), SOURCE)
    assert (planted.line, planted.source.count("x - 1")) == (6, 1)
    assert "return (x - 1) * y" in planted.source
    assert "return x - 1" in plant(mutant("x + 1", "x - 1", "Place.second"), SOURCE).source
    assert "y = 2" in plant(mutant("y = x + 1", "y = 2"), SOURCE).source
    assert "import math" in plant(mutant("import numpy", "import math", ""), SOURCE).source


@pytest.mark.parametrize(
    ("planted", "told"),
    [
        (mutant("x + 1", "x - 1"), "is there 2 times; expected once"),
        (mutant("x + 1", "x - 1", nth=3), "is there 2 times; expected at least 3"),
        (mutant("y = x + 1", "y = 1", nth=1), "is there 1 times; expected at least 2"),
        (mutant("x + 2", "x - 1"), "is there 0 times"),
        (mutant("x + 1", "x - 1", "third"), "third, which file.py has 0 times"),
        (mutant("x + 1", "x  +  1"), "changes nothing"),
    ],
)
def test_a_place_that_has_gone_is_an_error(planted, told):
    with pytest.raises(SuiteError, match=re.escape(told)):
        plant(planted, SOURCE)


@settings(max_examples=20)
@given(st.sampled_from(CATALOGUE))
def test_layout_and_comments_do_not_matter(each):
    source = (kernels_directory() / each.file).read_text()
    bare = ast.unparse(ast.parse(source))
    assert plant(each, source).source == plant(each, bare).source


@given(st.sampled_from(CATALOGUE), st.sampled_from(["smoke", "standard"]))
def test_every_case_of_the_tier_is_run_once(each, tier):
    cases = TIERS[tier].cases()
    ordered = order(dataclasses.replace(each, equivalent=""), cases)
    assert sorted(case.id for case in ordered) == sorted(case.id for case in cases)


@given(st.integers(1, 300), st.integers(0, 99))
def test_a_sample_is_of_what_can_be_killed(size, seed):
    drawn = sampled(CATALOGUE, size, seed)
    assert drawn == sampled(CATALOGUE, size, seed)
    assert len(drawn) == min(size, sum(not each.equivalent for each in CATALOGUE))
    assert not any(each.equivalent for each in drawn)
    assert drawn == [each for each in CATALOGUE if each in drawn]


def test_a_worker_imports_the_copy():
    with (
        copied(KILLED) as directory,
        IsolatedSubject(
            DEFAULT_SUBJECT, BackendOption.interpret, Limits(), variant=Variant(places=(str(directory),))
        ) as subject,
    ):
        assert subject.started
        files = subject.imported()
        assert files["kernels"] == str(directory / "kernels" / "__init__.py")
        check_imported(files, directory, KILLED)
        assert (kernels_directory() / KILLED.file).read_text() != (directory / "kernels" / KILLED.file).read_text()
        # The suite's own kernels, a file of theirs, and a file that was not imported.
        with pytest.raises(SuiteError, match=r"imported kernels from .*; expected the copy in "):
            check_imported(files | {"kernels": str(kernels_directory() / "__init__.py")}, directory, KILLED)
        with pytest.raises(SuiteError, match=r"imported kernels from nothing"):
            check_imported({}, directory, None)
        with pytest.raises(SuiteError, match="did not import"):
            check_imported(files, directory, dataclasses.replace(KILLED, file="another.py"))
    assert not directory.exists()


@pytest.fixture
def mutants(monkeypatch, capsys, tmp_path):
    """The command, on a catalogue and a tier of one's own."""

    def run(*arguments, catalogue=(KILLED,), cases=(TINY,)):
        for module in (verify.cli._mutants, verify._mutants._record, verify._mutants._text):
            monkeypatch.setattr(module, "CATALOGUE", catalogue)
        monkeypatch.setitem(TIERS, "smoke", dataclasses.replace(TIERS["smoke"], make=lambda seed: iter(cases)))
        monkeypatch.setattr("verify._tiers.relation_cases", lambda tier: ())
        monkeypatch.setattr("verify._tiers.read_corpus", list)
        options = ["--backend", "interpret", "--jobs", "1", "--cache", tmp_path / "cache", *arguments]
        monkeypatch.setattr("sys.argv", ["mlstm-verify", "mutants", *map(str, options)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code, *capsys.readouterr()

    return run


# Nothing of what TINY checks depends on it.
UNSEEN = dataclasses.replace(KILLED, name="unseen", file="triton_stablef/_tiles.py", function="", old="512", new="500")
WRONG = dataclasses.replace(KILLED, name="wrongly excused", equivalent="No case has a diagonal.", seen=("ordinary",))
NO_NAME = dataclasses.replace(KILLED, name="no such name", new="step[None, :] < nothing")


def test_killed_survived_equivalent_and_not(mutants, tmp_path):
    catalogue = (KILLED, UNSEEN, EQUIVALENT, WRONG)
    code, printed, _ = mutants("--out", tmp_path / "out.json", catalogue=catalogue, cases=(TINY, LONGER))
    assert code == 1
    assert "4 mutants, 4 run on the tier smoke: 1 killed, 1 survived, 1 equivalent, 1 not equivalent" in printed
    words = " ".join(printed.split())
    assert f"survived: unseen ({UNSEEN.place}): {UNSEEN.does} None of 2 cases of the tier smoke sees it" in words
    assert f"equivalent: {EQUIVALENT.name} ({EQUIVALENT.place})" in words
    assert f"a defect of the catalogue: {WRONG.name} ({WRONG.place})" in words
    assert "control: without a mutant the 1 cases that killed pass" in words
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["done"]
    killed = document["mutants"][0]["fate"]
    assert (killed["status"], killed["case"], killed["outcome"]) == ("killed", TINY.id, "inaccurate")
    assert killed["excess"] > 1.0 or killed["excess"] == "inf"
    # What is known is not run again; what has changed is.
    changed = (dataclasses.replace(KILLED, new="step[None, :] <= step[:, None] + 1"), EQUIVALENT)
    code, printed, err = mutants("--resume", tmp_path / "out.json", catalogue=changed, cases=(TINY, LONGER))
    assert (code, err.count("] killed"), err.count("] equivalent")) == (0, 1, 0)
    assert "2 mutants, 2 run on the tier smoke: 1 killed, 1 equivalent" in printed


def test_without_its_mutant_the_case_must_pass(mutants, monkeypatch, tmp_path):
    # The kernels themselves are broken, the copy without a mutant too.
    broken = tmp_path / "kernels"
    with copied(KILLED) as directory:
        (directory / "kernels").rename(broken)
    monkeypatch.setattr("verify._mutants._copy.kernels_directory", lambda: broken)
    other = BY_NAME["h through float16"]
    code, printed, _ = mutants(catalogue=(other,))
    assert (code, "the control FAILS" in printed, f"{TINY.id}: " in printed) == (1, True, True)


def test_a_mutant_that_does_not_run_is_not_killed(mutants):
    broken = dataclasses.replace(KILLED, name="no import", file="triton_stablef/_tiles.py", function="", nth=0)
    broken = dataclasses.replace(broken, old="MAX_BLOCK_L = 64", new="MAX_BLOCK_L = nothing")
    code, printed, _ = mutants(catalogue=(broken, NO_NAME))
    assert (code, "2 run on the tier smoke: 2 does not run" in printed) == (1, True)
    assert "NameError" in printed


def test_a_place_that_is_not_there_is_told_before_anything_runs(mutants, tmp_path):
    lost = dataclasses.replace(KILLED, name="lost", function="no_such_function")
    code, _, err = mutants("--out", tmp_path / "out.json", catalogue=(KILLED, lost))
    assert (code, "'lost'" in err, "killed" in err) == (3, True, False)
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--tier", "huge"], "--tier is 'huge'"),
        (["--tier", "soak"], "--tier soak has no end of cases"),
        (["-k", "no_such_mutant"], "selects none of 1 mutants"),
        (["-k", "easy and"], "does not parse at its end"),
        (["--seed", "1"], "--seed 1 is of --sample"),
        (["--timeout", "0"], "--timeout is 0"),
        (["--out", "verify"], "--out verify exists"),
        (["--out", "no/such/file"], "which is no directory"),
        (["--out", "/proc/mutants.json"], "/proc/mutants.json cannot be written"),
        (["--resume", "pyproject.toml"], "is no file of mutants"),
        (["--resume", "no.json"], "is no file of mutants: FileNotFoundError"),
        (["--resume", "a.json", "--out", "b.json"], "--out b.json cannot be given"),
    ],
)
def test_bad_usage_is_2_and_starts_nothing(mutants, monkeypatch, arguments, told):
    monkeypatch.setattr("verify._isolation.subprocess", None)
    monkeypatch.chdir(ROOT)
    code, printed, err = mutants(*arguments)
    assert (code, printed) == (2, "")
    assert told in " ".join(err.split())


def test_a_file_of_other_kernels_is_not_gone_on_with(mutants, tmp_path):
    path = tmp_path / "out.json"
    conditions = {"tier": "smoke", "backend": "interpret", "kernels": "another"}
    path.write_text(json.dumps({"conditions": conditions, "environment": {}, "mutants": []}))
    code, _, err = mutants("--resume", path)
    assert (code, "is of another kernels; run the mutants anew" in err) == (2, True)


def test_a_file_without_its_environment_is_damaged(mutants, tmp_path):
    path = tmp_path / "out.json"
    code, _, _ = mutants("--out", path)
    assert code == 0
    document = json.loads(path.read_text())
    del document["environment"]
    path.write_text(json.dumps(document))
    code, _, err = mutants("--resume", path)
    assert (code, "is no file of mutants: KeyError: 'environment'" in " ".join(err.split())) == (2, True)


def test_list_cases(mutants, monkeypatch):
    code, printed, _ = mutants("--list-cases", catalogue=(KILLED, UNSEEN), cases=(TINY, LONGER))
    assert (code, printed) == (0, f"{TINY.id}\n")


def test_interrupted(tmp_path):
    out = tmp_path / "out.json"
    words = ["-k", "token", "--backend", "interpret", "--jobs", "1", "--out", str(out)]
    process = subprocess.Popen(
        # A shell's background job ignores Ctrl-C.
        [sys.executable, "-c", "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
         f"import sys; sys.argv[1:] = {['mutants', *words]!r}; from verify.cli import main; main()"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not out.exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (1, 130), err
    assert f"mutants are done; go on with: mlstm-verify mutants --tier smoke --resume {out}" in err
    assert "no kill is certain yet" in err
    assert not json.loads(out.read_text())["done"]
    assert not list(tmp_path.glob("mlstm-mutant-*"))
