"""Cross-entropy of a teacher of whom only the most probable classes were kept: one number per row."""

import math

from lastlayer._array import arange_like, as_array, namespace, readable, take
from lastlayer._check import one_of, shape
from lastlayer._row import class_index, prepare, split, subtract, total
from lastlayer._typing import Array, Bool, Float, Int
from lastlayer.kernels import dispatched
from lastlayer.loss._indexed import distinct, named
from lastlayer.loss._parts import aligned, counted, weighed
from lastlayer.transform.softmax import surprise, tempered


@dispatched
def top_k_cross_entropy(
    logits: Float[Array, "*batch classes"],
    index: Int[Array, "*batch k"],
    probs: Float[Array, "*batch k"],
    *,
    remainder: str = "together",
    temperature: float | Float[Array, "*batch 1"] = 1.0,
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Cross-entropy of a teacher that names k classes and their probabilities, with the mass r it leaves to the others.

        top_k_cross_entropy = -sum_i q_i log p[index_i] - r log(1 - sum_i p[index_i]),   r = 1 - sum_i q_i

    ``remainder="together"`` asks only that the other classes have r between them, as above: the cross-entropy of the
    partition into k classes and the rest. ``"even"`` spreads r over the other classes that are not masked.
    ``"renormalize"`` divides the q by their sum and forgets the others, which teaches a student to be too sure of the k
    (Anshumann et al. 2025). Neither ever forms a probability of the student: the remainder is a logsumexp, exact
    in both tails. ``0 * inf = 0``. A class that is named twice, or a sum of ``probs`` above 1 by more than rounding, is
    refused; where it cannot be looked at its row is nan. ``temperature`` as in `cross_entropy`, for the student alone.
    A row that is not ``valid`` gives 0 with gradient exactly 0.

    >>> top_k_cross_entropy(np.array([[2.0, 1.0, 0.0, 0.0]]), np.array([[0, 1]]), np.array([[0.7, 0.2]])).round(4)
    array([0.8245])
    """
    one_of("top_k_cross_entropy", "remainder", remainder, ("together", "even", "renormalize"))
    x, xp = prepare(logits, -1)
    index, given = as_array(index, like=x), as_array(probs, like=x)
    _check_shapes(x, index, given)
    q, rounding = xp.astype(given, x.dtype), 4 * max(float(namespace(a).finfo(a.dtype).eps) for a in (x, given))
    keep = None
    if valid is not None:  # a row that does not count becomes one that nothing is wrong with
        keep = aligned("top_k_cross_entropy", "valid", valid, "row of logits", x[..., 0], xp.bool)
        x = xp.where(keep[..., None], x, xp.zeros_like(x))
        index = xp.where(keep[..., None], index, xp.zeros_like(index) + arange_like(index, xp))
        q = xp.where(keep[..., None], q, xp.full_like(q, 1 / q.shape[-1]))
    index, x = class_index("top_k_cross_entropy", "index", index, x, xp)
    x, q = distinct("top_k_cross_entropy", "index", index, x, xp), _at_most_one(q, rounding, xp)
    left = 1 - total(q, xp)
    left = xp.where(left < 0, xp.zeros_like(left), left)  # within rounding
    row = tempered("top_k_cross_entropy", x, temperature, math.e, -1, xp)
    if remainder == "together":
        loss = _together(row, index, q, left)
    elif remainder == "even":
        loss = _evenly(row, index, q, left, x != -xp.inf)
    else:
        loss = _named(surprise(row), index, q, xp) / total(q, xp)
    loss = xp.where(row.max == -xp.inf, xp.full_like(loss, xp.nan), loss)
    return counted(loss, keep, xp)


def _together(row, index, q, left):
    """The cross-entropy of a row of k + 1: the named logits, and the logsumexp of all others with what that rounds.

    The row's maximum is taken off first, so that the logsumexp is rounded at the size of a difference.
    """
    xp = row.xp
    below, low = subtract(row.x, xp.where(row.max == -xp.inf, xp.zeros_like(row.max), row.max)[..., None], xp)
    low = low if row.low is None else low + row.low
    others = split(xp.where(named(index, below, xp), -xp.inf, below), xp, low)
    bucket, error = subtract(others.max, -xp.log1p(others.rest_from_max()), xp)
    error = error + take(low, others.top, xp)
    x = xp.concat([xp.take_along_axis(below, index, axis=-1), bucket[..., None]], axis=-1)
    low = xp.concat([xp.take_along_axis(low, index, axis=-1), error[..., None]], axis=-1)
    shares = xp.concat([q, left[..., None]], axis=-1)
    return total(weighed(shares, surprise(split(x, xp, low)), xp), xp)


def _evenly(row, index, q, left, allowed):
    xp = row.xp
    others = allowed & ~named(index, row.x, xp)
    count = total(xp.astype(others, row.x.dtype), xp)
    cost = surprise(row)
    mean = total(xp.where(others, cost, xp.zeros_like(cost)), xp) / count
    mean = xp.where(count == 0, xp.full_like(mean, xp.inf), mean)
    return _named(cost, index, q, xp) + weighed(left, mean, xp)


def _named(cost, index, q, xp):
    """What the named classes cost, each by its share."""
    return total(weighed(q, xp.take_along_axis(cost, index, axis=-1), xp), xp)


def _at_most_one(q, rounding, xp):
    """Probabilities that are not negative and sum to 1 at most; others are refused, or nan where nobody may look."""
    wrong = xp.any(~(q >= 0), axis=-1, keepdims=True) | (total(q, xp)[..., None] > 1 + rounding)
    if readable(q) and bool(xp.any(wrong)):
        raise ValueError(
            "top_k_cross_entropy: probs are not negative and sum to 1 at most in each row; logits of a teacher become "
            "probabilities with softmax over all its classes, before the k are taken."
        )
    return xp.where(wrong, xp.nan, q)


def _check_shapes(x, index, q):
    if tuple(index.shape) != tuple(q.shape) or tuple(index.shape[:-1]) != tuple(x.shape[:-1]) or not index.ndim:
        raise ValueError(
            f"top_k_cross_entropy: index and probs are (*batch, k) for logits (*batch, classes). logits are "
            f"{shape(x)}, index is {shape(index)}, probs are {shape(q)}."
        )
