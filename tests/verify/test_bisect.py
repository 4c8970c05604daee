"""``mlstm-verify bisect`` on repositories made for it: the right commit, by its own code, and a checkout left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.verify.environment import environment
from tests.verify.history import BROKEN, CASE, CELL, SUBJECT, fingerprint, git, make
from verify._bisection import _repository
from verify.cli import main

ROOT = Path(__file__).resolve().parents[2]
SAME = {"notes.txt": ""}


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Without JAX a worker starts in no time."""
    return environment(tmp_path_factory.mktemp("environment"), np)


@pytest.fixture
def bisect(monkeypatch, capsys, python, tmp_path):
    """The command in this process: (exit code, stdout, stderr)."""
    # Where worktrees are, so that one left behind is seen.
    monkeypatch.setattr(_repository.tempfile, "tempdir", str(tmp_path / "worktrees"))
    (tmp_path / "worktrees").mkdir()

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mlstm-verify", "bisect", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not any((tmp_path / "worktrees").iterdir())
        return ended.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture
def search(bisect, python, tmp_path):
    """The command on a repository, with another option for each that is given."""

    def run(repository, **options):
        given = {"repo": repository, "good": "main~6", "bad": "main", "subject": SUBJECT, "case": CASE.id}
        given |= {"python": python, "out": tmp_path / "log"}
        options = {name: value if isinstance(value, list) else [value] for name, value in (given | options).items()}
        words = [word for name, values in options.items() for value in values for word in (f"--{name}", value)]
        return bisect(*words)

    return run


def lines(directory):
    return [json.loads(line) for line in (directory / "judged.jsonl").read_text().splitlines()]


def judged_in(directory):
    """How many whole lines there are, while the process writes."""
    file = directory / "judged.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


def start(*arguments, worktrees):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(worktrees)}
    command = [sys.executable, "-m", "verify", "bisect", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(process, condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_200_commits_killed_and_resumed(bisect, python, tmp_path):
    repository, first_bad = tmp_path / "repository", 137
    broken = random.Random(7).sample([number for number in range(1, 199) if number != first_bad], 20)
    hashes = make(repository, 200, first_bad, broken)
    before, log, worktrees = fingerprint(repository), tmp_path / "log", tmp_path / "worktrees"
    options = ["--repo", repository, "--good", hashes[0], "--bad", "main", "--subject", SUBJECT, "--case", CASE.id]
    process = start(*options, "--python", python, "--out", log, "--until", "z(h) > 8", worktrees=worktrees)
    wait_for(process, lambda: judged_in(log) >= 5)
    process.kill()
    process.communicate()
    killed = (log / "judged.jsonl").read_text()
    with (log / "judged.jsonl").open("a") as torn:
        torn.write('{"key": "torn')
    assert "detached HEAD" in git(repository, "worktree", "list")

    code, out, err = bisect("--resume", log, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["first_bad"]["hash"] == hashes[first_bad]
    assert document["left"] == [hashes[first_bad]]
    assert (log / "judged.jsonl").read_text().startswith(killed)
    judged = [record["hash"] for record in lines(log)]
    assert len(judged) == len(set(judged)) <= 12
    assert {record["hash"] for record in lines(log) if record["status"] == "skip"} <= {hashes[one] for one in broken}
    for record in lines(log):
        if record["status"] != "skip":
            number = hashes.index(record["hash"])
            assert record["status"] == ("bad" if number >= first_bad else "good")
            blob = git(repository, "rev-parse", f"{record['hash']}:memory/cell.py")
            assert record["imported"] == {"file": "memory/cell.py", "blob": blob, "modules": 3, "built": []}
            assert record["tree"] == git(repository, "rev-parse", f"{record['hash']}^{{tree}}")
            assert (record["measures"]["h"]["largest_z"] > 8) == (record["status"] == "bad")
    assert fingerprint(repository) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_leaves_no_worktree(python, tmp_path, number):
    repository, worktrees = tmp_path / "repository", tmp_path / "worktrees"
    worktrees.mkdir()
    make(repository, 3, 2, files=lambda number: {"memory/cell.py": f"import time\ntime.sleep(60 * {number})\n{CELL}"})
    options = ["--repo", repository, "--good", "main~2", "--bad", "main", "--subject", SUBJECT, "--case", CASE.id]
    process = start(*options, "--python", python, "--out", tmp_path / "log", worktrees=worktrees)
    wait_for(process, lambda: judged_in(tmp_path / "log"))
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert f"interrupted: 1 are judged and recorded; go on with: mlstm-verify bisect --resume {tmp_path}/log" in err
    assert not any(worktrees.iterdir())
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_the_table_names_the_commit(search, tmp_path):
    hashes = make(tmp_path / "repository", 7, 4, {3, 5}, files=lambda number: SAME)
    code, out, err = search(tmp_path / "repository")
    # 3 is skipped and may be the first bad one as well.
    assert code == 1, err
    assert "only skipped commits are left: the first bad one is one of 2" in out
    assert f"  {hashes[3]} 2023-11-15 change 3" in out
    assert "change 3: does not import: ImportError: cannot import name 'nothing_of_this_name'" in err
    assert max(map(len, out.split("\n\n")[0].splitlines())) <= 100


def test_files_that_were_judged_are_not_judged_again(search, tmp_path):
    # 0 to 3 have the same files, and so have 4 to 6.
    hashes = make(tmp_path / "repository", 7, 4, files=lambda number: SAME)
    code, out, err = search(tmp_path / "repository")
    assert code == 0, err
    assert f"first bad commit: {hashes[4]}" in out
    assert "  before   " + hashes[3][:10] in out
    twins = [record["same_tree_as"] for record in lines(tmp_path / "log")]
    assert twins[:2] == [None, None]
    assert len(twins) > 3
    assert set(twins[2:]) <= {hashes[0], hashes[6]}
    svg = (tmp_path / "log" / "measure.svg").read_text()
    assert svg.count('class="good" cx') - 1 + svg.count('class="bad" x') - 1 == len(twins)


@pytest.mark.parametrize(
    ("first_bad", "options", "told"),
    [
        (0, {}, "is bad already, by 'outcome != pass'"),
        (9, {}, "is not bad, by 'outcome != pass'"),
        (4, {"until": "outcome == pass"}, "the wrong way round. For a fix, give --until the question"),
        (4, {"until": "z(C_last) > 8"}, "cannot be judged: pass, which does not answer 'z(C_last) > 8'"),
        (4, {"subject": "memory.cell:nothing"}, "cannot be judged: does not import: AttributeError"),
        (4, {"path": "src"}, "cannot be judged: has no directory src"),
        (4, {"build": "echo no; exit 3"}, "cannot be judged: does not build: 'echo no; exit 3' ended with exit code 3"),
        (4, {"package": "other"}, "package other was not imported, so that nothing of the commit was run"),
    ],
)
def test_ends_that_are_none(search, tmp_path, first_bad, options, told):
    make(tmp_path / "repository", 7, first_bad, files=lambda number: SAME)
    before = fingerprint(tmp_path / "repository")
    code, out, err = search(tmp_path / "repository", **options)
    assert code == 2
    assert told in err
    assert out == ""
    assert fingerprint(tmp_path / "repository") == before


def test_code_from_elsewhere_gives_no_verdict(search, tmp_path, monkeypatch):
    # The commits have the package in src, as has the checkout, which is what is on the path.
    make(tmp_path / "repository", 7, 4, prefix="src/", files=lambda number: SAME | {"other/notes.txt": ""})
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "repository" / "src"))
    code, _, err = search(tmp_path / "repository", path="other")
    assert code == 2
    assert "not known to be the commit's code: module memory was imported from" in err
    assert search(tmp_path / "repository", path=["other", "src"], out=tmp_path / "src")[0] == 0


def test_code_that_comes_late_from_elsewhere_gives_no_verdict(search, tmp_path, monkeypatch):
    late = CELL.replace("m, h = ", "import beside\n    m, h = ")
    assert late != CELL
    files = {"beside.py": "", "src/memory/cell.py": late, **SAME}
    make(tmp_path / "repository", 7, 4, prefix="src/", files=lambda number: files)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "repository"))
    code, _, err = search(tmp_path / "repository", path="src")
    assert code == 2
    assert f"module beside was imported from {tmp_path}/repository/beside.py, the checkout" in err


def test_an_adapter_beside_the_repository(search, tmp_path, monkeypatch):
    hashes = make(tmp_path / "repository", 7, 4, files=lambda number: SAME)
    (tmp_path / "adapter.py").write_text(
        "import memory.cell\n\n\ndef mlstm(q, k, v, i, f):\n    return memory.cell.mlstm(q, k, v, i, f)\n"
    )
    monkeypatch.chdir(tmp_path)
    code, out, err = search(tmp_path / "repository", subject="adapter:mlstm", package="memory")
    assert code == 0, err
    assert f"first bad commit: {hashes[4]}" in out
    # Without the option, the adapter itself would have to be the commit's.
    code, _, err = search(tmp_path / "repository", subject="adapter:mlstm", out=tmp_path / "again")
    assert code == 2
    assert "No module named 'adapter'" in err


def test_what_a_build_makes_is_told(search, tmp_path):
    made = {"memory/cell.py": "from memory.made import mlstm\n", "made.txt": CELL, **SAME}
    hashes = make(tmp_path / "repository", 7, 4, files=lambda number: made)
    code, out, err = search(tmp_path / "repository", build="test ! -e memory/made.py && cp made.txt memory/made.py")
    assert code == 0, err
    assert f"first bad commit: {hashes[4]}" in out
    assert lines(tmp_path / "log")[0]["imported"]["built"] == ["memory/made.py"]


def test_a_commit_that_cannot_be_asked_is_skipped(search, tmp_path):
    # It does not raise an error when it is imported, but when it is run.
    cells = {3: CELL.replace("m, h = ", "raise ValueError\n    m, h = "), 2: BROKEN}
    hashes = make(
        tmp_path / "repository", 7, 5, files=lambda number: SAME | {"memory/cell.py": cells.get(number, CELL)}
    )
    assert search(tmp_path / "repository", until="ratio(h) > 1")[0] == 0
    record = next(record for record in lines(tmp_path / "log") if record["hash"] == hashes[3])
    assert record["status"] == "skip"
    assert record["reason"].startswith("crash, which does not answer 'ratio(h) > 1': ValueError")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"repo": "/nowhere"}, "--repo /nowhere is no directory"),
        ({"repo": "/"}, "--repo / is no git repository: fatal: not a git repository"),
        ({"good": "main"}, "are the same commit"),
        ({"good": "main", "bad": "main~2"}, "are the wrong way round: the bad one is an ancestor of the good one"),
        ({"good": "apart"}, "are on branches apart"),
        ({"good": "nothing"}, "--good 'nothing' names no commit of"),
        ({"bad": "--all"}, "--bad '--all' names no commit of"),
        ({"until": "z(h) >"}, "--until 'z(h) >' does not parse at column 7"),
        ({"case": "init"}, "case id 'init' has 1 fields"),
        ({"subject": "memory"}, "expected module:callable"),
        ({"python": "/dev/null"}, "--python /dev/null is not executable"),
        ({"axis": "chunk_size=16,32"}, "both are given; expected one of them"),
        ({"timeout": "0"}, "--timeout is 0"),
        ({"resume": "nowhere"}, "--resume nowhere goes on with that search; --repo"),
        ({"out": "/dev/null"}, "--out /dev/null is a file"),
    ],
)
def test_bad_usage_is_2_and_starts_nothing(search, tmp_path, options, told, monkeypatch):
    make(tmp_path / "repository", 7, 4)
    git(
        tmp_path / "repository",
        "branch",
        "apart",
        git(tmp_path / "repository", "commit-tree", "-m", "a", "main^{tree}"),
    )
    before = fingerprint(tmp_path / "repository")
    code, out, err = search(tmp_path / "repository", **options)
    assert code == 2, err
    assert told in err
    assert out == ""
    assert not (tmp_path / "log").exists()
    assert fingerprint(tmp_path / "repository") == before


def test_a_bare_repository_and_a_dirty_one(search, tmp_path):
    repository = tmp_path / "repository"
    make(repository, 7, 4, files=lambda number: SAME)
    git(tmp_path, "clone", "--quiet", "--bare", repository, "bare")
    code, _, err = search(tmp_path / "bare")
    assert (code, "is bare, it has no checkout" in err) == (2, True)
    (repository / "untracked.txt").write_text("")
    (repository / "memory" / "gates.py").write_text("raise ImportError")
    code, _, err = search(repository)
    assert (code, "1 tracked files have changes (memory/gates.py)" in err) == (2, True)
    # A look at this file would be noted in the index.
    os.utime(repository / "notes.txt", (1, 1))
    before = fingerprint(repository)
    code, _, err = search(repository, **{"allow-dirty": "--json"})
    assert code == 0, err
    assert fingerprint(repository) == before


def test_hooks_do_not_run_and_a_hook_may_start_it(search, tmp_path, monkeypatch):
    repository = tmp_path / "repository"
    hashes = make(repository, 7, 4, files=lambda number: SAME)
    hook = repository / ".git" / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    # As git leaves it to a hook of another repository.
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "another"))
    code, out, err = search(repository)
    assert code == 0, err
    assert f"first bad commit: {hashes[4]}" in out
    assert not (tmp_path / "ran").exists()


def test_no_room_for_a_worktree(search, tmp_path, monkeypatch):
    make(tmp_path / "repository", 7, 4)
    usage = _repository.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(_repository.shutil, "disk_usage", lambda path: usage._replace(free=3 * 4096 - 1))
    code, _, err = search(tmp_path / "repository")
    assert code == 2
    assert "has no room for a worktree: a checkout takes 0.0 MiB" in err
    assert not (tmp_path / "log").exists()


def test_a_damaged_log_is_named(search, bisect, tmp_path):
    make(tmp_path / "repository", 7, 4, files=lambda number: SAME)
    assert search(tmp_path / "repository")[0] == 0
    log, kept = tmp_path / "log", (tmp_path / "log" / "judged.jsonl").read_text()
    (log / "judged.jsonl").write_text(kept.replace('"status": "bad"', '"status": "odd"'))
    code, _, err = bisect("--resume", log)
    assert (code, "judged.jsonl, line 2: the record is damaged" in err) == (2, True)
    (log / "judged.jsonl").write_bytes(kept.encode().replace(b'"status": "bad"', b'"status": "b\xffd"'))
    code, _, err = bisect("--resume", log)
    assert (code, "cannot be read or written: 'utf-8' codec" in err) == (2, True)
    (log / "judged.jsonl").write_text(kept.replace('"numpy": "', '"numpy": "0').splitlines()[0] + "\n")
    code, _, err = bisect("--resume", log)
    assert (code, "is of another environment: numpy was 0" in err) == (2, True)
    whole = (log / "search.json").read_text()
    for old, new, told in (
        ('"first-parent"', '"last-parent"', "its search has no first-parent"),
        ('"backend": "auto"', '"backend": "autp"', "backend 'autp' is unknown"),
    ):
        (log / "search.json").write_text(whole.replace(old, new))
        code, _, err = bisect("--resume", log)
        assert (code, f"search.json is damaged: {told}" in err) == (2, True), err
    (log / "search.json").write_text(whole.replace('"schema": 1', '"schema": 0'))
    code, _, err = bisect("--resume", log)
    assert (code, "is of a search under other conditions: schema was 0, is 1" in err) == (2, True)


def test_versions_and_options(bisect, python, tmp_path, monkeypatch):
    make(tmp_path / "repository", 1, 9)
    monkeypatch.chdir(tmp_path / "repository")
    version = np.__version__
    asked = ["--subject", SUBJECT, "--case", CASE.id, "--axis", f"numpy={version}", "--axis", "chunk_size=16,32"]
    code, out, err = bisect(*asked, "--python", f"{version}={python}", "--out", tmp_path / "log")
    assert code == 0, err
    assert "2 points judged by 'outcome != pass': 2 good, 0 bad, 0 skip" in out
    assert [record["point"]["chunk_size"] for record in lines(tmp_path / "log")] == ["16", "32"]
    code, out, err = bisect("--resume", tmp_path / "log")
    assert code == 0, err
    assert len(lines(tmp_path / "log")) == 2
    code, _, err = bisect("--resume", tmp_path / "log", "--timeout", "5", "--backend", "auto")
    assert (code, "--backend, --timeout cannot be given" in err) == (2, True)
    # An option of this subject is not its right form: a point is bad.
    asked = ["--subject", "wrong:mlstm", "--case", CASE.id, "--axis", "rounded=False,True", "--python", python]
    body = CELL.replace("norm_val=1.0)", "norm_val=1.0, rounded=False)").replace(
        "return np.stack(h, 2)", "return np.stack(h, 2).round(3 if rounded else 99)"
    )
    Path("wrong.py").write_text(body)
    code, out, err = bisect(*asked, "--out", tmp_path / "options")
    assert code == 1, err
    assert [record["status"] for record in lines(tmp_path / "options")] == ["good", "bad"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--axis", "numpy"], "--axis is 'numpy'; expected NAME=VALUE,VALUE"),
        (["--axis", "numpy=1,1"], "--axis numpy=1,1 has a value twice"),
        (["--axis", "eps=0,1"], "eps is part of the case"),
        (["--axis", "a=1", "--axis", "a=2"], "expected each name once"),
        (["--axis", "numpy=1", "--axis", "jax=1"], "expected one axis of versions"),
        (["--axis", "numpy=1", "--python", "PYTHON"], "expected VERSION=PATH"),
        (["--axis", "numpy=1", "--python", "2=PYTHON"], "--python 2=... is no version of --axis numpy=1"),
        (["--axis", "numpy=1", "--python", "1=PYTHON"], f"has numpy {np.__version__}; expected numpy 1."),
        (["--axis", "a=1", "--python", "1=PYTHON"], "no --axis is of versions"),
        (["--axis", "a=1", "--python", "PYTHON"], "at a=1, subject 'memory.cell:mlstm' has no parameter a"),
        (["--axis", "num_warps=1,2", "--python", "PYTHON"], "num_warps changes nothing here: it is an option of this"),
        (["--axis", "chunk_size=x", "--python", "PYTHON"], "'x' is no size"),
        (["--axis", "a=1", "--good", "x"], "--good cannot be given beside it"),
    ],
)
def test_axes_that_are_none(bisect, python, tmp_path, monkeypatch, arguments, told):
    make(tmp_path / "repository", 1, 9)
    monkeypatch.chdir(tmp_path / "repository")
    words = [word.replace("PYTHON", str(python)) for word in arguments]
    code, out, err = bisect(*words, "--subject", SUBJECT, "--case", CASE.id, "--out", tmp_path / "log")
    assert code == 2
    assert told in err
    assert out == ""
    assert not (tmp_path / "log").exists()
