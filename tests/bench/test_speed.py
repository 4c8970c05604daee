"""Wall-clock figures of the oracles and the kernel. No test: nothing here can fail on time."""

import tracemalloc

import jax
import numpy as np
import pytest

from kernels import BACKEND, mlstm_chunkwise_triton_stablef
from oracles import (
    Ball,
    Contract,
    Cotangents,
    Float64,
    Inputs,
    MonteCarlo,
    MPMath,
    Precision,
    RunningError,
    chunkwise,
    chunkwise_vjp,
    parallel,
    recurrent,
    recurrent_vjp,
)

SIZES = [(64, 32), (256, 64)] if BACKEND == "interpret" else [(512, 64), (8192, 128)]
SMALL = [(32, 8), (64, 32), (256, 64)]


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
    "chunkwise float64": (chunkwise, Float64()),
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
@pytest.mark.parametrize("form", [recurrent, parallel, chunkwise])
@pytest.mark.parametrize("name", DIGITS)
def test_fifty_digits(benchmark, name, form, length, dim):
    # The ratio that pytest-benchmark prints within a group is that of Ball to MPMath.
    benchmark.group = f"oracle, 50 digits, {form.__name__}, S={length}, D={dim}"
    benchmark.extra_info.update(form=form.__name__, arithmetic=name, length=length, dim=dim)
    inputs = Inputs(*(array.astype(np.float64) for array in draw(length, dim)))
    # mpmath takes a minute or so at the largest size.
    benchmark.pedantic(form, (DIGITS[name], inputs, Contract()), rounds=3 if length < 256 else 1)


@pytest.mark.parametrize("length", [32768, 65536, 131072])
@pytest.mark.benchmark(group="oracle, chunkwise float64, some rows, D=128")
def test_some_rows_of_a_long_sequence(benchmark, length):
    inputs = Inputs(*(array.astype(np.float64) for array in draw(length, 128)))
    arguments, rows = (Float64(), inputs, Contract()), {"rows": np.linspace(0, length - 1, 200).astype(int)}
    benchmark.extra_info.update(length=length, dim=128, rows=rows["rows"].size)
    benchmark.pedantic(chunkwise, arguments, rows, rounds=3)
    # Beside the inputs; measured apart, since it takes time.
    tracemalloc.start()
    chunkwise(*arguments, **rows)
    benchmark.extra_info["peak bytes"] = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


@pytest.mark.parametrize("length", [4096, 8192, 16384])
@pytest.mark.benchmark(group="oracle, chunkwise Ball(200), D=128")
def test_balls_of_a_long_sequence(benchmark, length):
    inputs = Inputs(*(array.astype(np.float64) for array in draw(length, 128)))
    benchmark.extra_info.update(length=length, dim=128)
    benchmark.pedantic(chunkwise, (Ball(200), inputs, Contract()), rounds=1)


ARITHMETICS = {"Float64": Float64(), "MonteCarlo, 16 replicates": MonteCarlo(Precision.of("float32"), 16)}


@pytest.mark.parametrize("form", [recurrent, chunkwise, recurrent_vjp, chunkwise_vjp])
@pytest.mark.parametrize("name", ARITHMETICS)
def test_noise_floor(benchmark, name, form):
    # The ratio that pytest-benchmark prints within a group is that of the noise floor to a plain evaluation.
    benchmark.group = f"oracle, noise floor, {form.__name__}, S=2048, D=64"
    inputs = Inputs(*(array.astype(np.float64) for array in draw(2048, 64)))
    benchmark.extra_info.update(form=form.__name__, arithmetic=name, length=2048, dim=64)
    cotangents = (Cotangents(h=inputs.v),) if form in (recurrent_vjp, chunkwise_vjp) else ()
    benchmark.pedantic(form, (ARITHMETICS[name], inputs, Contract(), *cotangents), rounds=3)
