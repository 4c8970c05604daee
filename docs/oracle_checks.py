"""How far the oracles are from what they are checked against: prints the tables of checks of docs/method.md.

Run it from the clone, where the packages of the tests are: ``PYTHONPATH=. python docs/oracle_checks.py``. Every
figure of the gradients is the largest over the cases of a test in tests/oracles, which also holds it below a threshold;
what the oracles say of each other is checked in more random cases than the test has (``--cases``, 300 if not given;
``--enclosures`` prints this table alone).
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence

from tests.oracles import (
    test_enclosures,
    test_vjp_chains,
    test_vjp_detached,
    test_vjp_differences,
    test_vjp_forms_agree,
    test_vjp_jax,
)
from verify import Case
from verify._regimes import regime_tokens

CHECKS: tuple[tuple[str, Sequence[tuple], Callable[..., float], float], ...] = (
    (
        "parallel against recurrent VJP, 50 digits",
        test_vjp_forms_agree.CASES,
        test_vjp_forms_agree.parallel_against_recurrent,
        test_vjp_forms_agree.NEAR,
    ),
    (
        "float64 against 50 digits: error / what float64 may do",
        test_vjp_forms_agree.CASES,
        test_vjp_forms_agree.float64_against_mpmath,
        1.0,
    ),
    (
        "recurrent VJP against central differences, 60 digits",
        test_vjp_differences.CASES,
        test_vjp_differences.gradients_against_quotients,
        test_vjp_differences.NEAR,
    ),
    (
        "recurrent VJP in float64 against jax.vjp of the definition",
        test_vjp_jax.CASES,
        test_vjp_jax.float64_against_jax,
        test_vjp_jax.NEAR,
    ),
    (
        "two segments, chained, against the whole, 50 digits",
        test_vjp_chains.CASES,
        test_vjp_chains.segments_against_the_whole,
        test_vjp_chains.NEAR,
    ),
    (
        "detached against exact below a layer norm, 50 digits",
        test_vjp_detached.CASES,
        test_vjp_detached.below_a_layer_norm,
        test_vjp_detached.NEAR,
    ),
)


def gradients() -> None:
    """Print a row for each check, exact and detached apart where it has both."""
    print("| check | gradient | cases | largest deviation | allowed |\n| --- | --- | --- | --- | --- |")
    for label, cases, figure, allowed in CHECKS:
        for kind in ("exact", "detached"):
            of_kind = [case for case in cases if kind in case]
            if of_kind:
                largest = max(figure(*case) for case in of_kind)
                print(f"| {label} | {kind} | {len(of_kind)} | {largest:.2g} | {allowed:.2g} |", flush=True)
        rest = [case for case in cases if not {"exact", "detached"} & {*map(str, case)}]
        if rest:
            largest = max(figure(*case) for case in rest)
            print(f"| {label} | both | {len(rest)} | {largest:.2g} | {allowed:.2g} |", flush=True)


def enclosures(count: int) -> None:
    """Print what comes of at least so many random cases, as many of every regime; the faults, if any, to stderr."""
    tallies = {kind: test_enclosures.Tally() for kind in test_enclosures.FORMS}
    ids = set()

    def examine(case: Case) -> None:
        ids.add(case.id)
        for kind in tallies:
            tallies[kind] += test_enclosures.tally_of(case, kind)

    regimes = regime_tokens()
    for regime in regimes:
        test_enclosures.examine_random_cases(regime, math.ceil(count / len(regimes)), examine)
    print(f"{len(ids)} cases, {len(regimes)} regimes with their parameters:\n")
    print("| compared, in all cases | " + " | ".join(tallies) + " |\n| --- |" + " --- |" * len(tallies))
    rows: tuple[tuple[str, Callable[[test_enclosures.Tally], str]], ...] = (
        ("mpmath and a ball, numbers", lambda tally: f"{tally.inside}"),
        ("balls of two forms, numbers", lambda tally: f"{tally.intersecting}"),
        ("float64 and its bound, numbers", lambda tally: f"{tally.bounded}"),
        ("exceptions", lambda tally: f"{len(tally.faults)}"),
        ("float64 without a bound, numbers", lambda tally: f"{tally.unbounded}"),
        ("balls of which nothing is known", lambda tally: f"{tally.unknown}"),
        ("largest radius of a ball / number", lambda tally: f"{tally.radius:.2g}"),
        ("largest radius of a ball that holds 0", lambda tally: f"{tally.radius_at_0:.2g}"),
        ("largest distance of float64 from the ball / its own bound", lambda tally: f"{tally.ratio:.2g}"),
    )
    for label, figure in rows:
        print(f"| {label} | " + " | ".join(figure(tally) for tally in tallies.values()) + " |")
    for tally in tallies.values():
        print(*tally.faults, sep="\n", end="", file=sys.stderr)


def main() -> None:
    """Print both tables, or one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=300, help="random cases, at least")
    parser.add_argument("--enclosures", action="store_true", help="the table of the random cases alone")
    options = parser.parse_args()
    if not options.enclosures:
        gradients()
        print()
    enclosures(options.cases)


if __name__ == "__main__":
    main()
