"""The option --cache: where references are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from verify._cache import ReferenceCache, default_directory

CacheOption = Annotated[
    Path | None, typer.Option("--cache", help="Directory of references. Default: in the user's cache directory.")
]


def open_cache(directory: Path | None) -> ReferenceCache:
    """The cache in a directory, or the user's."""
    return ReferenceCache(directory or default_directory())
