"""A subject: any callable with the seed's signature, named ``module:callable``."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from verify._case import Case
from verify._errors import UsageError
from verify._problem import Problem

DEFAULT_SUBJECT = "kernels:mlstm_chunkwise_triton_stablef"

# Subjects that the suite knows by name, and what each is.
KNOWN_SUBJECTS = {
    DEFAULT_SUBJECT: "this project's Triton kernels",
    "mlstm_kernels.jax.chunkwise.triton_limit_chunk:mlstm_chunkwise__limit_chunk": "NX-AI's kernels, GPU only",
    "mlstm_kernels.jax.chunkwise.triton_xl_chunk:mlstm_chunkwise__xl_chunk": "NX-AI's kernels, GPU only",
    "mlstm_kernels.jax.chunkwise.native:mlstm_chunkwise__native_autograd": "NX-AI's plain JAX form",
}

# What the seed's function does when an option is not given.
_DEFAULTS: dict[str, Any] = {"eps": 1e-6, "stabilize_correctly": True, "norm_val": 1.0}
# The parameters that are differentiated, and the names of their gradients.
GRADIENT_OF = {
    **{name: f"d{name}" for name in ("q", "k", "v", "i", "f")},
    "c_initial": "dC_0",
    "n_initial": "dn_0",
    "m_initial": "dm_0",
}
# The outputs beside h, by the option that asks for them; the second is this project's own.
_RETURNS = {"return_last_states": ("C_last", "n_last", "m_last"), "return_normalizer": ("n", "m")}
_INITIAL = ("c_initial", "n_initial", "m_initial")


class VJPError(RuntimeError):
    """``jax.vjp`` of a subject raised an error, its cause: the subject cannot be differentiated."""


@dataclass(frozen=True)
class Subject:
    """A kernel under test and the names that its signature has.

    Attributes:
        name: ``module:callable``.
        function: the callable.
        parameters: names it accepts as keywords; None if it takes any.
    """

    name: str
    function: Callable[..., Any]
    parameters: frozenset[str] | None

    def accepts(self, name: str) -> bool:
        """Whether the signature has this name."""
        return self.parameters is None or name in self.parameters

    def lacks(self, case: Case) -> str | None:
        """Why this subject cannot run the case, or None. What it lacks it is not asked for."""
        for name, default in _DEFAULTS.items():
            value = getattr(case, name)
            if value != default and not self.accepts(name):
                return f"its signature has no {name}, and the case needs {name}={value!r}"
        missing = [name for name in _INITIAL if not self.accepts(name)]
        if case.initial != "none" and missing:
            return f"its signature has no {', '.join(missing)}, and the case has an initial state"
        if case.cotangents in ("last", "all") and not self.accepts("return_last_states"):
            return "its signature has no return_last_states, and the case differentiates the last state"
        return None

    def adapt(self, case: Case) -> Case:
        """The case, with a cotangent of h alone where the subject returns no last state to differentiate."""
        if case.cotangents == "all" and not self.accepts("return_last_states"):
            return replace(case, cotangents="h")
        return case

    def call(self, case: Case, problem: Problem) -> dict[str, np.ndarray]:
        """Run the subject, and differentiate it if the case has cotangents.

        Returns:
            Its outputs by name: h, and C_last, n_last, m_last, n, m as far as it returns them; the
            gradients dq, dk, dv, di, df, and dC_0, dn_0, dm_0 if the case has an initial state. No
            gradients if the shape of an output does not fit its cotangent.

        Raises:
            VJPError: if the subject cannot be differentiated.
            TypeError: if it does not return what it was asked for.
        """
        import jax
        import jax.numpy as jnp

        options: dict[str, Any] = {name: getattr(case, name) for name in (*_DEFAULTS, "chunk_size")}
        options["autocast_kernel_dtype"] = getattr(jnp, case.dtype)
        wanted = [name for name in _RETURNS if self.accepts(name)]
        if self.parameters is None:
            # Behind **kwargs stands the seed's signature, which has no return_normalizer.
            wanted.remove("return_normalizer")
        options.update(dict.fromkeys(wanted, True))
        options = {name: value for name, value in options.items() if self.accepts(name)}
        arrays = {name: jnp.asarray(array) for name, array in problem.arrays.items()}
        if not problem.cotangents:
            return _by_name(jax.block_until_ready(self.function(**arrays, **options)), wanted)
        with _vjp_errors():
            returned, pull_back = jax.vjp(lambda arrays: self.function(**arrays, **options), arrays)
            returned = jax.block_until_ready(returned)
        outputs = _by_name(returned, wanted)
        if any(outputs[name].shape != cotangent.shape for name, cotangent in problem.cotangents.items()):
            return outputs
        # The order of the leaves is the order of the names.
        leaves, structure = jax.tree.flatten(returned)
        cotangents = [
            _cotangent_of(leaf, problem.cotangents.get(name)) for name, leaf in zip(outputs, leaves, strict=True)
        ]
        with _vjp_errors():
            (gradients,) = jax.block_until_ready(pull_back(jax.tree.unflatten(structure, cotangents)))
        return outputs | {GRADIENT_OF[name]: np.asarray(gradient) for name, gradient in gradients.items()}


@contextlib.contextmanager
def _vjp_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        hint = "--no-gradients leaves it out"
        raise VJPError(f"the VJP ({hint}) raised {type(error).__name__}: {error}") from error


def _cotangent_of(output: Any, cotangent: np.ndarray | None) -> Any:
    import jax
    import jax.numpy as jnp

    if not jnp.issubdtype(output.dtype, jnp.inexact):
        return np.zeros(output.shape, jax.dtypes.float0)
    return jnp.zeros_like(output) if cotangent is None else jnp.asarray(cotangent, output.dtype)


def _by_name(returned: Any, wanted: list[str]) -> dict[str, np.ndarray]:
    parts = list(returned) if wanted and isinstance(returned, tuple | list) else [returned]
    if len(parts) != 1 + len(wanted):
        raise TypeError(f"returned {len(parts)} parts; expected h and one part for each of {', '.join(wanted)}.")
    outputs = {"h": np.asarray(parts[0])}
    for option, part in zip(wanted, parts[1:], strict=True):
        outputs.update((name, np.asarray(array)) for name, array in zip(_RETURNS[option], part, strict=True))
    return outputs


def load_subject(name: str) -> Subject:
    """Import ``module:callable``; the current directory counts as importable.

    Raises:
        UsageError: if the name has another form, cannot be imported, or is no callable that takes
            q, k, v, i and f.
    """
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise UsageError(f"subject is {name!r}; expected module:callable, as in {DEFAULT_SUBJECT}.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:
        raise UsageError(f"subject {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(function):
        raise UsageError(f"subject {name!r} is a {type(function).__name__}; expected a callable.")
    subject = Subject(name, function, _parameters(function))
    missing = [parameter for parameter in ("q", "k", "v", "i", "f") if not subject.accepts(parameter)]
    if missing:
        raise UsageError(f"subject {name!r} has no parameter {', '.join(missing)}; expected the seed's q, k, v, i, f.")
    return subject


def _parameters(function: Callable[..., Any]) -> frozenset[str] | None:
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return frozenset(parameter.name for parameter in parameters if parameter.kind is not parameter.POSITIONAL_ONLY)
