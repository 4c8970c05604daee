"""How far gradients are from others, on a scale that a test can read."""

import mpmath
import numpy as np

# Gradients of one kind: what is small beside the others of its kind is rounding.
FAMILIES = (("dq", "dk", "dv"), ("di", "df", "dm_0"), ("dC_0", "dn_0"))


def greatest(array):
    """max |x|, 0 of no numbers; mpmath's numbers too."""
    return max((abs(x) for x in np.asarray(array, object).ravel()), default=0)


def deviation(got, wanted, *, negligible, leave_out=()):
    """The largest of max |x - r| / max |r| over the gradients; inf for a number that is not finite.

    A gradient below ``negligible`` of its family is measured on the scale of the family.
    """
    got, wanted = (
        {name: value for name, value in gradients.items() if name not in leave_out} for gradients in (got, wanted)
    )
    assert got.keys() == wanted.keys()
    figures = [0.0]
    for family in FAMILIES:
        names = [name for name in family if name in wanted]
        sizes = {name: greatest(wanted[name]) for name in names}
        common = max(sizes.values(), default=0)
        for name in names:
            both = [np.asarray(values[name], object).ravel() for values in (got, wanted)]
            if not all(mpmath.isfinite(x) for array in both for x in array):
                return float("inf")
            apart = greatest(both[0] - both[1])
            scale = sizes[name] if sizes[name] > negligible * common else common
            figures.append(float(apart / scale) if apart else 0.0)
    return max(figures)
