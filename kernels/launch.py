"""How a Triton kernel is started from JAX: the only module that knows jax-triton and the interpreter.

Two backends run the same kernel source:

* ``gpu``: jax-triton, 0.3.x (``out_shape``) or 0.4.x (``out_type``);
* ``interpret``: Triton's interpreter, which executes a kernel in NumPy on a machine without a GPU.

The choice is made once, when this module is imported, because ``@triton.jit`` decides at
decoration time. ``MLSTM_KERNELS_BACKEND`` = ``auto`` (default) | ``gpu`` | ``interpret`` steers it;
``auto`` takes the GPU if JAX sees one. Asking for a GPU that JAX does not see is an error.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, Literal

import jax
import numpy as np

Backend = Literal["gpu", "interpret"]
VARIABLE = "MLSTM_KERNELS_BACKEND"


class BackendError(RuntimeError):
    """The backend that was asked for cannot run on this machine."""


def _choose_backend() -> Backend:
    wanted = os.environ.get(VARIABLE, "auto")
    if wanted not in ("auto", "gpu", "interpret"):
        raise BackendError(f"{VARIABLE}={wanted!r} is not a backend; choose auto, gpu or interpret.")
    if wanted == "interpret" or (wanted == "auto" and os.environ.get("TRITON_INTERPRET") == "1"):
        return "interpret"
    sees_gpu = jax.default_backend() == "gpu"
    if wanted == "gpu" and not sees_gpu:
        raise BackendError(
            f"backend gpu was asked for, but JAX sees no GPU (its devices: {jax.devices()}). "
            "Install the extra [gpu] on a machine with an NVIDIA GPU, or choose interpret."
        )
    return "gpu" if sees_gpu else "interpret"


def _prepare_interpreter() -> None:
    triton = sys.modules.get("triton")
    if triton is not None and not triton.knobs.runtime.interpret:
        raise BackendError(
            "Triton was imported before the interpreter was chosen, so its standard library is already "
            "compiled code; import kernels first, or set TRITON_INTERPRET=1 in the environment."
        )
    os.environ["TRITON_INTERPRET"] = "1"


def _prepare_gpu() -> None:
    if os.environ.pop("TRITON_INTERPRET", "0") == "1" and "triton" in sys.modules:
        raise BackendError("backend gpu was asked for, but Triton is already imported with TRITON_INTERPRET=1.")


BACKEND: Backend = _choose_backend()
_prepare_interpreter() if BACKEND == "interpret" else _prepare_gpu()


def launch(
    kernel: Any,
    arguments: Sequence[Any],
    outputs: Sequence[jax.ShapeDtypeStruct],
    *,
    programs: int,
    num_warps: int,
    num_stages: int,
    **constants: Any,
) -> tuple[jax.Array, ...]:
    """Start ``kernel`` on a one-dimensional grid and return its outputs.

    Args:
        kernel: a ``@triton.jit`` function whose parameters are, in this order, the arguments, one
            pointer per output, and constants annotated ``tl.constexpr``.
        arguments: JAX arrays (passed as pointers), ``int`` (passed by value) and ``np.float32``.
        outputs: shape and dtype of each output. Outputs start uninitialised.
        programs: number of programs; the grid has one axis, whose limit is 2^31 - 1 on a GPU.
        num_warps: warps per program (GPU only).
        num_stages: pipeline stages (GPU only).
        constants: the kernel's compile-time constants; ``INTERPRET`` is added here.

    Raises:
        ValueError: if the constants are not exactly those that the kernel declares.
    """
    _check_constants(kernel, {*constants, "INTERPRET"})
    if BACKEND == "interpret":
        return _interpret(kernel, arguments, outputs, programs, {**constants, "INTERPRET": True})
    keywords = {**constants, "INTERPRET": False, "num_warps": num_warps, "num_stages": num_stages}
    return tuple(_triton_call()(*arguments, kernel=kernel, outputs=outputs, grid=(programs,), **keywords))


def _check_constants(kernel: Any, given: set[str]) -> None:
    # jax-triton takes a misspelled constant without a word.
    declared = {name for name, hint in kernel.fn.__annotations__.items() if "constexpr" in str(hint)}
    if declared != given:
        raise ValueError(f"kernel {kernel.fn.__name__} declares constants {sorted(declared)}, got {sorted(given)}.")


def _triton_call() -> Callable[..., Any]:
    import importlib.metadata

    import jax_triton  # imported late: version 0.3.1 cannot be imported where jaxlib has no GPU support

    release = tuple(int(part) for part in importlib.metadata.version("jax-triton").split(".")[:2])
    name = "out_shape" if release < (0, 4) else "out_type"

    def call(*arguments: Any, outputs: Sequence[jax.ShapeDtypeStruct], **keywords: Any) -> Any:
        return jax_triton.triton_call(*arguments, **{name: tuple(outputs)}, **keywords)

    return call


# The interpreter patches triton.language while it runs: one kernel at a time.
_INTERPRETER = threading.Lock()


@contextlib.contextmanager
def _interpreter() -> Iterator[None]:
    """Hold the interpreter, with tensors that can bound a loop, and without work that it does again and again.

    The interpreter keeps a scalar as an array of one element and calls int() on it, which NumPy
    refuses since 2.5.
    """
    import triton.language.core as core
    import triton.runtime.interpreter as interpreter

    patch = interpreter._patch_lang_tensor

    def patch_with_index(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    of_interpreter = {
        "_patch_lang_tensor": patch_with_index,
        "_patch_lang": _once_a_module(interpreter._patch_lang, interpreter._LangPatchScope),
        "_get_np_dtype": _once_a_dtype(interpreter._get_np_dtype),
    }
    of_core = {"_type_for_tuple_values": _once_a_shape(core._type_for_tuple_values, core.constexpr)}
    # Arithmetic on a GPU overflows without a word.
    with (
        _INTERPRETER,
        np.errstate(all="ignore"),
        _replaced(interpreter, of_interpreter),
        _replaced(core, of_core),
    ):
        yield


@contextlib.contextmanager
def _replaced(module: ModuleType, replacements: dict[str, Any]) -> Iterator[None]:
    names = vars(module)
    originals = {name: names[name] for name in replacements}
    names.update(replacements)
    try:
        yield
    finally:
        names.update(originals)


def _once_a_module(patch: Callable[[Any], Any], nothing: Callable[[], Any]) -> Callable[[Any], Any]:
    """``patch`` of the interpreter, which depends on a function's module alone, for one launch.

    The interpreter patches at every call of a function in a kernel, and lets that stay until the kernel ends.
    """
    patched = set()

    def patch_once(function: Any) -> Any:
        if id(function.__globals__) in patched:
            return nothing()
        patched.add(id(function.__globals__))
        return patch(function)

    return patch_once


def _once_a_dtype(find: Callable[[Any], np.dtype]) -> Callable[[Any], np.dtype]:
    """``find`` of the interpreter, which makes a table of all dtypes at every call. A dtype of Triton is its name."""
    found: dict[str, np.dtype] = {}

    def find_once(dtype: Any) -> np.dtype:
        if dtype.name not in found:
            found[dtype.name] = find(dtype)
        return found[dtype.name]

    return find_once


def _once_a_shape(make: Callable[..., Any], constexpr: Any) -> Callable[..., Any]:
    """``make`` of the language, which writes the name of the type of every shape of every tensor."""
    made: dict[tuple[int, ...], Any] = {}

    def make_once(values: Sequence[Any], fields: Any = None) -> Any:
        shape = tuple(value.value if type(value) is constexpr else value for value in values)
        if fields is not None or any(type(size) is not int for size in shape):
            return make(values, fields)
        if shape not in made:
            made[shape] = make(values)
        return made[shape]

    return make_once


class _Buffer:
    """The part of a torch.Tensor that Triton's interpreter asks of an argument, over a NumPy array."""

    def __init__(self, array: np.ndarray, dtype: str) -> None:
        self.array = array
        self.dtype = dtype

    def data_ptr(self) -> int:
        return self.array.ctypes.data

    def untyped_storage(self) -> _Buffer:
        return self

    def cpu(self) -> _Buffer:
        return self

    def copy_(self, other: _Buffer) -> None:
        """Host and device are the same memory here."""

    def new_empty(self, *_: Any, **__: Any) -> _Buffer:
        return _Buffer(self.array, self.dtype)

    def set_(self, storage: _Buffer, *_: Any) -> None:
        self.array = storage.array

    def storage_offset(self) -> int:
        return 0

    def size(self) -> tuple[int, ...]:
        return self.array.shape

    def stride(self) -> tuple[int, ...]:
        return tuple(step // self.array.itemsize for step in self.array.strides)


def _interpret(
    kernel: Any,
    arguments: Sequence[Any],
    outputs: Sequence[jax.ShapeDtypeStruct],
    programs: int,
    constants: dict[str, Any],
) -> tuple[jax.Array, ...]:
    is_array = [isinstance(argument, jax.Array) for argument in arguments]

    def run(*arrays: Any) -> tuple[np.ndarray, ...]:
        remaining = iter(arrays)
        inputs = [
            _buffer(np.asarray(next(remaining))) if here else _scalar(argument)
            for argument, here in zip(arguments, is_array, strict=True)
        ]
        # Uninitialised memory is poison on a GPU; here it is made so.
        results = [np.full(out.shape, np.nan, out.dtype) for out in outputs]
        with _interpreter():
            kernel[(programs,)](*inputs, *(_buffer(result) for result in results), **constants)
        return tuple(results)

    arrays = [argument for argument, here in zip(arguments, is_array, strict=True) if here]
    if any(isinstance(array, jax.core.Tracer) for array in arrays):
        return tuple(jax.pure_callback(run, tuple(outputs), *arrays))
    return tuple(jax.numpy.asarray(result) for result in run(*arrays))


def _buffer(array: np.ndarray) -> _Buffer:
    return _Buffer(np.ascontiguousarray(array), str(array.dtype))


def _scalar(value: int | np.float32) -> int | float:
    return float(value) if isinstance(value, np.floating) else value
