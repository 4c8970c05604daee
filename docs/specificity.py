"""False alarms: runs a tier over many seeds on one correct subject, and prints the table of docs/specificity.md.

    PYTHONPATH=. python docs/specificity.py --subject MODULE:CALLABLE [--tier smoke] [--seeds 0-19] --out FILE
    PYTHONPATH=. python docs/specificity.py FILE [FILE ...]          the table of what these files hold

A line is added to the file when a seed is finished; a seed that it has is not run again. All cases run in one worker:
what a shape needs is compiled once. A case that fails is printed, and the exit code is 1. The file keeps the largest
values, so the table's last column is by the thresholds of today. Seeds of another definition of the references are run
again, and have a row of their own.
"""

import argparse
import itertools
import json
import os
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from math import isnan, sqrt
from pathlib import Path

from verify._backend import BackendOption
from verify._cache import ReferenceCache, default_directory, definition_digest
from verify._calibration import STATISTICS, limit, thresholds
from verify._isolation import IsolatedSubject, Limits
from verify._runner import run_cases
from verify._subject import load_subject
from verify._tiers import TIERS, each_once
from verify._verdict import Outcome


@dataclass(frozen=True)
class Seed:
    """What came of one seed: how many cases had which outcome; the largest values by statistic and output."""

    subject: str
    tier: str
    definition: str
    seed: int
    outcomes: dict[str, int]
    measurements: int
    largest: dict[str, dict[str, float]]

    @property
    def nearest(self) -> tuple[float, str]:
        """The largest value over its threshold of today, and its output."""
        limits = thresholds()
        return max(
            (value / limits[name][output].threshold, output)
            for name, of_output in self.largest.items()
            for output, value in of_output.items()
        )


def main() -> int:
    """Run, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--subject")
    parser.add_argument("--tier", default="smoke")
    parser.add_argument("--seeds", default="0-19", help="FIRST-LAST")
    parser.add_argument("--without", default="", help="leave out the cases whose ids have this")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--in-process", action="store_true")
    parser.add_argument("--cache", type=Path, default=None)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.files:
        print_table(list(itertools.chain(*map(read, options.files))))
        return 0
    if not (options.subject and options.out):
        parser.error("expected --subject and --out, or files.")
    first, last = map(int, options.seeds.split("-"))
    same = options.subject, options.tier, definition_digest()
    finished = {seed.seed for seed in read(options.out) if (seed.subject, seed.tier, seed.definition) == same}
    seeds = [seed for seed in range(first, last + 1) if seed not in finished]
    if options.in_process:
        return run(options, load_subject(options.subject), seeds)
    with IsolatedSubject(options.subject, BackendOption(options.backend), Limits()) as subject:
        return run(options, subject, seeds)


def read(file: Path) -> list[Seed]:
    """The seeds of a file; none if it is not there."""
    return [Seed(**json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []


def run(options: argparse.Namespace, subject, seeds: list[int]) -> int:
    """Run the seeds, add a line for each; 1 if any case failed."""
    failed = False
    for seed in seeds:
        result = run_seed(options, subject, seed)
        with options.out.open("a") as file:
            print(json.dumps(asdict(result)), file=file)
        print(f"seed {seed}: {result.outcomes}, nearest {result.nearest}", flush=True)
        failed |= failures(result) > 0
    return int(failed)


def failures(seed: Seed) -> int:
    """How many of its cases failed."""
    return sum(count for outcome, count in seed.outcomes.items() if Outcome(outcome).failed)


def run_seed(options: argparse.Namespace, subject, seed: int) -> Seed:
    """Run the cases of a seed, and print the failures."""
    cache = ReferenceCache(options.cache or default_directory())
    cases = [case for case in TIERS[options.tier].cases(seed) if not options.without or options.without not in case.id]
    outcomes, measurements = Counter(), []
    for case, result in run_cases(each_once(map(subject.adapt, cases)), subject, options.jobs, cache, print):
        if result is None:
            continue
        outcomes[result.verdict.outcome.value] += 1
        measurements += result.verdict.measurements
        if result.verdict.outcome.failed:
            print(f"{result.verdict.outcome.value}: {case.id}: {result.verdict.reason.splitlines()[0]}", flush=True)
    largest = {name: largest_of(name, measurements) for name in STATISTICS}
    return Seed(options.subject, options.tier, definition_digest(), seed, dict(outcomes), len(measurements), largest)


def largest_of(statistic: str, measurements: list) -> dict[str, float]:
    """The largest value of each output that has a noise floor; of RMS z, less what one number alone may add to it."""
    values = {}
    for each in measurements:
        value = getattr(each, statistic)
        if statistic == "rms_z" and each.counted:
            one = limit("largest_z", each.output, each.counted)
            value = sqrt(max(value**2 - one**2 / each.counted, 0.0))
        if not isnan(value):
            values[each.output] = max(value, values.get(each.output, 0.0))
    return values


def print_table(seeds: list[Seed]) -> None:
    """A row for each subject and tier, and the sums."""
    columns = "subject", "tier", "seeds", "cases", "outcomes", "measurements", "nearest to its threshold"
    print(f"| {' | '.join(columns)} |")
    print("| --- " * len(columns) + "|")

    def row_of(seed: Seed) -> tuple:
        return list(TIERS).index(seed.tier), seed.tier, seed.subject, seed.definition

    in_order = sorted(seeds, key=lambda seed: (*row_of(seed), seed.seed))
    for (_, tier, name, _), group in itertools.groupby(in_order, key=row_of):
        rows = list(group)
        outcomes = sum((Counter(row.outcomes) for row in rows), Counter())
        told = ", ".join(f"{number:,} {outcome}" for outcome, number in outcomes.most_common())
        nearest, output = max(row.nearest for row in rows)
        numbers = f"{outcomes.total():,}", told, f"{sum(row.measurements for row in rows):,}"
        of_seeds = ranges([row.seed for row in rows])
        print(f"| {' | '.join([name, tier, of_seeds, *numbers])} | {nearest:.3g} ({output}) |")
    cases = sum(sum(seed.outcomes.values()) for seed in seeds)
    failed, measurements = sum(map(failures, seeds)), sum(seed.measurements for seed in seeds)
    print(f"\n{failed} failures in {cases:,} cases and {measurements:,} measurements.")


def ranges(numbers: list[int]) -> str:
    """0-3, 7: what increasing numbers are, in short."""
    parts = []
    for _, group in itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        run_of = [number for _, number in group]
        parts.append(str(run_of[0]) if len(run_of) == 1 else f"{run_of[0]}-{run_of[-1]}")
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
