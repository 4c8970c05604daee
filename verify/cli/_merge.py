"""``mlstm-verify merge``: the shards of a run put together."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from verify._errors import UsageError
from verify._report import Report
from verify._run import MANIFEST, RESULTS, check_directory, differences, read_results, result_record
from verify._runner import Result
from verify._table import print_summary
from verify.cli._selection import parse_shard


def merge(
    shards: Annotated[list[Path], typer.Argument(help="The run directories of `run --shard I/N`, in any order.")],
    out: Annotated[Path, typer.Option(help="Run directory to be made.")],
) -> None:
    """Put the shards of a run together: the records, and their order, are those of the run as a whole."""
    from verify._export import write_tables

    check_directory(out)
    if out.resolve() in [path.resolve() for path in shards]:
        raise UsageError(f"--out {out} is one of the shards, which stay as they are; expected another directory.")
    runs = _in_order({path: read_results(path) for path in shards})
    planned = _interleaved([manifest["planned"] for manifest, _ in runs])
    recorded = {result.case.id: result for _, of_shard in runs for result in of_shard}
    results = [recorded[name] for name in planned]
    manifest = {**runs[0][0], "shard": None, "planned": planned}
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        (out / RESULTS).write_text("".join(json.dumps(result_record(result)) + "\n" for result in results))
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written: {error}.") from error
    print_summary(Console(highlight=False, markup=False), Report.of(manifest, results))
    write_tables(out, manifest, results)


Run = tuple[dict[str, Any], list[Result]]


def _in_order(runs: dict[Path, Run]) -> list[Run]:
    """The shards 1 to N; UsageError if one is missing, twice there, unfinished or of another run."""
    numbered: dict[int, Path] = {}
    first_path, (first, _) = next(iter(runs.items()))
    total = 0
    for path, (manifest, results) in runs.items():
        if not manifest.get("shard"):
            raise UsageError(f"{path / MANIFEST} is no shard; expected runs made with --shard I/N.")
        number, of = parse_shard(manifest["shard"])
        if changed := differences(first, manifest):
            raise UsageError(f"{path} is of a run under other conditions than {first_path}: {'; '.join(changed)}.")
        if number in numbered or (total and of != total):
            raise UsageError(f"{path} is shard {manifest['shard']}, which does not fit beside {first['shard']}.")
        missing = len(set(manifest["planned"]) - {result.case.id for result in results})
        if missing:
            again = f"run --resume {shlex.quote(str(path))}"
            raise UsageError(f"{path} is unfinished: {missing} cases are missing; go on with {again}.")
        numbered[number], total = path, of
    absent = [f"{number}/{total}" for number in range(1, total + 1) if number not in numbered]
    if absent:
        raise UsageError(f"shard {', '.join(absent)} is missing.")
    return [runs[numbered[number]] for number in sorted(numbered)]


def _interleaved(parts: list[list[str]]) -> list[str]:
    return [part[place] for place in range(len(parts[0])) for part in parts if place < len(part)]
