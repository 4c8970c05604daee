"""``mlstm-verify trace``: the place that it names, what is no alarm, black boxes, frames, and what is refused."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.subjects import exposed
from tests.subjects.planted import edited
from verify import Case, compute_reference
from verify._errors import UsageError
from verify._problem import make_problem
from verify._reference import Reference
from verify._subject import make_subject
from verify._trace._place import judge_stages
from verify._trace._scales import stage_reference, task_of
from verify._trace._stages import BY_NAME, Stages
from verify._trace._tracing import trace_case
from verify.cli import main

ROOT = Path(__file__).resolve().parents[2]
CASE = Case(heads=2, length=20, dhqk=4, dhhv=4, chunk_size=8, initial="warm@2", cotangents="all")
FORWARD = replace(CASE, cotangents="none")
EXPOSED = "tests.subjects.exposed:chunkwise"


@pytest.fixture(scope="module")
def references():
    # Both are needed by most tests.
    return {case: compute_reference(case) for case in (CASE, FORWARD)}


def traced(function, case, references):
    with np.errstate(all="ignore"):
        return trace_case(case, make_subject("planted", function), references[case])


TWICE = "(1 + (np.arange(N.shape[-2]) == 9))[:, None].astype(F)"
# Edits of the chunkwise form; the stage and the chunk that are named, with stages and without.
PLANTED = {
    "C of one chunk": (
        ("state = chunk.last, chunk.m[", "state = chunk.last * F(1 + (span.start == 8)), chunk.m["),
        ("C_entering", 2),
        ("h", 2),
    ),
    "rows of one chunk": (
        ("return quotient(N, column(d)), d,", f"return quotient(N, column(d)) * {TWICE}, d,"),
        ("h", 1),
        ("h", 1),
    ),
    "gradient of a_t": (
        ("gamma = np.where(above, -np.sign(readout[..., -1]) * quotient(y, d), F(0))", "gamma = F(0) * y"),
        ("gamma", 2),
        ("dq", 2),
    ),
}
# Edits of the recurrence, whose state is wrong after the last step of a chunk; its stage, chunk and step.
STATES = {
    "state": (
        (
            ("self.states.append((state, m, inner))", "self.states.append((state * F(1 + (t == 15)), m, inner))"),
            ("self.last = inner.rounded_off() * state", "self.last = inner.rounded_off() * self.states[-1][0]"),
        ),
        FORWARD,
        ("C_entering", 2, 15),
    ),
    "state gradient": (
        # Counted from the end, as a suffix has the same there.
        (
            (
                "D = inner_before.forget(phi, inner) * D",
                "D = inner_before.forget(phi, inner) * D * F(1 + (self.q.shape[2] - t == 12))",
            ),
        ),
        CASE,
        ("dC_leaving", 1, 7),
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_first_stage_and_chunk_are_named(name, references):
    edit, wanted, _ = PLANTED[name]
    trace = traced(exposed.exposing(edited(edit)), CASE, references)
    assert trace.by == "stages"
    assert (trace.first.stage, trace.first.chunk) == wanted


def test_parts_say_what_the_error_is(references):
    edit, *_ = PLANTED["C of one chunk"]
    trace = traced(exposed.exposing(edited(edit)), CASE, references)
    # Everything is there twice.
    assert trace.parts.factors == pytest.approx(
        {"kept of the state before": 1.0, "taken in of the chunk": 1.0}, rel=1e-4
    )
    assert trace.parts.explained == pytest.approx(1.0)


@settings(max_examples=4, database=None)
@given(step=st.integers(0, FORWARD.length - 1))
def test_black_box_names_the_step_that_is_wrong(step, references):
    def wrong(
        q, k, v, i, f, c_initial=None, n_initial=None, m_initial=None, return_last_states=False, eps=1e-6, chunk_size=8
    ):
        damaged = np.array(v)
        damaged[:, 1, step : step + 1] *= 1.01
        arrays = (q, k, damaged, i, f, c_initial, n_initial, m_initial)
        return exposed.float32.chunkwise(
            *map(np.asarray, arrays), return_last_states=True, eps=eps, chunk_size=chunk_size
        )

    trace = traced(wrong, FORWARD, references)
    assert trace.by == "probes"
    assert (trace.first.step, trace.first.index["head"]) == (step, 1)


@pytest.mark.parametrize("name", PLANTED)
def test_without_stages_the_place_is_named_by_probes(name, references):
    edit, _, wanted = PLANTED[name]
    trace = traced(edited(edit).chunkwise, CASE, references)
    assert (trace.by, trace.first.stage, trace.first.chunk) == ("probes", *wanted)
    assert trace.probes


@pytest.mark.parametrize("name", STATES)
def test_state_that_goes_wrong_between_chunks_is_named_by_probes(name, references):
    edits, case, wanted = STATES[name]
    trace = traced(edited(*edits).recurrence, case, references)
    assert (trace.first.stage, trace.first.chunk, trace.first.step) == wanted


def test_stages_of_another_computation_are_not_believed(references):
    trace = traced(exposed.of_another, FORWARD, references)
    assert trace.by == "probes"
    assert "are not what it returned" in trace.notes[0]


class Oracle(NamedTuple):
    """Its stages; a short name for hypothesis, which prints arguments."""

    reference: Reference
    frames: dict

    def __repr__(self):
        return "of_oracle"


@pytest.fixture(scope="module")
def of_oracle():
    problem = make_problem(CASE)
    return Oracle(*stage_reference(CASE, problem, task_of(CASE, problem, 8, 8)))


def test_every_stage_has_a_reference(of_oracle):
    reference, _ = of_oracle
    assert set(reference.values) == set(BY_NAME)
    calibrated = {name for name, stage in BY_NAME.items() if stage.like}
    assert set(reference.noise) == calibrated


@settings(max_examples=20, database=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.floats(0.0, 60.0))
def test_no_stage_depends_on_the_stabilizer_that_it_is_relative_to(seed, size, of_oracle):
    reference, frames = of_oracle
    rng = np.random.default_rng(seed)
    step = rng.uniform(-size, size, frames["inner"].shape)
    # What leaves a block enters the next one.
    entering = np.concatenate([rng.uniform(-size, size, (1, 2, 1)), step[..., [7, 15]]], -1)
    ends = [7, 15, 19]
    to_step = {"a": -step, "inverse": step, "gamma": step}
    arrays = dict(reference.values) | {
        "inner": frames["inner"] + step,
        "inner_entering": frames["inner_entering"] + entering,
    }
    shifts = {
        **to_step,
        "C_entering": -entering[..., None, None],
        "n_entering": -entering[..., None],
        "carry_x": np.repeat(entering, 8, -1)[..., :20],
        "carry_gamma": np.repeat(entering, 8, -1)[..., :20],
        "kept": entering - step[..., ends],
        "dC_leaving": step[..., ends, None, None],
        "dn_leaving": step[..., ends, None],
        "dC_last": step[..., -1, None, None],
        "dn_last": step[..., -1, None],
    }
    for name, shift in shifts.items():
        arrays[name] = arrays[name] * np.exp(shift)
    stages = Stages(arrays, 8, 8, {})
    assert [judged.stage.name for judged in judge_stages(stages, reference, frames) if judged.found.excess > 1e-3] == []


@settings(max_examples=20, database=None)
@given(name=st.sampled_from(sorted(BY_NAME)), seed=st.integers(0, 2**32 - 1))
def test_first_is_the_first_along_the_pass(name, seed, of_oracle):
    reference, frames = of_oracle
    rng = np.random.default_rng(seed)
    stage, arrays = BY_NAME[name], dict(reference.values) | frames
    damaged = arrays[name] + 1.0 + np.abs(arrays[name])
    where = rng.random(damaged.shape) < 0.1
    where[np.unravel_index(rng.integers(damaged.size), damaged.shape)] = True
    arrays[name] = np.where(where, damaged, arrays[name])
    judged = next(one for one in judge_stages(Stages(arrays, 8, 8, {}), reference, frames) if one.stage.name == name)
    np.testing.assert_array_equal(judged.out() & where, judged.out())
    first, axis = judged.first(), judged.flow_axis
    assert judged.out()[first]
    if axis is not None:
        steps = np.nonzero(judged.out())[axis]
        assert first[axis] == (steps.max() if stage.backward else steps.min())


def command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["mlstm-verify", "trace", "--isolate", "none", *map(str, arguments)])
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    return ended.value.code, told.out, told.err


RED = Case(heads=2, length=40, dhqk=4, dhhv=4, chunk_size=16)


def test_case_that_passes_is_said_to(monkeypatch, capsys):
    code, out, err = command(monkeypatch, capsys, "--case", RED.id, "--subject", EXPOSED)
    assert code == 0, err
    assert "passes: nothing to trace" in out


def test_text_and_document_name_the_place(monkeypatch, capsys):
    arguments = ("--case", RED.id, "--subject", "tests.subjects.exposed:forgetful")
    code, out, _ = command(monkeypatch, capsys, *arguments)
    assert code == 1
    assert "goes wrong first: C_entering (C that enters a chunk)" in out
    assert "chunk 2, step 32" in out
    assert max(map(len, out.splitlines())) <= 100
    code, out, _ = command(monkeypatch, capsys, *arguments, "--json")
    document = json.loads(out)
    assert code == 1
    assert (document["first"]["stage"], document["first"]["chunk"], document["by"]) == ("C_entering", 2, "stages")
    assert next(stage["stage"] for stage in document["stages"] if stage["out"]) == "C_entering"


@pytest.mark.parametrize(
    ("case", "subject", "told"),
    [
        (RED.id, "tests.subjects.wrong:raises", "ends as out-of-memory"),
        (replace(RED, norm_val=2.0).id, "tests.subjects.wrong:bare", "cannot run case"),
        (f"repeatability/{RED.id}", EXPOSED, "checks a relation, which has no oracle; trace the case ordinary:"),
        ("ordinary", EXPOSED, "case id 'ordinary' has 1 fields"),
        (RED.id, "kernels", "expected module:callable"),
    ],
)
def test_what_cannot_be_traced_is_2(case, subject, told, monkeypatch, capsys):
    code, out, err = command(monkeypatch, capsys, "--case", case, "--subject", subject)
    assert code == 2
    assert told in err
    assert "Traceback" not in err
    assert out == ""


def test_stages_that_do_not_fit_are_refused(of_oracle):
    reference, frames = of_oracle
    for returned in ([], {"error": "TypeError: none"}, {"arrays": {"odd": np.zeros(1)}, "chunk_size": 8}):
        with pytest.raises(UsageError, match="the stages of subject 'x'"):
            Stages.of("x", returned)
    with pytest.raises(UsageError, match="stage beta has shape"):
        judge_stages(Stages({"beta": np.zeros((1, 2, 3))}, 8, 8, {}), reference, frames)


def test_too_many_states_are_refused_before_anything_is_computed():
    case = Case(length=2**17, dhqk=512, dhhv=512)
    with pytest.raises(UsageError, match="shrink it"):
        task_of(case, None, 64, 64)
