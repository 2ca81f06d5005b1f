"""Exact bounds for a probability that was counted: what "at most 2 % errors" rests on."""

from typing import NamedTuple

import numpy as np

from lastlayer._check import DataError


class Bounds(NamedTuple):
    """Two one-sided bounds; each holds with the confidence asked for (both at once: with twice the room for error)."""

    low: np.ndarray
    high: np.ndarray


def clopper_pearson(count, rows, confidence) -> Bounds:
    """One-sided bounds for the probability behind ``count`` out of ``rows`` independent trials, elementwise.

        P(Binomial(rows, high) <= count) = 1 - confidence = P(Binomial(rows, low) >= count)

    Clopper and Pearson 1934: never optimistic, whatever the probability. No count gives ``low = 0``, a full count
    ``high = 1``, no rows (0, 1). Counts need not be whole: a weighted share is bounded by its effective number of rows.

    >>> clopper_pearson(0, 149, 0.95).high.round(4)
    np.float64(0.0199)
    """
    from scipy.special import betaincinv

    count, rows = np.asarray(count, np.float64), np.asarray(rows, np.float64)
    none, full = count <= 0, count >= rows
    low = betaincinv(np.where(none, 1.0, count), np.where(none, 1.0, rows - count + 1), 1 - confidence)
    high = betaincinv(np.where(full, 1.0, count + 1), np.where(full, 1.0, rows - count), confidence)
    return Bounds(np.where(none, 0.0, low)[()], np.where(full, 1.0, high)[()])


def fraction(function, parameter, value):
    """Refuse what is not strictly between 0 and 1."""
    number = isinstance(value, int | float | np.floating)
    if not number or not 0 < value < 1:
        percent = f" Write {value / 100:g} for {value:g} %." if number and 1 < value < 100 else ""
        raise ValueError(f"{function}: {parameter} lies between 0 and 1, both excluded; this is {value!r}.{percent}")


def counted(outputs):
    """The rows that count. A bound over rows that weigh differently would need another law than the binomial."""
    if outputs.weight is None:
        return outputs
    kept = outputs.rows(outputs.weight > 0)
    uneven = np.flatnonzero((outputs.weight > 0) & (outputs.weight != kept.weight[0]))
    if len(uneven):
        raise DataError(
            "held-out rows weigh differently; a bound on counted rows needs equal weights (0 leaves a row out).",
            file=outputs.source,
            field="weight",
            rows=uneven,
            fix="draw held-out rows as they will come, and leave the weight out.",
        )
    return kept
