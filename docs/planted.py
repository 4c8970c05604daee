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
from verify import Case, Measurement, Outcome, Reference, Verdict, judge
from verify._cache import ReferenceCache, default_directory
from verify._subject import make_subject
from verify._tiers import TIERS

HEAD = """# Planted wrong subjects

Printed by `PYTHONPATH=. python docs/planted.py`: each subject of tests/subjects/planted.py on the {cases} cases of the smoke tier.
error/bound and RMS z are the largest of the verdict's measurements over all outputs and cases, wherever they are; the
outcome is that of the case with the largest error/bound, a number that is not finite counting as inf.

| group | grade | subject | what it does | cases that fail | outcome | error/bound | output | RMS z | output |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


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


def row(judged: list[Judged]) -> str:
    """How many cases fail, and how far the worst are off."""
    failed = [each.verdict.outcome.failed for each in judged]
    ratio, of_ratio, worst = largest(judged, lambda one: math.inf if one.nonfinite else one.ratio)
    z, of_z, _ = largest(judged, lambda one: one.rms_z)
    outcome = max((each.verdict for each in judged if each.verdict.outcome.failed), default=worst.verdict,
                  key=lambda verdict: verdict is worst.verdict)  # fmt: skip
    return f"{sum(failed)} | {outcome.outcome.value} | {ratio:.2g} | {of_ratio} | {z:.2g} | {of_z}"


def main() -> None:
    """Print the table, the correct subject first, and who survives."""
    cache = ReferenceCache(Path(sys.argv[1]) if len(sys.argv) > 1 else default_directory())
    references = {case: cache.fetch(case)[0] for case in TIERS["smoke"].cases()}
    print(HEAD.format(cases=len(references)))
    print(
        f"| - | - | none | The correct subject that the others are made from. | {row(judge_all(float32.chunkwise, references))} |"
    )
    survivors = []
    for planted in sorted(PLANTED.values(), key=lambda each: (GROUPS.index(each.group), GRADES.index(each.grade))):
        judged = judge_all(planted.function, references)
        does = planted.does.replace("|", "\\|")
        print(f"| {planted.group} | {planted.grade} | {planted.name} | {does} | {row(judged)} |", flush=True)
        if all(each.verdict.outcome in (Outcome.PASS, Outcome.UNSUPPORTED) for each in judged):
            survivors.append(planted.name)
    print(
        f"\n{len(PLANTED)} planted, {len(PLANTED) - len(survivors)} fail. Not seen: {', '.join(survivors) or 'none'}."
    )


if __name__ == "__main__":
    main()
