"""Logits of one length, whatever the size the network gave them."""

from lastlayer._array import restore, stop_gradient
from lastlayer._check import one_of, positive
from lastlayer._row import prepare, subtract, total
from lastlayer._typing import Array, Float
from lastlayer.kernels import dispatched

_LARGE, _ROOM = 2.0**64, 2.0**32  # beyond the first, a row is moved by the second: 4 billion classes can be summed


@dispatched
def standardize(
    logits: Float[Array, "*batch classes"], *, how="norm", temperature=1.0, axis=-1
) -> Float[Array, "*batch classes"]:
    """Logits scaled to one length, or to one mean and spread, so that only their direction is learned.

        "norm"    z / (temperature * ||z||_2)
        "zscore"  (z - mean(z)) / (temperature * std(z))

    "norm" is LogitNorm (Wei et al. 2022), "zscore" the standardization of teacher and student before distillation (Sun
    et al. 2024, algorithm 1), with the population's standard deviation. Masked classes stay ``-inf`` and count for
    nothing, in the length, the mean or the number of classes. There is no epsilon: a row without direction, all 0 for
    "norm" or all equal for "zscore", gives 0 with gradient 0. Entries of ``+inf`` are alike and leave 0 to the others
    before either formula; their row has gradient 0. An empty row is nan. No size of logits overflows on the way.

    >>> standardize(np.array([[3.0, -4.0, -np.inf], [0.0, 0.0, 0.0]]))
    array([[ 0.6, -0.8, -inf],
           [ 0. ,  0. ,  0. ]])
    >>> standardize(np.array([1.0, 2.0, 3.0]), how="zscore").round(4)
    array([-1.2247,  0.    ,  1.2247])
    """
    one_of("standardize", "how", how, ("norm", "zscore"))
    positive("standardize", "temperature", temperature)
    x, xp = prepare(logits, axis)
    absent = x == -xp.inf
    infinite = x == xp.inf
    limited = xp.any(infinite, axis=-1, keepdims=True) & ~xp.any(xp.isnan(x), axis=-1, keepdims=True)
    x = xp.where(limited, xp.astype(infinite, x.dtype), xp.where(absent, xp.zeros_like(x), x))
    count = total(xp.astype(~absent, x.dtype), xp)[..., None]
    empty = count == 0
    count = xp.where(empty, xp.ones_like(count), count)
    x = _moved(x, xp)
    if how == "zscore":
        x = _centred(x, absent, count, xp)
    unit, square = _scaled(x, xp)
    flat = square == 0
    square = xp.where(flat, xp.ones_like(square), square)  # the slope of the root at 0 is infinite
    length = xp.sqrt(square / count if how == "zscore" else square)
    result = xp.where(flat, xp.zeros_like(unit), unit / (temperature * length))
    result = xp.where(empty, xp.nan, xp.where(absent, -xp.inf, result))
    return restore(result if axis in (-1, result.ndim - 1) else xp.moveaxis(result, -1, axis), logits)


def _moved(x, xp):
    """``x`` times a power of two for each row, which rounds nothing and leaves the direction as it is.

    Sums need the room, and so does XLA, which writes ``x / a / b`` as ``x / (a * b)``.
    """
    size = xp.max(xp.abs(stop_gradient(x)), axis=-1, keepdims=True)
    one = xp.ones_like(size)
    return x * xp.where(size > _LARGE, one / _ROOM, xp.where(size < 1 / _LARGE, one * _ROOM, one))


def _centred(x, absent, count, xp):
    """``x`` less its mean over the classes that are there, with the rounding of every step put back."""
    anchor = xp.max(xp.where(absent, -xp.inf, stop_gradient(x)), axis=-1, keepdims=True)
    anchor = xp.where(anchor == -xp.inf, xp.zeros_like(anchor), anchor)
    below, error = subtract(xp.where(absent, anchor, x), anchor, xp)
    centred, more = subtract(below, total(below, xp)[..., None] / count, xp)
    error = error + more
    there = xp.where(absent, xp.zeros_like(x), stop_gradient(centred) + error)
    correction = total(there, xp)[..., None] / count
    return xp.where(absent, xp.zeros_like(x), centred + (error - correction))


def _scaled(x, xp):
    """``x`` over its largest magnitude, whose squares neither overflow nor vanish, and the sum of those squares."""
    size = xp.max(xp.abs(stop_gradient(x)), axis=-1, keepdims=True)
    unit = x / xp.where(size == 0, xp.ones_like(size), size)
    return unit, total(unit * unit, xp)[..., None]
