"""The Fenchel-Young losses of the simplex, one number per row: cross-entropy, and those of sparsemax and entmax."""

import math

from lastlayer._array import arange_like, as_array, iterate, stop_gradient, take
from lastlayer._check import one_of, shape
from lastlayer._row import class_index, limit, prepare, split, total
from lastlayer._typing import Array, Bool, Float, Int
from lastlayer.kernels import dispatched
from lastlayer.loss._indexed import cost_of, distinct, finished, indexed, named
from lastlayer.loss._parts import aligned, counted
from lastlayer.transform.sparse import entmax


@dispatched
def fenchel_young(
    logits: Float[Array, "*batch classes"],
    target: Int[Array, "*batch"] | Int[Array, "*batch k"],
    *,
    regularizer: str = "softmax",
    alpha: float = 1.5,
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """The loss that belongs to softmax, sparsemax, entmax or top-k, one number per row: its gradient is ``p - onehot``.

        fenchel_young = max over p of (<p, z> - Omega(p)) - z_t,   Omega(p) = sum_i (p_i^a - p_i) / (a (a - 1))

    Blondel, Martins & Niculae 2020; p is a distribution, and the best one is what `entmax` gives for a = ``alpha``.
    ``"softmax"`` is the limit a = 1, `cross_entropy`; ``"sparsemax"`` is a = 2; ``"entmax"`` takes ``alpha``, finite
    and at least 1. For a > 1 the loss and its gradient are exactly 0 where the target leads by ``1 / (a - 1)``. It is
    summed from terms that are not negative, so a small loss has its digits too:

        sum_{i != t} p_i^a / a + (1 - p_t^(a-1) (p_t + a (1 - p_t))) / (a (a - 1)) + (what z_t lacks of the support)

    ``"top_k"`` takes the k classes of a set as a target ``(*batch, k)``: p is then the nearest point to the logits
    among those with entries between 0 and 1 that sum to k, and Omega half its square; one class is sparsemax. The loss
    is 0 where all k lead all others by 1.

    The second derivative has kinks where a class enters the support. A masked (``-inf``) class is absent, a masked
    target costs ``inf``, classes at ``+inf`` share the row, an empty row is nan with gradient 0. A row that is not
    ``valid`` gives 0 with gradient exactly 0. Half precision comes out in float32.

    Use it to train what will be read with `sparsemax` or `entmax`: probabilities of which most are 0.

    >>> fenchel_young(np.array([[1.0, 0.5, -1.0], [2.0, 0.0, 0.5]]), np.array([0, 0]), regularizer="sparsemax")
    array([0.0625, 0.    ])
    """
    one_of("fenchel_young", "regularizer", regularizer, ("softmax", "sparsemax", "entmax", "top_k"))
    if not 1 <= alpha < math.inf:
        raise ValueError(f"fenchel_young: alpha is a finite number of at least 1, not {alpha!r}.")
    if regularizer == "top_k":
        return _of_sets(logits, target, valid)
    x, target, keep, xp = indexed("fenchel_young", logits, target, valid)
    if regularizer == "softmax" or (regularizer == "entmax" and alpha == 1):
        row = split(x, xp)
        return finished(cost_of(row, target), row, keep)
    alpha = 2.0 if regularizer == "sparsemax" else min(float(alpha), 2.0**100)
    x, _ = limit(x, xp)
    empty = xp.all(x == -xp.inf, axis=-1)
    x = xp.where(empty[..., None], xp.zeros_like(x), x)
    loss = xp.where(empty, xp.nan, _tsallis(x, target, alpha, xp))
    return counted(loss, keep, xp)


def _of_sets(logits, target, valid):
    """The loss of k classes a row: how far the nearest point of the polytope of all sets of k is from theirs."""
    x, xp = prepare(logits, -1)
    index = as_array(target, like=x)
    if index.ndim != x.ndim or tuple(index.shape[:-1]) != tuple(x.shape[:-1]) or not 0 < index.shape[-1] <= x.shape[-1]:
        raise ValueError(
            f"fenchel_young: top_k takes the k classes of each row, (*batch, k). logits are {shape(x)}, target is "
            f"{shape(index)}."
        )
    keep = None if valid is None else aligned("fenchel_young", "valid", valid, "row of logits", x[..., 0], xp.bool)
    if keep is not None:  # a row that does not count becomes one that nothing is wrong with
        x = xp.where(keep[..., None], x, xp.zeros_like(x))
        index = xp.where(keep[..., None], index, xp.zeros_like(index) + arange_like(index, xp))
    index, x = class_index("fenchel_young", "target", index, x, xp)
    x, _ = limit(distinct("fenchel_young", "target", index, x, xp), xp)
    empty = xp.all(x == -xp.inf, axis=-1)
    x = xp.where(empty[..., None], xp.zeros_like(x), x)
    x = x * xp.where(xp.any(xp.isnan(x), axis=-1, keepdims=True), xp.nan, xp.ones_like(x))  # a slope as well
    loss = xp.where(empty, xp.nan, _capped(x, named(index, x, xp), index.shape[-1], xp))
    return counted(loss, keep, xp)


def _capped(x, chosen, k, xp):
    """The loss of `_of_sets`, as a constant of terms that are not negative and a polynomial that has its slopes.

    p_i = min(max(z_i - t, 0), 1),   t such that they sum to k, in (z_(k) - 1, z_(k)] for the k-th largest z_(k)
    """
    fixed, zero = stop_gradient(x), xp.zeros_like(x)
    absent = fixed == -xp.inf
    kth = xp.sort(fixed, axis=-1)[..., x.shape[-1] - k, None]
    few = kth == -xp.inf  # fewer than k classes are left, so one of the target's is masked
    d = xp.where(absent, -2 + zero, fixed - xp.where(few, xp.zeros_like(kth), kth))

    def halve(low, i):
        middle = low + xp.full_like(low, 0.5) ** (i + 1)
        p = xp.where(d - middle > 1, 1 + zero, xp.where(d > middle, d - middle, zero))
        enough = total(p, xp)[..., None] >= k
        return xp.where(enough, middle, low), middle != low

    low = iterate(halve, xp.zeros_like(kth) - 1, 56)
    full, inside = d - low >= 1, (d > low) & (d - low < 1)
    count = total(xp.where(inside, 1 + zero, zero), xp)[..., None]
    sure = total(xp.where(full, 1 + zero, zero), xp)[..., None]
    some = xp.where(count == 0, xp.ones_like(count), count)
    t = xp.where(count == 0, low, (total(xp.where(inside, d, zero), xp)[..., None] + (sure - k)) / some)
    p = xp.where(full, 1 + zero, xp.where(inside, d - t, zero))
    y = xp.astype(chosen, x.dtype)
    outside = xp.where(chosen & ~full & ~inside, t - d, xp.where(~chosen & full, (d - t) - 1, zero))
    terms = (y - p) * (y - p) * 0.5 + xp.where(absent, zero, outside)
    change = xp.where(absent, zero, x) - xp.where(absent, zero, fixed)
    bend = xp.where(inside, change - total(xp.where(inside, change, zero), xp)[..., None] / some, zero)
    slope = total((p - y) * change, xp) + total(bend * change, xp) * 0.5
    lost = total(xp.where(chosen & absent, -x, zero), xp)
    return total(terms, xp) + slope + lost


def _tsallis(x, target, alpha, xp):
    """The loss of rows in which some class is left, as a constant and a polynomial that has its two derivatives.

    The constant is the Bregman divergence of p from the target, and what the target lacks of the support. A change e of
    the logits adds ``<p - onehot, e> + <p(z + e) - p, e> / 2``, to the second order; where e is 0, so is that.
    """
    p = entmax(x, alpha)
    fixed, z = stop_gradient(p), stop_gradient(x)
    is_target = arange_like(x, xp) == target[..., None]
    zero = xp.zeros_like(fixed)
    others = xp.where(is_target, zero, fixed)
    left, own = total(others, xp), take(fixed, target, xp)
    loss = total(_power(others, alpha, xp), xp) / alpha + _divergence(own, left, alpha, xp)
    loss = loss + _lack(z, fixed, own, target, alpha, xp)
    slope = xp.where(is_target, -left[..., None], others)
    absent = z == -xp.inf
    change = xp.where(absent, zero, x) - xp.where(absent, zero, z)
    moved = total(slope * change, xp) + total((p - fixed) * change, xp) / 2
    score = take(x, target, xp)
    return (loss + moved) + xp.where(score == -xp.inf, -score, xp.zeros_like(loss))


def _lack(z, p, own, target, alpha, xp):
    """How far the target is below the support: 0 inside; of a masked target nothing is said here."""
    top = xp.argmax(z, axis=-1)
    largest, score = take(z, top, xp), take(z, target, xp)
    score = xp.where(score == -xp.inf, largest, score)
    most = take(p, top, xp)
    lack = (largest - score) - _power(most, alpha, xp) / most / (alpha - 1)
    return xp.where((own == 0) & (lack > 0), lack, xp.zeros_like(lack))


def _divergence(p, left, alpha, xp):
    """``(1 - p^(a-1) (p + a (1 - p))) / (a (a - 1))`` for ``left = 1 - p``, about ``left^2 / 2`` where that is small.

    The logarithm of the product is ``(a - 1) h(-left) + h((a - 1) left)`` with ``h(v) = log(1 + v) - v``, which is
    negative on either side of 0.
    """
    if alpha == 2:
        return left * left / 2
    rate, one = alpha - 1, xp.ones_like(p)
    near = left < 0.5
    some = xp.where(p == 0, one, p)
    first = xp.where(near, _bent(xp.where(near, -left, 0 * left), xp), xp.log(some) + left)
    exponent = rate * first + _bent(rate * left, xp)
    exponent = xp.where(p == 0, -xp.inf * one, exponent)
    return -xp.expm1(exponent) * (1 / alpha / rate)


def _bent(v, xp):
    """``log(1 + v) - v`` for v from -1/2 on: near 0 from the series of ``log((1 + r) / (1 - r))``, r = v / (2 + v)."""
    near = v < 1
    inside = xp.where(near, v, xp.zeros_like(v))
    r = inside / (2 + inside)
    square, series = r * r, xp.zeros_like(r)
    for n in range(37, 1, -2):
        series = 1 / n + square * series
    far = xp.where(near, xp.ones_like(v), v)
    return xp.where(near, r * (2 * square * series - inside), xp.log1p(far) - far)


def _power(p, alpha, xp):
    """``p^alpha`` of probabilities; by products where those do, as a logarithm costs digits of a small p."""
    if alpha == 2:
        return p * p
    if alpha == 1.5:
        return p * xp.sqrt(p)
    some = xp.where(p == 0, xp.ones_like(p), p)
    return xp.where(p == 0, p, p * xp.exp((alpha - 1) * xp.log(some)))
