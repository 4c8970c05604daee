"""Names with a number behind them, ``name@value``, as regimes and initial states are written."""

from __future__ import annotations

import math
import re

from verify._errors import UsageError

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


def split_parameter(what: str, text: str, takes_parameter: dict[str, bool]) -> tuple[str, float | None]:
    """(name, value) of ``name`` or ``name@value``.

    Args:
        what: what the name stands for, for the message.
        text: as given.
        takes_parameter: every known name, and whether it must have a value.

    Raises:
        UsageError: for an unknown name, a missing value, a value too many or one that is no number.
    """
    name, at, value = text.partition("@")
    if name not in takes_parameter:
        known = ", ".join(f"{key}@NUMBER" if needs else key for key, needs in takes_parameter.items())
        raise UsageError(f"{what} {text!r} is unknown; expected one of {known}.")
    if not takes_parameter[name]:
        if at:
            raise UsageError(f"{what} {text!r} has a parameter; {name} takes none.")
        return name, None
    # float() takes spaces and underscores too, which no id has.
    number = float(value) if _NUMBER.fullmatch(value) else math.nan
    if not math.isfinite(number):
        raise UsageError(f"{what} {text!r} needs a finite number as its parameter, as in {name}@10.")
    return name, number
