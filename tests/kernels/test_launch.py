"""The launch module: the choice of the backend, both generations of jax-triton, the constants."""

import contextlib
import importlib.metadata
import os
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import pytest
import triton
import triton.language as tl

from kernels import launch as launch_module
from kernels.launch import BACKEND, launch

interpreted = pytest.mark.skipif(BACKEND != "interpret", reason="needs the interpreter")


@triton.jit
def _add_scaled(x, count, factor, y, SIZE: tl.constexpr, INTERPRET: tl.constexpr):
    index = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    inside = index < count
    tl.store(y + index, tl.load(x + index, mask=inside) * factor, mask=inside)


def start(**constants):
    import numpy as np

    shape = jax.ShapeDtypeStruct((20,), jnp.float32)
    arguments = (jnp.arange(20.0), 19, np.float32(2.0))
    return launch(_add_scaled, arguments, [shape], programs=2, num_warps=1, num_stages=1, **constants)[0]


@interpreted
def test_arguments_scalars_and_outputs_arrive_and_unwritten_output_is_poison():
    result = start(SIZE=16)
    assert (result[:19] == 2 * jnp.arange(19.0)).all()
    assert jnp.isnan(result[19])


@triton.jit
def _twice(x):
    return x + x


@triton.jit
def _add_twice(x, y, INTERPRET: tl.constexpr):
    tl.store(y, _twice(_twice(tl.load(x))))


@interpreted
@pytest.mark.parametrize("outputs", [[jax.ShapeDtypeStruct((1,), jnp.float32)], []])
def test_the_language_is_patched_once_a_launch_and_the_interpreter_left_as_it_was(outputs, monkeypatch):
    import triton.language.core as core
    import triton.runtime.interpreter as interpreter

    patched, patch, add = [], interpreter._patch_lang, tl.add
    monkeypatch.setattr(interpreter, "_patch_lang", lambda function: patched.append(function) or patch(function))
    before = dict(vars(interpreter)), core._type_for_tuple_values
    # Without its output the kernel cannot be called.
    with contextlib.nullcontext() if outputs else pytest.raises(TypeError):
        assert launch(_add_twice, (jnp.ones(1),), outputs, programs=3, num_warps=1, num_stages=1)[0] == 4
    assert len(patched) == 1
    assert (vars(interpreter), core._type_for_tuple_values) == before
    assert tl.add is add


@pytest.mark.parametrize("constants", [{}, {"SIZE": 16, "SIZES": 4}, {"SIZF": 16}])
def test_constants_must_be_those_of_the_kernel(constants):
    with pytest.raises(ValueError, match="declares constants"):
        start(**constants)


@pytest.mark.parametrize(
    ("version", "keyword"), [("0.3.1", "out_shape"), ("0.4.1", "out_type"), ("0.10.0", "out_type")]
)
def test_both_generations_of_jax_triton_are_spoken_to(version, keyword, monkeypatch):
    seen = {}

    def triton_call(*arguments, **keywords):
        seen.update(keywords)
        return arguments

    monkeypatch.setitem(sys.modules, "jax_triton", types.SimpleNamespace(triton_call=triton_call))
    monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
    monkeypatch.setattr(launch_module, "BACKEND", "gpu")
    start(SIZE=16)
    assert {"out_shape", "out_type"} & set(seen) == {keyword}
    assert seen["grid"] == (2,)
    assert seen["INTERPRET"] is False


def in_new_process(code, **variables):
    environment = {
        name: value for name, value in os.environ.items() if name not in ("TRITON_INTERPRET", launch_module.VARIABLE)
    }
    return subprocess.run(
        [sys.executable, "-c", code], env={**environment, **variables}, capture_output=True, text=True
    )


@interpreted
@pytest.mark.parametrize(
    ("code", "variables", "message"),
    [
        ("import kernels", {"MLSTM_KERNELS_BACKEND": "gpu"}, "JAX sees no GPU"),
        ("import kernels", {"MLSTM_KERNELS_BACKEND": "cpu"}, "choose auto, gpu or interpret"),
        ("import triton, kernels", {}, "Triton was imported before"),
    ],
)
def test_impossible_backend_is_an_error(code, variables, message):
    done = in_new_process(code, **variables)
    assert done.returncode == 1
    assert message in done.stderr


@interpreted
@pytest.mark.parametrize(
    ("code", "variables"),
    [
        ("import kernels; print(kernels.BACKEND)", {}),
        ("import kernels; print(kernels.BACKEND)", {"MLSTM_KERNELS_BACKEND": "interpret"}),
        ("import triton, kernels; print(kernels.BACKEND)", {"TRITON_INTERPRET": "1"}),
    ],
)
def test_without_a_gpu_the_interpreter_is_chosen(code, variables):
    done = in_new_process(code, **variables)
    assert done.stdout.strip() == "interpret", done.stderr
