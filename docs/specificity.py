"""False alarms: runs a tier over many seeds on one correct subject, and prints a row of docs/specificity.md.

    PYTHONPATH=. python docs/specificity.py --subject MODULE:CALLABLE [--tier smoke] [--seeds 0-19] [--spread]

With --spread every seed runs a part of the tier of its own, 1/N of it, so that all seeds together run each case once.
All cases run in one worker: what a shape needs is compiled once. A case that fails is printed, and the exit code is 1.
"""

import argparse
import os
import sys
from collections import Counter
from math import isnan
from pathlib import Path

from verify._backend import BackendOption
from verify._cache import ReferenceCache, default_directory
from verify._calibration import STATISTICS, thresholds
from verify._isolation import IsolatedSubject, Limits
from verify._runner import run_cases
from verify._subject import load_subject
from verify._tiers import TIERS, each_once


def cases_of(tier: str, seeds: range, expression: str, spread: bool):
    """The cases of all seeds; an expression leaves out ids that have it."""
    for number, seed in enumerate(seeds):
        cases = [case for case in TIERS[tier].cases(seed) if not expression or expression not in case.id]
        yield from cases[number :: len(seeds)] if spread else cases


def main() -> int:
    """Run, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subject", required=True)
    parser.add_argument("--tier", default="smoke")
    parser.add_argument("--seeds", default="0-19", help="FIRST-LAST")
    parser.add_argument("--spread", action="store_true")
    parser.add_argument("--without", default="", help="leave out the cases whose ids have this")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--in-process", action="store_true")
    parser.add_argument("--cache", type=Path, default=None)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    first, last = map(int, options.seeds.split("-"))
    cases = cases_of(options.tier, range(first, last + 1), options.without, options.spread)
    cache = ReferenceCache(options.cache or default_directory())
    if options.in_process:
        return count(options, load_subject(options.subject), cases, cache)
    with IsolatedSubject(options.subject, BackendOption(options.backend), Limits()) as subject:
        return count(options, subject, cases, cache)


def count(options: argparse.Namespace, subject, cases, cache: ReferenceCache) -> int:
    """Run the cases, print the failures and the row; 1 if there are any."""
    outcomes, nearest, measurements = Counter(), (0.0, ""), 0
    adapted = each_once(map(subject.adapt, cases))
    for case, result in run_cases(adapted, subject, options.jobs, cache, print):
        if result is None:
            continue
        outcomes[result.verdict.outcome] += 1
        measurements += len(result.verdict.measurements)
        if result.verdict.outcome.failed:
            print(f"{result.verdict.outcome.value}: {case.id}: {result.verdict.reason.splitlines()[0]}", flush=True)
        nearest = max([nearest, *((excess_of(each), each.output) for each in result.verdict.measurements)])
    told = ", ".join(f"{number} {outcome.value}" for outcome, number in outcomes.most_common())
    spread = ", spread" if options.spread else ""
    row = options.subject, f"{options.tier}{spread}", options.seeds, sum(outcomes.values()), told, measurements
    print(f"| {' | '.join(map(str, row))} | {nearest[0]:.3g} ({nearest[1]}) |")
    return int(any(outcome.failed for outcome in outcomes))


def excess_of(measurement) -> float:
    """The larger z of a measurement over its threshold; 0 without a noise floor."""
    values = {name: getattr(measurement, name) for name in STATISTICS}
    limits = {name: thresholds()[name][measurement.output].threshold for name in STATISTICS}
    return max((values[name] / limits[name] for name in STATISTICS if not isnan(values[name])), default=0.0)


if __name__ == "__main__":
    sys.exit(main())
