"""Subjects that a compiler refuses. Triton compiles for an H100 here, which needs no GPU."""

import jax
import jax.numpy as jnp
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


def three_lanes(x):
    tl.store(x + tl.arange(0, 3), 0.0)


def refused_by_triton(q, k, v, i, f):
    # Not by the decorator, which makes a kernel of the interpreter where that was chosen.
    source = ASTSource(fn=triton.JITFunction(three_lanes), signature={"x": "*fp32"}, constexprs={})
    return triton.compile(source, target=GPUTarget("cuda", 90, 32))


@jax.jit
def refused_by_xla(q, k, v, i, f):
    return jax.ffi.ffi_call("no_such_kernel", jax.ShapeDtypeStruct(v.shape, v.dtype))(v)


@jax.custom_vjp
def _backward_is_refused(v):
    return v


_backward_is_refused.defvjp(lambda v: (v, None), lambda _, dh: (refused_by_xla(None, None, dh, None, None),))


def refused_backward(q, k, v, i, f):
    return _backward_is_refused(v) + 0.0 * jnp.sum(q) * jnp.sum(k) * (i + f)[..., None]
