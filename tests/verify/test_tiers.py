"""What the tiers promise: every regime at full depth, sizes, seeds; and a soak that ends."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from verify import Case, UsageError
from verify._case import COTANGENTS, DTYPES, MODES
from verify._corpus import read_corpus
from verify._regimes import REGIMES, regime_tokens
from verify._relation_cases import parse_case
from verify._run import STARTED, read_results
from verify._tiers import STANDARD, TIERS, covering_cases
from verify.cli._run import _choose as choose
from verify.cli._selection import draw_cases, select_cases

ROOT = Path(__file__).resolve().parents[2]
FINITE = [name for name, tier in TIERS.items() if not tier.endless]
every_tier = pytest.mark.parametrize("name", FINITE)


def soak(seed, count=200):
    return list(itertools.islice(TIERS["soak"].draw(seed), count))


def own(name, seed=0):
    """The cases of a tier without those of the corpus."""
    return TIERS[name].cases(seed)[: -len(read_corpus()) or None]


def verify(*arguments):
    command = [sys.executable, "-m", "verify", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)


@every_tier
def test_every_regime_is_there_in_both_modes_at_one_shape(name):
    shapes = {}
    for case in TIERS[name].cases():
        if case.cotangents == "all" and case.initial == "none" and case.norm_val == 1.0:
            shapes.setdefault((case.shape, case.dtype), set()).add((case.regime, case.mode))
    every = set(itertools.product(regime_tokens(), MODES))
    assert any(every <= found for found in shapes.values())


@every_tier
def test_cases_are_named_and_there_once(name):
    cases = TIERS[name].cases()
    assert [parse_case(case.id) for case in cases] == cases
    assert len(set(cases)) == len(cases)
    assert {case.dtype for case in cases} == set(DTYPES)
    assert {case.regime for case in cases} >= set(regime_tokens())


def test_a_seed_is_all_that_it_changes():
    for zero, three in zip(own("smoke"), own("smoke", 3), strict=True):
        assert three == dataclasses.replace(zero, seed=3)


def test_the_parameters_of_a_regime_take_turns():
    cases = covering_cases(STANDARD, 2)
    assert {case.regime for case in cases} == set(regime_tokens())
    assert {case.regime.partition("@")[0] for case in cases} == set(REGIMES)


def test_lengths_lie_around_the_chunk():
    cases = TIERS["standard"].cases()
    for chunk in (16, 64, 128):
        lengths = {case.length for case in cases if case.chunk_size == chunk}
        assert lengths >= {1, chunk - 1, chunk, chunk + 1, 131, 521}


def test_full_has_the_sizes_that_it_names():
    cases = TIERS["full"].cases()
    assert {512, 131_072, 1_048_576} <= {case.length for case in cases}
    assert max(case.length / case.chunk_size for case in cases) > 65_535
    assert max(case.batch * case.heads for case in cases) > 65_535
    assert {(16, 16), (48, 80), (512, 512)} <= {(case.dhqk, case.dhhv) for case in cases}


def test_smoke_is_small_enough_for_the_interpreter():
    assert len(TIERS["smoke"].cases()) < 150
    assert sorted(case.length for case in own("smoke"))[-2:] == [70, 512]


def test_a_soak_is_told_by_its_seed():
    assert soak(3) == soak(3)
    assert not set(soak(3)) & set(soak(4))
    cases = soak(0, 3000)
    assert [parse_case(case.id) for case in cases] == cases
    assert {case.regime.partition("@")[0] for case in cases} == set(REGIMES)
    assert {case.cotangents for case in cases} == set(COTANGENTS)
    without = [case for case in cases if case.eps == 0.0]
    assert without
    assert not any(case.norm_val == 0.0 or case.regime == "zeros" for case in without)


def test_an_expression_narrows_a_soak():
    drawn = list(itertools.islice(draw_cases("soak", "float16 and not bfloat16", gradients=False, seed=1), 5))
    assert {(case.dtype, case.cotangents) for case in drawn} == {("float16", "none")}
    with pytest.raises(UsageError, match="'nothing' selects none of 10000 cases"):
        next(draw_cases("soak", "nothing"))


def test_seed_of_a_selection():
    assert select_cases("smoke", [], "zeros", seed=2) == [
        dataclasses.replace(case, seed=2) for case in select_cases("smoke", [], "zeros")
    ]
    with pytest.raises(UsageError, match="--seed 2 is for a tier; a case id ends with its own seed"):
        select_cases("smoke", [Case().id], None, seed=2)
    with pytest.raises(UsageError, match="--tier soak has no end"):
        select_cases("soak", [], None)


def test_soak_runs_until_its_time_is_up(tmp_path):
    small = ("--tier", "soak", "--minutes", "0.01", "--seed", "3", "-k", "S3- and fw", "--jobs", "0")
    correct = ("--subject", "tests.subjects.correct:mlstm", "--isolate", "none", "--out", tmp_path / "run", "--json")
    done = verify("run", *small, *correct)
    assert done.returncode == 0, done.stderr
    document, (manifest, results) = json.loads(done.stdout), read_results(tmp_path / "run")
    drawn = list(itertools.islice(draw_cases("soak", "S3- and fw", seed=3), len(results)))
    assert [result.case for result in results] == drawn != []
    assert document["planned"] == manifest["planned"] == [case.id for case in drawn]
    assert (tmp_path / "run" / STARTED).read_text().splitlines() == manifest["planned"]
    again = verify("run", "--resume", tmp_path / "run")
    assert again.returncode == 2
    assert "is a run whose cases were drawn until a time was up" in again.stderr


@pytest.mark.parametrize(
    ("tier", "shard", "minutes", "message"),
    [
        ("soak", "1/2", None, "--shard 1/2 is a part of all cases; --tier soak has no end"),
        ("soak", None, 0.0, "--minutes is 0; expected more than 0"),
        ("soak", None, float("nan"), "--minutes is nan; expected more than 0"),
        ("smoke", None, 3.0, "--minutes 3 is for a tier without an end"),
        ("huge", None, None, "--tier is 'huge'; expected one of smoke, standard, full, soak"),
    ],
)
def test_options_that_do_not_fit(tier, shard, minutes, message):
    with pytest.raises(UsageError, match=message):
        choose(tier, [], None, shard, minutes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--resume", "verify", "--seed", "0", "--minutes", "0"], "--seed, --minutes cannot be given"),
        (["references", "--tier", "soak"], "--tier soak has no end"),
    ],
)
def test_commands_say_so(arguments, message):
    done = verify(*arguments)
    assert done.returncode == 2
    assert message in done.stderr.replace("\n", " ")


def test_lists_of_tiers_and_of_an_endless_one():
    listed = verify("list", "cases", "--tier", "soak", "--seed", "3")
    assert [Case.parse(line) for line in listed.stdout.splitlines()] == soak(3, 100)
    assert "The first 100 of an endless number of cases" in listed.stderr
    done = verify("list", "tiers")
    assert done.returncode == 0
    tiers = done.stdout
    assert all(name in tiers for name in (*TIERS, "1,048,576"))
    assert "leaves out" in tiers
