"""Some rows are those of the full result, bit for bit, and take no memory that grows with the sequence."""

import functools
import tracemalloc

import numpy as np
import pytest

import oracles._recurrence
from oracles import Contract, Cotangents, Float64, chunkwise, chunkwise_vjp, recurrent, recurrent_vjp
from oracles._recurrence import Recurrence
from tests.oracles.drawing import STATES, draw, draw_cotangents

FORWARD = {"recurrent": recurrent, "chunkwise": functools.partial(chunkwise, chunk_size=4)}
BACKWARD = {"recurrent_vjp": recurrent_vjp, "chunkwise_vjp": functools.partial(chunkwise_vjp, chunk_size=4)}
FORMS = FORWARD | BACKWARD
# Within a chunk, at its ends, chunks without one; the last may be short.
ROWS = ([0], [12], [3, 4], [1, 2, 9], [0, 5, 11, 12], list(range(13)))
# The empty state, d_t = 0, makes 0 * inf, which is replaced by 0.
THROWN_AWAY = "ignore:invalid value encountered in multiply:RuntimeWarning"

each_form = pytest.mark.parametrize("name", FORMS)


def arguments_of(name, inputs):
    return (draw_cotangents(inputs),) if name in BACKWARD else ()


@pytest.mark.filterwarnings(THROWN_AWAY)
@each_form
@pytest.mark.parametrize("state", STATES)
def test_rows_are_those_of_the_full_result(name, state):
    inputs = draw("both", state, length=13)
    arguments = Float64(), inputs, Contract(), *arguments_of(name, inputs)
    full = FORMS[name](*arguments)
    for rows in (*ROWS, np.array([2, 7])):
        for (field, value), (_, whole) in zip(FORMS[name](*arguments, rows=rows).items(), full.items(), strict=True):
            by_token = {"h": -2, "n": -1, "m": -1, "dq": -2, "dk": -2, "dv": -2, "di": -1, "df": -1}
            wanted = np.take(whole, rows, axis=by_token[field]) if field in by_token else whole
            np.testing.assert_array_equal(value, wanted, err_msg=f"{field} at {rows}")


@each_form
@pytest.mark.parametrize("rows", [[], np.array([], int), [3, 2], [2, 2], [-1], [0, 9], [0.5], [[1]], ["1"]])
def test_other_rows_are_refused(name, rows):
    inputs = draw()
    with pytest.raises(ValueError, match=r"rows is .*; expected .*token indices"):
        FORMS[name](Float64(), inputs, Contract(), *arguments_of(name, inputs), rows=rows)


class Copying(Float64):
    """Its numbers take memory of their own, as those of other arithmetics do."""

    def array(self, values):
        return np.array(values, np.float64)


# Bytes of what one token reads, NumPy's objects included: 35 numbers in three arrays.
READ = 800


def peak(name, length):
    """Bytes, beside the inputs, that it takes at most for three rows of a sequence."""
    inputs = draw(length=length, dhqk=32, dhhv=32, lead=())
    arguments = (Cotangents(h=inputs.v),) if name in BACKWARD else ()
    tracemalloc.start()
    try:
        FORMS[name](Copying(), inputs, Contract(), *arguments, rows=[0, length // 2, length - 1])
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@each_form
def test_memory_does_not_grow_with_the_sequence(name, monkeypatch):
    # Only the states that a VJP keeps do, as the root of the length, and what the tokens read that it goes back over.
    monkeypatch.setattr(oracles._recurrence, "KEPT", 0)
    short, long = peak(name, 128), peak(name, 2048)
    growth = 4.0 if name in BACKWARD else 1.2
    assert long < growth * short + (2048 * READ if name == "recurrent_vjp" else 0)
    assert short < 1_000_000


@pytest.mark.parametrize("kept", [0, 10_000])
def test_of_states_that_may_be_kept_none_is_made_twice(kept, monkeypatch):
    made, advance = [], Recurrence.advance

    def counted(self, before, t):
        made.append(t)
        return advance(self, before, t)

    monkeypatch.setattr(oracles._recurrence, "KEPT", kept)
    monkeypatch.setattr(Recurrence, "advance", counted)
    inputs = draw(length=17)
    recurrent_vjp(Float64(), inputs, Contract(), draw_cotangents(inputs))
    assert (sorted(made) == list(range(17))) is bool(kept)
