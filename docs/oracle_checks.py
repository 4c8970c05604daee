"""How far the oracles' gradients are from what they are checked against: prints a table of docs/method.md, section 12.

Run it from the clone, where the packages of the tests are: ``PYTHONPATH=. python docs/oracle_checks.py``. Every
figure is the largest over the cases of a test in tests/oracles, which also holds it below a threshold.
"""

from collections.abc import Callable, Sequence

from tests.oracles import test_vjp_chains, test_vjp_detached, test_vjp_differences, test_vjp_forms_agree, test_vjp_jax

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


def main() -> None:
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


if __name__ == "__main__":
    main()
