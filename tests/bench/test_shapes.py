"""Wall-clock time and device memory of this project's kernels beside mlstm_kernels, at the shapes of its users.

No test: nothing here can fail on time. `nox -s bench` makes a table of it (``tests/bench/table.py``).
"""

import functools

import jax
import jax.numpy as jnp
import pytest

from kernels import BACKEND, mlstm_chunkwise_triton_stablef

# B, NH, S, DHQK, DHHV
SHAPES = [(1, 8, 8192, 256, 512), (8, 16, 8192, 128, 128), (4, 8, 8192, 64, 128), (1, 8, 65536, 128, 256)]
SUBJECTS = {
    "this project": ("bfloat16", {}),
    "limit_chunk": ("bfloat16", None),
    "this project, ieee": ("float32", {"input_precision": "ieee"}),
    "this project, tf32x3": ("float32", {"input_precision": "tf32x3"}),
    "limit_chunk, tf32": ("float32", None),
}
# Calls enqueued before the clock is read: one of less than 1 ms would be timed with its dispatch.
CALLS = {"bfloat16": 10, "float32": 2}

pytestmark = pytest.mark.skipif(BACKEND != "gpu", reason="needs a GPU that JAX sees")


def kernel_of(name):
    dtype, options = SUBJECTS[name]
    if options is not None:
        return functools.partial(mlstm_chunkwise_triton_stablef, autocast_kernel_dtype=dtype, **options)
    peer = pytest.importorskip("mlstm_kernels.jax.chunkwise.triton_limit_chunk", reason="needs mlstm_kernels")
    return functools.partial(peer.mlstm_chunkwise__limit_chunk, chunk_size=64, autocast_kernel_dtype=jnp.dtype(dtype))


def draw(shape, dtype):
    batch, heads, length, dhqk, dhhv = shape
    keys = jax.random.split(jax.random.key(0), 6)
    sizes = [(length, dhqk), (length, dhqk), (length, dhhv), (length,)]
    arrays = [jax.random.normal(key, (batch, heads, *size), dtype) for key, size in zip(keys, sizes, strict=False)]
    arrays.append(3.0 + jax.random.normal(keys[4], (batch, heads, length), jnp.float32))
    return arrays, jax.random.normal(keys[5], (batch, heads, length, dhhv), dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "B{}-NH{}-S{}-QK{}-HV{}".format(*shape))
@pytest.mark.parametrize("what", ["forward", "forward and backward"])
@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.benchmark(group="shapes")
def test_shape(benchmark, name, what, shape):
    kernel = kernel_of(name)
    arrays, dh = draw(shape, SUBJECTS[name][0])

    def forward(arrays, dh):
        return kernel(*arrays)

    def forward_and_backward(arrays, dh):
        h, pull_back = jax.vjp(kernel, *arrays)
        return h, pull_back(dh)

    compiled = jax.jit(forward if what == "forward" else forward_and_backward).lower(arrays, dh).compile()

    dtype, count = SUBJECTS[name][0], CALLS[SUBJECTS[name][0]]

    def calls():
        for _ in range(count):
            result = compiled(arrays, dh)
        jax.block_until_ready(result)

    memory = compiled.memory_analysis()
    benchmark.extra_info.update(
        subject=name,
        what=what,
        shape=list(shape),
        dtype=dtype,
        calls=count,
        # What the compiled program holds at most: its inputs, results and intermediates.
        mebibytes=(memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes) / 2**20,
        device=jax.devices()[0].device_kind,
    )
    benchmark.pedantic(calls, rounds=7, warmup_rounds=1)
