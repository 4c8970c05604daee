"""The parts of a search: git's halving, the proof of what was imported, the picture, environments."""

import random
import signal
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.verify.history import git, make
from verify import UsageError
from verify._bisection import _environments, _repository
from verify._bisection._halving import Halving
from verify._bisection._log import parse_judged
from verify._bisection._picture import draw
from verify._bisection._predicate import Shown
from verify._bisection._provenance import ForeignCodeError, Provenance
from verify._bisection._repository import PREFIX, Repository

SUITE = ("__main__", "__mp_main__", "verify", "oracles", "kernels")


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    directory = tmp_path_factory.mktemp("line")
    hashes = make(directory, 60, 60)
    return Repository(directory), hashes


def searched(repository, hashes, first_bad, skipped):
    """(what is left, how many were asked) of a search in which all answers are known."""
    good, bad = (repository.commit(hashes[number]) for number in (0, -1))
    with repository.worktree(bad) as worktree:
        halving, asked = Halving(worktree, good, bad), []
        while (name := halving.next()) is not None:
            number = hashes.index(name)
            asked.append(number)
            halving.mark("skip" if number in skipped else "bad" if number >= first_bad else "good", name)
        assert len(asked) == len(set(asked))
        return {hashes.index(name) for name in halving.left}, len(asked)


@pytest.mark.parametrize("seed", range(3))
def test_the_first_bad_commit_is_never_lost(line, seed):
    repository, hashes = line
    numbers = random.Random(seed)
    first_bad = numbers.randrange(1, 60)
    skipped = set(numbers.sample(range(1, 59), 6))
    left, _ = searched(repository, hashes, first_bad, skipped)
    # What is left beside it are skipped ones, without a gap.
    assert first_bad in left
    assert left - {max(left)} <= skipped
    assert left == set(range(min(left), max(left) + 1))


def test_skipped_commits_around_the_bad_one_are_all_left(line):
    repository, hashes = line
    assert searched(repository, hashes, 31, {29, 30, 31, 32})[0] == {29, 30, 31, 32, 33}
    assert searched(repository, hashes, 1, set())[0] == {1}
    assert searched(repository, hashes[:2], 1, set()) == ({1}, 0)


def test_an_abandoned_worktree_is_removed_and_one_in_use_is_not(line, tmp_path, monkeypatch):
    repository, hashes = line
    monkeypatch.setattr(_repository.tempfile, "tempdir", str(tmp_path))
    commit = repository.commit(hashes[0])
    abandoned = tmp_path / f"{PREFIX}abandoned"
    abandoned.mkdir()
    (abandoned / "owner").touch()
    git(repository.root, "worktree", "add", "--quiet", "--detach", abandoned / "commit", "main")
    with repository.worktree(commit) as first:
        assert not abandoned.exists()
        with repository.worktree(commit):
            assert (first / "notes.txt").read_text() == "0\n"
        assert len(git(repository.root, "worktree", "list").splitlines()) == 2
    assert len(git(repository.root, "worktree", "list").splitlines()) == 1


def test_the_proof_fails_for_all_that_is_not_the_commits(line, tmp_path):
    repository, hashes = line
    commit, other = repository.commit(hashes[3]), repository.commit(hashes[4])
    with repository.worktree(commit) as worktree:
        own = {"memory": f"{worktree}/memory/__init__.py", "memory.cell": f"{worktree}/memory/cell.py"}
        proof = Provenance(worktree, repository.root, commit, built=False)

        def prove(**more):
            return proof.prove("memory", "memory.cell", own | more)

        suite = dict.fromkeys(SUITE, f"{repository.root}/memory/cell.py")
        suite |= {"json": "/usr/lib/json.py"}
        imported = prove(**suite)
        assert (imported.file, imported.modules, imported.built) == ("memory/cell.py", 2, ())
        assert imported.blob == git(repository.root, "rev-parse", "main:memory/cell.py")
        with pytest.raises(ForeignCodeError, match=f"commit {commit.hash} with tree {commit.tree} is checked out"):
            Provenance(worktree, repository.root, other, built=False)
        with pytest.raises(ForeignCodeError, match="package other was not imported"):
            proof.prove("other", "memory.cell", own)
        with pytest.raises(ForeignCodeError, match=r"module memory\.cell was imported from .*/line.*/memory/cell\.py"):
            prove(**{"memory.cell": f"{repository.root}/memory/cell.py"})
        with pytest.raises(ForeignCodeError, match=r"module beside was imported from .*, the checkout"):
            prove(beside=f"{repository.root}/memory/cell.py")
        (worktree / "link").symlink_to(repository.root / "memory")
        with pytest.raises(ForeignCodeError, match=r"which is not in the commit's worktree"):
            prove(**{"memory.late": f"{worktree}/link/cell.py"})
        (worktree / "memory" / "strange.py").touch()
        with pytest.raises(ForeignCodeError, match=r"memory/strange\.py was imported, which the commit does not have"):
            prove(strange=f"{worktree}/memory/strange.py")
        built = Provenance(worktree, repository.root, commit, built=True)
        assert built.prove("memory", "memory.cell", own | {"x": f"{worktree}/memory/strange.py"}).built == (
            "memory/strange.py",
        )
        with (worktree / "memory" / "cell.py").open("a") as file:
            file.write("\n")
        with pytest.raises(ForeignCodeError, match=r"memory/cell\.py has hash .*, and the commit has"):
            prove()


def test_the_picture_has_every_commit_that_was_visited():
    record = {"subject": "<a> & b", "seconds": 1.0, "reason": "", "measures": {}}
    values = {"a": ("good", 0.5), "b": ("bad", 80.0), "c": ("bad", "inf"), "d": ("good", "nan"), "e": ("good", 0.0)}
    judged = {
        key: parse_judged({**record, "key": key, "status": status, "outcome": "pass", "excess": value})
        for key, (status, value) in values.items()
    }
    judged["f"] = parse_judged({**record, "key": "f", "status": "skip", "outcome": None})
    shown = Shown("excess", lambda facts: facts.excess, 8.0)
    root = ElementTree.fromstring(draw("title <", list("adefbcgh"), judged, shown, ["b"]))
    notes = [title.text for title in root.iter("{http://www.w3.org/2000/svg}title")][1:]
    assert notes[:3] == ["a <a> & b: good, excess 0.5", "b <a> & b: bad, excess 80", "c <a> & b: bad, excess inf"]
    assert len(notes) == 6
    # Nothing but skipped commits, and no threshold that an axis could have.
    draw("title", ["f", "g"], {"f": judged["f"]}, replace(shown, threshold=None), ["f", "g"])


def test_an_environment_has_the_packages_of_this_one_but_for_one(monkeypatch):
    here = {"numpy": "2.5", "jax": "0.11", "jaxlib": "0.11", "triton": "3.6", "jax-cuda13-plugin": "0.11"}
    monkeypatch.setattr(_environments, "_version", here.get)
    wanted = _environments.requirements("triton", "3.7.1")
    assert wanted == ["jax[cuda13]==0.11", "jaxlib==0.11", "numpy==2.5", "triton==3.7.1"]
    assert _environments.requirements("jax", "0.10") == ["jax[cuda13]==0.10", "numpy==2.5", "triton==3.6"]


def test_a_version_that_pip_cannot_install_is_named(monkeypatch, tmp_path):
    script = "#!/bin/sh\necho No matching distribution found >&2; exit 1\n"

    def created(place, with_pip):
        (place / "bin").mkdir(parents=True)
        (place / "bin" / "python").write_text(script)
        (place / "bin" / "python").chmod(0o755)

    monkeypatch.setattr(_environments.venv, "create", created)
    notices = []
    told = "--axis triton: pip cannot install triton 9: No matching distribution found. --python 9=PATH gives"
    with pytest.raises(UsageError, match=told):
        _environments.interpreters("triton", ["9"], {}, tmp_path, notices.append)
    script = "#!/bin/sh\nexit 0\n"
    (made,) = _environments.interpreters("triton", ["9"], {}, tmp_path, notices.append).values()
    script = "#!/bin/sh\nexit 1\n"
    assert _environments.interpreters("triton", ["9"], {}, tmp_path, notices.append) == {"9": made}
    assert _environments.interpreters("triton", ["9"], {"9": Path("/python")}, tmp_path, notices.append) == {
        "9": Path("/python")
    }
    assert [notice[:38] for notice in notices] == 2 * ["making an environment for triton 9 in "]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_waits_for_what_must_be_done(number):
    done = []

    def removed():
        with _repository.interruptible(), _repository._undisturbed():
            signal.raise_signal(number)
            done.append("removed")

    with pytest.raises(KeyboardInterrupt):
        removed()
    assert done == ["removed"]
