"""The search finds what is far off, simplifies it, and adds it to a corpus that every tier includes."""

import itertools
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.subjects import float32
from tests.subjects.planted import PLANTED
from verify import Case, UsageError, _corpus
from verify._corpus import CORPUS, add_to_corpus, read_corpus
from verify._relation_cases import RelationCase
from verify._search._hunt import Hunt
from verify._search._space import WAYS, Space, cases_of, simpler
from verify._subject import make_subject
from verify._tiers import EXCLUDED, TIERS
from verify._verdict import Outcome
from verify.cli import main

SMALL = Space(length=16, dtypes=("float32",), gradients=False)
WIDE = Space(length=100, dtypes=("float32", "bfloat16"), gradients=True)


def hunt(function, space=SMALL, *, seed=0, evaluations=40, seconds=1000.0):
    searched = Hunt(make_subject("tests:subject", function), space, seed=seed, seconds=seconds, evaluations=evaluations)
    searched.run()
    return searched


@given(cases_of(WIDE))
@settings(max_examples=100)
def test_what_is_drawn_is_in_the_space_and_has_an_id(case):
    assert Case.parse(case.id) == case
    assert 1 <= case.length <= WIDE.length
    assert case.dtype in WIDE.dtypes
    name = case.regime.partition("@")[0]
    values = {"norm_val": case.norm_val, "eps": case.eps, "regime": name}
    assert not any(all(values[key] == level for key, level in row.items()) for row in EXCLUDED)


@given(cases_of(WIDE))
@settings(max_examples=50)
def test_simpler_and_simpler_has_an_end(case):
    seen = {case}
    while (following := next((each for way in WAYS for each in simpler(case, way)), None)) is not None:
        case = following
        assert case not in seen
        seen.add(case)
    plain = replace(Case(length=1, dhqk=16, dhhv=16, chunk_size=16), seed=0)
    assert case == plain


def test_a_search_finds_what_a_few_cases_show_and_keeps_the_worst():
    searched = hunt(PLANTED["norm_val without exp(-m)"].function)
    worst = searched.worst
    assert worst.verdict.outcome.failed
    assert worst.excess == max(probe.excess for probe in searched.probes.values())
    assert worst.excess > 10.0
    simplest = searched.simplify(worst)
    assert simplest.verdict.outcome is worst.verdict.outcome
    assert simplest.case.length <= worst.case.length
    assert simplest.excess >= min(worst.excess, worst.excess**0.5)


def test_a_search_is_told_by_its_seed_and_by_nothing_else():
    function = PLANTED["n scaled by 1.00001"].function
    first, again, other = (hunt(function, seed=seed, evaluations=8) for seed in (3, 3, 4))
    assert list(first.probes) == list(again.probes)
    assert list(first.probes) != list(other.probes)
    assert len(first.probes) == 8


def test_a_search_stops_at_what_is_infinitely_far_off():
    def nan(q, k, v, i, f):
        return 0.0 * float32.chunkwise(q, k, v, i, f) + float("nan")

    searched = hunt(nan)
    assert len(searched.probes) == 1
    assert searched.worst.verdict.outcome is Outcome.NONFINITE
    assert searched.simplify(searched.worst).case.length == 1


def test_the_time_is_an_upper_bound():
    assert not hunt(float32.chunkwise, seconds=0.0).probes


def test_of_a_case_that_passes_the_error_does_not_get_smaller():
    searched = hunt(float32.chunkwise, evaluations=6)
    worst = searched.worst
    simplest = searched.simplify(worst)
    assert not simplest.verdict.outcome.failed
    assert simplest.excess >= worst.excess


def test_the_corpus_is_part_of_every_tier_and_small():
    found = read_corpus()
    for tier in TIERS.values():
        if not tier.endless:
            assert tier.cases()[-len(found) :] == found or not found
    assert all(case.batch * case.heads * case.length <= 256 for case in found)
    assert not any(isinstance(case, RelationCase) for case in found)
    soaked = set(itertools.islice(TIERS["soak"].draw(0), 50))
    assert not soaked & set(found)


def test_what_is_added_is_there_once_and_is_read_again(tmp_path, monkeypatch):
    corpus = tmp_path / "corpus.txt"
    first, second = Case(length=3), Case(regime="kink@0.01", seed=7)
    assert add_to_corpus(first, "a subject:\n inaccurate", corpus)
    assert add_to_corpus(second, "", corpus)
    assert not add_to_corpus(first, "again", corpus)
    assert read_corpus(corpus) == [first, second]
    assert corpus.read_text().splitlines()[0] == f"{first.id}  # a subject: inaccurate"
    monkeypatch.setattr(_corpus, "CORPUS", corpus)
    for seed in (0, 3):
        # Their arrays are what makes them the worst: no other seed.
        assert TIERS["smoke"].cases(seed)[-2:] == [first, second]


@given(st.lists(st.sampled_from(["", "# a comment", "  "]), max_size=3))
@settings(max_examples=10)
def test_a_damaged_corpus_is_told_by_line(tmp_path_factory, before):
    corpus = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    corpus.write_text("\n".join([*before, "ordinary:B1  # no case"]))
    with pytest.raises(UsageError, match=f"corpus.txt, line {len(before) + 1} is no case: case id 'ordinary:B1'"):
        read_corpus(corpus)


def test_a_corpus_that_cannot_be(tmp_path):
    case = Case(length=3)
    twice = tmp_path / "twice.txt"
    twice.write_text(f"{case.id}\n\n{case.id} # again\n")
    with pytest.raises(UsageError, match="line 3 has the case of line 1 again"):
        read_corpus(twice)
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"binary\.txt cannot be read as a corpus"):
        read_corpus(binary)
    with pytest.raises(UsageError, match=r"missing\.txt cannot be read as a corpus"):
        read_corpus(tmp_path / "missing.txt")


def test_the_corpus_that_is_kept_says_where_each_case_is_from():
    lines = [line for line in CORPUS.read_text().splitlines() if line and not line.startswith("#")]
    assert all("  # " in line for line in lines)


def search(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["mlstm-verify", "search", "--isolate", "none", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


WRONG = ("--subject", "tests.subjects.wrong:ignores_exp_m")
FEW = ("--evaluations", 6, "--length", 8, "--no-gradients", "--dtype", "float32")


def test_the_command_adds_what_fails(tmp_path, monkeypatch, capsys):
    corpus = tmp_path / "corpus.txt"
    assert search(monkeypatch, *WRONG, *FEW, "--corpus", corpus) == 1
    (case,) = read_corpus(corpus)
    shown = capsys.readouterr().out
    assert f"run --case {case.id} --subject {WRONG[1]}" in shown
    assert f"added to {corpus}" in shown
    assert f"# {WRONG[1]}: " in corpus.read_text()


def test_the_command_adds_nothing_that_passes_unless_it_is_told_to(tmp_path, monkeypatch):
    corpus, right = tmp_path / "corpus.txt", ("--subject", "tests.subjects.correct:mlstm")
    assert search(monkeypatch, *right, *FEW, "--evaluations", 2, "--corpus", corpus) == 0
    assert not corpus.exists()
    assert search(monkeypatch, *right, *FEW, "--evaluations", 2, "--corpus", corpus, "--add") == 0
    assert len(read_corpus(corpus)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--minutes", "0"], "--minutes is 0; expected more than 0"),
        (["--dtype", "float8"], "--dtype is 'float8'; expected one of float32, float16, bfloat16"),
        (["--corpus", "nowhere/corpus.txt"], "is in no directory that is there"),
        (["--corpus", "damaged.txt"], "damaged.txt, line 1 is no case"),
        (["--subject", "no_such:thing"], "cannot be imported"),
        (["--evaluations", "0"], "evaluations"),
    ],
)
def test_bad_input(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged.txt").write_text("no case")
    assert search(monkeypatch, *arguments) == 2
    assert message in capsys.readouterr().err


def test_an_interruption_tells_the_worst_so_far_and_adds_nothing(tmp_path, monkeypatch, capsys):
    def interrupt(self, found):
        raise KeyboardInterrupt

    monkeypatch.setattr(Hunt, "simplify", interrupt)
    assert search(monkeypatch, *WRONG, *FEW, "--corpus", tmp_path / "corpus.txt") == 130
    assert "interrupted after 6 cases; the worst so far" in capsys.readouterr().out
    assert not (tmp_path / "corpus.txt").exists()
