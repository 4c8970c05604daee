"""Relations hold for correct subjects, and each fails for a subject that was made to break it."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.subjects.float32 import recurrence
from verify import Case, Outcome, UsageError, load_subject, run_case
from verify._case import COTANGENTS, DTYPES
from verify._problem import NUMPY_DTYPES, make_problem
from verify._regimes import regime_tokens
from verify._relation_cases import RelationCase, parse_case, relation_cases
from verify._relations import RELATIONS, _on_grid
from verify._run import result_record
from verify._scatter import FLOAT32_TINY, Given, exactly, nudge, on_scale, scale_of
from verify._subject import make_subject
from verify._tiers import TIERS
from verify.cli._selection import select_cases

SMALL = Case(length=20, dhqk=16, dhhv=16, chunk_size=16)
WARM = dataclasses.replace(SMALL, initial="warm@2")
SMOKE = list(relation_cases("smoke"))
RECURRENCE, EXACT, JAX = (
    load_subject(name)
    for name in ("tests.subjects.float32:recurrence", "tests.subjects.correct:mlstm", "kernels:mlstm_chunkwise_xla")
)


def on(relation, case=SMALL, **changes):
    return RelationCase.on(relation, dataclasses.replace(case, **changes))


@pytest.mark.parametrize("case", SMOKE, ids=lambda case: case.id)
def test_smoke_tier_holds(case):
    verdict = run_case(case, RECURRENCE).verdict
    assert verdict.outcome is Outcome.PASS, verdict.reason


@pytest.mark.parametrize("relation", RELATIONS)
def test_holds_in_jax(relation):
    # XLA compiles for every shape: one case.
    case = next(case for case in SMOKE if case.relation == relation)
    verdict = run_case(case, JAX).verdict
    assert verdict.outcome is Outcome.PASS, verdict.reason


@st.composite
def bases(draw, relation):
    case = Case(
        regime=draw(st.sampled_from(regime_tokens())),
        batch=2,
        heads=2,
        length=draw(st.integers(2, 12)),
        dhqk=4,
        dhhv=5,
        chunk_size=draw(st.sampled_from((4, 16))),
        dtype=draw(st.sampled_from(DTYPES[:1] if relation == "scaling_of_v" else DTYPES)),
        stabilize_correctly=draw(st.booleans()),
        initial=draw(st.sampled_from(("none", "warm@2", "warm@-50", "warm@50"))),
        cotangents=draw(st.sampled_from(("none", "all"))),
        seed=draw(st.integers(0, 1000)),
    )
    if relation == "gradient_causality":
        return dataclasses.replace(case, cotangents="all")
    if relation in ("linearity_in_v", "scaling_of_v", "nan_causality"):
        return dataclasses.replace(case, cotangents="none")
    if relation == "input_gate_shift":
        return dataclasses.replace(case, eps=0.0, norm_val=0.0, initial="warm@2")
    return case


@pytest.mark.parametrize("relation", RELATIONS)
def test_holds_in_every_regime(relation):
    @settings(derandomize=True, max_examples=6)
    @given(bases(relation))
    def holds(base):
        case = RelationCase.on(relation, base)
        subject = RECURRENCE if case.dtype == "float32" else EXACT
        verdict = run_case(case, subject).verdict
        assert verdict.outcome is Outcome.PASS, f"{case.id}: {verdict.reason}"

    holds()


BROKEN = [
    ("looks_ahead", on("prefix_causality"), "h"),
    ("mixes_the_future", on("nan_causality"), "h"),
    ("gradient_of_the_token_before", on("gradient_causality", cotangents="h"), "dk"),
    ("mixes_batch", on("batch_permutation", batch=2), "h"),
    ("mixes_heads", on("head_permutation", heads=2), "h"),
    ("mixes_heads", on("nan_in_one_head", heads=2), "h"),
    ("masked_product_over_heads", on("nan_in_one_head", heads=3), "h"),
    ("counts_its_calls", on("repeatability"), "h"),
    ("counts_its_calls_in_one_array", on("repeatability"), "h"),
    ("forgets_in_padding", on("padding"), "m_last"),
    ("writes_in_padding", on("padding"), "m_last"),
    ("drops_m_0", on("two_pieces"), "h"),
    ("forgets_h_without_last_states", on("without_last_states"), "h"),
    ("forgets_h_without_last_states", on("without_last_states", cotangents="all"), ""),
    ("wrong_at_edges", on("chunk_size"), "h"),
    ("wrong_at_edges", on("two_pieces", chunk_size=4), "h"),
    ("clips_v", on("linearity_in_v", initial="none"), ""),
    ("clips_h", on("linearity_in_v"), "h"),
    ("clips_v", on("scaling_of_v"), ""),
    ("clips_i", on("input_gate_shift", WARM, regime="input_gates@20", eps=0.0, norm_val=0.0), ""),
]


@pytest.mark.parametrize(("subject", "case", "output"), BROKEN, ids=lambda x: getattr(x, "relation", x))
def test_is_broken_by(subject, case, output):
    verdict = run_case(case, load_subject(f"tests.subjects.unrelated:{subject}")).verdict
    assert verdict.outcome is RELATIONS[case.relation].outcome, verdict.reason
    assert verdict.outcome.failed
    assert verdict.reason.startswith(f"{case.relation}: {output}")


def test_every_relation_was_seen_to_break():
    assert {case.relation for _, case, _ in BROKEN} == set(RELATIONS)


def test_only_repeatability_is_called_nondeterministic():
    named = [name for name, relation in RELATIONS.items() if relation.outcome is Outcome.NONDETERMINISTIC]
    assert named == ["repeatability"]


@pytest.mark.parametrize(
    ("subject", "outcome", "told"),
    [
        ("unrelated:loses_a_token", Outcome.WRONG_SHAPE, "h has shape (1, 1, 19, 16); expected (1, 1, 20, 16)"),
        ("unrelated:nan_in_h", Outcome.NONFINITE, "20 elements of h are NaN"),
        ("wrong:raises", Outcome.OUT_OF_MEMORY, "MemoryError"),
    ],
)
def test_what_cannot_be_compared_has_its_own_outcome(subject, outcome, told):
    verdict = run_case(on("repeatability"), load_subject(f"tests.subjects.{subject}")).verdict
    assert verdict.outcome is outcome
    assert told in verdict.reason


@pytest.mark.parametrize("relation", ["repeatability", "gradient_causality", "padding", "two_pieces"])
def test_nan_in_every_gradient_is_not_taken_for_equal(relation):
    subject = load_subject("tests.subjects.unrelated:nan_in_every_gradient")
    verdict = run_case(on(relation, WARM, cotangents="all"), subject).verdict
    assert verdict.outcome is Outcome.NONFINITE, verdict.reason


def test_nan_for_nudged_inputs_does_not_widen_the_scale():
    given_ = make_problem(SMALL).arrays["q"]

    def subject(q, k, v, i, f, chunk_size=64):
        h = recurrence(q, k, v, i, f)
        return h * (chunk_size if (np.asarray(q) == given_).all() else np.nan)

    verdict = run_case(on("chunk_size"), make_subject("nan_for_nudged", subject)).verdict
    assert verdict.outcome is Outcome.NONFINITE, verdict.reason


def with_cotangents(relation, cotangents):
    base = dataclasses.replace(WARM, batch=2, heads=2, cotangents=cotangents)
    return dataclasses.replace(base, eps=0.0, norm_val=0.0) if relation == "input_gate_shift" else base


EVERY_CHOICE = [
    (relation, cotangents)
    for relation, cotangents in itertools.product(RELATIONS, COTANGENTS)
    if RELATIONS[relation].asks[0](with_cotangents(relation, cotangents))
]


@pytest.mark.parametrize(("relation", "cotangents"), EVERY_CHOICE)
def test_holds_for_every_choice_of_cotangents(relation, cotangents):
    base = with_cotangents(relation, cotangents)
    verdict = run_case(RelationCase.on(relation, base), RECURRENCE).verdict
    assert verdict.outcome is Outcome.PASS, verdict.reason


def test_a_part_beyond_float16_does_not_break_linearity():
    case = on("linearity_in_v", regime="cancellation@20", dtype="float16")
    verdict = run_case(case, load_subject("tests.subjects.float32:chunkwise")).verdict
    assert verdict.outcome is Outcome.PASS, verdict.reason


@pytest.mark.parametrize(
    "text",
    [
        # One of two is infinite, or both, with different signs.
        "padding/cancellation@8:B1-NH1-S40-QK16-HV16-L16:float16:correct:nv0.0:eps1e-06:none:vjp-h:seed515",
        "two_pieces/cancellation@8:B1-NH1-S40-QK16-HV16-L16:float16:correct:nv0.0:eps1e-06:warm@50:vjp-last:seed825",
        "chunk_size/cancellation@8:B1-NH1-S33-QK16-HV16-L16:float16:correct:nv0.0:eps1e-06:warm@-50:vjp-h:seed556",
        # df of 1e-37: every product may lose what is below the smallest normal number.
        "two_pieces/input_gates@-100:B1-NH1-S33-QK16-HV16-L16:float16:constant:nv0.0:eps1e-06:none:vjp-h:seed48",
        # di of the last token, alone in its block, cancels to 0 in all replicates.
        "two_pieces/alternating@20:B1-NH1-S33-QK16-HV16-L16:float32:constant:nv1.0:eps0.0:warm@-1000:vjp-h:seed633",
        # f = 0 is not nudged; the sum of 20 equal log forget gates rounds.
        "chunk_size/zeros:B1-NH1-S20-QK16-HV16-L16:float16:correct:nv0.0:eps1e-06:warm@2:vjp-last:seed933",
        "chunk_size/zeros:B1-NH1-S33-QK16-HV16-L16:float32:constant:nv0.0:eps1e-06:warm@2:vjp-last:seed516",
    ],
)
def test_what_rounding_decides_breaks_nothing(text):
    verdict = run_case(parse_case(text), load_subject("tests.subjects.float32:chunkwise")).verdict
    assert verdict.outcome is Outcome.PASS, verdict.reason


@pytest.mark.parametrize("value", [np.inf, 3e38])
def test_infinite_for_a_number_is_broken(value):
    def subject(q, k, v, i, f, chunk_size=64):
        h = np.array(recurrence(q, k, v, i, f))
        if chunk_size != SMALL.chunk_size:
            h[..., 0, 0] = value
        return h

    verdict = run_case(on("chunk_size"), make_subject("infinite", subject)).verdict
    assert verdict.outcome is Outcome.RELATION_BROKEN, verdict.reason


@pytest.mark.parametrize("relation", ["padding", "two_pieces", "without_last_states", "chunk_size"])
def test_undetermined_cases_are_refused(relation):
    for changes in (
        {"eps": 0.0, "norm_val": 0.0},
        {"eps": 0.0, "regime": "cancellation@8"},
        {"regime": "kink@1e-07", "cotangents": "h"},
    ):
        with pytest.raises(UsageError, match=r"expected a case with .*eps above 0, or norm_val but in cancellation"):
            on(relation, **changes)
    assert on(relation, regime="kink@1e-07")


@pytest.mark.parametrize(
    ("case", "told"),
    [
        (on("two_pieces"), "no c_initial, n_initial, m_initial, return_last_states, which relation two_pieces needs"),
        (on("chunk_size"), "no chunk_size, which relation chunk_size needs"),
        (on("input_gate_shift", WARM, eps=0.0, norm_val=0.0), "its signature has no eps"),
        (on("repeatability", WARM), "its signature has no c_initial"),
    ],
)
def test_what_the_signature_lacks_is_unsupported(case, told):
    verdict = run_case(case, load_subject("tests.subjects.wrong:bare")).verdict
    assert verdict.outcome is Outcome.UNSUPPORTED
    assert told in verdict.reason


def test_record_names_relation_place_and_size():
    result = run_case(on("chunk_size"), load_subject("tests.subjects.unrelated:wrong_at_edges"))
    record = result_record(result)
    assert record["case"] == f"chunk_size/{SMALL.id}"
    assert record["measurements"] == []
    assert "chunk_size: h[0, 0, 16, " in record["reason"]
    assert "RMS z" in record["reason"]
    assert (
        record["reason"]
        == result_record(run_case(result.case, load_subject("tests.subjects.unrelated:wrong_at_edges")))["reason"]
    )


@pytest.mark.parametrize("tier", [name for name, tier in TIERS.items() if not tier.endless])
def test_every_relation_is_in_the_tier_and_parses(tier):
    cases = [case for case in TIERS[tier].cases() if isinstance(case, RelationCase)]
    assert {case.relation for case in cases} == set(RELATIONS)
    assert [parse_case(case.id) for case in cases] == cases


def test_longer_tiers_reach_further():
    reached = [max(case.length for case in relation_cases(tier)) for tier in ("smoke", "standard", "full")]
    assert reached == [20, 8192, 131_072]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"halves/{SMALL.id}", "relation is 'halves'; expected one of prefix_causality"),
        (f"two_pieces/{SMALL.id}x", "seed is 'seed0x'"),
        (f"head_permutation/{SMALL.id}", "head_permutation is checked on ordinary:.*; expected .* at least 2 heads"),
        (f"gradient_causality/{SMALL.id}", "expected a case with 2 tokens and a cotangent of h"),
        (f"input_gate_shift/{SMALL.id}", "eps and norm_val 0, an initial state"),
        (f"two_pieces/padding/{SMALL.id}", "relation is 'two_pieces/padding'"),
    ],
)
def test_error_says_what_does_not_parse(text, told):
    with pytest.raises(UsageError, match=told):
        parse_case(text)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nudge_moves_by_one_unit_and_leaves_zero_and_infinity(dtype):
    rng = np.random.default_rng(0)
    array = np.asarray([0.0, 1.5, -3.0, np.inf, -np.inf, 100.0], NUMPY_DTYPES[dtype])
    moved = nudge(array, rng)
    assert moved.dtype == array.dtype
    assert list(moved == array) == [True, False, False, True, True, False]
    up, down = (np.nextafter(array, np.asarray(end, array.dtype)) for end in (np.inf, -np.inf))
    assert ((moved == up) | (moved == down) | (moved == array)).all()


def test_nudged_state_leaves_zero_by_the_smallest_normal_number():
    moved = nudge(np.zeros(5, np.float32), np.random.default_rng(0), least=FLOAT32_TINY)
    assert (abs(moved) == np.float32(FLOAT32_TINY)).all()
    assert moved.dtype == np.float32


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("regime", regime_tokens())
def test_grid_makes_the_shift_exact(regime, dtype):
    i = make_problem(dataclasses.replace(SMALL, regime=regime, dtype=dtype)).arrays["i"]
    for shift in (64.0, -64.0):
        near = _on_grid(i, shift)
        far = (near.astype(np.float64) + shift).astype(near.dtype)
        assert near.dtype == i.dtype
        assert (far.astype(np.float64) == near.astype(np.float64) + shift).all()


def test_exactly_is_total():
    wanted = {"n_last": np.asarray([[[np.nan, 0.0, np.inf, 1.0]]], np.float32)}
    assert [apart.differ for apart in exactly({"n_last": -0.0 + wanted["n_last"]}, wanted)] == [0]
    got = {"n_last": np.asarray([[[1.0, 0.0, -np.inf, np.nan]]], np.float32)}
    (apart,) = exactly(got, wanted)
    assert (apart.differ, apart.rms_z, apart.place) == (3, np.inf, (0, 0, 0))


def test_scale_counts_rounding_of_the_output_and_of_the_stabilizer():
    problem = make_problem(dataclasses.replace(SMALL, regime="input_gates@100"))
    given_ = Given(SMALL, problem.arrays, {})
    h = {"h": np.full((1, 1, 20, 16), 2.0, np.float32)}
    scale = scale_of(given_, h)
    largest = np.abs(problem.arrays["i"]).max()
    np.testing.assert_allclose(scale["h"], 2.0 * 2.0**-24 * np.hypot(1.0, largest))
    zero = scale_of(given_, {"m": np.zeros((1, 1, 20), np.float32)})["m"]
    np.testing.assert_allclose(zero, 2.0**-24 * largest)
    (apart,) = on_scale({"h": h["h"] * np.float32(1.001)}, h, scale)
    np.testing.assert_allclose(apart.rms_z, 0.002 / scale["h"][0, 0, 0], rtol=1e-4)


def test_scale_grows_with_the_roundings_of_the_state():
    case = dataclasses.replace(SMALL, length=200, chunk_size=32)
    given_ = Given(case, make_problem(case).arrays, {})
    base = {"h": np.zeros((1, 1, 200, 16), np.float32), "n_last": np.zeros((1, 1, 16), np.float32)}
    moved = {"h": np.ones((1, 1, 200)), "n_last": np.ones((1, 1))}
    scale = scale_of(given_, base, moved)
    np.testing.assert_allclose(scale["h"][0, 0, [0, 31, 47, 48, 199]], np.sqrt([1, 1, 2, 3, 12]))
    np.testing.assert_allclose(scale["n_last"], np.sqrt(12))
    m = {"m_last": np.full((1, 1), 1e6, np.float32)}
    np.testing.assert_allclose(scale_of(given_, m)["m_last"], 2.0**-24 * 1e6 * np.hypot(12, 1), rtol=1e-6)


def test_scale_of_float16_does_not_fall_below_its_smallest_unit():
    given_ = Given(SMALL, make_problem(SMALL).arrays, {})
    h = {"h": np.full((1, 1, 20, 16), 2.0**-24, np.float16)}
    scale = scale_of(given_, h)["h"]
    np.testing.assert_allclose(scale, 2.0**-25, rtol=1e-6)


def test_no_gradients_leaves_out_the_relation_of_gradients():
    gradients = on("gradient_causality", cotangents="all")
    assert select_cases("smoke", [gradients.id, SMALL.id], None, gradients=False) == [SMALL]
    with pytest.raises(UsageError, match="--no-gradients leaves none of 1 cases"):
        select_cases("smoke", [gradients.id], None, gradients=False)
