"""What a report says of a run: the conclusion, the order, the heat map, the curves and the precision reached."""

import io
import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.verify.synthetic_run import CURVE, ENVIRONMENT, manifest, measured, result, write_run
from verify import Case, UsageError
from verify._relation_cases import RelationCase
from verify._report import Conclusion, Report, told
from verify._report_curves import BOTTOM, LEFT, RIGHT, TOP, curve_pictures
from verify._report_heat_map import FAILED, NONFINITE, heat_maps, short
from verify._report_precision import precision_reached
from verify._run import RESULTS, read_results
from verify._table import print_summary
from verify._verdict import Finding, Outcome

FINE = result(Case(length=1), measured(ratio=0.25))
NEAR = result(Case(length=2), measured(ratio=0.75), measured("dq", ratio=0.125))
BAD = result(Case(length=3), measured(ratio=8.0), outcome=Outcome.INACCURATE, precision="tf32")
WORSE = result(Case(length=4), measured(ratio=16.0), outcome=Outcome.INACCURATE, precision=None)
NAN = result(Case(length=5), measured(nonfinite=1, kinds={"nan": 1}), outcome=Outcome.NONFINITE, precision=None)
CRASH = result(Case(length=6), outcome=Outcome.CRASH, reason="it died\nhere", precision=None)
LACKING = result(Case(length=7), outcome=Outcome.UNSUPPORTED, precision=None)
ALL = [LACKING, FINE, BAD, CRASH, NEAR, WORSE, NAN]


def report(*results, planned=()):
    return Report.of(manifest(*(one.case for one in results), *planned), results)


@given(st.permutations(ALL))
def test_the_worst_come_first_in_any_order(results):
    assert report(*results).results == (CRASH, NAN, WORSE, BAD, LACKING, NEAR, FINE)


@pytest.mark.parametrize(
    ("results", "planned", "conclusion", "sentence"),
    [
        ([FINE, LACKING], [], Conclusion.PASS, "no case of 2 failed"),
        ([FINE, BAD], [Case(length=9)], Conclusion.FAIL, "1 of 2 cases failed; 1 more have no result"),
        ([FINE], [Case(length=9)], Conclusion.UNFINISHED, "no case of 1 failed; 1 more have no result"),
        ([LACKING], [], Conclusion.NOTHING_VERIFIED, "no case of 1 failed"),
        ([], [], Conclusion.NOTHING_VERIFIED, "no case of 0 failed"),
    ],
)
def test_the_conclusion_is_the_worst_that_can_be_said(results, planned, conclusion, sentence):
    found = report(*results, planned=planned)
    assert (found.conclusion, found.sentence) == (conclusion, sentence)


def test_all_that_failed_is_shown():
    assert report(*ALL).worst(1) == (CRASH, NAN, WORSE, BAD)
    assert len(report(*ALL).worst(5)) == 5


def test_the_terminal_shows_the_report():
    console = Console(width=100, record=True, file=io.StringIO())
    print_summary(console, report(*ALL), rows=5)
    shown = console.export_text()
    assert "7 planned, 7 executed: 1 crash, 1 nonfinite, 2 inaccurate, 1 unsupported, 2 pass" in shown
    assert "... and 2 more, none worse" in shown
    assert "worst: it died\nrepeat it:\nmlstm-verify run --case " + CRASH.case.id + " --subject s:f" in shown
    assert "here" not in shown


def test_a_run_without_a_result_can_be_shown():
    console = Console(width=100, record=True, file=io.StringIO())
    print_summary(console, report())
    assert "0 planned, 0 executed: none" in console.export_text()


def test_undecided_and_other_thresholds_are_told():
    vague = result(Case(length=8), measured(undecided=0.5))
    by_others = result(Case(length=9), measured())
    by_others = replace(by_others, verdict=replace(by_others.verdict, worst=Finding("h", "ratio", 0.3)))
    first, second = report(vague, by_others).notices
    assert first.startswith("1 of 2 outputs are mostly below")
    assert second.startswith("1 verdicts rest on other thresholds")
    assert report(FINE).notices == []


@given(st.lists(st.floats(0.0, 1e30), min_size=1, max_size=5), st.floats(0.0, 2.0))
def test_a_place_of_the_map_has_the_largest_excess(ratios, other):
    results = [result(Case(length=number), measured(ratio=ratio)) for number, ratio in enumerate(ratios, 1)]
    results.append(result(Case(regime="reset"), measured(ratio=other), measured("dq", ratio=other)))
    forward, gradients = heat_maps(report(*results))
    rows = dict(forward.rows)
    assert rows["ordinary"][0].excess == max(ratios)
    assert (rows["ordinary"][0].shade >= FAILED) is (max(ratios) > 1.0)
    assert list(rows) == sorted(rows, key=lambda regime: -rows[regime][0].excess)
    assert dict(gradients.rows)["ordinary"] == (None,)


def test_the_map_tells_what_is_not_finite_and_what_is_undecided():
    ((place, undecided),) = (
        row for _, row in heat_maps(report(NAN, result(Case(), measured("n", undecided=1.0))))[0].rows
    )
    assert (place.shade, place.text, place.vague) == (NONFINITE, "\N{INFINITY}", False)
    assert NAN.case.id in place.note
    assert undecided.vague


def test_random_parameters_share_a_row():
    results = [result(Case(regime=f"forget@{level}"), measured()) for level in range(61)]
    assert [regime for regime, _ in heat_maps(report(*results))[0].rows] == ["forget"]
    assert len(heat_maps(report(*results[:60]))[0].rows) == 60


@given(st.floats(0.0, allow_nan=False))
def test_an_excess_has_at_most_five_characters(excess):
    shown = short(excess)
    assert len(shown) <= 5
    assert (shown == "0.00") is (excess == 0.0)


def test_the_precision_reached_is_beside_the_one_claimed():
    half = result(Case(dtype="float16"), measured(normwise=0.0), precision="float16")
    unknown = (
        measured("dq", normwise=math.inf),
        measured("dk", normwise=0.5, undecided=1.0),
        measured("dv", normwise=8.0),
    )
    single, of_half = precision_reached(report(FINE, BAD, WORSE, CRASH, half, result(Case(), *unknown)))
    assert single.fits == (("float32", 2), ("none known", 1), ("tf32", 1))
    assert single.right == {"h": (20.0, 20.0), "dv": (0.0, 0.0)}
    assert of_half.right == {"h": (math.inf, math.inf)}


def test_curves_of_the_worst_the_longest_and_the_fastest():
    cases = [Case(length=64 + number) for number in range(20)]
    below = replace(CURVE, noise=(1e-3,) * 4)
    results = [
        result(
            case,
            measured(
                ratio=1.0 / (number + 1),
                growth={8: 2.0, 9: 1.0}.get(number, 0.0),
                curve=below if number == 8 else CURVE,
            ),
        )
        for number, case in enumerate(cases)
    ]
    pictures = curve_pictures(report(*results))
    shown = [(picture.chosen, picture.case) for picture in pictures]
    assert [case for why, case in shown if why == "among the worst"] == [case.id for case in cases[:4]]
    assert [case for why, case in shown if why == "of the longest sequences"] == [case.id for case in cases[:-5:-1]]
    assert shown[8] == ("grows fast beside its noise floor", cases[9].id)
    assert len({case for _, case in shown}) == len(shown) == 12


POSITIVE = st.floats(1e-300, 1e300) | st.just(0.0) | st.just(math.inf) | st.just(math.nan)


@given(st.lists(st.tuples(POSITIVE, POSITIVE, POSITIVE), min_size=4, max_size=24))
def test_every_point_and_every_label_lies_in_its_picture(values):
    error, noise, bound = zip(*values, strict=True)
    position = tuple(float(number) for number in range(1, len(values) + 1))
    curve = type(CURVE)(position, error, noise, bound)
    for picture in curve_pictures(report(result(Case(), measured(curve=curve)))):
        points = [point for line in picture.lines for point in line.points]
        points += [(place, TOP) for place, _ in picture.x_ticks] + [(LEFT, place) for place, _ in picture.y_ticks]
        assert all(LEFT <= x <= RIGHT and TOP <= y <= BOTTOM for x, y in points)
        assert len(picture.y_ticks) >= 2
        drawn = {line.name: len(line.points) for line in picture.lines}
        assert drawn["error"] == sum(0.0 < value < math.inf for value in error)


def test_a_result_is_read_back_as_it_was(tmp_path):
    results = [*ALL, result(Case(length=64), measured(curve=CURVE, rms_z=math.nan, worst=(0, 0, 3)))]
    results.append(result(RelationCase.on("repeatability", Case(length=65)), outcome=Outcome.NONDETERMINISTIC))
    _, found = read_results(write_run(tmp_path / "run", *results))
    assert list(map(repr, found)) == list(map(repr, results))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda record: record["measurements"][0].pop("rms_z"), "it has no 'rms_z'"),
        (lambda record: record.pop("precision"), "it has no 'precision'"),
        (lambda record: record["measurements"][0].update(output="x"), "output 'x' is unknown"),
        (lambda record: record["measurements"][0].update(ratio=[]), "float.* not 'list'"),
        (lambda record: record["measurements"][0].update(digest=None), "expected a string, got None"),
        (lambda record: record["measurements"][0].update(worst=["x"]), "invalid literal for int"),
        (lambda record: record["measurements"][0].update(kinds={"nan": "x"}), "invalid literal for int"),
        (lambda record: record.update(worst=3), "'int' object"),
        (lambda record: record.update(case="no case"), "case id 'no case' has 1 fields"),
        (lambda record: record.update(measurements=None), "'NoneType' object"),
    ],
)
def test_a_damaged_record_is_named(tmp_path, damage, message):
    run = write_run(tmp_path / "run", FINE)
    record = json.loads((run / RESULTS).read_text())
    damage(record)
    (run / RESULTS).write_text(json.dumps(record) + "\n")
    with pytest.raises(UsageError, match=f"{RESULTS}, line 1: the record is damaged: {message}"):
        read_results(run)


def test_a_case_twice_is_named(tmp_path):
    run = write_run(tmp_path / "run", FINE, NEAR)
    (run / RESULTS).write_text((run / RESULTS).read_text() * 2)
    with pytest.raises(UsageError, match=f"{RESULTS} has case .* twice"):
        read_results(run)


def test_findings_in_words():
    assert told(NAN.verdict.worst) == "h is not finite"
    assert told(BAD.verdict.worst) == "h: error 8 times its bound"
    assert told(result(Case(), measured("dq", largest_z=1e9)).verdict.worst).startswith("dq: largest z ")


def test_lines_to_be_repeated_are_quoted():
    case = Case()
    environment = {**ENVIRONMENT, "interpreter": "/my venv/python"}
    report = Report.of(manifest(case, environment=environment, command=["run", "-k", "a or b"]), [result(case)])
    assert report.repeat(report.results[0]).endswith(" --subject s:f --python '/my venv/python'")
    assert dict(report.environment)["command"] == "run -k 'a or b'"
