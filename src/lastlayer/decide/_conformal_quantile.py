"""The order statistic that a conformal promise rests on, in exact arithmetic."""

import math
from fractions import Fraction

import numpy as np

from lastlayer._check import DataError


def order(n, alpha) -> int:
    """``k = ceil((n + 1)(1 - alpha))``, in exact arithmetic on the decimal number that alpha is written as."""
    return n + 1 - math.floor((n + 1) * _exact(alpha))


def fewest_rows(alpha) -> int:
    """The fewest rows with which a threshold can keep its promise: ``k <= n``."""
    return math.ceil(1 / _exact(alpha)) - 1


def threshold(scores, alpha, source=None, name=None) -> float:
    """The `order`-th smallest score; ``inf`` where there are fewer. A score of nan is one that no set can reach."""
    k = order(len(scores), alpha)
    if k > len(scores):
        return math.inf
    found = float(np.partition(scores, k - 1)[k - 1])
    if math.isnan(found):
        reachable = int(np.count_nonzero(~np.isnan(scores)))
        where = "" if name is None else f" of {name}"
        raise DataError(
            f"the true class is masked, or its row holds a nan, in {len(scores) - reachable:,} of {len(scores):,} "
            f"held-out rows{where}, so no sets cover {1 - alpha:g} of such rows; at most "
            f"{reachable / (len(scores) + 1):.4g} can be promised.",
            file=source,
            field="target",
            fix="mend these rows, leave them out (weight 0), or ask for a higher alpha.",
        )
    return found


def too_few(rows, alpha, source, of=""):
    """The complaint about a number of rows that promises nothing."""
    return DataError(
        f"{rows} held-out rows{of} promise no coverage of {1 - alpha:g}: it takes at least {fewest_rows(alpha)}.",
        file=source,
        fix="give more labelled held-out rows, or ask for a higher alpha.",
    )


def _exact(alpha):
    return Fraction(repr(float(alpha)))
