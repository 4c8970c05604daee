"""``mlstm-verify list``: cases, tiers, regimes, relations, thresholds, subjects."""

from __future__ import annotations

import importlib.util
import itertools

import typer
from rich.console import Console
from rich.table import Table

from verify._calibration import RATE, STATISTICS, thresholds
from verify._corpus import CORPUS, read_corpus
from verify._regimes import REGIMES
from verify._relations import RELATIONS
from verify._subject import DEFAULT_SUBJECT, KNOWN_SUBJECTS
from verify._tiers import TIERS
from verify.cli._selection import (
    ExpressionOption,
    GradientsOption,
    SeedOption,
    TierOption,
    draw_cases,
    is_endless,
    select_cases,
)

list_app = typer.Typer(no_args_is_help=True, help="List cases, tiers, gate regimes, relations, thresholds or subjects.")
# Of a tier without an end.
_FIRST = 100


@list_app.command()
def cases(
    tier: TierOption = None,
    seed: SeedOption = None,
    k: ExpressionOption = None,
    gradients: GradientsOption = True,
) -> None:
    """The case ids of a tier, one a line on stdout; what the tier covers and leaves out on stderr."""
    tier = tier or "smoke"
    if is_endless(tier):
        selected = list(itertools.islice(draw_cases(tier, k, gradients=gradients, seed=seed), _FIRST))
    else:
        selected = select_cases(tier, [], k, gradients=gradients, seed=seed)
    for case in selected:
        print(case.id)
    stderr = Console(stderr=True, highlight=False)
    count = f"The first {len(selected)} of an endless number of" if is_endless(tier) else len(selected)
    stderr.print(f"{count} cases. Tier {tier}: {TIERS[tier].covers}.")
    stderr.print(f"It leaves out: {TIERS[tier].leaves_out}.")
    if found := set(read_corpus()).intersection(selected):
        stderr.print(f"{len(found)} of them were found by searches: {CORPUS}.", soft_wrap=True)


@list_app.command()
def tiers() -> None:
    """The tiers: how many cases, what they cover and what they leave out."""
    table = Table("tier", "cases", "covers", "leaves out", box=None, pad_edge=False, width=100)
    for name, tier in TIERS.items():
        table.add_row(name, "no end" if tier.endless else str(len(tier.cases())), tier.covers, tier.leaves_out)
        table.add_row()
    Console(highlight=False, width=100).print(table)


@list_app.command()
def regimes() -> None:
    """The gate regimes, and what each stresses."""
    table = Table("regime", "parameters in use", "stresses", box=None, pad_edge=False, width=100)
    for name, regime in REGIMES.items():
        token = f"{name}@NUMBER" if regime.parameters else name
        table.add_row(token, " ".join(f"{value:g}" for value in regime.parameters), regime.stresses)
    Console(highlight=False, width=100).print(table)


@list_app.command("thresholds")
def list_thresholds() -> None:
    """The thresholds of the verdict, and what they rest on."""
    table = Table("output", "RMS z", "largest seen", "largest z", "largest seen", "measurements", box=None, width=100)
    rms, largest = (thresholds()[name] for name in STATISTICS)
    for output, tail in rms.items():
        other = largest[output]
        numbers = (tail.threshold, tail.largest, other.threshold, other.largest, tail.count)
        table.add_row(output, *(f"{number:g}" for number in numbers))
    Console(highlight=False, width=100).print(table)
    print("Of N numbers RMS z may be sqrt(T^2 + L^2 / N), with T the threshold of RMS z and L that of the largest z.")
    print(f"error / bound: 1. A correct kernel is beyond one of the others in 1 of {1 / RATE:.0e} measurements.")


@list_app.command()
def relations() -> None:
    """The relations, what each says, and what it asks of a case."""
    table = Table("relation", "says", "asks for", box=None, pad_edge=False, width=100)
    for name, relation in RELATIONS.items():
        table.add_row(name, relation.says, relation.asks[1])
    Console(highlight=False, width=100).print(table)


@list_app.command()
def subjects() -> None:
    """The subjects that the suite knows by name; any other module:callable will do."""
    for name, meaning in KNOWN_SUBJECTS.items():
        installed = importlib.util.find_spec(name.partition(":")[0].partition(".")[0]) is not None
        default = ", the default" if name == DEFAULT_SUBJECT else ""
        print(f"{name}\n    {meaning}{default}{'' if installed else ', not installed'}")
