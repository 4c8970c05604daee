"""``mlstm-verify list``: cases, regimes, relations, subjects."""

from __future__ import annotations

import importlib.util
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from verify._regimes import REGIMES
from verify._relations import RELATIONS
from verify._subject import DEFAULT_SUBJECT, KNOWN_SUBJECTS
from verify._tiers import TIERS
from verify.cli._selection import select_cases

list_app = typer.Typer(no_args_is_help=True, help="List cases, gate regimes, relations or known subjects.")


@list_app.command()
def cases(
    tier: Annotated[str, typer.Option(help="Tier of cases: smoke or standard.")] = "smoke",
    k: Annotated[str | None, typer.Option("-k", help="Only ids that match: words, and, or, not, ( ).")] = None,
    gradients: Annotated[bool, typer.Option(help="Gradients too, or the forward pass alone.")] = True,
) -> None:
    """The case ids of a tier, one a line on stdout; what the tier covers and leaves out on stderr."""
    selected = select_cases(tier, [], k, gradients=gradients)
    for case in selected:
        print(case.id)
    stderr = Console(stderr=True, highlight=False)
    stderr.print(f"{len(selected)} cases. Tier {tier}: {TIERS[tier].covers}.")
    stderr.print(f"It leaves out: {TIERS[tier].leaves_out}.")


@list_app.command()
def regimes() -> None:
    """The gate regimes, and what each stresses."""
    table = Table("regime", "parameters in use", "stresses", box=None, pad_edge=False, width=100)
    for name, regime in REGIMES.items():
        token = f"{name}@NUMBER" if regime.parameters else name
        table.add_row(token, " ".join(f"{value:g}" for value in regime.parameters), regime.stresses)
    Console(highlight=False, width=100).print(table)


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
