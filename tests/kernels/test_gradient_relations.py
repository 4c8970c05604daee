"""Gradients without an oracle: who may reach whom, repetition, padding, splitting, the ends of the gates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import mlstm_chunkwise_triton_stablef as mlstm
from tests.kernels.ends import ENDS

NAMES = ("q", "k", "v", "i", "f", "C_0", "n_0", "m_0")
LENGTH, DIM, CHUNK = 20, 16, 16


def draw(length=LENGTH, batch=1, heads=2, seed=0):
    """q, k, v, i, f and the cotangents of h, C, n, m."""
    rng = np.random.default_rng(seed)
    lead = (batch, heads)
    shapes = [(*lead, length, DIM)] * 3 + [(*lead, length)] * 2
    cotangents = [(*lead, length, DIM), (*lead, DIM, DIM), (*lead, DIM), lead]
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in (*shapes, *cotangents)]
    return arrays[:5], arrays[5:]


def draw_state(batch=1, heads=2):
    rng = np.random.default_rng(1)
    lead = (batch, heads)
    return [rng.standard_normal((*lead, *shape)).astype(np.float32) for shape in ((DIM, DIM), (DIM,), ())]


def run(arrays, cotangents, **options):
    """(outputs, gradients), NumPy."""

    def function(*arrays):
        h, last = mlstm(*arrays, chunk_size=CHUNK, return_last_states=True, **options)
        return h, *last

    outputs, pull_back = jax.vjp(function, *map(jnp.asarray, arrays))
    return [[np.asarray(x) for x in part] for part in (outputs, pull_back(tuple(map(jnp.asarray, cotangents))))]


@functools.cache
def clean(correct=True):
    return run(*draw(), stabilize_correctly=correct)


def assert_bitwise(left, right):
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32))


@pytest.mark.parametrize("token", [0, 15, 16])
def test_nan_in_a_query_reaches_only_itself_and_earlier_gradients_of_its_head(token):
    arrays, cotangents = draw()
    _, wanted = clean()
    arrays[0][0, 1, token, 3] = np.nan
    _, gradients = run(arrays, cotangents)
    for name, before, after in zip(NAMES, wanted, gradients, strict=False):
        assert_bitwise([before[:, 0]], [after[:, 0]])
        assert_bitwise([before[0, 1, token + 1 :]], [after[0, 1, token + 1 :]])
        if name == "q":
            assert_bitwise([before[0, 1, :token]], [after[0, 1, :token]])
            assert np.isnan(after[0, 1, token]).all()
        elif name != "f":  # f_1 has no gradient: nothing is there to be forgotten
            assert np.isnan(after[0, 1, : token + 1]).all()


@pytest.mark.parametrize("token", [0, 16])
@pytest.mark.parametrize("name", ["k", "v", "i", "f"])
def test_nan_reaches_no_other_head_and_no_earlier_gradient_of_a_query(name, token):
    arrays, cotangents = draw()
    _, wanted = clean()
    arrays[NAMES.index(name)][0, 1, token] = np.nan
    _, gradients = run(arrays, cotangents)
    for before, after in zip(wanted, gradients, strict=True):
        assert_bitwise([before[:, 0]], [after[:, 0]])
    assert_bitwise([wanted[0][0, 1, :token]], [gradients[0][0, 1, :token]])
    assert np.isnan(gradients[0][0, 1, token:]).all()
    assert np.isnan(gradients[1][0, 1]).all()


@pytest.mark.parametrize("token", [0, 16])
def test_nan_cotangent_reaches_only_earlier_gradients_of_its_head(token):
    arrays, cotangents = draw()
    _, wanted = clean()
    cotangents[0][0, 1, token, 3] = np.nan
    _, gradients = run(arrays, cotangents)
    for before, after in zip(wanted, gradients, strict=True):
        assert_bitwise([before[:, 0]], [after[:, 0]])
        assert_bitwise([before[0, 1, token + 1 :]], [after[0, 1, token + 1 :]])
    assert np.isnan(gradients[1][0, 1, : token + 1]).all()


def test_second_call_and_other_geometry_change_nothing():
    outputs, gradients = clean()
    run(*draw(length=5, heads=1))
    again, gradients_again = run(*draw())
    assert_bitwise(outputs + gradients, again + gradients_again)


def test_batch_and_heads_are_independent():
    arrays, cotangents = draw(batch=2, heads=2)
    _, gradients = run(arrays, cotangents)
    _, alone = run([x[1:, 1:] for x in arrays], [x[1:, 1:] for x in cotangents])
    assert_bitwise([x[1:, 1:] for x in gradients], alone)


def test_identity_tokens_change_no_bit():
    arrays, cotangents = draw()
    _, wanted = clean()
    padding = [np.zeros_like(array[:, :, :1]).repeat(9, axis=2) for array in (*arrays, cotangents[0])]
    padding[3][:] = -np.inf
    padding[4][:] = np.inf
    *padded, dh = (np.concatenate(pair, axis=2) for pair in zip((*arrays, cotangents[0]), padding, strict=True))
    _, gradients = run(padded, [dh, *cotangents[1:]])
    assert_bitwise(wanted, [gradient[:, :, :LENGTH] for gradient in gradients])
    for gradient in gradients:
        assert (gradient[:, :, LENGTH:] == 0).all()


@pytest.mark.parametrize("correct", [True, False])
def test_two_pieces_through_the_state_have_the_gradients_of_the_whole(correct):
    # At a chunk's edge the same sums are made: only what passes through m is put together in another way.
    arrays, cotangents = draw()
    _, wanted = clean(correct)
    cut = 16
    head, tail = [x[:, :, :cut] for x in arrays], [x[:, :, cut:] for x in arrays]
    (_, *state), _ = run(head, [cotangents[0][:, :, :cut], *cotangents[1:]], stabilize_correctly=correct)
    _, of_tail = run([*tail, *state], [cotangents[0][:, :, cut:], *cotangents[1:]], stabilize_correctly=correct)
    _, of_head = run(head, [cotangents[0][:, :, :cut], *of_tail[5:]], stabilize_correctly=correct)
    for index in range(3):
        assert_bitwise([wanted[index]], [np.concatenate([of_head[index], of_tail[index]], axis=2)])


@pytest.mark.parametrize("token", [1, 16, 19])
@pytest.mark.parametrize("without_input", [False, True])
def test_reset_passes_no_gradient_back(token, without_input):
    arrays, cotangents = draw()
    state = draw_state()
    arrays[4][..., token] = -np.inf
    if without_input:
        arrays[3][..., token] = -np.inf
    cotangents[0][:, :, :token] = 0
    _, gradients = run([*arrays, *state], cotangents)
    for gradient in gradients[:5]:
        assert (gradient[:, :, :token] == 0).all()
    for gradient in gradients[5:]:
        assert (gradient == 0).all()
    assert (gradients[4][:, :, token] == 0).all()
    assert (gradients[2][:, :, token] == 0).all() == without_input


@pytest.mark.parametrize(("correct", "normalizer_grad"), [(True, "exact"), (False, "detached")])
@pytest.mark.parametrize("name", ENDS)
def test_outputs_and_gradients_are_finite_at_the_ends(name, correct, normalizer_grad):
    arrays, cotangents = draw(length=18)
    arrays += draw_state()
    # One head with content at first and one without.
    arrays[5][:, 1], arrays[6][:, 1] = 0, 0
    for key, (where, value) in ENDS[name].items():
        arrays[NAMES.index(key)][..., where] = value
    (h, C, n, m), gradients = run(arrays, cotangents, stabilize_correctly=correct, normalizer_grad=normalizer_grad)
    assert all(np.isfinite(array).all() for array in (h, C, n))
    assert not np.isnan(m).any()
    for key, gradient in zip(NAMES, gradients, strict=True):
        assert np.isfinite(gradient).all(), f"d{key}"


def test_a_layer_norm_hides_the_gradient_of_the_normalizer():
    arrays, (cotangent, *_) = draw()

    @jax.jit
    def layer_norm(h):
        centred = h - jnp.mean(h, axis=-1, keepdims=True)
        return centred / jnp.sqrt(jnp.mean(centred**2, axis=-1, keepdims=True))

    def gradients(word):
        """As one vector each: without a layer norm above the kernel, and with one."""

        def function(*arrays):
            return mlstm(*arrays, chunk_size=CHUNK, eps=0.0, normalizer_grad=word)

        h, pull_back = jax.vjp(function, *map(jnp.asarray, arrays))
        _, through_layer_norm = jax.vjp(layer_norm, h)
        for dh in (jnp.asarray(cotangent), *through_layer_norm(cotangent)):
            yield np.concatenate([np.ravel(gradient) for gradient in pull_back(dh)])

    plain, below_a_layer_norm = (
        np.linalg.norm(exact - detached) / np.linalg.norm(exact)
        for exact, detached in zip(gradients("exact"), gradients("detached"), strict=True)
    )
    # Of the layer norm only rounding is left.
    assert below_a_layer_norm < 1e-3 * plain
    assert plain > 0.1
