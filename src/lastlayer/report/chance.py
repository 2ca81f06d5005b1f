"""How surprising a gap would be if the probabilities were true: a bound that holds for any number of rows.

A normal approximation is off exactly where it matters (confident models, rare classes: few, skewed terms), so findings
rest on Bennett's inequality, and a false alarm is as rare as promised, not only in the limit.
"""

import math

import numpy as np

# The chance of a false alarm per question. Nine are asked of chance, and CI runs `check` a thousand times a year.
ALPHA = 1e-4
LOG_ALPHA = math.log(ALPHA)


def log_chance(gap, variance, largest):
    """Log of a bound on the chance that independent terms of mean 0, each at most ``largest``, sum to ``gap`` or more.

        log P <= -(variance / largest^2) h(largest gap / variance),    h(u) = (1 + u) log(1 + u) - u

    Bennett 1962, eq. 8b; ``variance`` is that of the sum. A gap of 0 or less is no surprise: 0.

    >>> round(float(np.exp(log_chance(30.0, 100.0, 1.0))), 4)
    0.0165
    """
    gap, variance = np.asarray(gap, dtype=np.float64), np.asarray(variance, dtype=np.float64)
    with np.errstate(all="ignore"):
        u = largest * gap / variance
        bound = -(gap / largest) * ((1 + 1 / u) * np.log1p(u) - 1)
    return np.where(gap > 0, bound, 0.0)


def clear_gap(variance, largest, tests=1):
    """A gap that `log_chance` is certain to call clear when ``tests`` are made (Bernstein's simpler, larger bound).

    gap = sqrt(2 variance L) + largest L / 3,    L = log(tests / ALPHA)
    """
    needed = math.log(tests) - LOG_ALPHA
    return math.sqrt(2 * variance * needed) + largest * needed / 3
