"""A subject: any callable with the seed's signature, named ``module:callable``; and what it did with a case."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np

from verify._case import Case
from verify._compile_errors import is_compile_error
from verify._errors import UsageError
from verify._problem import GRADIENT_OF, NUMPY_DTYPES, Problem, make_problem
from verify._relation_cases import RelationCase, check_relation
from verify._relations import RELATIONS
from verify._scatter import Given
from verify._verdict import Outcome, Verdict

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
# The outputs beside h, by the option that asks for them; the second is this project's own.
RETURNS = {"return_last_states": ("C_last", "n_last", "m_last"), "return_normalizer": ("n", "m")}
_INITIAL = ("c_initial", "n_initial", "m_initial")


class VJPError(RuntimeError):
    """``jax.vjp`` of a subject raised an error, its cause: the subject cannot be differentiated."""


class ChangedInputsError(RuntimeError):
    """A subject wrote to an array that it was given."""


@dataclass(frozen=True)
class Execution:
    """What a subject did with a case.

    Attributes:
        outputs: what it returned, to be judged; empty if it failed, or if a relation was checked.
        failure: why there is nothing to be judged, or None.
        seconds: wall-clock time, compilation included.
        note: what else a reader of the verdict must know.
        found: the verdict of a relation, which needs no reference.
        stages: what it computed on the way, as its function ``stages`` returned it, if that was asked for; ``error``
            alone if that raised one.
    """

    outputs: dict[str, np.ndarray]
    failure: Verdict | None
    seconds: float
    note: str = ""
    found: Verdict | None = None
    stages: dict[str, Any] | None = None


class Signature:
    """What a subject's signature says of the cases that it can run.

    Attributes:
        parameters: names it accepts as keywords; None if it takes any.
    """

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
        if isinstance(case, RelationCase):
            needs = [name for name in RELATIONS[case.relation].needs if not self.accepts(name)]
            if needs:
                return f"its signature has no {', '.join(needs)}, which relation {case.relation} needs"
        missing = [name for name in _INITIAL if not self.accepts(name)]
        if case.initial != "none" and missing:
            return f"its signature has no {', '.join(missing)}, and the case has an initial state"
        if case.cotangents in ("last", "all") and not self.accepts("return_last_states"):
            return "its signature has no return_last_states, and the case differentiates the last state"
        return None

    def options(self, case: Case) -> dict[str, Any]:
        """The keywords beside the arrays that the subject is called with; ``autocast_kernel_dtype`` by its name."""
        options: dict[str, Any] = {name: getattr(case, name) for name in (*_DEFAULTS, "chunk_size")}
        options["autocast_kernel_dtype"] = case.dtype
        wanted = dict.fromkeys(RETURNS, True)
        if self.parameters is None:
            # Behind **kwargs stands the seed's signature, which has no return_normalizer.
            del wanted["return_normalizer"]
        return {name: value for name, value in (options | wanted).items() if self.accepts(name)}

    def adapt(self, case: Case) -> Case:
        """The case, with a cotangent of h alone where the subject returns no last state to differentiate."""
        if case.cotangents == "all" and not self.accepts("return_last_states"):
            return replace(case, cotangents="h")
        return case


@dataclass(frozen=True)
class Subject(Signature):
    """A kernel under test, in this process.

    Attributes:
        name: ``module:callable``.
        function: the callable.
        parameters: as of any signature.
    """

    name: str
    function: Callable[..., Any]
    parameters: frozenset[str] | None

    def execute(self, case: Case, problem: Problem | None = None, *, stages: bool = False) -> Execution:
        """Run the case, whose problem is drawn unless given; an error that the subject raises is its failure.

        Args:
            case, problem: what to run.
            stages: whether the stages are wanted, too, of a subject that exposes them.
        """
        problem = problem or make_problem(case)
        start = time.perf_counter()
        try:
            if isinstance(case, RelationCase):
                found = check_relation(case, problem, lambda given: self.call(given.case, given))
                return Execution({}, None, time.perf_counter() - start, found=found)
            outputs = self.call(case, problem)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return Execution({}, _failure(error), time.perf_counter() - start)
        exposed = self._stages_or_error(case, problem) if stages else None
        return Execution(outputs, None, time.perf_counter() - start, stages=exposed)

    def _stages_or_error(self, case: Case, problem: Problem) -> dict[str, Any] | None:
        # What fails here is no failure of the subject.
        try:
            return self.call_stages(case, problem)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return {"error": _named(error)[:300]}

    def call(self, case: Case, problem: Problem | Given) -> dict[str, np.ndarray]:
        """Run the subject, and differentiate it if the case has cotangents. It gets JAX arrays where there is JAX.

        Returns:
            Its outputs by name: h, and C_last, n_last, m_last, n, m as far as it returns them; the
            gradients dq, dk, dv, di, df, and dC_0, dn_0, dm_0 if the case has an initial state. No
            gradients if the shape of an output does not fit its cotangent.

        Raises:
            VJPError: if the subject cannot be differentiated.
            TypeError: if it does not return what it was asked for.
            ChangedInputsError: if it wrote to what it was given.
        """
        options, arrays = self._keywords(case), _as_given(problem.arrays)
        if isinstance(problem, Given) and not problem.last_states:
            options["return_last_states"] = False
        wanted = [name for name in RETURNS if options.get(name)]
        if not problem.cotangents:
            with _unchanged(arrays):
                return _by_name(self.function(**arrays, **options), wanted)
        import jax

        with _unchanged(arrays), _vjp_errors():
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
        given = arrays | {f"the cotangent of {name}": array for name, array in zip(outputs, cotangents, strict=True)}
        with _unchanged(given), _vjp_errors():
            (gradients,) = jax.block_until_ready(pull_back(jax.tree.unflatten(structure, cotangents)))
        return outputs | {GRADIENT_OF[name]: np.asarray(gradient) for name, gradient in gradients.items()}

    def _keywords(self, case: Case) -> dict[str, Any]:
        # The options, with a dtype of the array module for its name.
        options = self.options(case)
        if "autocast_kernel_dtype" in options:
            options["autocast_kernel_dtype"] = getattr(_array_module(), case.dtype, NUMPY_DTYPES[case.dtype].type)
        return options

    def call_stages(self, case: Case, problem: Problem) -> dict[str, Any] | None:
        """What the subject computes on the way (docs/bisecting.md); None if it does not expose it.

        Raises:
            TypeError: if it returns something else than a mapping with arrays.
        """
        function = getattr(self.function, "stages", None)
        if function is None:
            return None
        accepted = Subject(self.name, function, _parameters(function))
        options = {name: value for name, value in accepted._keywords(case).items() if name not in RETURNS}
        cotangents = _as_given(problem.cotangents) if problem.cotangents else None
        returned = function(**_as_given(problem.arrays), cotangents=cotangents, **options)
        if not isinstance(returned, dict) or not isinstance(returned.get("arrays"), dict):
            raise TypeError(f"its stages are {_described(returned)}; expected a dict with arrays, a dict.")
        return returned | {"arrays": {name: _array(name, array) for name, array in returned["arrays"].items()}}


def _as_given(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    # In C order, which some regimes and parts of sequences have not.
    numbers = _array_module()
    return {name: numbers.asarray(np.ascontiguousarray(array)) for name, array in arrays.items()}


def _array_module() -> ModuleType:
    """jax.numpy, or NumPy under an interpreter (``run --python``) that has no JAX."""
    return importlib.import_module("numpy" if importlib.util.find_spec("jax") is None else "jax.numpy")


def _failure(error: BaseException) -> Verdict:
    # Compilers put megabytes into a message; the end of the traceback tells where.
    tail = "".join(traceback.format_exception(error))[-2000:]
    told = isinstance(error, VJPError | ChangedInputsError)
    summary = (str(error) if told else _named(error))[:300]
    # Half characters, as of a file name that is no UTF-8, fit in no table and no program.
    reason = f"{summary}\n{tail}".encode(errors="backslashreplace").decode()
    return Verdict(_outcome(error), reason)


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {_words(error)}"


def _words(error: BaseException) -> str:
    # An error may fail to say what it is.
    try:
        return str(error)
    except Exception as other:
        return f"(its __str__ raised {type(other).__name__})"


def _outcome(error: BaseException) -> Outcome:
    if isinstance(error, VJPError) and error.__cause__ is not None:
        return _outcome(error.__cause__)
    if isinstance(error, ChangedInputsError):
        return Outcome.CHANGED_INPUTS
    # XLA has no class of its own for it.
    lacks_memory = isinstance(error, MemoryError) or _words(error).startswith("RESOURCE_EXHAUSTED")
    if lacks_memory:
        return Outcome.OUT_OF_MEMORY
    return Outcome.COMPILE_ERROR if is_compile_error(error) else Outcome.CRASH


@contextlib.contextmanager
def _unchanged(arrays: dict[str, Any]) -> Iterator[None]:
    """Raise ChangedInputsError if one of these arrays has other bytes at the end, or was given away."""
    before = {name: _bytes_digest(array) for name, array in arrays.items()}
    yield
    changed = [name for name, array in arrays.items() if _bytes_digest(array) != before[name]]
    if changed:
        raise ChangedInputsError(f"wrote to what it was given: {', '.join(changed)}")


def _bytes_digest(array: Any) -> str:
    if not isinstance(array, np.ndarray):
        # A donated array is gone.
        if array.is_deleted():
            return "deleted"
        # A new array of the same buffer: JAX keeps the copy on the host that an earlier look has made.
        array = np.asarray(array.addressable_data(0))
    return hashlib.blake2b(array.tobytes(), digest_size=16).hexdigest()


@contextlib.contextmanager
def _vjp_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        hint = "--no-gradients leaves it out"
        raise VJPError(f"the VJP ({hint}) raised {_named(error)}") from error


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
    named = {"h": parts[0]}
    for option, part in zip(wanted, parts[1:], strict=True):
        names = RETURNS[option]
        if not isinstance(part, tuple | list) or len(part) != len(names):
            raise TypeError(f"returned {_described(part)} for {option}; expected a tuple of {', '.join(names)}.")
        named.update(zip(names, part, strict=True))
    return {name: _array(name, part) for name, part in named.items()}


def _array(name: str, returned: Any) -> np.ndarray:
    array = np.asarray(returned)
    # Neither objects, such as None, nor text.
    if array.dtype.hasobject or array.dtype.kind in "SUMm":
        raise TypeError(f"returned {_described(returned)} as {name}; expected an array of numbers.")
    return array


def _described(returned: Any) -> str:
    if returned is None:
        return "None"
    size = f" of {len(returned)}" if isinstance(returned, tuple | list) else ""
    return f"a {type(returned).__name__}{size}"


def load_subject(name: str, keywords: Mapping[str, Any] | None = None) -> Subject:
    """Import ``module:callable``; the current directory counts as importable.

    Args:
        name: of the subject.
        keywords: that it gets with every call, beside those of the case.

    Raises:
        UsageError: if the name has another form, cannot be imported, or is no callable that takes
            q, k, v, i and f, and the keywords.
    """
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise UsageError(f"subject is {name!r}; expected module:callable, as in {DEFAULT_SUBJECT}.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), attribute)
    except (Exception, SystemExit) as error:
        raise UsageError(f"subject {name!r} cannot be imported: {_named(error)}") from error
    subject = make_subject(name, function)
    if not keywords:
        return subject
    missing = [keyword for keyword in keywords if not subject.accepts(keyword)]
    if missing:
        raise UsageError(f"subject {name!r} has no parameter {', '.join(missing)}.")
    return replace(subject, function=functools.partial(function, **keywords))


def make_subject(name: str, function: Callable[..., Any]) -> Subject:
    """The subject that a callable is.

    Raises:
        UsageError: if it is no callable with a signature that takes q, k, v, i and f.
    """
    if not callable(function):
        raise UsageError(f"subject {name!r} is a {type(function).__name__}; expected a callable.")
    try:
        subject = Subject(name, function, _parameters(function))
    except (TypeError, ValueError) as error:
        raise UsageError(f"subject {name!r} has no signature that can be read: {error}.") from error
    missing = [parameter for parameter in ("q", "k", "v", "i", "f") if not subject.accepts(parameter)]
    if missing:
        raise UsageError(f"subject {name!r} has no parameter {', '.join(missing)}; expected the seed's q, k, v, i, f.")
    return subject


def _parameters(function: Callable[..., Any]) -> frozenset[str] | None:
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return frozenset(parameter.name for parameter in parameters if parameter.kind is not parameter.POSITIONAL_ONLY)
