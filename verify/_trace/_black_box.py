"""Where a subject that exposes no stages goes wrong: by what it returns for parts of the case.

    prefixes      the last state of the first p tokens is the state that enters token p
    suffixes      the gradient of the initial state of the tokens from p on, started from the oracle's state, is the
                  gradient that enters token p - 1 from behind
    cotangents    the VJP is linear in them: one half of what is out comes through some of them

Each is a problem of its own, judged by the rule of the verdict on a reference of its own. A bisection keeps one end
right and one end wrong, so that it ends with two neighbours of which this is known, whatever lies between the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from oracles import Float64, chunkwise
from verify._case import Case
from verify._isolation import IsolatedSubject
from verify._problem import Problem
from verify._subject import Subject
from verify._trace._place import Judged, Place, judge_stages, place_of
from verify._trace._scales import stage_reference, task_of
from verify._trace._stages import Stages

_STATE = ("m_last", "C_last", "n_last")
_ENTERING = {"m_last": "m_entering", "C_last": "C_entering", "n_last": "n_entering"}
_STATE_GRADIENT = ("dC_0", "dn_0", "dm_0")
_LEAVING = {"dC_0": "dC_leaving", "dn_0": "dn_leaving", "dm_0": "M_leaving"}
_TOKENS = ("q", "k", "v", "i", "f")
_INITIAL = ("c_initial", "n_initial", "m_initial")


class ProbeError(Exception):
    """The subject fails on a part of the case that it does not fail on as a whole; the message says how."""


@dataclass(frozen=True)
class Found:
    """What the probes say.

    Attributes:
        place: the first place out.
        judged: the array that it is in, and its index there.
        index: see there.
        stages: what it is an array of.
        probes: what was asked and answered, in words.
    """

    place: Place
    judged: Judged
    index: tuple[int, ...]
    stages: Stages
    probes: tuple[str, ...]


class BlackBox:
    """A subject, a case, and the parts of it that were run.

    Args:
        subject: what runs.
        case, problem: what is red.
        judged: its outputs, judged as stages.
    """

    def __init__(self, subject: Subject | IsolatedSubject, case: Case, problem: Problem, judged: list[Judged]) -> None:
        self.subject, self.case, self.problem, self.judged = subject, case, problem, judged
        self.size = case.chunk_size
        self.probes: list[str] = []

    def find(self) -> Found | None:
        """The first place out; None if no output is."""
        first = next((judged for judged in self.judged if judged.is_out), None)
        if first is None:
            return None
        whole = _as_stages({}, self.size)
        index = first.first()
        here = Found(place_of(first, index, whole, self.case.length), first, index, whole, ())
        try:
            found = self._backward(here) if first.stage.backward else self._forward(here)
        except ProbeError as error:
            self.probes.append(str(error))
            found = here
        return replace(found, probes=tuple(self.probes))

    def _forward(self, here: Found) -> Found:
        if not self.subject.accepts("return_last_states"):
            self.probes.append("its signature has no return_last_states: nothing is known of its states")
            return here
        whole = here.place.stage in _STATE
        length = self.case.length
        upper = length if whole else here.place.chunk * self.size
        if upper == 0:
            return here
        if not whole and not self._state_after(upper):
            return here
        right, wrong = self._bisect(sorted({*range(0, upper, self.size), upper}), self._state_after)
        right, wrong = self._bisect(list(range(right, wrong + 1)), self._state_after)
        out = self._state_after(wrong)
        index = out[0].first()
        name = _ENTERING[out[0].stage.name] if wrong < length else out[0].stage.name
        place = place_of(out[0], index, here.stages, wrong)
        place = replace(place, stage=name, step=right, chunk=-(-wrong // self.size))
        self.probes.append(f"so step {right} is where the state goes wrong")
        return Found(place, out[0], index, here.stages, ())

    def _state_after(self, count: int) -> list[Judged]:
        """What of the state after so many tokens is out."""
        if count == 0:
            return []
        arrays = {
            name: array[:, :, :count] if name in _TOKENS else array for name, array in self.problem.arrays.items()
        }
        case = replace(self.case, length=count, cotangents="none")
        out = [one for one in self._run(case, arrays, {}) if one.is_out and one.stage.name in _STATE]
        self._tell(f"the state after {count} tokens", out)
        return out

    def _backward(self, here: Found) -> Found:
        self._cotangents()
        if not all(self.subject.accepts(name) for name in _INITIAL):
            self.probes.append("its signature has no initial state: nothing is known of its state gradients")
            return here
        length = self.case.length
        chunk = here.place.chunk if here.place.stage not in _STATE_GRADIENT else -1
        lower = (chunk + 1) * self.size
        starts = [start for start in range(0, length, self.size) if start >= lower]
        if not starts or (starts[0] > 0 and not self._gradient_at(starts[0])):
            return here
        # From behind: the cotangent of the last state is right.
        right, wrong = self._bisect([length, *reversed(starts)], self._gradient_at)
        out = self._gradient_at(wrong)
        if not out:
            return here
        index = out[0].first()
        name = _LEAVING[out[0].stage.name] if wrong else out[0].stage.name
        place = place_of(out[0], index, here.stages, length)
        place = replace(place, stage=name, step=max(wrong - 1, 0), chunk=wrong // self.size)
        self.probes.append(f"so the gradient of the state goes wrong on its way through steps {wrong} to {right - 1}")
        return Found(place, out[0], index, here.stages, ())

    def _gradient_at(self, start: int) -> list[Judged]:
        """What of the gradient of the state that enters this token is out."""
        if start == self.case.length:
            return []
        if start == 0:
            return [one for one in self.judged if one.is_out and one.stage.name in _STATE_GRADIENT]
        arrays = {name: array[:, :, start:] for name, array in self.problem.arrays.items() if name in _TOKENS}
        arrays |= self._oracle_state(start)
        cotangents = {
            name: array[:, :, start:] if name == "h" else array for name, array in self.problem.cotangents.items()
        }
        case = replace(self.case, length=self.case.length - start, initial="warm@0")
        out = [one for one in self._run(case, arrays, cotangents) if one.is_out and one.stage.name in _STATE_GRADIENT]
        self._tell(f"the gradient of the state that enters step {start}", out)
        return out

    def _oracle_state(self, count: int) -> dict[str, np.ndarray]:
        whole = self.problem.inputs
        inputs = replace(whole.tokens(0, count), C_0=whole.C_0, n_0=whole.n_0, m_0=whole.m_0)
        with np.errstate(all="ignore"):
            made = chunkwise(Float64(), inputs, self.problem.contract, chunk_size=self.size)
        state = (made.C_last, made.n_last, made.m_last)
        arrays = dict(zip(_INITIAL, (array.astype(np.float32) for array in state), strict=True))
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise ProbeError(f"the state that enters step {count} is not finite: no sequence can start from it")
        return arrays

    def _cotangents(self) -> None:
        """Through which cotangents the error comes."""
        given = self.problem.cotangents
        guilty = [name for name in given if len(given) == 1 or self._through(name, slice(None))]
        self.probes.append(f"through the cotangent of {', '.join(guilty) or 'none alone'}")
        if "h" not in guilty:
            return
        first, stop = 0, self.case.length
        while stop - first > 1:
            middle = (first + stop) // 2
            if self._through("h", slice(middle, stop)):
                first = middle
            elif self._through("h", slice(first, middle)):
                stop = middle
            else:
                break
        steps = f"step {first}" if stop - first == 1 else f"steps {first} to {stop - 1}, not of fewer"
        self.probes.append(f"the cotangent of h at {steps} alone is enough")

    def _through(self, name: str, rows: slice) -> bool:
        cotangents = {other: np.zeros_like(array) for other, array in self.problem.cotangents.items()}
        whole = self.problem.cotangents[name]
        index = (slice(None), slice(None), rows) if name == "h" else (slice(None),)
        cotangents[name][index] = whole[index]
        # Many are asked, and the noise floor costs most: the bound decides.
        judged = self._run(self.case, self.problem.arrays, cotangents, replicates=0)
        return any(one.is_out and one.stage.backward for one in judged)

    def _run(
        self, case: Case, arrays: dict[str, np.ndarray], cotangents: dict[str, np.ndarray], **options: Any
    ) -> list[Judged]:
        problem = Problem(arrays, self.problem.contract, cotangents)
        execution = self.subject.execute(case, problem)
        if execution.failure is not None:
            told = execution.failure.reason.partition("\n")[0]
            raise ProbeError(f"of {case.length} tokens: {execution.failure.outcome.value}: {told}")
        return judge_outputs(case, problem, execution.outputs, **options)

    def _bisect(self, ends: list[int], is_wrong: Callable[[int], Any]) -> tuple[int, int]:
        """Neighbours of a list whose first is right and whose last is wrong: (the right one, the wrong one)."""
        low, high = 0, len(ends) - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if is_wrong(ends[middle]) else (middle, high)
        return ends[low], ends[high]

    def _tell(self, what: str, out: list[Judged]) -> None:
        names = ", ".join(one.stage.name for one in out)
        told = f"{what} is {'right' if not out else f'out ({names})'}"
        if told not in self.probes:
            self.probes.append(told)


def _as_stages(outputs: dict[str, np.ndarray], chunk_size: int) -> Stages:
    return Stages.of("", {"arrays": outputs, "chunk_size": chunk_size})


def judge_outputs(case: Case, problem: Problem, outputs: dict[str, np.ndarray], **options: Any) -> list[Judged]:
    """What a subject returned, as stages; options as of ``stage_reference``."""
    task = task_of(case, problem, case.chunk_size, case.chunk_size)
    return judge_stages(_as_stages(outputs, case.chunk_size), *stage_reference(case, problem, task, **options))
