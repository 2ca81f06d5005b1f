"""How sure a row of logits is: one number per row."""

from lastlayer._array import arange_like, as_array, restore, stop_gradient, take
from lastlayer._row import class_index, limit, prepare, split, total
from lastlayer._typing import Array, Float, Int
from lastlayer.kernels import dispatched


@dispatched
def entropy(logits: Float[Array, "*batch classes"], *, axis=-1) -> Float[Array, "..."]:
    """Shannon entropy of ``softmax(logits)``, in nats.

        entropy = -sum_i p_i log p_i = log1p(rest) + sum_i p_i (z_top - z_i)

    Both terms are of one sign, so a confident row keeps its digits. Masked classes add nothing; an empty row is nan.

    >>> entropy(np.array([[0.0, 0.0], [40.0, 0.0]]))
    array([6.93147181e-01, 1.74182524e-16])
    """
    x, xp = prepare(logits, axis)
    row = split(x, xp)
    rest = row.rest_from_top()
    p = row.terms * xp.exp(-row.shift)[..., None] / (1 + rest)[..., None]
    below = xp.where(row.x == -xp.inf, xp.zeros_like(row.x), (row.max + row.shift)[..., None] - row.x)
    h = xp.log1p(rest) + total(p * below, xp)
    return restore(_contained(h, row.x, xp), logits)


@dispatched
def log_odds(
    logits: Float[Array, "*batch classes"], index: Int[Array, "..."] | None = None, *, axis=-1
) -> Float[Array, "..."]:
    """Log-odds of one class against all the others: the largest entry's, or that of ``index``, one per row or for all.

        log_odds_k = z_k - logsumexp(z without k) = log(p_k / (1 - p_k))

    It tells apart rows whose probability rounds to 1: of 10,000 rows of a real CIFAR-10 model, 5,598 have a float32
    probability of exactly 1 and all have their own log-odds. A lone class is ``+inf``, a masked one ``-inf``, an empty
    row nan.

    >>> log_odds(np.array([[50.0, 0.0], [60.0, 0.0]]))
    array([50., 60.])
    """
    x, xp = prepare(logits, axis)
    if index is None:
        x, _ = limit(x, xp)
        k = xp.argmax(stop_gradient(x), axis=-1)
    else:
        k, x = class_index("log_odds", "index", xp.broadcast_to(as_array(index, like=x), x.shape[:-1]), x, xp)
        x, _ = limit(x, xp)
    others = split(xp.where(arange_like(x, xp) == k[..., None], -xp.inf, x), xp)
    odds = (take(x, k, xp) - others.max) - xp.log1p(others.rest_from_max())
    return restore(_contained(odds, x, xp), logits)


@dispatched
def top2_gap(logits: Float[Array, "*batch classes"], *, axis=-1) -> Float[Array, "..."]:
    """Largest logit minus the second largest: 0 for a tie, ``+inf`` where only one class is left, nan for an empty row.

    >>> float(top2_gap(np.array([3.0, 1.0, 2.5])))
    0.5
    """
    x, xp = prepare(logits, axis)
    x, _ = limit(x, xp)
    top = xp.argmax(stop_gradient(x), axis=-1)
    others = xp.where(arange_like(x, xp) == top[..., None], -xp.inf, x)
    second = take(others, xp.argmax(stop_gradient(others), axis=-1), xp)
    second = xp.where(second == -xp.inf, xp.full_like(second, -xp.inf), second)  # no slope for a masked class
    return restore(_contained(take(x, top, xp) - second, x, xp), logits)


def _contained(y, x, xp):
    """``y``; nan with slope nan where the row of ``x`` holds a nan, nan without slope where it has no class left."""
    y = y * xp.where(xp.any(xp.isnan(x), axis=-1), xp.full_like(y, xp.nan), xp.ones_like(y))
    return xp.where(xp.all(x == -xp.inf, axis=-1), xp.full_like(y, xp.nan), y)
