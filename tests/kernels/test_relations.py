"""Relations that need no oracle: causality, padding, splitting, batching, repetition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import mlstm_chunkwise_triton_stablef as mlstm

NAMES = ("q", "k", "v", "i", "f")


def draw(length=70, batch=1, heads=2, dim=16, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(batch, heads, length, dim)] * 3 + [(batch, heads, length)] * 2
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    arrays[4] += 3
    return arrays


def run(arrays, **options):
    return jax.tree.map(np.asarray, mlstm(*arrays, **{"chunk_size": 32, "return_last_states": True, **options}))


def assert_bitwise(left, right):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32))


@pytest.mark.parametrize("cut", [1, 31, 32, 33, 69])
def test_prefix_does_not_see_what_follows(cut):
    arrays = draw()
    changed = [array.copy() for array in arrays]
    for array in changed:
        array[:, :, cut:] = 7.0
    assert_bitwise(run(arrays)[0][:, :, :cut], run(changed)[0][:, :, :cut])


@pytest.mark.parametrize("length", [1, 31, 33, 70])
def test_identity_tokens_change_no_bit(length):
    arrays = draw(length)
    padding = [np.zeros_like(array[:, :, :1]).repeat(9, axis=2) for array in arrays]
    padding[3][:] = -np.inf
    padding[4][:] = np.inf
    padded = [np.concatenate(pair, axis=2) for pair in zip(arrays, padding, strict=True)]
    h, last = run(arrays)
    h_padded, last_padded = run(padded)
    assert_bitwise((h, last), (h_padded[:, :, :length], last_padded))


@pytest.mark.parametrize("cut", [32, 64])
def test_last_state_continues_the_sequence(cut):
    # At a chunk's edge the state that is handed over is the one that the kernel would have kept; only
    # its change from m' to m and back rounds, and m' = m here: not a bit may differ.
    arrays = draw()
    h, last = run(arrays, m_initial=None)
    head, state = run([array[:, :, :cut] for array in arrays])
    tail, last_of_two = run(
        [array[:, :, cut:] for array in arrays], c_initial=state[0], n_initial=state[1], m_initial=state[2]
    )
    assert_bitwise((h, last), (np.concatenate([head, tail], axis=2), last_of_two))


def test_batch_and_heads_are_independent():
    arrays = draw(batch=2, heads=3)
    h, last = run(arrays)
    alone, last_alone = run([array[1:, 2:] for array in arrays])
    assert_bitwise((h[1:, 2:], [part[1:, 2:] for part in last]), (alone, list(last_alone)))


def test_second_call_and_other_geometry_change_nothing():
    arrays = draw()
    first = run(arrays)
    run(draw(dim=48, length=33), chunk_size=16)
    assert_bitwise(first, run(arrays))


def test_jit_changes_no_bit():
    arrays = [jnp.asarray(array) for array in draw()]
    jitted = jax.jit(lambda *a: mlstm(*a, chunk_size=32, return_last_states=True))
    assert_bitwise(run(arrays), jax.tree.map(np.asarray, jitted(*arrays)))


@pytest.mark.parametrize("token", [0, 3, 31, 32, 50])
@pytest.mark.parametrize("name", NAMES)
def test_nan_reaches_only_later_rows_of_its_head(name, token):
    arrays = draw()
    clean, _ = run(arrays)
    dirty = [array.copy() for array in arrays]
    dirty[NAMES.index(name)][0, 1, token] = np.nan
    h, _ = run(dirty)
    assert_bitwise(clean[0, 0], h[0, 0])
    assert_bitwise(clean[0, 1, :token], h[0, 1, :token])
    assert np.isnan(h[0, 1, token]).all()
    later = h[0, 1, token + 1 :]
    if name == "q":
        assert_bitwise(clean[0, 1, token + 1 :], later)
    else:
        assert np.isnan(later).all()


def test_nan_in_one_channel_of_v_stays_in_it():
    arrays = draw()
    clean, _ = run(arrays)
    arrays[2][0, 0, 40, 5] = np.nan
    h, _ = run(arrays)
    others = np.delete(np.arange(16), 5)
    assert_bitwise(clean[..., others], h[..., others])
    assert np.isnan(h[0, 0, 40:, 5]).all()
    assert_bitwise(clean[0, 0, :40, 5], h[0, 0, :40, 5])
