"""The mean of losses over the rows that count."""

import math

from lastlayer._array import floating, namespace
from lastlayer._check import one_of
from lastlayer._typing import Array, Bool, Float
from lastlayer.kernels import dispatched
from lastlayer.loss._parts import aligned


@dispatched
def mean(
    losses: Float[Array, "*batch"],
    valid: Bool[Array, "*batch"] | None = None,
    weight: Float[Array, "*batch"] | None = None,
    empty="nan",
) -> Float[Array, ""]:
    """Weighted mean of losses over the rows that count, as one number.

        mean = sum_i w_i loss_i / sum_i w_i

    Rows that are not ``valid`` or weigh 0 are left out, whatever they hold. Where nothing is left the mean is nan,
    ``empty="zero"`` gives 0 with gradient 0, and ``empty="raise"`` a ValueError.

    >>> float(mean(np.array([1.0, 3.0, np.nan]), valid=np.array([True, True, False])))
    2.0
    """
    one_of("mean", "empty", empty, ("nan", "zero", "raise"))
    x = floating(losses)
    xp = namespace(x)
    w = xp.ones_like(x) if weight is None else aligned("mean", "weight", weight, "loss", x, x.dtype)
    if valid is not None:
        w = xp.where(aligned("mean", "valid", valid, "loss", x, xp.bool), w, xp.zeros_like(w))
    mass = xp.sum(w)
    none = mass == 0
    if empty == "raise" and bool(none):
        raise ValueError("mean: no row counts: every one is not valid or weighs 0.")
    counted = xp.where(w == 0, xp.zeros_like(x), x)
    average = xp.sum(w * counted) / xp.where(none, xp.ones_like(mass), mass)
    return xp.where(none, xp.full_like(average, 0.0 if empty == "zero" else math.nan), average)
