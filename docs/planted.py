"""What the smoke tier makes of every planted wrong subject: prints docs/planted.md.

Run it from the clone: ``PYTHONPATH=. python docs/planted.py > docs/planted.md``. References come from the user's cache,
or from the directory that is given.
"""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.subjects import float32
from tests.subjects.planted import GRADES, GROUPS, PLANTED
from verify import Case, Measurement, Reference, Verdict, judge
from verify._cache import ReferenceCache, default_directory
from verify._relation_cases import RelationCase
from verify._subject import make_subject
from verify._tiers import TIERS

HEAD = """# Planted wrong subjects

Printed by `PYTHONPATH=. python docs/planted.py`: every subject of tests/subjects/planted.py on the {cases} cases of the
smoke tier, and where all of these pass on {relations} of its relations. The check is that of the case that is furthest
over its threshold, and how many times over it is; a number that is not finite is infinitely far. error/bound and RMS z
are the largest over all outputs of all cases, with the output.

| group | grade | subject | what it does | cases that fail | check | times the threshold | error/bound | RMS z |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


def judge_all(function: Callable[..., Any], references: dict[Case, Reference]) -> list[Verdict]:
    """The verdicts on a subject."""
    subject, judged = make_subject("planted", function), []
    for case, reference in references.items():
        with np.errstate(all="ignore"):
            execution = subject.execute(case)
        judged.append(execution.failure or judge(case, execution.outputs, reference))
    return judged


def broken(function: Callable[..., Any], relations: list[Case]) -> list[str]:
    """The relations that do not hold."""
    subject = make_subject("planted", function)
    with np.errstate(all="ignore"):
        executions = {case.relation: subject.execute(case) for case in relations if not subject.lacks(case)}
    verdicts = {name: execution.failure or execution.found for name, execution in executions.items()}
    return [name for name, verdict in verdicts.items() if verdict.outcome.failed]


def largest(judged: list[Verdict], scale: Callable[[Measurement], float]) -> str:
    """The largest on a scale, and of which output."""
    measured = [(scale(one), one.output) for verdict in judged for one in verdict.measurements]
    value, output = max((entry for entry in measured if not math.isnan(entry[0])), default=(math.nan, "-"))
    return f"{value:.2g} {output}"


def cells(judged: list[Verdict], not_related: list[str]) -> tuple[str, ...]:
    """What the checks say of a subject."""
    failed = sum(verdict.outcome.failed for verdict in judged)
    worst = max((verdict.worst for verdict in judged if verdict.worst), key=lambda found: found.excess, default=None)
    check, times = (f"{worst.output} {worst.check}", f"{worst.excess:.2g}") if worst else ("-", "-")
    others = {verdict.outcome.value for verdict in judged if verdict.outcome.failed and not verdict.measurements}
    if not_related:
        check, times = ", ".join(not_related), "-"
    elif others and not (worst and worst.excess > 1.0):
        check, times = ", ".join(sorted(others)), "-"
    ratio = largest(judged, lambda one: math.inf if one.nonfinite else one.ratio)
    return str(failed), check, times, ratio, largest(judged, lambda one: one.rms_z)


def print_row(*row: str) -> None:
    """A line of the table."""
    print("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |", flush=True)


def main() -> None:
    """Print the table, the correct subject first, and who survives."""
    cache = ReferenceCache(Path(sys.argv[1]) if len(sys.argv) > 1 else default_directory())
    cases = TIERS["smoke"].cases()
    # The correct subject has a masked product, which lets NaN through.
    relations = [case for case in cases if isinstance(case, RelationCase) and case.relation != "nan_causality"]
    references = {case: cache.fetch(case)[0] for case in cases if not isinstance(case, RelationCase)}
    print(HEAD.format(cases=len(references), relations=len(relations)))
    correct = judge_all(float32.chunkwise, references)
    print_row("-", "-", "none", "What the others are made from.", *cells(correct, broken(float32.chunkwise, relations)))
    survivors = []
    for planted in sorted(PLANTED.values(), key=lambda each: (GROUPS.index(each.group), GRADES.index(each.grade))):
        judged = judge_all(planted.function, references)
        seen = any(verdict.outcome.failed for verdict in judged)
        not_related = [] if seen else broken(planted.function, relations)
        print_row(planted.group, planted.grade, planted.name, planted.does, *cells(judged, not_related))
        if not (seen or not_related):
            survivors.append(planted.name)
    seen_by_all = len(PLANTED) - len(survivors)
    print(f"\n{len(PLANTED)} planted, {seen_by_all} fail. Not seen: {', '.join(survivors) or 'none'}.")


if __name__ == "__main__":
    main()
