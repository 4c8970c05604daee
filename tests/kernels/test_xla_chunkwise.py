"""The jax.numpy form: outputs and all eight gradients against the definition in float64, and at the special values."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.xla_chunkwise import _dot, mlstm_chunkwise_xla
from tests.kernels.ends import ENDS
from verify import Case, Outcome, load_subject, run_case

NAMES = ("q", "k", "v", "i", "f", "C_0", "n_0", "m_0")
OUTPUTS = ("h", "C_last", "n_last", "m_last")
DHQK, DHHV, CHUNK = 16, 24, 16
# Large enough for the gradient through m to be seen: its share of a row is eps / d.
EPS, NORM_VAL = 1e-2, 0.5
# Most of the time here is compilation; optimization changes no formula.
FAST_COMPILATION = {"xla_backend_optimization_level": 0}
U = 2.0**-24  # unit roundoff of float32


def definition(correct, exact, q, k, v, i, f, C, n, m):
    # docs/method.md, section 1, token by token; `exact` off makes constants of d and m for the gradient.
    def freeze(x):
        return jnp.where(exact, x, jax.lax.stop_gradient(x))

    one = jnp.exp(m - freeze(m))
    scale = q.shape[-1] ** -0.5

    def step(state, token):
        C, n, m = state
        q, k, v, i, f = token
        phi = jax.nn.log_sigmoid(f)
        m_next = freeze(jnp.maximum(phi + m, i))
        forget, take_in = jnp.exp(phi + m - m_next), jnp.exp(i - m_next)
        C = forget[..., None, None] * C + take_in[..., None, None] * k[..., :, None] * v[..., None, :]
        n = forget[..., None] * n + take_in[..., None] * k
        b = NORM_VAL * jnp.where(correct, jnp.exp(-m_next), 1.0)
        d = freeze(jnp.maximum(jnp.abs(scale * jnp.sum(q * n, -1)), b) + EPS)
        return (C, n, m_next), scale * jnp.einsum("bhkv,bhk->bhv", C, q) / d[..., None]

    tokens = tuple(jnp.moveaxis(array, 2, 0) for array in (q, k, v, i, f))
    last, h = jax.lax.scan(step, (C * one[..., None, None], n * one[..., None], freeze(m)), tokens)
    return jnp.moveaxis(h, 0, 2), *last


def subject(*arrays, correct, exact, **options):
    h, last = mlstm_chunkwise_xla(
        *arrays,
        return_last_states=True,
        eps=EPS,
        norm_val=NORM_VAL,
        chunk_size=CHUNK,
        stabilize_correctly=correct,
        normalizer_grad="exact" if exact else "detached",
        **options,
    )
    return h, *last


def outputs_and_gradients(function, arrays, cotangents):
    outputs, pull = jax.vjp(function, *arrays)
    return outputs, pull(tuple(c.astype(o.dtype) for c, o in zip(cotangents, outputs, strict=True)))


@cache
def compiled(**options):
    return jax.jit(partial(outputs_and_gradients, partial(subject, **options)), compiler_options=FAST_COMPILATION)


@partial(jax.jit, compiler_options=FAST_COMPILATION)
def compiled_definition(correct, exact, arrays, cotangents):
    return outputs_and_gradients(partial(definition, correct, exact), arrays, cotangents)


def ours(arrays, cotangents, *, correct=True, exact=True, **options):
    run = compiled(correct=correct, exact=exact, **options)
    return jax.tree.map(np.asarray, run(tuple(arrays), tuple(cotangents)))


def in_float64(arrays, cotangents, *, correct=True, exact=True):
    with jax.enable_x64(True):
        arrays, cotangents = ([jnp.asarray(a, jnp.float64) for a in part] for part in (arrays, cotangents))
        return jax.tree.map(np.asarray, compiled_definition(correct, exact, arrays, cotangents))


def draw(regime="ordinary", state="warm", length=40, heads=2):
    rng = np.random.default_rng(7)

    def normal(*shape):
        return rng.standard_normal((1, heads, *shape)).astype(np.float32)

    q, k, v, i, f = normal(length, DHQK), normal(length, DHQK), normal(length, DHHV), normal(length), normal(length)
    if regime == "soft_capped":
        i, f = 15 * np.tanh(2 * i), 15 * np.tanh(2 * f)
    else:
        f += {"ordinary": 3, "forget": -10, "keep": 10}[regime]
    C, n, m = normal(DHQK, DHHV), normal(DHQK), normal() + 1
    cotangents = [normal(length, DHHV), normal(DHQK, DHHV), normal(DHQK), normal()]
    if state == "one_empty":
        C[:, 0], n[:, 0] = 0, 0
    return [q, k, v, i, f, C, n, m], cotangents


def assert_close(got, wanted, multiple, name, scale=0.0):
    # Normwise, on each array's own size: what is tiny as a whole must be right too, down to the smallest
    # normal number.
    wanted = np.asarray(wanted, np.float64)
    allowed = multiple * U * (np.linalg.norm(wanted) + scale) + 2.0**-126
    assert np.linalg.norm(got - wanted) <= allowed, name


def assert_gradients_close(gradients, wanted, outputs, cotangents):
    # Roundings of exponents up to some 100 in size, and sums of some 100 terms; up to 50 units were seen.
    # di and dm_0 are differences of terms as large as dh.h and <dC, C>: their unit is these.
    through_m = sum(np.abs(c * o).sum() for c, o in zip(cotangents, outputs, strict=True))
    for name, got, want in zip(NAMES, gradients, wanted, strict=False):
        assert got.dtype == np.float32
        assert_close(got, want, 200, f"d{name}", scale=through_m / 100 if name in ("i", "m_0") else 0.0)


# Each length with one pair of modes: whole chunks and a part, one token more than a chunk, one token.
MODES = [(True, True, 40), (True, False, 40), (False, True, 17), (False, False, 1)]


@pytest.mark.parametrize("state", ["warm", "one_empty"])
@pytest.mark.parametrize("regime", ["ordinary", "soft_capped", "forget", "keep"])
@pytest.mark.parametrize(("correct", "exact", "length"), MODES)
def test_outputs_and_gradients_are_those_of_the_definition(correct, exact, length, regime, state):
    arrays, cotangents = draw(regime, state, length)
    outputs, gradients = ours(arrays, cotangents, correct=correct, exact=exact)
    wanted_outputs, wanted = in_float64(arrays, cotangents, correct=correct, exact=exact)
    # A few roundings of exponents, and sums of 40 terms; up to 12 were seen.
    for name, got, want in zip(OUTPUTS, outputs, wanted_outputs, strict=True):
        assert_close(got, want, 50, name)
    assert len(gradients) == len(NAMES)
    assert_gradients_close(gradients, wanted, wanted_outputs, cotangents)


def test_absent_initial_state_is_zeros():
    arrays, cotangents = draw()
    arrays[5:] = [np.zeros_like(array) for array in arrays[5:]]
    outputs, gradients = ours(arrays[:5], cotangents)
    wanted_outputs, wanted = in_float64(arrays, cotangents)
    for got, want in zip(outputs, wanted_outputs, strict=True):
        assert_close(got, want, 50, "output")
    assert len(gradients) == 5
    assert_gradients_close(gradients, wanted, wanted_outputs, cotangents)


def test_bfloat16_rounds_operands_and_nothing_else():
    arrays, cotangents = draw()
    # What storage does to q, k, v, i is done beforehand: then only the dots of computed operands round.
    arrays[:4] = [np.asarray(jnp.asarray(array, jnp.bfloat16), np.float32) for array in arrays[:4]]
    outputs, gradients = ours(arrays, cotangents, autocast_kernel_dtype="bfloat16")
    wanted_outputs, wanted = in_float64(arrays, cotangents)
    # n and m are no dots: they are as good as in float32.
    assert_close(outputs[2], wanted_outputs[2], 50, "n_last")
    assert_close(outputs[3], wanted_outputs[3], 50, "m_last")
    pairs = zip((*OUTPUTS[:2], *NAMES), (*outputs[:2], *gradients), (*wanted_outputs[:2], *wanted), strict=True)
    for name, got, want in pairs:
        error = np.linalg.norm(np.asarray(got, np.float64) - want) / np.linalg.norm(want)
        # 2^-9 is the roundoff of bfloat16, two or three roundings in a row; h and y carry it into the rest,
        # and rows whose q.n cancels enlarge it.
        assert 2.0**-14 < error < 2.0**-5, f"{name} or its gradient: {error}"
    stored = np.asarray(jnp.asarray(gradients[0], jnp.bfloat16), np.float32)
    assert (stored != gradients[0]).any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_gradient_of_the_normalizer_is_made_of_the_h_that_is_stored(dtype):
    # Without input, C_t = C_0 and n_t = n_0 relative to m_t, and q.n wins: dn_0 = -sum_t c (dh_t.h_t) / d_t q_t.
    arrays, (dh, *_) = draw(heads=1)
    arrays[3][:] = -np.inf
    arrays[0] = 0.1 * arrays[0] + 8 * arrays[6][:, :, None, :]
    arrays[:3] = [np.asarray(jnp.asarray(array, dtype), np.float32) for array in arrays[:3]]
    dh = np.asarray(jnp.asarray(dh, dtype), np.float32)

    @jax.jit
    def run(*arrays):
        h, pull, (d, _) = jax.vjp(
            partial(mlstm_chunkwise_xla, chunk_size=CHUNK, autocast_kernel_dtype=dtype, return_normalizer=True),
            *arrays,
            has_aux=True,
        )
        return h, d, pull(jnp.asarray(dh, dtype))[6]

    h, d, dn_0 = (np.asarray(x, np.float64) for x in run(*arrays))
    y = np.sum(dh * h, axis=-1)
    wanted = -np.sum((y / d)[..., None] * arrays[0], axis=2) * DHQK**-0.5
    # Sums of some 40 terms of both signs; the rounding of h would be 2^-9 or 2^-12 of them.
    scale = np.linalg.norm(np.sum((np.abs(dh * h).sum(-1) / d)[..., None] * np.abs(arrays[0]), axis=2))
    assert_close(dn_0, wanted, 20, "dn_0", scale=scale * DHQK**-0.5)


@pytest.mark.parametrize(("dtype", "bits"), [("float32", 23), ("float16", 10), ("bfloat16", 7)])
def test_dot_rounds_its_operands_forward_and_backward(dtype, bits):
    def rounded(x):
        # To nearest, to 1 + bits digits; float16 keeps float32's range.
        fraction, exponent = np.frexp(x.astype(np.float64))
        return np.ldexp(np.round(fraction * 2.0 ** (bits + 1)) / 2.0 ** (bits + 1), exponent)

    rng = np.random.default_rng(0)
    left, right, cotangent = (rng.standard_normal(s).astype(np.float32) * 1e6 for s in ((9, 4), (9, 5), (4, 5)))
    product, pull = jax.vjp(partial(_dot, "sk,sv->kv", jnp.dtype(dtype)), left, right)
    left, right, across = rounded(left), rounded(right), rounded(cotangent)
    wanted = (left.T @ right, right @ across.T, left @ across)
    # Sums of up to 9 products in float32; the smallest rounding of operands is 2^-11.
    for got, want in zip((product, *pull(cotangent)), wanted, strict=True):
        assert_close(np.asarray(got, np.float64), want, 10, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dtypes_of_outputs_and_gradients(dtype):
    arrays, cotangents = draw()
    arrays = tuple(jnp.asarray(array, dtype) for array in arrays)
    run = compiled(correct=True, exact=True, autocast_kernel_dtype=dtype)
    outputs, gradients = jax.eval_shape(run, arrays, tuple(cotangents))
    assert [x.dtype for x in outputs] == [jnp.dtype(dtype), *[jnp.dtype("float32")] * 3]
    assert [x.dtype for x in gradients] == [jnp.dtype(dtype)] * 8
    assert [x.shape for x in gradients] == [array.shape for array in arrays]


def test_forward_is_within_the_running_error_bound():
    # Also the denominators and stabilizers, which only this test asks for.
    case = Case("staircase@60", length=33, dhqk=16, dhhv=24, chunk_size=16, initial="warm@2")
    verdict = run_case(case, load_subject("kernels.xla_chunkwise:mlstm_chunkwise_xla")).verdict
    assert verdict.outcome is Outcome.PASS, verdict.reason
    assert {m.output for m in verdict.measurements} == {"h", "n", "m", "C_last", "n_last", "m_last"}


@pytest.mark.parametrize(("correct", "exact", "length"), MODES[:3])
@pytest.mark.parametrize("name", ENDS)
def test_outputs_and_gradients_are_finite_at_the_ends(name, correct, exact, length):
    arrays, cotangents = draw(state="one_empty", length=length)
    for key, (where, value) in ENDS[name].items():
        arrays[NAMES.index(key)][..., where] = value
    (h, C, n, m), gradients = ours(arrays, cotangents, correct=correct, exact=exact)
    assert all(np.isfinite(array).all() for array in (h, C, n))
    assert not np.isnan(m).any()
    for key, gradient in zip(NAMES, gradients, strict=True):
        assert np.isfinite(gradient).all(), f"d{key}"


@pytest.mark.parametrize("token", [1, 15, 16, 20, 39])
@pytest.mark.parametrize("empties", [False, True])
def test_reset_passes_no_gradient_back(empties, token):
    arrays, cotangents = draw()
    arrays[4][..., token] = -np.inf
    if empties:
        arrays[3][..., token] = -np.inf
    cotangents[0][:, :, :token] = 0
    _, gradients = ours(arrays, cotangents)
    for gradient in gradients[:5]:
        assert (gradient[:, :, :token] == 0).all()
    for gradient in gradients[5:]:
        assert (gradient == 0).all()
    assert (gradients[4][:, :, token] == 0).all()
    assert (gradients[2][:, :, token] == 0).all() == empties


@pytest.mark.parametrize("token", [1, 15, 16, 20, 39])
def test_gradients_after_a_reset_are_those_of_a_sequence_that_starts_there(token):
    arrays, cotangents = draw()
    arrays[4][..., token] = -np.inf
    cotangents[0][:, :, :token] = 0
    for cotangent in cotangents[1:]:
        cotangent[:] = 0
    _, gradients = ours(arrays, cotangents)
    shifted = [np.roll(array, -token, axis=2) for array in (*arrays[:5], cotangents[0])]
    _, alone = ours([*shifted[:5], *arrays[5:]], [shifted[5], *cotangents[1:]])
    for got, want in zip(gradients[:5], alone, strict=False):
        # The chunks begin elsewhere: as many roundings as against the definition.
        assert_close(got[:, :, token:], want[:, :, : 40 - token], 200, "gradient")


def test_empty_last_state_passes_no_gradient():
    arrays, cotangents = draw()
    arrays[3][..., -1] = arrays[4][..., -1] = -np.inf
    cotangents[0][:] = 0
    (_, C, n, m), gradients = ours(arrays, cotangents)
    assert (C == 0).all()
    assert (n == 0).all()
    assert (m == -np.inf).all()
    for gradient in gradients:
        assert (gradient == 0).all()


@pytest.mark.parametrize("token", [0, 3, 15, 16, 30])
@pytest.mark.parametrize("name", ["q", "k", "v", "i", "f"])
def test_nan_reaches_only_later_rows_of_its_head(name, token):
    arrays, cotangents = draw()
    clean = ours(arrays, cotangents)[0][0]
    dirty = [array.copy() for array in arrays]
    dirty[NAMES.index(name)][0, 1, token, ...] = np.nan
    h = ours(dirty, cotangents)[0][0]
    np.testing.assert_array_equal(clean[0, 0], h[0, 0])
    np.testing.assert_array_equal(clean[0, 1, :token], h[0, 1, :token])
    assert np.isnan(h[0, 1, token]).all()
    if name == "q":
        np.testing.assert_array_equal(clean[0, 1, token + 1 :], h[0, 1, token + 1 :])
    else:
        assert np.isnan(h[0, 1, token:]).all()


def test_nan_in_one_channel_of_v_stays_in_it():
    arrays, cotangents = draw()
    clean = ours(arrays, cotangents)[0][0]
    arrays[2][0, 0, 20, 5] = np.nan
    h = ours(arrays, cotangents)[0][0]
    others = np.delete(np.arange(DHHV), 5)
    np.testing.assert_array_equal(clean[..., others], h[..., others])
    np.testing.assert_array_equal(clean[0, 0, :20, 5], h[0, 0, :20, 5])
    assert np.isnan(h[0, 0, 20:, 5]).all()


@pytest.mark.parametrize("cut", [1, 15, 16, 17, 39])
def test_prefix_does_not_see_what_follows(cut):
    arrays, cotangents = draw()
    h = ours(arrays, cotangents)[0][0]
    for array in arrays[:5]:
        array[:, :, cut:] = 7.0
    np.testing.assert_array_equal(h[:, :, :cut], ours(arrays, cotangents)[0][0][:, :, :cut])


def test_identity_tokens_change_only_roundings():
    # Not bitwise: XLA compiles each length anew and may sum in another order.
    arrays, cotangents = draw(length=17)
    padded = [np.concatenate([a, np.zeros_like(a[:, :, :1]).repeat(23, axis=2)], axis=2) for a in arrays[:5]]
    padded[3][:, :, 17:], padded[4][:, :, 17:] = -np.inf, np.inf
    wanted, _ = ours(arrays, cotangents, correct=False)
    got = subject(*padded, *arrays[5:], correct=False, exact=True)
    for left, right in zip(wanted, (got[0][:, :, :17], *got[1:]), strict=True):
        assert_close(np.asarray(right), left, 50, "output")


def test_vmap_checkpoint_and_value_and_grad():
    arrays, _ = draw()

    @jax.checkpoint
    def loss(q, k, v, i, f):
        return jnp.sum(mlstm_chunkwise_xla(q, k, v, i, f, eps=EPS, norm_val=NORM_VAL, chunk_size=CHUNK))

    def of_one_head(*arrays):
        value, gradients = jax.value_and_grad(loss, argnums=range(5))(*(a[None, None] for a in arrays))
        return value, [gradient[0, 0] for gradient in gradients]

    values, gradients = jax.jit(jax.vmap(of_one_head), compiler_options=FAST_COMPILATION)(
        *(array[0] for array in arrays[:5])
    )
    ones = [np.ones((1, 2, 40, DHHV), np.float32), *(np.zeros_like(a) for a in arrays[5:])]
    (h, *_), wanted = ours(arrays[:5], ones)
    # The same formula in another compilation; the loss is a sum of some 1000 terms of both signs.
    np.testing.assert_allclose(values, h.sum(axis=(0, 2, 3)), atol=50 * U * np.abs(h).sum())
    for got, want in zip(gradients, wanted, strict=True):
        assert_close(np.asarray(got), want[0], 50, "gradient")


def test_normalizer_grad_is_checked():
    arrays, _ = draw()
    with pytest.raises(ValueError, match="normalizer_grad is 'none'; expected one of exact, detached"):
        mlstm_chunkwise_xla(*arrays, normalizer_grad="none")
