"""Every outcome is reached, for the reason it names."""

from dataclasses import replace

import numpy as np
import pytest

import verify
from verify import (
    Case,
    Outcome,
    Subject,
    SuiteError,
    UsageError,
    compute_reference,
    judge,
    load_subject,
    measure,
    run_case,
)
from verify._cache import ReferenceCache
from verify._calibration import limit, thresholds
from verify._runner import run_cases
from verify._verdict import finding

CASE = Case(length=20, dhqk=8, dhhv=4, chunk_size=16)
GRADIENTS = replace(CASE, cotangents="all")
LARGER = Case(length=20, dhqk=16, dhhv=16, chunk_size=16, initial="warm@1", cotangents="all")
WITH_STATE = replace(GRADIENTS, initial="warm@1", dtype="bfloat16")


@pytest.mark.parametrize(
    ("name", "case", "outcome", "reason"),
    [
        ("correct:mlstm", CASE, Outcome.PASS, "times the bound"),
        ("correct:mlstm", Case(length=20, dhqk=8, dhhv=4, dtype="bfloat16", initial="warm@3"), Outcome.PASS, "bound"),
        ("wrong:bare", CASE, Outcome.PASS, "bound"),
        (
            "wrong:ignores_exp_m",
            Case(regime="init", length=20, dhqk=8, dhhv=4),
            Outcome.INACCURATE,
            r"^h\[0, 0, \d+, \d+\] is",
        ),
        (
            "wrong:nan_at_the_end",
            CASE,
            Outcome.NONFINITE,
            r"^1 .* of h are not finite \(1 nan\); h\[0, 0, 19, 0\] is nan",
        ),
        ("wrong:float64_result", CASE, Outcome.WRONG_DTYPE, "^h is float64; expected float32"),
        ("wrong:one_token_less", CASE, Outcome.WRONG_SHAPE, r"^h has shape \(1, 1, 19, 4\); expected \(1, 1, 20, 4\)"),
        ("wrong:raises", CASE, Outcome.OUT_OF_MEMORY, r"^MemoryError: no \[bold\] room for x"),
        ("wrong:returns_nothing", CASE, Outcome.CRASH, "^TypeError: returned None as h; expected an array of numbers"),
        (
            "wrong:returns_nothing",
            replace(CASE, cotangents="h"),
            Outcome.CRASH,
            "TypeError: returned None as h; expected an array",
        ),
        ("wrong:returns_text", CASE, Outcome.CRASH, "^TypeError: returned a str as h; expected an array of numbers"),
        ("wrong:returns_no_state", CASE, Outcome.CRASH, "returned None for return_last_states; expected a tuple of C_"),
        ("wrong:returns_half_a_state", CASE, Outcome.CRASH, "returned a tuple of 2 for return_last_states; expected"),
        ("wrong:loses_the_last_state", CASE, Outcome.CRASH, "expected h and one part for each of return_last_states"),
        ("wrong:bare", Case(norm_val=2.0), Outcome.UNSUPPORTED, "^its signature has no norm_val, .* norm_val=2.0"),
        ("wrong:bare", Case(eps=0.0), Outcome.UNSUPPORTED, "has no eps"),
        ("wrong:bare", Case(stabilize_correctly=False), Outcome.UNSUPPORTED, "has no stabilize_correctly"),
        ("wrong:bare", Case(initial="warm@1"), Outcome.UNSUPPORTED, "has no c_initial, n_initial, m_initial"),
        ("correct:mlstm", GRADIENTS, Outcome.PASS, "times the bound"),
        ("correct:mlstm", WITH_STATE, Outcome.PASS, "times the bound"),
        ("wrong:bare", GRADIENTS, Outcome.UNSUPPORTED, "has no return_last_states, and the case differentiates"),
        ("wrong:shifts_df", GRADIENTS, Outcome.INACCURATE, r"^df\[0, 0, \d+\] is"),
        (
            "wrong:nan_in_dk",
            GRADIENTS,
            Outcome.NONFINITE,
            r"^1 .* of dk are not finite \(1 nan\); dk\[0, 0, 3, 1\] is nan",
        ),
        ("wrong:float32_dq", WITH_STATE, Outcome.WRONG_DTYPE, "^dq is float32; expected bfloat16"),
        ("wrong:one_token_less_of_dv", GRADIENTS, Outcome.CRASH, r"^the VJP \(--no-gradients leaves it out\) raised"),
        ("wrong:ignores_dC_last", GRADIENTS, Outcome.INACCURATE, r"^d[kvif]"),
        ("wrong:ignores_dC_last", replace(GRADIENTS, cotangents="h"), Outcome.PASS, "times the bound"),
        (
            "wrong:not_differentiable",
            GRADIENTS,
            Outcome.CRASH,
            r"^the VJP \(--no-gradients leaves it out\) raised TracerArrayConversionError",
        ),
        ("wrong:not_differentiable", CASE, Outcome.PASS, "times the bound"),
        # The wrong shape of an output is told as such, though its cotangent does not fit.
        ("wrong:one_token_less", replace(CASE, cotangents="h"), Outcome.WRONG_SHAPE, "^h has shape"),
        (
            "wrong:detached",
            LARGER,
            Outcome.INACCURATE,
            r"; the gradients are those with the normalizer held constant",
        ),
        (
            "wrong:detached_with_another_df",
            LARGER,
            Outcome.INACCURATE,
            r"; with the normalizer held constant \(detached\): (d\w+, )*dq(, d\w+)*; neither: df$",
        ),
    ],
)
def test_outcome(name, case, outcome, reason):
    import re

    verdict = run_case(case, load_subject(f"tests.subjects.{name}")).verdict
    assert verdict.outcome is outcome, verdict.reason
    assert re.search(reason, verdict.reason), verdict.reason
    assert len(verdict.reason) < 3000


def test_every_outcome_has_a_sentence():
    assert all(outcome.sentence.endswith(".") for outcome in Outcome)
    assert {outcome for outcome in Outcome if not outcome.failed} == {
        Outcome.PASS,
        Outcome.UNSUPPORTED,
        Outcome.REFERENCE_UNCERTAIN,
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_colon", r"subject is 'no_colon'; expected module:callable"),
        (":f", "expected module:callable"),
        ("no.such.module:f", r"'no.such.module:f' cannot be imported: ModuleNotFoundError"),
        ("tests.subjects.wrong:nothing", "cannot be imported: AttributeError"),
        ("tests.subjects.wrong:not_callable", "is a int; expected a callable"),
        ("tests.subjects.wrong:no_q", "has no parameter q; expected the seed's"),
    ],
)
def test_subject_that_cannot_be(name, message):
    with pytest.raises(UsageError, match=message):
        load_subject(name)


def test_keywords_reach_a_subject_by_its_signature_only():
    seen = {}

    def subject(q, k, v, i, f, *, eps, chunk_size):
        seen.update(eps=eps, chunk_size=chunk_size)
        return np.asarray(v)

    run_case(
        Case(eps=0.25, length=5, dhqk=4, dhhv=4), Subject("s", subject, frozenset({*"qkvif", "eps", "chunk_size"}))
    )
    assert seen == {"eps": 0.25, "chunk_size": 64}


@pytest.mark.parametrize("jobs", [0, 2])
def test_each_case_is_announced_and_finished_in_order(jobs, tmp_path):
    cases = [Case(length=length, dhqk=4, dhhv=4, norm_val=norm_val) for length in (1, 5, 9) for norm_val in (1.0, 2.0)]
    seen = list(run_cases(cases, load_subject("tests.subjects.wrong:bare"), jobs, ReferenceCache(tmp_path), print))
    assert [case for case, _ in seen] == [case for case in cases for _ in range(2)]
    outcomes = [result.verdict.outcome for _, result in seen if result is not None]
    assert outcomes == [Outcome.PASS, Outcome.UNSUPPORTED] * 3


@pytest.mark.parametrize("jobs", [0, 1])
def test_a_reference_that_fails_is_the_suites_own_failure(jobs, monkeypatch, tmp_path):
    monkeypatch.setattr("verify._runner.ReferenceCache.fetch", len)  # fails on a cache, and can be pickled
    with pytest.raises(SuiteError, match=r"the reference of case ordinary:.* failed: TypeError"):
        list(
            run_cases([CASE, CASE], load_subject("tests.subjects.correct:mlstm"), jobs, ReferenceCache(tmp_path), print)
        )


def test_public_names():
    assert sorted(verify.__all__) == verify.__all__
    assert all(hasattr(verify, name) for name in verify.__all__)


def test_only_a_detached_gradient_is_called_detached():
    for name in ("shifts_df", "ignores_dC_last"):
        assert "detached" not in run_case(GRADIENTS, load_subject(f"tests.subjects.wrong:{name}")).verdict.reason


def test_gradients_that_do_not_tell_exact_from_detached_pass():
    # h is 0 to float32 here, and so is all that passes through its denominator.
    case = replace(LARGER, regime="input_gates@-100", initial="none", cotangents="h")
    assert run_case(case, load_subject("tests.subjects.wrong:detached")).verdict.outcome is Outcome.PASS


def test_gradients_have_the_shapes_and_dtypes_of_the_inputs():
    case = replace(WITH_STATE, dtype="float16")
    reference = compute_reference(case)

    def judged(**changes):
        dtypes = dict.fromkeys(("h", "dq", "dk", "dv", "di"), np.float16)
        outputs = {n: np.asarray(x, dtypes.get(n, np.float32)) for n, x in reference.values.items()}
        return judge(case, outputs | {name: change(outputs[name]) for name, change in changes.items()}, reference)

    assert judged().outcome is Outcome.PASS
    for name in ("dq", "dk", "dv", "di", "df", "dC_0", "dn_0", "dm_0"):
        assert judged(**{name: lambda x: x.astype(np.float64)}).outcome is Outcome.WRONG_DTYPE
        assert judged(**{name: lambda x: x[:, :0]}).outcome is Outcome.WRONG_SHAPE
        assert judged(**{name: lambda x: x * np.nan}).outcome is Outcome.NONFINITE
        assert judged(**{name: lambda x: -x}).outcome is Outcome.INACCURATE, name


def test_a_subject_without_a_last_state_is_asked_for_the_gradient_of_h():
    bare, whole = (load_subject(f"tests.subjects.{name}") for name in ("wrong:bare", "correct:mlstm"))
    assert bare.adapt(GRADIENTS) == replace(GRADIENTS, cotangents="h")
    assert whole.adapt(GRADIENTS) == GRADIENTS
    for cotangents in ("none", "h", "last"):
        case = replace(GRADIENTS, cotangents=cotangents)
        assert bare.adapt(case) == case


@pytest.mark.parametrize(("far", "seen"), [(1, False), (6, True)])
def test_one_far_number_of_six_is_no_error_of_all(far, seen):
    # q.n of 128 products, one head of which cancels; XLA adds them in a row.
    case = Case(regime="soft_capped@15", batch=2, heads=3, length=1, dhqk=128, dhhv=32, norm_val=0.0, initial="warm@2")
    reference = compute_reference(case)
    wanted, noise = (kind["n"].ravel() for kind in (reference.values, reference.noise))
    z = np.where(np.arange(6) < far, 0.9 * limit("largest_z", "n", 6), 0.0)
    (measured,) = measure({"n": (wanted + z * noise).reshape(2, 3, 1).astype(np.float32)}, reference)
    assert measured.counted == 6
    assert measured.rms_z > thresholds()["rms_z"]["n"].threshold
    assert measured.largest_z < limit("largest_z", "n", 6)
    assert (measured.rms_z > limit("rms_z", "n", 6)) is seen
    found = finding([replace(measured, ratio=0.0)])
    assert (found.excess > 1.0) is seen
    assert found.excess == pytest.approx(max(measured.rms_z / limit("rms_z", "n", 6), 0.9), rel=0.01)
