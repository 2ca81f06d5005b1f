"""How sure a row of logits is: one number per row."""

import math

from lastlayer._array import arange_like, as_array, restore, stop_gradient, take
from lastlayer._row import class_index, limit, prepare, split, total
from lastlayer._typing import Array, Float, Int
from lastlayer.kernels import dispatched
from lastlayer.transform.softmax import normaliser, per_row, tempered


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
    rest, shift = row.rest_from_top(), xp.exp(-row.shift)
    below = xp.where(row.x == -xp.inf, xp.zeros_like(row.x), (row.max + row.shift)[..., None] - row.x)
    distances, mass = total(row.weights * below, xp), total(row.weights, xp)
    h = xp.log1p(rest) + row.down(distances) * shift / (1 + rest)
    # far below the top one, 1 + rest is 1 and log1p(rest) is rest, which may be too small to be kept by itself
    h = xp.where(row.scale[1] < 1, row.down(distances + mass) * shift, h)
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


@dispatched
def energy(logits: Float[Array, "*batch classes"], *, temperature=1.0, axis=-1) -> Float[Array, "..."]:
    """Free energy of a row, a score of how far it is from what the model was trained on: low where it is at home.

        energy = -T logsumexp(z / T)

    Liu et al. 2020, eq. 4. ``temperature`` as in `softmax`. Adding a constant to a row takes it off the energy. An
    empty row is ``+inf`` with gradient 0, a row that holds ``+inf`` is ``-inf``.

    >>> energy(np.array([[8.0, 0.0], [0.0, 0.0]])).round(4)
    array([-8.0003, -0.6931])
    """
    x, xp = prepare(logits, axis)
    heat = temperature if isinstance(temperature, int | float) else per_row("energy", temperature, x, axis, xp)[..., 0]
    return restore(-normaliser(tempered("energy", x, temperature, math.e, axis, xp)) * heat, logits)


@dispatched
def max_logit(logits: Float[Array, "*batch classes"], *, axis=-1) -> Float[Array, "..."]:
    """The largest logit of a row, how well it is known before any normalisation (Hendrycks et al. 2022, sec. 3).

        max_logit = max_i z_i

    The first of equal entries has the slope 1. A nan makes its row nan; an empty row is ``-inf`` with gradient 0.

    >>> float(max_logit(np.array([3.0, 1.0, -np.inf])))
    3.0
    """
    x, xp = prepare(logits, axis)
    largest = take(x, xp.argmax(stop_gradient(x), axis=-1), xp)
    largest = largest * xp.where(xp.any(xp.isnan(x), axis=-1), xp.full_like(largest, xp.nan), xp.ones_like(largest))
    return restore(xp.where(xp.all(x == -xp.inf, axis=-1), xp.full_like(largest, -xp.inf), largest), logits)


def _contained(y, x, xp):
    """``y``; nan with slope nan where the row of ``x`` holds a nan, nan without slope where it has no class left."""
    y = y * xp.where(xp.any(xp.isnan(x), axis=-1), xp.full_like(y, xp.nan), xp.ones_like(y))
    return xp.where(xp.all(x == -xp.inf, axis=-1), xp.full_like(y, xp.nan), y)
