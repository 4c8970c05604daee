"""What is said of a run, made from its manifest and its results and nothing else.

The HTML, Markdown and JUnit files of ``mlstm-verify report`` and the table at the end of ``mlstm-verify run`` all show
this. The error is without a unit everywhere:

    excess   the statistic that comes nearest to its threshold, or is furthest beyond, over that threshold: the error
             over its bound, RMS z or the largest z. Above 1 is a failure; of NaN or infinity it is infinite.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from typing import Any

from verify._measurement import Measurement
from verify._problem import GRADIENT_OF
from verify._report_drift import DriftSection
from verify._runner import Result
from verify._subject import DEFAULT_SUBJECT
from verify._verdict import Finding, Outcome, finding

CHECKS = {"ratio": "bound", "rms_z": "RMS z", "largest_z": "largest z", "nonfinite": "not finite"}
GRADIENTS = tuple(GRADIENT_OF.values())
# In the order in which they are computed.
OUTPUTS = ("h", "n", "m", "C_last", "n_last", "m_last", *GRADIENTS)
_ILLEGIBLE = re.compile("[^\t\n\u0020-\u007e\u00a0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SEVERITY = {outcome: place for place, outcome in enumerate(Outcome)}


class Conclusion(Enum):
    """What a run comes to, in the word that a reader sees."""

    FAIL = "fail"
    UNFINISHED = "unfinished"
    NOTHING_VERIFIED = "nothing verified"
    PASS = "pass"


@dataclass(frozen=True)
class Report:
    """A run as it is shown.

    Attributes:
        manifest: of the run.
        results: of its finished cases, worst first.
        drift: what moved since another run; None without one.
    """

    manifest: dict[str, Any]
    results: tuple[Result, ...]
    drift: DriftSection | None = None

    @classmethod
    def of(cls, manifest: dict[str, Any], results: Iterable[Result], drift: DriftSection | None = None) -> Report:
        """The report of results in any order."""
        return cls(manifest, tuple(worst_first(map(_legible, results))), drift)

    @property
    def subject(self) -> str:
        """Its name."""
        return self.manifest["subject"]

    @property
    def where(self) -> str:
        """Backend and device."""
        environment = self.manifest["environment"]
        return f"backend {environment['backend']} on {environment['device']}" if environment["backend"] else "no JAX"

    @property
    def missing(self) -> list[str]:
        """The ids of planned cases without a result."""
        finished = {result.case.id for result in self.results}
        return [name for name in self.manifest["planned"] if name not in finished]

    @cached_property
    def failed(self) -> tuple[Result, ...]:
        """The results that the subject is to blame for."""
        return tuple(result for result in self.results if result.verdict.outcome.failed)

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many cases had each outcome that there was."""
        found = [result.verdict.outcome for result in self.results]
        return {outcome.value: found.count(outcome) for outcome in Outcome if outcome in found}

    @property
    def conclusion(self) -> Conclusion:
        """The worst that can be said."""
        if self.failed:
            return Conclusion.FAIL
        if self.missing:
            return Conclusion.UNFINISHED
        return Conclusion.PASS if Outcome.PASS.value in self.counts else Conclusion.NOTHING_VERIFIED

    @property
    def sentence(self) -> str:
        """The conclusion in figures."""
        finished = len(self.results)
        told = f"{len(self.failed)} of {finished} cases failed" if self.failed else f"no case of {finished} failed"
        return f"{told}; {len(self.missing)} more have no result" if self.missing else told

    @property
    def totals(self) -> str:
        """What was planned and done, in one line."""
        told = ", ".join(f"{count} {outcome}" for outcome, count in self.counts.items())
        return f"{len(self.manifest['planned'])} planned, {len(self.results)} executed: {told or 'none'}"

    @property
    def notices(self) -> list[str]:
        """What a reader should know before anything is concluded."""
        told = []
        measured = [one for result in self.results for one in result.verdict.measurements]
        if vague := sum(is_vague(one) for one in measured):
            told.append(
                f"{vague} of {len(measured)} outputs are mostly below what rounding or underflow may do: undecided"
            )
        if other := sum(_judged_otherwise(result) for result in self.results):
            told.append(f"{other} verdicts rest on other thresholds than this version's, which the heat map shows")
        return told

    def worst(self, rows: int) -> tuple[Result, ...]:
        """All that failed, and the worst others up to ``rows`` in all."""
        return self.results[: max(rows, len(self.failed))]

    def repeat(self, result: Result) -> str:
        """The line that repeats a case."""
        option = "" if self.subject == DEFAULT_SUBJECT else f" --subject {self.subject}"
        interpreter = self.manifest["environment"].get("interpreter")
        option += f" --python {shlex.quote(interpreter)}" if interpreter else ""
        return f"mlstm-verify run --case {result.case.id}{option}"

    @property
    def environment(self) -> list[tuple[str, str]]:
        """What the run depended on, as names and values."""
        environment = self.manifest["environment"]
        rows = [("subject", self.subject), ("started", self.manifest.get("started"))]
        rows += [(name, environment.get(name)) for name in ("device", "backend", "driver", "platform", "python")]
        rows += list(environment.get("packages", {}).items())
        dirty = ", with uncommitted changes" if environment.get("dirty") else ""
        rows += [("commit", environment.get("commit") and environment["commit"] + dirty)]
        rows += [("definition", self.manifest.get("definition")), ("shard", self.manifest.get("shard"))]
        rows += [("seconds of the subject", f"{sum(result.seconds for result in self.results):.0f}")]
        rows += [("command", shlex.join(self.manifest.get("command", [])))]
        return [(name, legible(str(value))) for name, value in rows if value]


def worst_first(results: Iterable[Result]) -> list[Result]:
    """The results by severity of the outcome, then by how far the worst statistic is from its threshold."""
    return sorted(results, key=_severity)


def legible(text: str) -> str:
    """Text without what no file can hold and what no terminal should be sent: control characters, half characters."""
    return _ILLEGIBLE.sub("\N{REPLACEMENT CHARACTER}", text)


def _legible(result: Result) -> Result:
    # A reason may hold whatever a process wrote before it died.
    return replace(result, verdict=replace(result.verdict, reason=legible(result.verdict.reason)))


def _severity(result: Result) -> tuple[int, float]:
    worst = result.verdict.worst
    return _SEVERITY[result.verdict.outcome], -(worst.excess if worst else 0.0)


def is_vague(measured: Measurement) -> bool:
    """Whether nothing can be said about most elements."""
    return measured.undecided >= 0.5


def _judged_otherwise(result: Result) -> bool:
    return bool(result.verdict.measurements) and finding(result.verdict.measurements) != result.verdict.worst


def worst_measurement(result: Result) -> Measurement | None:
    """The measurement that decided about a case."""
    worst = result.verdict.worst
    return next((one for one in result.verdict.measurements if worst and one.output == worst.output), None)


def first_line(result: Result) -> str:
    """Of the reason; a traceback may follow it."""
    return result.verdict.reason.partition("\n")[0]


def told(found: Finding) -> str:
    """A finding in words."""
    if found.check == "nonfinite":
        return f"{found.output} is not finite"
    if found.check == "ratio":
        return f"{found.output}: error {found.excess:.3g} times its bound"
    return f"{found.output}: {CHECKS[found.check]} {found.excess:.3g} times its threshold"
