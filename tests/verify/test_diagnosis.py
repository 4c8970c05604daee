"""``diagnose``: planted departures are named, correct subjects follow the contract, what is no number is told."""

import json
from dataclasses import replace
from math import inf
from types import SimpleNamespace

import numpy as np
import pytest

from oracles import Precision
from tests.subjects import float32
from tests.subjects.departing import DEPARTING
from tests.subjects.planted import PLANTED
from verify import Case, compute_reference
from verify._diagnosis._departures import DEPARTURES
from verify._diagnosis._diagnosis import _off, diagnose, execute, plan
from verify._diagnosis._fit import Evidence, Fit, Observed, Search
from verify._diagnosis._probes import probes
from verify._diagnosis._reading import Reading
from verify._diagnosis._text import sentence
from verify._subject import make_subject
from verify.cli import main

CHUNK, DIM = 4, 8
FLOAT32 = Precision.of("float32")


@pytest.fixture(scope="module")
def references():
    known = {}

    def of(case):
        if case not in known:
            known[case] = compute_reference(case)
        return known[case]

    return of


def diagnosed(function, references, dtype="float32"):
    subject = make_subject("departing", function)
    able, unable = plan(subject, dtype, CHUNK, DIM, 0, gradients=True)
    with np.errstate(all="ignore"):
        returned, failures = execute(subject, able, lambda _: None)
    return diagnose(dtype, returned, {case: references(case) for case in returned}, failures, unable)


# All of DEPARTING take minutes.
SAMPLE = ("no initial m", "detached, m in base 2", "as NX-AI's")


@pytest.mark.parametrize("name", SAMPLE)
def test_departures_are_named(name, references):
    expected = DEPARTING[name]
    made = diagnosed(expected.function, references)
    found = [departure.name for departure in made.fit.departures]
    assert made.fit.explains, sentence(made)
    assert not made.follows
    assert made.fit.precision.name == expected.precision
    assert len(found) == len(expected.departures), found
    for words in expected.departures:
        assert any(words in name for name in found), (words, found)


def test_a_precision_is_looser_only_where_it_matters(monkeypatch):
    # An m next to its threshold passes in one of them by chance, since each draws its noise anew.
    search = object.__new__(Search)
    search.precisions, search.gradients = [Precision.of(name) for name in ("float32", "tf32", "bfloat16")], False
    sizes = {"float32": 1.0, "tf32": 8.0, "bfloat16": 64.0}
    search.evidence = SimpleNamespace(
        looseness=lambda case, output, precision, gradients: 1.0 if output == "m_last" else sizes[precision.name]
    )
    failing = {"float32": ["h", "C_last"], "tf32": ["m_last"], "bfloat16": []}
    monkeypatch.setattr(Search, "_failing", lambda _, __, precision: (("case", one) for one in failing[precision.name]))
    assert [search._is_due_to(precision, ()) for precision in search.precisions] == [True, True, False]
    failing["tf32"] = ["h"]
    assert search._is_due_to(search.precisions[2], ())
    # Nor is one looser still, as nothing fails in that which m passed by chance.
    search.precisions.insert(2, replace(search.precisions[2], name="between"))
    sizes["between"], failing["between"], failing["tf32"] = 32.0, [], ["m_last"]
    assert [search._is_due_to(precision, ()) for precision in search.precisions] == [True, True, False, False]


def test_an_m_that_nothing_explains_makes_no_precision_looser(monkeypatch):
    search = object.__new__(Search)
    search.precisions, search.gradients = [Precision.of(name) for name in ("float32", "tf32", "bfloat16")], False
    search.start, search.cases, search.candidates = (), ["case"], []
    sizes = {"float32": 1.0, "tf32": 8.0, "bfloat16": 64.0}
    search.evidence = SimpleNamespace(
        looseness=lambda case, output, precision, gradients: 1.0 if output == "m_last" else sizes[precision.name],
        apart=lambda case, departures, gradients: {"h": 4.0, "m_last": 0.7},
    )
    beyond = {"float32": ["h"], "tf32": [], "bfloat16": []}
    # Against a noise floor drawn anew m passes, for once, in the loosest.
    failing = {"float32": ["h", "m_last"], "tf32": ["m_last"], "bfloat16": []}
    of = {False: beyond, True: failing}
    monkeypatch.setattr(Search, "_failing_of", lambda _, case, chosen, precision, noise: of[noise][precision.name])
    fit = search.best()
    assert (fit.precision.name, fit.unexplained) == ("tf32", (("case", "m_last"),))
    # What the noise floor sees of h counts as what a bound does.
    failing["tf32"] = ["h", "m_last"]
    assert search.best().precision.name == "bfloat16"


def test_another_departure_goes_before_a_looser_precision(monkeypatch):
    # Within the bounds of TF32 are both gradients, detached and of |q.n| alone; the noise floor tells them apart.
    partial, detached, zero = (
        next(one for one in DEPARTURES if words in one.name)
        for words in ("gradient of |q.n| is dropped", "(detached)", "dm_0 is 0")
    )
    search = object.__new__(Search)
    search.cases, search._ordered = ["case", "other"], [detached, partial, zero]
    left = {(partial,): ["di", "dq"], (partial, zero): ["di"], (detached,): ["di"], (detached, zero): []}

    def failing_of(_, case, chosen, precision, noise):
        return left[chosen] if noise and case == "case" else []

    monkeypatch.setattr(Search, "_failing_of", failing_of)
    assert search._refined((partial, zero), FLOAT32) == (detached, zero)
    # One departure more, where none of another kind does.
    assert search._refined((detached,), FLOAT32) == (detached, zero)
    # Where bounds are left it is not for the noise floor to tell.
    monkeypatch.setattr(Search, "_failing_of", lambda *_: ["di"])
    assert search._refined((partial, zero), FLOAT32) == (partial, zero)


def test_a_wrong_departure_does_not_pass_for_a_looser_precision(references):
    """With dims of 32 the bounds of TF32 do not tell detached from |q.n| dropped, where di at eps 1e-2 is 2 % off."""
    expected = DEPARTING["as NX-AI's"]
    cases = list(probes("float32", 8, 32))[1:5]
    returned, _ = execute(make_subject("departing", expected.function), cases, lambda _: None)
    seen = {case.id: Observed(case, outputs, references(case)) for case, outputs in returned.items()}
    axes = {"normalizer", "stabilizer", "dm_0", "cotangent of n_last", "df"}
    candidates = [departure for departure in DEPARTURES if departure.axis in axes]
    precisions = [Precision.of(name) for name in ("tf32", "bfloat16")]
    fit = Search(Evidence(seen, FLOAT32), candidates, (), True, precisions).best()
    assert fit.explains
    assert fit.precision.name == "tf32"
    assert len(fit.departures) == len(expected.departures)
    for words in expected.departures:
        assert any(words in departure.name for departure in fit.departures), (words, fit.departures)


def test_a_fault_that_is_no_departure_is_not_explained(references):
    made = diagnosed(PLANTED["keys of batch 0"].function, references)
    assert made.follows  # there is one batch
    made = diagnosed(PLANTED["n scaled by 1.0001"].function, references)
    assert not made.follows
    assert made.fit.unexplained or made.fit.precision.name != "float32"


@pytest.mark.parametrize("changed", [{}, {"stabilize_correctly": False}, {"initial": "empty@3"}])
def test_without_a_departure_the_form_is_the_oracles(changed):
    case = Case(length=11, dhqk=4, dhhv=3, chunk_size=4, cotangents="all", initial="warm@2", eps=1e-2)
    case = replace(case, **changed)
    wanted, made = compute_reference(case), Reading.of(case).reference(FLOAT32)
    for name in wanted.values:
        for part in ("values", "errors", "bounds"):
            np.testing.assert_array_equal(getattr(made, part)[name], getattr(wanted, part)[name], f"{part} of {name}")
        # Other random numbers.
        floor, other = made.noise[name], wanted.noise[name]
        assert np.all((floor < 4 * other + 1e-30) & (other < 4 * floor + 1e-30)), name


def test_every_departure_acts_and_is_apart_from_the_contract():
    """Each changes what some probe returns, or how far it is rounded."""
    cases = list(probes("float32", CHUNK, DIM))
    readings = {case: Reading.of(case) for case in cases}
    values = {case: reading.values() for case, reading in readings.items()}
    inside = next(one for one in DEPARTURES if one.name == "eps is inside the maximum")
    never = next(one for one in DEPARTURES if one.name == "norm_val is not scaled by exp(-m)")
    for departure in DEPARTURES:
        seen = False
        for case in cases:
            before = readings[case]
            if departure.axis == "eps gradient":
                before = inside.apply(before) or before
            if departure.name.endswith("of the mode asked for"):
                before = never.apply(before) or before
            made = departure.apply(before)
            if made is None:
                continue
            start = values[case] if before is readings[case] else before.values()
            after = made.values()
            rounds = made.slack or made.coarseness
            seen = seen or bool(rounds) or any(not np.array_equal(after[name], start[name]) for name in after)
            if departure.backward:
                assert all(np.array_equal(after[n], start[n]) for n in ("h", "C_last", "n_last", "m_last"))
        assert seen, departure.name


def test_the_gradient_of_a_departure_of_what_goes_in_is_autodiffs():
    """A difference quotient of the departed forward pass along every input at once."""
    case = Case(length=7, dhqk=4, dhhv=4, chunk_size=4, cotangents="all", initial="warm@2", eps=1e-2, norm_val=4.0)
    step = 1e-6
    rng = np.random.default_rng(0)
    exempt = {"cast", "storage of h", "storage of states", "forget gate", "last state", "units of m"}
    for departure in DEPARTURES:
        if departure.backward or any(departure.axis.startswith(axis) for axis in exempt):
            continue
        made = departure.apply(Reading.of(case))
        if made is None:
            continue
        plain = Reading.of(case)
        names = ("q", "k", "v", "i", "f", "C_0", "n_0", "m_0")
        along = {name: rng.standard_normal(getattr(plain.inputs, name).shape) for name in names}
        gradients = made.values()
        slope = sum(float(np.sum(along[name] * gradients[f"d{name}"])) for name in names)

        def loss(sign, departure=departure, plain=plain, along=along):
            moved = {name: getattr(plain.inputs, name) + sign * step * way for name, way in along.items()}
            reading = departure.apply(replace(plain, inputs=replace(plain.inputs, **moved)))
            outputs, given = reading.values(), plain.cotangents
            pairs = {"h": given.h, "C_last": given.C_last, "n_last": given.n_last, "m_last": given.m_last}
            return sum(float(np.sum(outputs[name] * cotangent)) for name, cotangent in pairs.items())

        quotient = (loss(1) - loss(-1)) / (2 * step)
        assert abs(quotient - slope) <= 1e-5 * (abs(slope) + 1.0), (departure.name, quotient, slope)


def test_a_reading_is_as_far_from_another_as_its_values_say():
    case = Case(length=8, dhqk=8, dhhv=8, chunk_size=4, cotangents="h")
    outputs = {name: array.astype(np.float32) for name, array in Reading.of(case).values().items()}
    evidence = Evidence({case.id: Observed(case, outputs, compute_reference(case))}, FLOAT32)
    detached = next(one for one in DEPARTURES if "detached" in one.name)
    assert max(evidence.apart(case.id, ()).values()) < 1.0
    apart = evidence.apart(case.id, (detached,))
    assert apart["h"] < 1.0 < apart["dq"]


def test_what_nothing_explains_rules_out_no_other_reading():
    case = Case(length=8, dhqk=8, dhhv=8, chunk_size=4)
    outputs = {name: array.astype(np.float32) for name, array in Reading.of(case).values().items()}
    outputs["m_last"] = outputs["m_last"] + np.float32(1e-3)
    evidence = Evidence({case.id: Observed(case, outputs, compute_reference(case))}, FLOAT32)
    unscaled = next(one for one in DEPARTURES if one.name.startswith("eps is not scaled"))
    assert _off(evidence, Fit((), FLOAT32), unscaled, inf) > 1.0
    left = tuple((case.id, name) for name in ("C_last", "n_last", "m_last"))
    assert _off(evidence, Fit((), FLOAT32, left), unscaled, inf) < 1.0


@pytest.fixture
def verify(monkeypatch, capsys, tmp_path):
    def call(*arguments):
        line = ["diagnose", "--chunk-size", CHUNK, "--dim", DIM, "--jobs", 0, "--cache", tmp_path, *arguments]
        monkeypatch.setattr("sys.argv", ["mlstm-verify", *map(str, line)])
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        return ended.value.code or 0, told.out, told.err

    return call


IN_PROCESS = ("--isolate", "none", "--dtype", "float32")


def test_a_correct_subject_follows_the_contract(verify):
    code, out, _ = verify("--subject", "tests.subjects.float32:chunkwise", *IN_PROCESS)
    assert code == 0, out
    assert "float32: follows the contract" in out
    assert "not told apart" not in "".join(line for line in out.splitlines() if line.startswith(("eps", "units")))
    assert max(map(len, out.splitlines())) <= 100


def test_a_detached_subject_in_json(verify):
    code, out, err = verify("--subject", "tests.subjects.departing:detached", *IN_PROCESS, "--json")
    assert code == 1
    document = json.loads(out)
    assert document["subject"] == "tests.subjects.departing:detached"
    (made,) = document["dtypes"]
    assert made["departures"] == ["the normalizer's gradient is dropped (detached)"]
    assert made["sentence"].startswith("exact, but the normalizer's gradient is dropped (detached); everything else")
    assert made["precision"] == "float32"
    assert not made["unexplained"] + made["failures"]
    assert [point["name"] for point in made["contract"] if point["departs"]] == [
        "gradient of the normalizer",
        "gradient of the stabilizer",
    ]
    worst = {row["output"]: row for row in made["outputs"]}
    assert worst["dq"]["contract_excess"] > 100 > 1 > worst["dq"]["left_excess"]
    assert "run ordinary:" in err


def test_a_death_is_told_and_the_others_go_on(verify):
    code, out, _ = verify("--subject", "tests.subjects.dies_in_bfloat16:mlstm", "--dtype", "bfloat16")
    assert code == 1
    assert "bfloat16: compile-error: its worker died of SIGABRT in a compiler" in " ".join(out.split())
    assert "Assertion `lanes' failed" in " ".join(out.split())


def test_only_the_gradients_fail(verify):
    code, out, _ = verify("--subject", "tests.subjects.wrong:not_differentiable", *IN_PROCESS)
    assert code == 1
    assert "crash of the gradients: the VJP" in out
    assert "float32: follows the contract" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--dtype", "float8"), "--dtype is 'float8'; expected one of float32, float16, bfloat16"),
        (("--chunk-size", "0"), "chunk_size is 0; expected at least 1"),
        (("--dim", "0"), "dhqk is 0; expected at least 1"),
        (("--subject", "no_colon", "--isolate", "none"), "expected module:callable"),
        (("--timeout", "0"), "--timeout is 0"),
    ],
)
def test_bad_input(verify, arguments, told):
    code, out, err = verify(*arguments)
    assert (code, out) == (2, "")
    assert told in err


def test_a_reading_of_a_correct_subject_without_a_state(references):
    def bare(q, k, v, i, f):
        return float32.chunkwise(q, k, v, i, f, chunk_size=CHUNK)

    made = diagnosed(bare, references)
    assert made.follows, sentence(made)
    assert made.unsupported
