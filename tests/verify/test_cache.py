"""References on disk: the same bits again, or computed again and said so."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import verify._cache
from verify import Case, UsageError, compute_reference, load_subject, run_case
from verify._cache import Found, ReferenceCache
from verify._probes import KEPT_WHOLE
from verify.cli._selection import select_cases

ROOT = Path(__file__).resolve().parents[2]
CASE = Case(length=5, dhqk=4, dhhv=3, chunk_size=16, cotangents="all", initial="warm@1")
PARTS = ("values", "bounds", "unknown", "errors", "noise")


def assert_same(one, other):
    for part in PARTS:
        first, second = getattr(one, part), getattr(other, part)
        assert first.keys() == second.keys()
        for name, array in first.items():
            np.testing.assert_array_equal(array, second[name], strict=True)
    np.testing.assert_array_equal(one.rows, other.rows)


@pytest.mark.parametrize(
    "case",
    [
        CASE,
        replace(CASE, cotangents="none", dtype="bfloat16"),
        replace(CASE, length=KEPT_WHOLE + 1, initial="none", cotangents="none"),
        replace(CASE, norm_val=0.0, eps=0.0, initial="empty@1000"),
    ],
    ids=lambda case: case.id,
)
def test_what_comes_back_is_what_was_computed(tmp_path, case):
    cache = ReferenceCache(tmp_path / "deep" / "cache")
    computed, found, _ = cache.fetch(case)
    assert found is Found.MISSING
    cached, found, _ = cache.fetch(case)
    assert found is Found.CACHED
    assert_same(computed, cached)
    assert_same(computed, compute_reference(case))


def test_a_verdict_does_not_depend_on_the_cache(tmp_path):
    cache, subject = ReferenceCache(tmp_path), load_subject("tests.subjects.correct:mlstm")
    cache.fetch(CASE)
    assert run_case(CASE, subject).verdict == run_case(CASE, subject, cache.load(CASE)[0]).verdict


def flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (flip, "has another checksum"),
        (lambda content: content[:-1], "has another checksum"),
        (lambda content: content[:20], "has no readable first line"),
        (lambda _: b"", "has no readable first line"),
        (lambda _: b"[1]\n", "has no readable first line"),
        (lambda content: content.replace(b"warm@1", b"warm@2", 1), "is of another case"),
        (lambda content: content.replace(b'"problem": "', b'"problem": "0', 1), "is of other arrays"),
    ],
)
def test_a_damaged_file_is_named_and_computed_again(tmp_path, damage, told):
    cache = ReferenceCache(tmp_path)
    good, _, _ = cache.fetch(CASE)
    path = cache.path(CASE)
    path.write_bytes(damage(path.read_bytes()))
    again, found, notice = cache.fetch(CASE)
    assert found is Found.DAMAGED
    assert str(path) in notice
    assert told in notice
    assert_same(good, again)
    assert cache.fetch(CASE)[1] is Found.CACHED


def test_another_definition_or_case_is_not_found(tmp_path, monkeypatch):
    cache = ReferenceCache(tmp_path)
    names = {cache.path(CASE), *(cache.path(replace(CASE, **change)) for change in ({"seed": 1}, {"eps": 0.5}))}
    monkeypatch.setattr(verify._cache, "definition_digest", lambda: "another")
    assert len({*names, cache.path(CASE)}) == 4


def test_definition_is_that_of_the_source(monkeypatch, tmp_path):
    verify._cache.definition_digest.cache_clear()
    before = verify._cache.definition_digest()
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"changed")
    verify._cache.definition_digest.cache_clear()
    changed = verify._cache.definition_digest()
    verify._cache.definition_digest.cache_clear()
    assert before != changed


def test_many_writers_of_one_reference(tmp_path):
    cache = ReferenceCache(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: cache.fetch(CASE)[0], range(8)))
    for result in results:
        assert_same(result, results[0])
    assert cache.load(CASE)[1] is Found.CACHED
    assert [path.suffix for path in tmp_path.iterdir()] == [".reference"]


def test_a_directory_that_cannot_be_is_the_users_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"--cache .*file cannot be made a directory"):
        ReferenceCache(tmp_path / "file")


def references(directory, *arguments):
    command = [sys.executable, "-m", "verify", "references", "--cache", str(directory), *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_and_started_again_computes_nothing_twice(tmp_path):
    selected = ("-k", "S70 and saturated_mix or balanced and S70", "--jobs", "1")
    total = len(select_cases("smoke", [], selected[1]))
    process = references(tmp_path, *selected)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("*.reference"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()  # ends when the workers do
    damaged, *rest = sorted(tmp_path.glob("*.reference"))
    damaged.write_bytes(flip(damaged.read_bytes()))
    written = {path: path.stat().st_mtime_ns for path in rest}
    out, err = references(tmp_path, *selected).communicate()
    assert f"{len(rest)} were there, {total - 1 - len(rest)} computed, 1 damaged and computed again" in " ".join(
        out.split()
    )
    assert err.count("is damaged") == 1
    assert written == {path: path.stat().st_mtime_ns for path in rest}
