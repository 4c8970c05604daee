"""The vector-Jacobian products: both forms against each other, difference quotients, jax.vjp and the bound.

``pytest -s`` prints the largest figure of every test at the end of the module.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import oracles._recurrent_vjp
from oracles import (
    Contract,
    Cotangents,
    Float64,
    Inputs,
    MPMath,
    Precision,
    RunningError,
    parallel_vjp,
    recurrent,
    recurrent_vjp,
)
from tests.oracles.drawing import CONTRACTS, GATES, STATES, draw, draw_cotangents

DIGITS = 50
NEAR = 10.0 ** (10 - DIGITS)
MP = MPMath(DIGITS)
FINE = MPMath(60)
FORMS = (recurrent_vjp, parallel_vjp)
# Tensors of one kind: what is small beside the others of its kind is rounding.
FAMILIES = (("dq", "dk", "dv"), ("di", "df", "dm_0"), ("dC_0", "dn_0"))
GATE_GRADIENTS = FAMILIES[1]
# The empty state, d_t = 0, makes 0 * inf, which is replaced by 0.
THROWN_AWAY = "ignore:invalid value encountered in multiply:RuntimeWarning"

normalizer_grads = pytest.mark.parametrize("normalizer_grad", ["exact", "detached"])
modes = pytest.mark.parametrize("correct", [True, False])
each_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)


@pytest.fixture(scope="module")
def record():
    """Keeps the largest figure of each label, and prints them at the end."""
    largest = {}

    def keep(label, figure):
        largest[label] = max(largest.get(label, 0.0), float(figure))

    yield keep
    for label, figure in largest.items():
        print(f"\n{label}: {figure:.2g}", end="")
    print()


def greatest(array):
    return max((abs(x) for x in np.asarray(array, object).ravel()), default=0)


def deviation(got, wanted, negligible=NEAR, leave_out=()):
    """The largest of max |x - r| / max |r| over the tensors; inf for a number that is not finite.

    A tensor below ``negligible`` of its family is measured on the scale of the family.
    """
    got, wanted = (
        {name: value for name, value in gradients.items() if name not in leave_out} for gradients in (got, wanted)
    )
    assert got.keys() == wanted.keys()
    figures = [0.0]
    for family in FAMILIES:
        names = [name for name in family if name in wanted]
        sizes = {name: greatest(wanted[name]) for name in names}
        common = max(sizes.values(), default=0)
        for name in names:
            both = [np.asarray(values[name], object).ravel() for values in (got, wanted)]
            if not all(mpmath.isfinite(x) for array in both for x in array):
                return float("inf")
            apart = greatest(both[0] - both[1])
            scale = sizes[name] if sizes[name] > negligible * common else common
            figures.append(float(apart / scale) if apart else 0.0)
    return max(figures)


@functools.cache
def small_case(gates, state, contract, normalizer_grad):
    """Inputs, cotangents and the recurrent gradients in mpmath, of a size that mpmath is quick at."""
    inputs = draw(gates, state, length=6, dhqk=2, dhhv=3, lead=(1,))
    cotangents = draw_cotangents(inputs)
    return inputs, cotangents, recurrent_vjp(MP, inputs, contract, cotangents, normalizer_grad)


@normalizer_grads
@pytest.mark.parametrize("contract", CONTRACTS, ids=str)
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("gates", GATES)
def test_forms_agree_to_within_ten_digits_of_the_precision(gates, state, contract, normalizer_grad, record):
    inputs, cotangents, wanted = small_case(gates, state, contract, normalizer_grad)
    got = parallel_vjp(MP, inputs, contract, cotangents, normalizer_grad)
    # Nothing in the state and nothing taken in: h_1 = 0 / 0 as a function of C_0 and n_0, which has no derivative.
    undefined = state == "empty" and gates in ("dead", "both") and contract.eps == contract.norm_val == 0.0
    figure = deviation(got, wanted, leave_out=("dC_0", "dn_0") if undefined else ())
    record(f"parallel against recurrent, {DIGITS} digits, {normalizer_grad}", figure)
    assert figure <= NEAR


# The reference overflows float64 where eps = 0 and an empty initial state has m_0 = 1000: dC_0 is then inf - inf.
@pytest.mark.filterwarnings("ignore:invalid value encountered in (add|matmul):RuntimeWarning", THROWN_AWAY)
@normalizer_grads
@pytest.mark.parametrize("contract", CONTRACTS, ids=str)
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("gates", GATES)
def test_float64_is_as_near_to_mpmath_as_float64_permits(gates, state, contract, normalizer_grad, record):
    # As for the forward pass: 2^-53 / 2^-24 of the bound of float32 bounds float64.
    inputs, cotangents, wanted = small_case(gates, state, contract, normalizer_grad)
    arithmetic = RunningError(Precision.of("float32"), inputs.sizes[0])
    bounds = dict(recurrent_vjp(arithmetic, inputs, contract, cotangents, normalizer_grad).items())
    for form in FORMS:
        for name, value in form(Float64(), inputs, contract, cotangents, normalizer_grad).items():
            exact = MP.to_float64(dict(wanted.items())[name])
            allowed = bounds[name].e * 2.0**-29
            assert not np.isnan(allowed).any(), name
            decided = np.isfinite(exact) & np.isfinite(allowed)
            apart = np.abs(value[decided] - exact[decided])
            ratio = np.max(np.divide(apart, allowed[decided]), initial=0.0, where=apart != 0.0)
            record(f"float64 {form.__name__}, error / bound", ratio)
            assert ratio <= 1.0, (form.__name__, name)
            # Only the gradients of a state that eps = 0 leaves without a denominator are beyond float64.
            if contract.eps or state != "empty":
                assert np.isfinite(exact).all(), name


def test_the_bound_leaves_nothing_open_outside_empty_states():
    # The test above skips infinite bounds.
    undecided = total = 0
    for gates in GATES:
        for state in ("none", "warm"):
            inputs, cotangents, _ = small_case(gates, state, CONTRACTS[0], "exact")
            arithmetic = RunningError(Precision.of("float32"), inputs.sizes[0])
            bounded = recurrent_vjp(arithmetic, inputs, CONTRACTS[0], cotangents)
            undecided += sum(int(np.isinf(number.e).sum()) for _, number in bounded.items())
            total += sum(number.x.size for _, number in bounded.items())
    assert undecided == 0 < total


# --- difference quotients ---

STEP = 1e-20
# (eps, norm_val): each value of one with each of the other.
CONSTANTS = tuple((eps, norm_val) for eps in (0.0, 1e-6, 1e-2) for norm_val in (1.0, 0.5, 10.0))
# One token each: no input, a reset, and both.
TOKENS = {"ordinary": {}, "reset": {"f": 1}, "dead": {"i": 1}, "both": {"i": 1, "f": 1}}
STARTS = {"none": None, "warm": None, "empty, m_0 = 2": 2.0, "empty, m_0 = -2": -2.0}


def tiny(tokens, start, seed):
    inputs = draw(state=start.split(",")[0], length=3, dhqk=2, dhhv=2, lead=(1,), seed=seed)
    inputs = dataclasses.replace(inputs, q=8 * inputs.q)  # so that |a_t| is above b_t and below it
    changes = {name: np.array(getattr(inputs, name)) for name in TOKENS[tokens]}
    for name, token in TOKENS[tokens].items():
        changes[name][:, token] = -np.inf
    if STARTS[start] is not None:
        changes["m_0"] = np.full(1, STARTS[start])
    return dataclasses.replace(inputs, **changes)


def neighbours(inputs):
    """The inputs 2 P times over, of which 2 j and 2 j + 1 have one number moved up and down; and which number."""
    present = {f.name: getattr(inputs, f.name) for f in dataclasses.fields(inputs)}
    present = {name: array for name, array in present.items() if array is not None}
    places = [
        (name, index)
        for name, array in present.items()
        for index in np.ndindex(array.shape[1:])
        if np.isfinite(array[0][index])
    ]
    arrays = {}
    for name, array in present.items():
        arrays[name] = np.repeat(FINE.array(array), 2 * len(places), axis=0)
        for number, (moved, index) in enumerate(places):
            if moved == name:
                arrays[name][2 * number, *index] += FINE.array(STEP)[()]
                arrays[name][2 * number + 1, *index] -= FINE.array(STEP)[()]
    return Inputs(**arrays), places


def difference_quotients(inputs, loss):
    """Gradients by central differences of ``loss``, 0 for what cannot be moved, an infinite gate."""
    moved, places = neighbours(inputs)
    losses = loss(moved)
    gradients = {
        f"d{f.name}": FINE.array(np.zeros(getattr(inputs, f.name).shape))
        for f in dataclasses.fields(inputs)
        if getattr(inputs, f.name) is not None
    }
    for (name, index), up, down in zip(places, losses[::2], losses[1::2], strict=True):
        gradients[f"d{name}"][0, *index] = (up - down) / (2 * FINE.array(STEP)[()])
    return gradients


def inner(x, y):
    """<x, y> for each head."""
    return np.sum((x * y).reshape(y.shape[0], -1), axis=1)


def exact_loss(contract, cotangents, inputs):
    outputs = recurrent(FINE, inputs, contract)
    return sum(
        inner(FINE.array(getattr(cotangents, name)), getattr(outputs, name))
        for name in ("h", "C_last", "n_last", "m_last")
    )


def detached_loss(contract, cotangents, frozen, inputs):
    """h_t = c C^_t^T q_t / (e^m_t d_t), C_S = e^-m_S C^_S, with d_t and m_t those of ``frozen``."""
    outputs = recurrent(FINE, frozen, contract)
    unit = 1 / FINE.rsqrt(1)
    exp = np.frompyfunc(lambda x: unit.context.exp(x), 1, 1)
    q, k, v, i, f = (FINE.array(getattr(inputs, name)) for name in "qkvif")
    C, n = 0 * unit, 0 * unit
    if inputs.C_0 is not None:
        C, n = exp(inputs.m_0)[:, None, None] * inputs.C_0, exp(inputs.m_0)[:, None] * inputs.n_0
    total = 0
    for t in range(q.shape[1]):
        keep, take = 1 / (1 + exp(-f[:, t])), exp(i[:, t])
        C = keep[:, None, None] * C + take[:, None, None] * k[:, t, :, None] * v[:, t, None, :]
        n = keep[:, None] * n + take[:, None] * k[:, t]
        if outputs.m[0, t] > -unit.context.inf:
            numerator = np.sum(q[:, t, :, None] * C, axis=1) * FINE.rsqrt(q.shape[-1])
            total = total + inner(FINE.array(cotangents.h[:, t]), numerator) * exp(-outputs.m[0, t]) / outputs.n[0, t]
    last = inner(FINE.array(cotangents.C_last), C) + inner(FINE.array(cotangents.n_last), n)
    return total + last * exp(-outputs.m[0, -1])


CASES = (
    ("ordinary", "warm", CONSTANTS),
    ("ordinary", "empty, m_0 = 2", CONSTANTS),
    ("ordinary", "empty, m_0 = -2", CONSTANTS),
    ("ordinary", "none", CONSTANTS[::4]),
    ("reset", "warm", CONSTANTS[::4]),
    ("dead", "warm", CONSTANTS[::4]),
    ("both", "warm", CONSTANTS[::4]),
    ("dead", "empty, m_0 = 2", CONSTANTS[::4]),
)


@normalizer_grads
@modes
@pytest.mark.parametrize(("tokens", "start", "constants"), CASES)
def test_gradients_are_the_limits_of_difference_quotients(tokens, start, constants, correct, normalizer_grad, record):
    for seed, (eps, norm_val) in enumerate(constants):
        inputs, contract = tiny(tokens, start, seed), Contract(eps, norm_val, correct)
        cotangents = draw_cotangents(inputs, seed)
        loss = functools.partial(exact_loss, contract, cotangents)
        if normalizer_grad == "detached":
            loss = functools.partial(detached_loss, contract, cotangents, inputs)
        wanted = difference_quotients(inputs, loss)
        for form in FORMS:
            got = form(FINE, inputs, contract, cotangents, normalizer_grad)
            # What is left: the square of the step and 60 digits over the step, 1e-40 each, times derivatives.
            figure = deviation(got, wanted, negligible=1e-15)
            record(f"{form.__name__} against difference quotients, {normalizer_grad}", figure)
            assert figure <= 1e-30, (form.__name__, contract)
            for name, token in TOKENS[tokens].items():
                assert dict(got.items())[f"d{name}"][0, token] == 0


@modes
def test_the_difference_quotients_see_every_branch(correct):
    seen = set()
    for tokens, start, constants in CASES:
        for seed, (eps, norm_val) in enumerate(constants):
            inputs, contract = tiny(tokens, start, seed), Contract(eps, norm_val, correct)
            outputs = recurrent(Float64(), inputs, contract)
            occupied = np.isfinite(outputs.m)
            b = norm_val * np.exp(-outputs.m) if correct else norm_val
            largest_is_b = outputs.n <= (b + eps) * (1 + 1e-12)
            from_before = outputs.m > inputs.i
            seen |= set(zip(largest_is_b[occupied].tolist(), from_before[occupied].tolist(), strict=True))
    assert len(seen) == 4


# --- jax.vjp ---


def jax_recurrence(correct, exact, eps, q, k, v, i, f, C_0, n_0, m_0):
    """The definition, token after token, of one head; h and the last state."""
    hold = (lambda x: x) if exact else jax.lax.stop_gradient

    def step(state, token):
        C, n, before = state
        q, k, v, i, f = token
        phi = jax.nn.log_sigmoid(f)
        m = hold(jnp.maximum(phi + before, i))
        forget, take_in = jnp.exp(phi + before - m), jnp.exp(i - m)
        C, n = forget * C + take_in * jnp.outer(k, v), forget * n + take_in * k
        b = jnp.exp(-m) if correct else 1.0
        c = q.shape[-1] ** -0.5
        d = hold(jnp.maximum(jnp.abs(c * q @ n), b) + eps)
        return (C, n, m), c * q @ C / d

    (C, n, m), h = jax.lax.scan(step, (C_0, n_0, m_0), (q, k, v, i, f))
    return h, C, n, m


@normalizer_grads
@modes
def test_float64_agrees_with_automatic_differentiation(correct, normalizer_grad, record):
    def pull_back(eps, arguments, cotangents):
        function = functools.partial(jax_recurrence, correct, normalizer_grad == "exact", eps)
        return jax.vjp(jax.vmap(function), *arguments)[1](cotangents)

    pull_back = jax.jit(pull_back)
    with jax.enable_x64(True):
        for state, eps in itertools.product(STATES, (1e-6, 1e-2)):
            contract = Contract(eps=eps, stabilize_correctly=correct)
            inputs = draw(state=state, length=24, dhqk=8, dhhv=8)
            if state == "empty":
                inputs = dataclasses.replace(inputs, m_0=np.array([2.0, -2.0]))
            cotangents = draw_cotangents(inputs)
            given = [np.asarray(getattr(inputs, name)) for name in "qkvif"]
            matrix, m_0 = inputs.initial_state()
            given += [matrix[..., :-1], matrix[..., -1], m_0]
            by_jax = pull_back(eps, given, tuple(getattr(cotangents, f.name) for f in dataclasses.fields(cotangents)))
            names = [f"d{f.name}" for f in dataclasses.fields(inputs)]
            wanted = {name: np.asarray(array) for name, array in zip(names, by_jax, strict=True)}
            assert all(array.dtype == np.float64 for array in wanted.values())

            h = recurrent(Float64(), inputs, contract).h
            got = dict(recurrent_vjp(Float64(), inputs, contract, cotangents, normalizer_grad).items())
            # Gradients of gates are sums of dh.h and the like that may cancel: one scale for all of them.
            common = max(
                np.max(np.abs(np.sum(cotangents.h * h, -1))), *(np.max(np.abs(wanted[n])) for n in GATE_GRADIENTS)
            )
            for name, value in got.items():
                scale = common if name in GATE_GRADIENTS else np.max(np.abs(wanted[name]))
                figure = np.max(np.abs(value - wanted[name])) / scale
                record(f"float64 recurrent_vjp against jax.vjp, {normalizer_grad}", figure)
                # A few roundings of 2^-53 for each of 24 tokens make 1e-14; the rest is for what cancels in q.n.
                assert figure <= 1e-12, (state, name)


# --- chains of segments, kept states ---


def cut(inputs, start, stop, state=None):
    """Tokens start..stop - 1, entered with ``state`` or, if None, with that of the inputs."""
    tokens = {name: getattr(inputs, name)[:, start:stop] for name in "qkvif"}
    return dataclasses.replace(inputs, **tokens, **(state or {}))


@normalizer_grads
@modes
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("gates", GATES)
def test_segments_chain(gates, state, correct, normalizer_grad, record):
    contract = Contract(stabilize_correctly=correct)
    for length in (2, 3, 4, 5, 16) if gates == "ordinary" else (2, 5):
        middle = (length + 1) // 2
        inputs = draw(gates, state, length=length, dhqk=2, dhhv=2, lead=(1,))
        cotangents = draw_cotangents(inputs)
        first = cut(inputs, 0, middle)
        passed = recurrent(MP, first, contract)
        handed_on = {f"{name}_0": getattr(passed, f"{name}_last") for name in ("C", "n", "m")}
        second = cut(inputs, middle, length, handed_on)
        late = recurrent_vjp(
            MP, second, contract, dataclasses.replace(cotangents, h=cotangents.h[:, middle:]), normalizer_grad
        )
        early = recurrent_vjp(
            MP, first, contract, Cotangents(cotangents.h[:, :middle], late.C_0, late.n_0, late.m_0), normalizer_grad
        )
        joined = {f"d{n}": np.concatenate([getattr(early, n), getattr(late, n)], axis=1) for n in "qkvif"}
        joined |= {f"d{n}": getattr(early, n) for n in ("C_0", "n_0", "m_0") if inputs.C_0 is not None}
        whole = recurrent_vjp(MP, inputs, contract, cotangents, normalizer_grad)
        figure = deviation(joined, whole)
        record(f"two segments against the whole, {normalizer_grad}", figure)
        assert figure <= NEAR, length


@pytest.mark.filterwarnings(THROWN_AWAY)
@normalizer_grads
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 16, 17])
def test_which_states_are_kept_changes_no_bit(length, normalizer_grad, monkeypatch):
    for gates, state in (("ordinary", "none"), ("both", "warm"), ("reset", "empty")):
        inputs = draw(gates, state, length=length)
        arguments = Float64(), inputs, Contract(), draw_cotangents(inputs), normalizer_grad
        plain = recurrent_vjp(*arguments)
        for stride in {1, 2, 3, length, length + 1}:
            with monkeypatch.context() as patch:
                patch.setattr(oracles._recurrent_vjp, "isqrt", lambda _, stride=stride: stride - 1)
                for (name, value), (_, other) in zip(plain.items(), recurrent_vjp(*arguments).items(), strict=True):
                    np.testing.assert_array_equal(value, other, err_msg=name)


# --- what each part is good for ---


@each_form
@normalizer_grads
def test_the_last_state_alone_has_gradients(form, normalizer_grad):
    inputs = draw(state="warm")
    cotangents = dataclasses.replace(draw_cotangents(inputs), h=None)
    got = form(Float64(), inputs, Contract(), cotangents, normalizer_grad)
    assert not got.q.any()
    for name, value in got.items():
        assert name == "dq" or np.max(np.abs(value)) > 1e-3, name


@each_form
@normalizer_grads
def test_an_absent_cotangent_is_zero(form, normalizer_grad):
    inputs = draw(state="warm")
    zeros = draw_cotangents(inputs)
    for field in dataclasses.fields(zeros):
        zeros = dataclasses.replace(zeros, **{field.name: np.zeros(getattr(zeros, field.name).shape)})
    for name, value in form(Float64(), inputs, Contract(), Cotangents(), normalizer_grad).items():
        assert not value.any(), name
        wanted = getattr(form(Float64(), inputs, Contract(), zeros, normalizer_grad), name[1:])
        np.testing.assert_array_equal(value, wanted)


@each_form
@pytest.mark.parametrize(("normalizer_grad", "reached"), [("exact", {"di", "df", "dm_0"}), ("detached", set())])
def test_the_last_m_reaches_gates_only_and_only_if_exact(form, normalizer_grad, reached):
    inputs = draw(state="warm", seed=1)
    cotangents = dataclasses.replace(draw_cotangents(inputs), h=None, C_last=None, n_last=None)
    gradients = form(MP, inputs, Contract(), cotangents, normalizer_grad).items()
    assert {name for name, value in gradients if greatest(value) > 0} <= reached
    assert bool(reached) == any(greatest(value) > 0 for _, value in gradients)


@each_form
@modes
def test_detached_is_another_gradient(form, correct):
    inputs = draw(state="warm", length=24, dhqk=8, dhhv=8)
    arguments = Float64(), inputs, Contract(stabilize_correctly=correct), draw_cotangents(inputs)
    exact, detached = (dict(form(*arguments, name).items()) for name in ("exact", "detached"))
    for name, value in exact.items():
        apart = np.linalg.norm(value - detached[name]) / np.linalg.norm(value)
        # dv has no gradient through d_t or m_t in it.
        assert apart == 0.0 if name in ("dv", "dC_0") else apart > 0.1, (name, apart)


@pytest.mark.parametrize("contract", CONTRACTS, ids=str)
@pytest.mark.parametrize("state", STATES)
def test_detached_is_exact_where_nothing_passes_through_the_denominator(contract, state, record):
    # dh_t.h_t = 0, as below a scale-invariant norm, and dm_S = <dC_S, C_S> + dn_S.n_S.
    inputs = draw("ordinary", state, length=7, dhqk=2, dhhv=3, lead=(1,))
    drawn, outputs = draw_cotangents(inputs), recurrent(MP, inputs, contract)
    dh, h = MP.array(drawn.h), outputs.h
    dh = dh - (np.sum(dh * h, -1) / np.sum(h * h, -1))[..., None] * h
    dm = inner(MP.array(drawn.C_last), outputs.C_last) + inner(MP.array(drawn.n_last), outputs.n_last)
    cotangents = dataclasses.replace(drawn, h=dh, m_last=dm)
    exact, detached = (recurrent_vjp(MP, inputs, contract, cotangents, name) for name in ("exact", "detached"))
    figure = deviation(detached, exact)
    record("detached against exact where both must be one", figure)
    assert figure <= NEAR
    drawn_exact = recurrent_vjp(MP, inputs, contract, drawn)
    assert deviation(recurrent_vjp(MP, inputs, contract, drawn, "detached"), drawn_exact) > 0.1


# --- special values ---


@pytest.mark.filterwarnings(THROWN_AWAY)
@modes
@pytest.mark.parametrize("norm_val", [1.0, 0.0])
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("token", [0, 4, 8])
@pytest.mark.parametrize("infinite", ["i", "f", "if"])
def test_gradients_are_finite(infinite, token, state, norm_val, correct):
    inputs = draw(state=state)
    changes = {name: np.array(getattr(inputs, name)) for name in infinite}
    for array in changes.values():
        array[:, token] = -np.inf
    inputs = dataclasses.replace(inputs, **changes)
    contract = Contract(1e-6, norm_val, correct)
    for form, normalizer_grad in itertools.product(FORMS, ("exact", "detached")):
        got = dict(form(Float64(), inputs, contract, draw_cotangents(inputs), normalizer_grad).items())
        for name, value in got.items():
            assert np.isfinite(value).all(), (form.__name__, normalizer_grad, name)
        for name in infinite:
            assert (got[f"d{name}"][:, token] == 0).all(), (form.__name__, normalizer_grad, name)


@each_form
@normalizer_grads
@modes
@pytest.mark.parametrize("token", [0, 4, 8])
def test_nothing_passes_back_over_a_reset(token, correct, normalizer_grad, form):
    for state in STATES:
        inputs = draw(state=state)
        f = np.array(inputs.f)
        f[:, token] = -np.inf
        inputs = dataclasses.replace(inputs, f=f)
        cotangents = draw_cotangents(inputs)
        cotangents.h[:, :token] = 0.0
        got = dict(form(Float64(), inputs, Contract(stabilize_correctly=correct), cotangents, normalizer_grad).items())
        for name in ("dq", "dk", "dv", "di", "df"):
            assert not got[name][:, :token].any(), (state, name)
        assert not got["df"][:, token].any(), state
        for name in ("dC_0", "dn_0", "dm_0"):
            assert name not in got or not got[name].any(), (state, name)
        assert got["dk"][:, token].any(), state
