"""Penalties on wrong confidence, to be added to a loss: they speak of a whole batch and give ONE number for it.

Calibration belongs to many rows, so `mmce`, `soft_ece` and `dca` take the batch and no mean is left to take. The
exception is `confidence_penalty`, which gives one number per row like a loss, and is here because it has no target.

Confidence is the probability of the largest class. All three are made of the gaps ``hit - confidence`` of the rows,
which for a right answer is ``rest / (1 + rest)``, exact where the confidence rounds to 1. Which class is the largest,
and whether it is right, are constants of the differentiation; where two classes tie there is a kink.
"""

import math
from typing import Any, NamedTuple

from lastlayer._array import stop_gradient
from lastlayer._check import one_of, positive
from lastlayer._row import prepare, split
from lastlayer._typing import Array, Bool, Float, Int
from lastlayer.kernels import dispatched
from lastlayer.loss._indexed import indexed
from lastlayer.loss._parts import aligned
from lastlayer.transform.confidence import entropy
from lastlayer.transform.softmax import log_softmax


@dispatched
def mmce(
    logits: Float[Array, "*batch classes"],
    target: Int[Array, "*batch"],
    *,
    width: float = 0.4,
    weighted: bool = False,
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, ""]:
    """Maximum mean calibration error of a batch, as one number: the gaps that rows alike leave.

        mmce = sqrt(sum_ij g_i g_j exp(-|r_i - r_j| / width)) / n,   g = hit - r,   r = confidence

    Kumar et al. 2018. ``weighted`` divides the gaps of right rows by their own number and those of wrong rows by
    theirs, so that the few wrong rows of a good model are heard. ``width`` is above 0. Memory and time grow with the
    square of the number of rows. A batch without a gap has gradient 0 (the root has none there). Rows that are not
    ``valid`` are left out, whatever they hold; where none is left the result is nan with gradient 0; a nan or an empty
    row makes it nan.

    Use it beside cross-entropy, with a weight of 1 to 10, when the confidences of the model must be usable as they are.

    >>> round(float(mmce(np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([0, 0]))), 6)
    0.327411
    """
    positive("mmce", "width", width)
    batch = _gaps("mmce", logits, target, valid)
    xp, share = batch.xp, batch.count
    if weighted:
        right = xp.sum(xp.where(batch.hit, batch.counted, xp.zeros_like(batch.counted)))
        share = xp.where(batch.hit, right, batch.count - right)
        share = xp.where(share == 0, xp.ones_like(share), share)
    apart = xp.abs(batch.confidence[:, None] - batch.confidence[None, :])
    gap, size = _scaled(batch.gap / share, xp)
    error = _root(xp.sum(gap * xp.matmul(xp.exp(-apart / width), gap)), xp) * size
    return xp.where(batch.count == 0, xp.full_like(error, xp.nan), error)


@dispatched
def soft_ece(
    logits: Float[Array, "*batch classes"],
    target: Int[Array, "*batch"],
    *,
    bins: int = 15,
    temperature: float = 0.01,
    norm: str = "l2",
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, ""]:
    """Expected calibration error of a batch with soft bins, as one number that has a gradient.

        soft_ece = (sum_j S_j / n |sum_i u_ij g_i / S_j|^p)^(1/p),   S_j = sum_i u_ij,
        u_i = softmax_j(-(r_i - middle_j)^2 / temperature),   g = hit - r,   r = confidence

    Karandikar et al. 2021, with p = 1 for ``norm="l1"`` and 2 for ``"l2"``. ``bins`` of equal width cover [0, 1]; as
    ``temperature`` goes to 0 they become hard and this becomes the binned error. A soft bin that nobody is near (of a
    mass below 1e-19 in float32, 1e-154 in float64) adds nothing. Gradients, ``valid`` and special values as in `mmce`.

    Use it to train directly on what a reliability diagram shows, on batches of a hundred rows or more.

    >>> round(float(soft_ece(np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([0, 0]), norm="l1")), 6)
    0.356367
    """
    one_of("soft_ece", "norm", norm, ("l1", "l2"))
    positive("soft_ece", "temperature", temperature)
    if not isinstance(bins, int) or bins < 1:
        raise ValueError(f"soft_ece: bins is a whole number, 1 or more, not {bins!r}.")
    batch = _gaps("soft_ece", logits, target, valid)
    xp = batch.xp
    apart = xp.stack([batch.confidence - (j + 0.5) / bins for j in range(bins)], axis=-1)
    member = log_softmax(-(apart**2) / temperature)
    member = xp.exp(member) * batch.counted[:, None]
    gap, size = _scaled(batch.gap, xp)
    pooled = xp.sum(member * gap[:, None], axis=0)
    if norm == "l1":
        error = xp.sum(xp.abs(pooled)) / batch.count * size
    else:
        mass = xp.sum(member, axis=0)
        alone = mass < float(xp.finfo(mass.dtype).smallest_normal) ** 0.5
        square = pooled * pooled / xp.where(alone, xp.ones_like(mass), mass)
        error = _root(xp.sum(xp.where(alone, xp.zeros_like(mass), square)) / batch.count, xp) * size
    return xp.where(batch.count == 0, xp.full_like(error, xp.nan), error)


@dispatched
def dca(
    logits: Float[Array, "*batch classes"],
    target: Int[Array, "*batch"],
    *,
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, ""]:
    """Difference between confidence and accuracy of a batch, as one number.

        dca = |mean(hit) - mean(confidence)|

    Liang et al. 2020. It asks for the right confidence on average, not at each level of it. Its slope jumps at 0, where
    it is 0. Gradients, ``valid`` and special values as in `mmce`.

    Use it as the cheapest penalty against overconfidence; prefer `mmce` or `soft_ece` where rows differ in difficulty.

    >>> round(float(dca(np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([0, 0]))), 6)
    0.305928
    """
    batch = _gaps("dca", logits, target, valid)
    error = batch.xp.abs(batch.xp.sum(batch.gap)) / batch.count
    return batch.xp.where(batch.count == 0, batch.xp.full_like(error, math.nan), error)


@dispatched
def confidence_penalty(
    logits: Float[Array, "*batch classes"], *, valid: Bool[Array, "*batch"] | None = None
) -> Float[Array, "*batch"]:
    """Negative entropy of ``softmax(logits)``, one number per row: added to a loss, it pays for being sure.

        confidence_penalty = sum_k p_k log p_k

    Pereyra et al. 2017. Exact where a row is sure, as `entropy` is. Masked classes add nothing; an empty row is nan
    with gradient 0; a row that is not ``valid`` gives 0 with gradient exactly 0, whatever it holds.

    Use it with a weight of about 0.1, like label smoothing, which it resembles with the divergence turned round.

    >>> confidence_penalty(np.array([[0.0, 0.0], [40.0, 0.0]]))
    array([-6.93147181e-01, -1.74182524e-16])
    """
    x, xp = prepare(logits, -1)
    if valid is None:
        return -entropy(x)
    keep = aligned("confidence_penalty", "valid", valid, "row of logits", x[..., 0], xp.bool)
    loss = -entropy(xp.where(keep[..., None], x, xp.zeros_like(x)))
    return xp.where(keep, loss, xp.zeros_like(loss))


class _Batch(NamedTuple):
    """The rows of a batch, in one line: of shape ``(rows,)`` each."""

    confidence: Array
    gap: Array  # hit - confidence, 0 where the row does not count
    hit: Array  # whether the largest class is the target
    counted: Array  # 1 where the row counts
    count: Array  # how many do
    xp: Any


def _gaps(function, logits, target, valid):
    x, target, keep, xp = indexed(function, logits, target, valid)
    row = split(x, xp)
    rest = row.rest_from_top()
    sure, hit = 1 / (1 + rest), row.top == target
    gap = xp.where(hit, rest / (1 + rest), -sure)
    empty = row.max == -xp.inf
    gap, sure = xp.where(empty, xp.full_like(gap, xp.nan), gap), xp.where(empty, xp.ones_like(sure), sure)
    counted = xp.ones_like(gap)
    if keep is not None:
        counted, gap = xp.astype(keep, gap.dtype), xp.where(keep, gap, xp.zeros_like(gap))
    sure, gap, hit, counted = (xp.reshape(part, (-1,)) for part in (sure, gap, hit, counted))
    return _Batch(sure, gap, hit, counted, xp.sum(counted), xp)


def _scaled(gap, xp):
    """``gap`` over the largest of its size, and that size: the squares of gaps below 1e-154 would be 0."""
    least = xp.reshape(xp.zeros_like(xp.sum(gap)), (1,))  # for a batch without rows
    size = stop_gradient(xp.max(xp.concat([xp.abs(gap), least])))
    return gap / xp.where(size == 0, xp.ones_like(size), size), size


def _root(square, xp):
    """The square root; 0 has the slope 0."""
    above = square > 0
    root = xp.sqrt(xp.where(above, square, xp.ones_like(square)))
    return xp.where(xp.isnan(square), square, xp.where(above, root, xp.zeros_like(root)))
