"""The question of a search: what parses, where it does not, and three-valued answers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verify import Case, Outcome, UsageError
from verify._bisection._predicate import DEFAULT, STATISTICS, Facts, Predicate
from verify._relation_cases import RelationCase

CASE = Case(cotangents="all", initial="warm@1")
RELATION = RelationCase.on("repeatability", CASE)


def facts(outcome="pass", excess=0.5, **measures):
    values = {output: dict.fromkeys(STATISTICS.values(), value) for output, value in measures.items()}
    return Facts(Outcome(outcome), values, excess)


@pytest.mark.parametrize(
    ("text", "given_facts", "answer"),
    [
        (DEFAULT, facts("pass"), False),
        (DEFAULT, facts("inaccurate"), True),
        (DEFAULT, facts("crash"), True),
        (DEFAULT, facts("unsupported"), None),
        (DEFAULT, facts("reference-uncertain"), None),
        ("outcome == unsupported", facts("unsupported"), True),
        ("outcome != unsupported", facts("unsupported"), False),
        ("outcome == crash", facts("reference-uncertain"), False),
        ("outcome == crash", facts("unsupported"), None),
        ("outcome == out-of-memory", facts("out-of-memory"), True),
        ("outcome == 'out-of-memory'", facts("out-of-memory"), True),
        ("outcome in (crash, out_of_memory)", facts("out-of-memory"), True),
        ("outcome not in (crash, timeout)", facts("inaccurate"), True),
        ("z(df) > 8", facts(df=9.0), True),
        ("z(df) > 8", facts(df=8.0), False),
        ("z(df) > 8", facts(df=math.inf), True),
        ("z(df) > 8", facts(df=math.nan), None),
        ("z(df) > 8", facts("crash"), None),
        ("8 < z(df)", facts(df=9.0), True),
        ("-1.5 < ratio(dC_0) <= 1e3", facts(dC_0=1000.0), True),
        ("not z(df) > 8", facts("crash"), None),
        ("outcome == crash or z(df) > 8", facts("crash"), True),
        ("outcome == crash and z(df) > 8", facts("crash"), None),
        ("outcome == pass and z(df) > 8", facts("crash"), False),
        ("rms_z(h) > rms_z(dq)", facts(h=2.0, dq=1.0), True),
        ("excess > 1", facts(excess=2.0), True),
    ],
)
def test_answers(text, given_facts, answer):
    assert Predicate(text, CASE)(given_facts) is answer


@pytest.mark.parametrize(
    ("text", "column", "told"),
    [
        ("", 1, "invalid syntax"),
        ("z(df) >", 8, "invalid syntax"),
        ("z(df) > 8; 1", 10, "invalid syntax"),
        ("z(df)", 1, "z(df) is no condition"),
        ("outcome == crash and z(dx) > 1", 22, "z(dx) is of no output of the case (h, C_last"),
        ("outcome == pass or f(df) > 1", 20, "f is no statistic (z, rms_z"),
        ("z(df) > big", 9, "big is neither a number nor one of"),
        ("z(df) > True", 9, "True is neither a number"),
        ("z(df) is 1", 1, "compares in a way that is unknown"),
        ("outcome > crash", 1, "an outcome is compared with =="),
        ("outcome == fail", 12, "fail is no outcome (crash, timeout"),
        ("1 < 2", 1, "1 < 2 is the same for every commit"),
        ("z(df) > 1 if 1 else 2", 1, "is no condition"),
        ("__import__('os').abort() > 1", 1, "is neither a number"),
        ("z(*df) > 1", 1, "is of no output"),
        ("z(df, output=1) > 1", 1, "is neither a number"),
        ("(" * 500 + "z(df) > 1" + ")" * 500, None, "too many nested parentheses"),
    ],
)
def test_what_does_not_parse_is_shown(text, column, told):
    with pytest.raises(UsageError, match="--until") as error:
        Predicate(text, CASE)
    message = str(error.value)
    assert told in message
    if column is not None:
        assert f"does not parse at column {column}: " in message
        assert message.endswith(f"\n    {text}\n    {' ' * (column - 1)}^")


def test_outputs_are_those_of_the_case():
    with pytest.raises(UsageError, match=r"z\(df\) is of no output of the case \(h, C_last, n_last, m_last, n, m\)"):
        Predicate("z(df) > 8", Case())
    with pytest.raises(UsageError, match="none, as it is a relation"):
        Predicate("z(h) > 8", RELATION)
    assert Predicate("outcome == nondeterministic", RELATION)(facts("nondeterministic")) is True


def test_what_is_shown_is_the_first_measure():
    shown = Predicate("outcome == crash or 8 < z(df) or ratio(h) > 1", CASE).shown
    assert (shown.name, shown.threshold, shown.value(facts(df=3.0))) == ("z(df)", 8.0, 3.0)
    shown = Predicate(DEFAULT, CASE).shown
    assert (shown.name, shown.threshold, shown.value(facts(excess=3.0))) == ("excess", 1.0, 3.0)


@given(st.text(alphabet="z(df) >8<=!outcemprashndi-_.,;:'\"\\\n1", max_size=30) | st.text(max_size=20))
def test_any_text_parses_or_is_an_error_of_use(text):
    try:
        answer = Predicate(text, CASE)(facts(df=1.0))
    except UsageError:
        return
    assert answer in (True, False, None)


_VALUES = {"z(h)": 1.0, "z(dq)": math.nan, "z(df)": 3.0}
_LEAVES = st.sampled_from([f"{name} {sign} 2" for name in _VALUES for sign in (">", "<=")])
_CONDITIONS = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        inner.map("(not {})".format),
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map("({0[0]} {0[1]} {0[2]})".format),
    ),
    max_leaves=6,
)


@given(_CONDITIONS)
def test_unknown_is_what_either_value_would_decide(text):
    known = facts(h=1.0, dq=math.nan, df=3.0)
    outcomes = {
        eval(text.replace("z(dq) > 2", str(value > 2)).replace("z(dq) <= 2", str(value <= 2)),
             {"z": lambda number: number, "h": 1.0, "df": 3.0})
        for value in (1.0, 3.0)
    }  # fmt: skip
    answer = Predicate(text, CASE)(known)
    # Kleene's rules may leave open what both values agree on, as in "x or not x"; they never contradict.
    assert answer is None or outcomes == {answer}
    assert len(outcomes) == 1 or answer is None
