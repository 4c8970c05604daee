"""The corpus: worst cases that ``mlstm-verify search`` found, which every tier that has an end includes.

It is plain text, one case id a line; what follows # is for its reader: the subject, what was found, and when.
"""

from __future__ import annotations

import os
from pathlib import Path

from verify._case import Case
from verify._errors import UsageError
from verify._relation_cases import parse_case

CORPUS = Path(__file__).with_name("corpus.txt")


def read_corpus(path: Path | None = None) -> list[Case]:
    """The cases of a corpus, in order; ``CORPUS``, unless another path is given.

    Raises:
        UsageError: naming the file, and the line of what is no case or is there twice.
    """
    path = path or CORPUS
    lines: dict[Case, int] = {}
    for number, line in enumerate(_text(path).splitlines(), start=1):
        name = line.partition("#")[0].strip()
        if not name:
            continue
        try:
            case = parse_case(name)
        except UsageError as error:
            raise UsageError(f"{path}, line {number} is no case: {error}") from error
        if case in lines:
            raise UsageError(f"{path}, line {number} has the case of line {lines[case]} again: {name}.")
        lines[case] = number
    return list(lines)


def add_to_corpus(case: Case, found: str, path: Path | None = None) -> bool:
    """Append a case and what was found, one line; False if the case is there already.

    Raises:
        UsageError: for a corpus that is damaged, or cannot be written.
    """
    path = path or CORPUS
    if case in (read_corpus(path) if path.exists() else []):
        return False
    text = _text(path) if path.exists() else ""
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_text(f"{text.rstrip()}\n{case.id}  # {' '.join(found.split())}\n".lstrip(), encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error}.") from error
    return True


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as a corpus: {error}.") from error
