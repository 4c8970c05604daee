"""The seed's API: its three functions, and how they behave under JAX's transformations."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.triton_stablef.triton_fwbw import (
    _get_chunkwise_fwbw_kernel,
    _mlstm_chunkwise_fwbw_generator,
    mlstm_chunkwise_triton_stablef,
)

CHUNK, LENGTH, DIM = 16, 18, 16


def draw(batch=1, heads=1, length=LENGTH):
    rng = np.random.default_rng(0)
    shapes = [(batch, heads, length, DIM)] * 3 + [(batch, heads, length)] * 2
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


def draw_state(batch=1, heads=1):
    rng = np.random.default_rng(1)
    shapes = [(batch, heads, DIM, DIM), (batch, heads, DIM), (batch, heads)]
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


def mlstm(*arrays, **options):
    return mlstm_chunkwise_triton_stablef(*arrays, chunk_size=CHUNK, **options)


def loss(*arrays, **options):
    h, (c, n, m) = mlstm(*arrays, return_last_states=True, **options)
    weight = jnp.cos(jnp.arange(h.size, dtype=jnp.float32)).reshape(h.shape)
    return jnp.sum(h.astype(jnp.float32) * weight) + jnp.sum(c * c) + jnp.sum(n) + jnp.sum(m)


def gradients(function, arrays):
    return jax.grad(function, argnums=tuple(range(len(arrays))))(*arrays)


def assert_bitwise(left, right):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def defaults(function):
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is not p.KEYWORD_ONLY}


def test_signatures_are_the_seeds():
    assert defaults(_mlstm_chunkwise_fwbw_generator) == {
        "autocast_kernel_dtype": jnp.bfloat16,
        "return_last_states": False,
        "recompute_states_in_bw": True,
        "chunk_size": 64,
        "eps": 1e-6,
        "stabilize_correctly": True,
        "norm_val": 1.0,
    }
    assert list(defaults(mlstm_chunkwise_triton_stablef)) == [
        *"qkvif",
        "c_initial",
        "n_initial",
        "m_initial",
        "return_last_states",
        "eps",
        "chunk_size",
        "autocast_kernel_dtype",
        "stabilize_correctly",
        "norm_val",
    ]
    assert defaults(mlstm_chunkwise_triton_stablef)["autocast_kernel_dtype"] == jnp.float32
    kernel = _get_chunkwise_fwbw_kernel("float32", chunk_size=CHUNK)
    names = ["matQ", "matK", "matV", "vecI", "vecF", "matC_initial", "vecN_initial", "scaM_initial"]
    assert list(inspect.signature(kernel).parameters) == names


@pytest.mark.parametrize("dtype", ["float32", jnp.float32, np.dtype("float32")])
def test_generated_function_is_the_public_one(dtype):
    arrays, state = draw(), draw_state()
    kernel = _get_chunkwise_fwbw_kernel(dtype, return_last_states=True, chunk_size=CHUNK)
    h, last = mlstm(*arrays, *state, return_last_states=True)
    assert_bitwise(kernel(*arrays, *state), (h, *last))
    assert kernel(*arrays)[0].shape == h.shape


def test_without_last_states_there_are_none():
    h, c, n, m = _get_chunkwise_fwbw_kernel("bfloat16", chunk_size=CHUNK)(*draw())
    assert h.dtype == jnp.bfloat16
    assert c is n is m is None


@pytest.mark.parametrize("make", [_get_chunkwise_fwbw_kernel, _mlstm_chunkwise_fwbw_generator])
@pytest.mark.parametrize("dtype", ["float64", "int8", jnp.float64, "bf16", None, 3])
def test_unsupported_dtype(make, dtype):
    with pytest.raises(
        ValueError, match=r"Unsupported kernel dtype .*: autocast_kernel_dtype is one of float32, float"
    ):
        make(dtype)


def test_normalizer_grad_is_checked():
    with pytest.raises(ValueError, match="normalizer_grad is 'none'; expected one of exact, detached"):
        mlstm(*draw(), normalizer_grad="none")


@pytest.mark.parametrize("chunk_size", [16, 128])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_kept_states_give_the_same_gradients_as_recomputed_ones(dtype, chunk_size):
    arrays = draw(length=18 if chunk_size == 16 else 130) + draw_state()

    def with_states(recompute):
        def function(*arrays):
            options = {"recompute_states_in_bw": recompute, "autocast_kernel_dtype": dtype, "chunk_size": chunk_size}
            h, last = mlstm_chunkwise_triton_stablef(*arrays, return_last_states=True, **options)
            return jnp.sum(h.astype(jnp.float32) ** 2) + sum(jnp.sum(part) for part in last)

        return jax.value_and_grad(function, argnums=tuple(range(8)))(*arrays)

    assert_bitwise(with_states(True), with_states(False))


@pytest.mark.parametrize("normalizer_grad", ["exact", "detached"])
def test_transformations_change_no_bit(normalizer_grad):
    arrays = draw() + draw_state()

    def function(*arrays):
        return loss(*arrays, normalizer_grad=normalizer_grad)

    plain = gradients(function, arrays)
    assert_bitwise(plain, gradients(function, arrays))
    assert_bitwise(plain, jax.jit(lambda *a: gradients(function, a))(*arrays))
    assert_bitwise(plain, gradients(jax.checkpoint(function), arrays))
    assert_bitwise(plain, jax.value_and_grad(function, argnums=tuple(range(8)))(*arrays)[1])


def test_vmap_folds_the_axis_into_the_batch():
    arrays = draw(batch=4)
    stacked = [array.reshape(2, 2, *array.shape[1:]) for array in arrays]
    h = mlstm(*arrays)
    assert_bitwise(jax.vmap(mlstm)(*stacked), h.reshape(2, 2, *h.shape[1:]))
    nested = jax.vmap(jax.vmap(lambda *a: mlstm(*(x[None] for x in a))))(*stacked)
    assert_bitwise(nested[:, :, 0], h.reshape(2, 2, *h.shape[1:]))

    def batch_loss(*arrays):
        return jnp.sum(mlstm(*arrays) ** 2)

    separate = jax.vmap(jax.grad(batch_loss, argnums=tuple(range(5))))(*stacked)
    whole = gradients(batch_loss, arrays)
    assert_bitwise(separate, [g.reshape(2, 2, *g.shape[1:]) for g in whole])


def test_vmap_over_one_argument_repeats_the_others():
    arrays = draw(batch=1)
    queries = jnp.stack([arrays[0], -arrays[0], 2 * arrays[0]])
    mapped = jax.vmap(lambda q: mlstm(q, *arrays[1:]))(queries)
    for index, q in enumerate(queries):
        assert_bitwise(mapped[index], mlstm(q, *arrays[1:]))


@pytest.mark.parametrize("transform", [jax.jacfwd, lambda f: lambda x: jax.jvp(f, (x,), (x,))])
def test_forward_mode_is_refused(transform):
    arrays = draw()
    with pytest.raises(TypeError, match=r"can't apply forward-mode .*\(jvp\) to a custom_vjp function"):
        transform(lambda q: loss(q, *arrays[1:]))(arrays[0])


@pytest.mark.parametrize("kernel_dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_gradients_have_the_dtypes_of_the_inputs(dtype, kernel_dtype):
    arrays = [x.astype(dtype) for x in draw() + draw_state()]
    found = gradients(lambda *a: loss(*a, autocast_kernel_dtype=kernel_dtype), arrays)
    for array, gradient in zip(arrays, found, strict=True):
        assert gradient.dtype == array.dtype
        assert gradient.shape == array.shape
        assert np.isfinite(np.asarray(gradient, np.float32)).all()


def test_no_gradient_through_the_returned_normalizer():
    def of_normalizer(*arrays):
        _, (d, m) = mlstm(*arrays, return_normalizer=True)
        return jnp.sum(d) + jnp.sum(m)

    for gradient in gradients(of_normalizer, draw()):
        assert (np.asarray(gradient) == 0).all()
