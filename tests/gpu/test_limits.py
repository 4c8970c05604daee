"""Sizes that break launches and offsets: many chunks, many heads, more than 2^31 elements."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import BACKEND, mlstm_chunkwise_triton_stablef

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(BACKEND != "gpu", reason="needs a GPU that JAX sees")]


def draw(batch, heads, length, dim, dtype):
    # Made on the device: these arrays are gigabytes.
    keys = jax.random.split(jax.random.key(0), 5)
    q, k, v = (jax.random.normal(key, (batch, heads, length, dim), dtype) for key in keys[:3])
    i = jax.random.normal(keys[3], (batch, heads, length), dtype)
    f = jax.random.normal(keys[4], (batch, heads, length), jnp.float32) - 3.0
    return q, k, v, i, f


def with_gradients(arrays, cotangents, **options):
    """h, the last state and the gradients."""

    def function(*arrays):
        return mlstm_chunkwise_triton_stablef(*arrays, return_last_states=True, **options)

    outputs, pull_back = jax.vjp(function, *arrays)
    return outputs, pull_back(cotangents)


def draw_cotangents(outputs):
    keys = jax.random.split(jax.random.key(1), 4)
    leaves, structure = jax.tree.flatten(outputs)
    drawn = [jax.random.normal(key, leaf.shape, leaf.dtype) for key, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)


def assert_bitwise(left, right):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))


def test_more_than_65535_heads_and_more_than_2_to_31_elements():
    heads = 65_537
    arrays = draw(1, heads, 512, 64, jnp.bfloat16)
    assert arrays[0].size > 2**31
    options = {"chunk_size": 256, "autocast_kernel_dtype": "bfloat16"}
    shapes = jax.eval_shape(lambda *a: mlstm_chunkwise_triton_stablef(*a, return_last_states=True, **options), *arrays)
    cotangents = draw_cotangents(shapes)
    everything = with_gradients(arrays, cotangents, **options)

    def of_head(head, tree):
        return jax.tree.map(lambda array: array[:, head : head + 1], tree)

    for head in (0, heads // 2, heads - 1):
        alone = with_gradients(of_head(head, arrays), of_head(head, cotangents), **options)
        assert_bitwise(of_head(head, everything), alone)


def test_more_than_65535_chunks():
    # Forgetting is fast, so that the end of the sequence does not know its beginning.
    length, tail = 65_536 * 16 + 5, 4096 + 5
    arrays = draw(1, 1, length, 16, jnp.float32)
    shapes = jax.eval_shape(
        lambda *a: mlstm_chunkwise_triton_stablef(*a, chunk_size=16, return_last_states=True), *arrays
    )
    dh, last = draw_cotangents(shapes)
    everything = with_gradients(arrays, (dh, last), chunk_size=16)
    alone = with_gradients([array[:, :, -tail:] for array in arrays], (dh[:, :, -tail:], last), chunk_size=16)
    assert bool(jnp.isfinite(everything[0][0]).all())
    assert all(bool(jnp.isfinite(gradient).all()) for gradient in everything[1])

    def of_the_end(outputs, gradients):
        h, last = outputs
        return h[:, :, -1000:], last, [gradient[:, :, -1000:] for gradient in gradients]

    assert_bitwise(of_the_end(*everything), of_the_end(*alone))


def test_one_sequence_of_more_than_2_to_31_elements():
    length, tail = 2**31 // 64 + 3, 8192 + 3
    arrays = draw(1, 1, length, 64, jnp.bfloat16)
    assert arrays[0].size > 2**31
    options = {"chunk_size": 256, "autocast_kernel_dtype": "bfloat16", "return_last_states": True}
    h, last = mlstm_chunkwise_triton_stablef(*arrays, **options)
    alone = mlstm_chunkwise_triton_stablef(*(array[:, :, -tail:] for array in arrays), **options)
    assert_bitwise((h[:, :, -1000:], list(last)), (alone[0][:, :, -1000:], list(alone[1])))
