"""Wall-clock figures of the oracles and the kernel at two sizes. No test: nothing here can fail on time."""

import jax
import numpy as np
import pytest

from kernels import BACKEND, mlstm_chunkwise_triton_stablef
from oracles import Ball, Contract, Float64, Inputs, MPMath, Precision, RunningError, parallel, recurrent

SIZES = [(64, 32), (256, 64)] if BACKEND == "interpret" else [(512, 64), (8192, 128)]
SMALL = [(32, 8), (64, 32)]


def draw(length, dim):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((1, 1, length, dim)).astype(np.float32) for _ in range(3)]
    return [*arrays, *(rng.standard_normal((1, 1, length)).astype(np.float32) for _ in range(2))]


@pytest.mark.parametrize(("length", "dim"), SIZES)
@pytest.mark.benchmark(group="kernel")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_kernel(benchmark, length, dim, dtype):
    arrays = jax.device_put(draw(length, dim))
    benchmark.extra_info["backend"] = BACKEND

    def call():
        return jax.block_until_ready(mlstm_chunkwise_triton_stablef(*arrays, autocast_kernel_dtype=dtype))

    call()
    benchmark(call)


FORMS = {
    "recurrent float64": (recurrent, Float64()),
    "parallel float64": (parallel, Float64()),
    "recurrent running error": (recurrent, RunningError(Precision.of("float32"), 64)),
}


@pytest.mark.parametrize(("length", "dim"), SIZES)
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.benchmark(group="oracle")
def test_oracle(benchmark, name, length, dim):
    form, arithmetic = FORMS[name]
    if form is parallel and length > 1024:
        pytest.skip("the parallel form needs S x S numbers")
    inputs = Inputs(*(array.astype(np.float64) for array in draw(length, dim)))
    benchmark.pedantic(form, (arithmetic, inputs, Contract()), rounds=3)


DIGITS = {"MPMath(50)": MPMath(50), "Ball(167)": Ball(167)}


@pytest.mark.parametrize(("length", "dim"), SMALL)
@pytest.mark.parametrize("form", [recurrent, parallel])
@pytest.mark.parametrize("name", DIGITS)
def test_fifty_digits(benchmark, name, form, length, dim):
    # The ratio that pytest-benchmark prints within a group is that of Ball to MPMath.
    benchmark.group = f"oracle, 50 digits, {form.__name__}, S={length}, D={dim}"
    inputs = Inputs(*(array.astype(np.float64) for array in draw(length, dim)))
    benchmark.pedantic(form, (DIGITS[name], inputs, Contract()), rounds=3)
