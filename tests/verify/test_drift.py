"""Two records compared: what is equal, what rounding explains, what moved; and why records are not comparable."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.xla_chunkwise import mlstm_chunkwise_xla
from tests.verify.recording import CASES, OUTPUTS, records, write_run
from verify import Case, UsageError, load_subject, run_case
from verify._axes import attribution
from verify._drift import Kind, compare, distance, log2_growth, reaches
from verify._pattern import as_items, patterns
from verify._recorded import recorded_run
from verify._reference import compute_reference
from verify._run import RunWriter


def drift(tmp_path, change=lambda case, output: {}, outcome=lambda case: "pass", *, base=None, **conditions):
    before = recorded_run(write_run(tmp_path / "base", base))
    return compare(before, recorded_run(write_run(tmp_path / "current", records(change, outcome), **conditions)))


def test_a_run_and_itself_are_bitwise_equal(tmp_path):
    compared = drift(tmp_path)
    assert len(compared.of_kind(Kind.EQUAL)) == len(compared.pairs) == len(CASES) * len(OUTPUTS)
    assert not compared.axes + compared.outcomes + compared.lost + compared.shifts


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({}, Kind.ROUNDING),
        ({"rms_z": 2.1}, Kind.ROUNDING),
        ({"rms_z": 2.2}, Kind.MOVED),
        ({"largest_z": 9.0}, Kind.ROUNDING),
        ({"largest_z": 30.0}, Kind.MOVED),
        ({"ratio": 0.9}, Kind.ROUNDING),
        ({"ratio": 1.2}, Kind.MOVED),
        ({"nonfinite": 1}, Kind.MOVED),
        ({"rms_z": math.inf}, Kind.MOVED),
        ({"rms_z": "nan"}, Kind.MOVED),
    ],
)
def test_what_rounding_explains(tmp_path, changed, kind):
    def change(case, output):
        return {**changed, "digest": "1" * 32} if case == CASES[0] and output == "h" else {}

    compared = drift(tmp_path, change)
    assert [pair.kind for pair in compared.pairs if pair.kind is not Kind.EQUAL] == [kind]
    (pair,) = compared.of_kind(kind)
    assert (pair.case, pair.output) == (CASES[0].id, "h")
    assert pair.after.ulp == 2.0


@pytest.mark.parametrize(
    ("got", "wanted", "ulp"),
    [
        (1.0, 1.0, 0.0),
        (1.0, 1.0 - 2.0**-24, 1.0),
        (2.0**-149, 0.0, 1.0),
        # A state whose m is far from the reference's is brought to it in float64.
        (1e308, 0.0, math.inf),
        ("nan", 1.0, math.inf),
    ],
)
def test_units_in_the_last_place(tmp_path, got, wanted, ulp):
    of = records(lambda case, output: {"got": got, "wanted": wanted}, cases=CASES[:1], outputs=("C_last",))
    assert recorded_run(write_run(tmp_path / "run", of)).cases[CASES[0].id].levels["C_last"].ulp == ulp


def test_few_numbers_may_move_further():
    case = Case(length=5, batch=2, heads=3, dhqk=7, dhhv=11)
    many, few = (reaches(case, output)["rms_z"] for output in ("h", "m_last"))
    assert math.sqrt(2.0) < many < 1.7
    assert 3.0 < few < 4.0
    one = reaches(Case(), "m_last")
    # The 1e-4 quantile of the size of a normal number, times sqrt(2); the approximation is 3 % above.
    assert one["rms_z"] == pytest.approx(math.sqrt(2.0) * 3.891, rel=0.04)
    assert one["largest_z"] >= one["rms_z"]


def test_relations_are_compared_by_their_outcome(tmp_path):
    def renamed(outcome):
        return [{**one, "case": f"two_pieces/{one['case']}"} for one in records(outcome=outcome, outputs=())]

    base = recorded_run(write_run(tmp_path / "base", [*records(), *renamed(lambda case: "pass")]))
    broken = renamed(lambda case: "crash" if case.dtype == "bfloat16" else "pass")
    compared = compare(base, recorded_run(write_run(tmp_path / "current", [*records(), *broken])))
    assert len(compared.outcomes) == 18
    assert all(change.case.startswith("two_pieces/") for change in compared.outcomes)
    names = [("crash", name) for name in base.cases]
    (pattern,) = patterns([("crash", change.case) for change in compared.outcomes], names)
    assert pattern.where == "relation two_pieces; dtype bfloat16"


numbers = st.floats(min_value=0.0) | st.just(math.nan)


@given(numbers, numbers)
def test_measures_are_total_and_change_sign_with_the_order(one, other):
    assert not math.isnan(distance(one, other))
    assert not math.isnan(log2_growth(one, other))
    if not (math.isnan(one) or math.isnan(other)):
        assert log2_growth(one, other) == -log2_growth(other, one)
        assert log2_growth(one, other) * distance(one, other) >= 0.0


def test_what_moved_a_little_everywhere_is_found_together(tmp_path):
    cases = [Case(seed=seed) for seed in range(40)]
    before = recorded_run(write_run(tmp_path / "base", records(cases=cases)))

    def change(case, output):
        # h grows everywhere, df as often as it shrinks.
        z = 0.8 if output == "h" else 0.6 + 0.2 * (case.seed % 2)
        return {} if output == "C_last" else {"rms_z": z, "digest": "1" * 32}

    compared = compare(before, recorded_run(write_run(tmp_path / "current", records(change, cases=cases))))
    assert not compared.of_kind(Kind.MOVED)
    (shift,) = compared.shifts
    assert (shift.output, shift.dtype, shift.grew, shift.shrank) == ("h", "float32", 40, 0)
    assert shift.growth == pytest.approx(math.log2(0.8 / 0.7))
    assert shift.chance == 2.0**-39


def test_cases_with_the_same_arrays_have_one_vote(tmp_path):
    compared = drift(tmp_path, lambda case, output: {"rms_z": 0.8, "digest": "1" * 32})
    # 9 sets of arrays in each dtype, too few to be sure of.
    assert not compared.shifts


def test_outcomes_and_outputs_that_are_gone(tmp_path):
    compared = drift(tmp_path, outcome=lambda case: "inaccurate" if case == CASES[1] else "pass")
    (change,) = compared.outcomes
    assert (change.case, change.worse) == (CASES[1].id, True)
    less = records()
    less[0]["measurements"].pop()
    current = recorded_run(write_run(tmp_path / "less", less))
    assert compare(compared.base, current).lost == ((CASES[0].id, OUTPUTS[-1]),)


def test_axes_are_told_apart(tmp_path):
    compared = drift(tmp_path, triton="3.7.0", mpmath="2.0")
    assert [(axis.name, axis.belongs_to) for axis in compared.axes] == [("triton", "toolchain")]
    assert attribution(compared.axes, uncommitted=False, moved=True) == "only the toolchain changed."
    both = recorded_run(write_run(tmp_path / "both", triton="3.7.0", commit="b" * 40))
    told = attribution(compare(compared.base, both).axes, uncommitted=False, moved=True)
    assert told == "source and toolchain changed: which of them moved an output cannot be told apart."


def test_another_chunk_size_is_joined_by_arrays(tmp_path):
    other = [dataclasses.replace(case, chunk_size=32) for case in CASES]
    current = recorded_run(write_run(tmp_path / "other", records(cases=other)))
    compared = compare(recorded_run(write_run(tmp_path / "base")), current)
    assert len(compared.pairs) == len(CASES) * len(OUTPUTS)
    assert [(axis.name, axis.before, axis.after) for axis in compared.axes] == [("chunk size", "64", "32")]


@pytest.mark.parametrize(
    ("of", "conditions", "told"),
    [
        (records(cases=[Case(seed=99)]), {}, r"no case in common; .*base has 36, .*current has 1"),
        (records(outputs=()), {}, "no output was measured both in .*base and in"),
        (None, {"subject": "c:d"}, r".*current is of c:d, .*base of a:b; --any-subject"),
        (
            records(lambda case, output: {"digest": "1" * 32 if output == "h" else "0" * 32}),
            {"definition": "e" * 32},
            r".*current has references of definition eee.*, .*base of ddd.*, and 36 outputs or outcomes are",
        ),
    ],
)
def test_what_cannot_be_compared(tmp_path, of, conditions, told):
    base = recorded_run(write_run(tmp_path / "base"))
    current = recorded_run(write_run(tmp_path / "current", of, **conditions))
    with pytest.raises(UsageError, match=f"not comparable: {told}"):
        compare(base, current)


def test_the_same_bits_are_the_same_whatever_they_were_held_against(tmp_path):
    base = recorded_run(write_run(tmp_path / "base"))
    again = records(lambda case, output: {"rms_z": 0.9})
    current = recorded_run(write_run(tmp_path / "current", again, definition="e" * 32))
    assert {pair.kind for pair in compare(base, current).pairs} == {Kind.EQUAL}


def test_another_subject_is_compared_when_asked_for(tmp_path):
    base = recorded_run(write_run(tmp_path / "base"))
    other = recorded_run(write_run(tmp_path / "current", subject="c:d"))
    (axis,) = compare(base, other, any_subject=True).axes
    assert (axis.name, axis.belongs_to) == ("subject", "source")


def correct(q, k, v, i, f, *, return_last_states=False, chunk_size=16):
    h, last = mlstm_chunkwise_xla(q, k, v, i, f, return_last_states=True, chunk_size=chunk_size)
    return h.astype(q.dtype), last


def another_chunk_size(q, k, v, i, f, *, return_last_states=False):
    return correct(q, k, v, i, f, chunk_size=32)


def another_order_of_sums(q, k, v, i, f, *, return_last_states=False):
    q, k = (np.roll(np.asarray(array), 3, axis=-1) for array in (q, k))
    h, (c, n, m) = correct(q, k, v, i, f, return_last_states=True)
    return h, (np.roll(c, -3, axis=-2), np.roll(n, -3, axis=-1), m)


def scaled_n(q, k, v, i, f, *, return_last_states=False):
    h, (c, n, m) = correct(q, k, v, i, f, return_last_states=True)
    return h, (c, n * np.float32(1.0 + 5e-7), m)


REAL = [
    Case(length=21, dhqk=24, dhhv=16, chunk_size=16, dtype=dtype, seed=seed)
    for dtype, seed in (("float32", 0), ("float32", 1), ("bfloat16", 0))
]


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    references = {case: compute_reference(case) for case in REAL}

    def record(name):
        directory = tmp_path_factory.mktemp("real") / name
        subject = load_subject(f"{__name__}:{name}")
        with RunWriter(directory, command=[], subject="a:b", cases=REAL) as writer:
            for case in REAL:
                writer.append(run_case(case, subject, references[case]))
        return recorded_run(directory)

    return record


def moved_and_rounded(compared):
    return {pair.output for pair in compared.of_kind(Kind.MOVED)}, {
        pair.output for pair in compared.of_kind(Kind.ROUNDING)
    }


def test_planted_changes_are_named_and_nothing_else(real):
    base = real("correct")
    assert {record.outcome.value for record in base.cases.values()} == {"pass"}
    assert moved_and_rounded(compare(base, real("correct"))) == (set(), set())
    order, chunks, scaled = (
        compare(base, real(name)) for name in ("another_order_of_sums", "another_chunk_size", "scaled_n")
    )
    assert not order.outcomes + chunks.outcomes + scaled.outcomes
    assert moved_and_rounded(order) == (set(), {"h"})
    assert moved_and_rounded(chunks) == (set(), {"h", "C_last", "n_last"})
    assert moved_and_rounded(scaled) == ({"n_last"}, {"n_last"})
    (pattern,) = patterns(as_items(scaled.of_kind(Kind.MOVED)), as_items(scaled.pairs))
    assert (pattern.outputs, pattern.where, pattern.excepted) == (("n_last",), "dtype float32", 0)
