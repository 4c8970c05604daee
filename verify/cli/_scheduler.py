"""The option --scheduler: the cluster that cases and references are spread over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from verify._errors import UsageError

if TYPE_CHECKING:
    from verify._cluster import Cluster

SchedulerOption = Annotated[
    str | None, typer.Option("--scheduler", help="tcp://HOST:PORT: over the workers of this Dask cluster.")
]


def open_cluster(address: str, jobs: int | None) -> Cluster:
    """Connect to the cluster.

    Raises:
        UsageError: if the extra is not installed, --jobs is given, and as ``Cluster`` raises.
    """
    if jobs is not None:
        told = f"--jobs {jobs} and --scheduler cannot both be given: the cluster's workers compute the references."
        raise UsageError(told)
    try:
        from verify._cluster import Cluster
    except ModuleNotFoundError as error:
        if error.name not in ("dask", "distributed"):
            raise
        install = "pip install 'mlstm-verify[cluster]', or from a clone, pip install -e '.[cluster]'"
        raise UsageError(f"--scheduler needs the package {error.name}, which is not installed: {install}.") from error
    return Cluster(address)
