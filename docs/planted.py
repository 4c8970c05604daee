"""What the smoke tier makes of every planted wrong subject: prints docs/planted.md.

Run it from the clone: ``PYTHONPATH=. python docs/planted.py > docs/planted.md``. References come from the user's cache,
or from the directory that is given.
"""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.subjects import float32
from tests.subjects.planted import GRADES, GROUPS, PLANTED
from verify import Case, Measurement, Reference, Verdict, judge
from verify._cache import ReferenceCache, default_directory
from verify._subject import make_subject
from verify._tiers import TIERS

HEAD = """# Planted wrong subjects

Printed by `PYTHONPATH=. python docs/planted.py`: every subject of tests/subjects/planted.py on the {cases} cases of the
smoke tier. error/bound and RMS z are the largest over all outputs of all cases, with the output; the outcome and the
reason are those of the case with the largest error/bound. A number that is not finite has error/bound inf.

| group | grade | subject | what it does | cases that fail | outcome | error/bound | RMS z | reason of the worst |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


class Judged(NamedTuple):
    """A verdict and the case it is on."""

    case: Case
    verdict: Verdict


def judge_all(function: Callable[..., Any], references: dict[Case, Reference]) -> list[Judged]:
    """The verdicts on a subject, by case."""
    subject, judged = make_subject("planted", function), []
    for case, reference in references.items():
        with np.errstate(all="ignore"):
            execution = subject.execute(case)
        judged.append(Judged(case, execution.failure or judge(case, execution.outputs, reference)))
    return judged


def largest(judged: list[Judged], scale: Callable[[Measurement], float]) -> tuple[float, str, Judged]:
    """The largest on a scale, of which output, and where."""
    measured = ((scale(one), one.output, each) for each in judged for one in each.verdict.measurements)
    return max((entry for entry in measured if not math.isnan(entry[0])), key=lambda entry: entry[0])


def row(group: str, grade: str, name: str, does: str, judged: list[Judged]) -> str:
    """A line of the table."""
    failed = sum(each.verdict.outcome.failed for each in judged)
    ratio, of_ratio, worst = largest(judged, lambda one: math.inf if one.nonfinite else one.ratio)
    z, of_z, _ = largest(judged, lambda one: one.rms_z)
    scales = (f"{ratio:.2g} {of_ratio}", f"{z:.2g} {of_z}")
    reason = worst.verdict.reason.splitlines()[0]
    cells = (group, grade, name, does, str(failed), worst.verdict.outcome.value, *scales, reason)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main() -> None:
    """Print the table, the correct subject first, and who survives."""
    cache = ReferenceCache(Path(sys.argv[1]) if len(sys.argv) > 1 else default_directory())
    references = {case: cache.fetch(case)[0] for case in TIERS["smoke"].cases()}
    print(HEAD.format(cases=len(references)))
    print(row("-", "-", "none", "What the others are made from.", judge_all(float32.chunkwise, references)))
    survivors = []
    for planted in sorted(PLANTED.values(), key=lambda each: (GROUPS.index(each.group), GRADES.index(each.grade))):
        judged = judge_all(planted.function, references)
        print(row(planted.group, planted.grade, planted.name, planted.does, judged), flush=True)
        if not any(each.verdict.outcome.failed for each in judged):
            survivors.append(planted.name)
    print(
        f"\n{len(PLANTED)} planted, {len(PLANTED) - len(survivors)} fail. Not seen: {', '.join(survivors) or 'none'}."
    )


if __name__ == "__main__":
    main()
