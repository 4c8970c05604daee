"""A kernel that does not compile has its own outcome; an error while it runs is none of a compiler's."""

import jax
import pytest

import kernels  # noqa: F401 - chooses the backend before a subject imports Triton
from verify import Case, Outcome, load_subject, run_case
from verify._compile_errors import died_in_compiler, is_compile_error

CASE = Case(length=5, dhqk=4, dhhv=4, chunk_size=16)
GRADIENTS = Case(length=5, dhqk=4, dhhv=4, chunk_size=16, cotangents="h")


@pytest.mark.parametrize(
    ("name", "case", "told"),
    [
        ("refused_by_triton", CASE, "CompilationError: at 2:17"),
        ("refused_by_triton", GRADIENTS, "the VJP (--no-gradients leaves it out) raised CompilationError: at 2:17"),
        ("refused_by_xla", CASE, "No FFI handler registered for no_such_kernel"),
        ("refused_backward", GRADIENTS, "No FFI handler registered for no_such_kernel"),
    ],
)
def test_planted_kernels_that_do_not_compile(name, case, told):
    verdict = run_case(case, load_subject(f"tests.subjects.uncompilable:{name}")).verdict
    assert verdict.outcome is Outcome.COMPILE_ERROR, verdict.reason
    assert told in verdict.reason.splitlines()[0]


def error_of(module, name, message, base=Exception):
    return type(name, (base,), {"__module__": module})(message)


@pytest.mark.parametrize(
    ("error", "compiling"),
    [
        (error_of("triton.compiler.errors", "CompileTimeAssertionFailure", ""), True),
        (error_of("triton.runtime.errors", "OutOfResources", "out of resource: shared memory"), True),
        (error_of("triton.runtime.errors", "PTXASError", "PTXAS error: Internal Triton PTX codegen error"), True),
        (error_of("triton.runtime.errors", "InterpreterError", "cannot compile"), False),
        (jax.errors.JaxRuntimeError("INTERNAL: ptxas exited with non-zero error code 255"), True),
        (jax.errors.JaxRuntimeError("UNIMPLEMENTED: no such fusion"), True),
        (jax.errors.JaxRuntimeError("INTERNAL: CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access"), False),
        (ValueError("this does not compile"), False),
    ],
)
def test_errors_are_told_by_names(error, compiling):
    assert is_compile_error(error) is compiling


@pytest.mark.parametrize(("function", "compiling"), [("compile_ttir_to_ptx_inplace", True), ("triton_call", False)])
def test_what_jax_triton_raises_while_it_compiles(function, compiling):
    names = {"__name__": "jax_triton.triton_lib"}
    exec(f"def {function}(): raise ValueError('TTIR->TTGIR pass failed!')", names)
    with pytest.raises(ValueError, match="pass failed") as raised:
        names[function]()
    assert is_compile_error(raised.value) is compiling


@pytest.mark.parametrize(
    ("file", "compiling"),
    [
        ("/site-packages/triton/backends/nvidia/compiler.py", True),
        ("/site-packages/triton/compiler/compiler.py", True),
        ("/site-packages/jax/_src/compiler.py", True),
        ("/site-packages/triton/runtime/interpreter.py", False),
        ("/site-packages/my_compiler.py", False),
    ],
)
def test_what_a_process_dies_in(file, compiling):
    outer = '  File "/site-packages/triton/compiler/compiler.py", line 1 in compile\n'
    written = (
        f'Fatal Python error: Aborted\n\nCurrent thread 0x1 (most recent call first):\n  File "{file}", line 3 in f\n'
    )
    assert died_in_compiler(written + outer) is compiling
    assert not died_in_compiler("died")
    # Of another thread, which did not end it.
    assert not died_in_compiler(written.replace("Current thread", "Thread"))
