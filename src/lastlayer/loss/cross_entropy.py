"""Cross-entropy of classes and of binary labels, one number per row, and the mean that leaves rows out."""

import math

from lastlayer._array import arange_like, as_array, dtype_name, floating, namespace, readable, take
from lastlayer._check import one_of, shape
from lastlayer._row import class_index, prepare, split, total
from lastlayer._typing import Array, Bool, Float, Int
from lastlayer.kernels import dispatched
from lastlayer.transform.sigmoid import softplus
from lastlayer.transform.softmax import surprise


@dispatched
def cross_entropy(
    logits: Float[Array, "*batch classes"],
    target: Int[Array, "*batch"] | Float[Array, "*batch classes"],
    *,
    label_smoothing: float = 0.0,
    class_weight: Float[Array, " classes"] | None = None,
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Cross-entropy of ``target`` under ``softmax(logits)``, one number per row.

        cross_entropy = logsumexp(logits) - logits[target]

    A floating target is a distribution q and gives ``sum_k q_k (logsumexp - z_k)``, where ``0 * inf = 0``. A confident
    right answer costs ``log1p(rest)``, not 0, and its gradient at the target is ``-rest / (1 + rest)``. The gradient is
    ``p - onehot``. A masked (``-inf``) target costs ``inf``; an empty row is nan with gradient 0. ``label_smoothing`` s
    mixes in s times the mean over the classes that are not masked (Szegedy et al. 2016, eq. 7). ``class_weight`` scales
    the row of that target and nothing else. A row that is not ``valid``, or whose class weighs 0, gives 0 with gradient
    exactly 0, whatever it holds. Half precision comes out in float32. A target outside the classes is refused; where it
    cannot be looked at (under ``jax.jit``, on a GPU) its row is nan.

    >>> cross_entropy(np.array([[2.0, 1.0, 0.1], [40.0, 0.0, 0.0]]), np.array([0, 0]))
    array([4.17030016e-01, 8.49670851e-18])
    """
    x, xp = prepare(logits, -1)
    target = as_array(target, like=x)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing is between 0 and 1, not {label_smoothing!r}.")
    soft = dtype_name(target).startswith(("float", "bfloat"))
    _check_target(x, target, soft)
    keep = None if valid is None else _aligned("cross_entropy", "valid", valid, "row of logits", x[..., 0], xp.bool)
    scale = None
    if class_weight is not None:
        scale = _aligned("cross_entropy", "class_weight", class_weight, "class", arange_like(x, xp), x.dtype)
    if soft:
        target = xp.astype(target, x.dtype)
        if scale is not None:
            target = target * scale
            scale = total(target, xp)
    else:
        target = target if keep is None else xp.where(keep, target, xp.zeros_like(target))
        target, x = class_index("cross_entropy", "target", target, x, xp)
        if scale is not None:
            scale = xp.reshape(xp.take(scale, xp.reshape(target, (-1,)), axis=0), target.shape)
    if scale is not None:
        keep = scale != 0 if keep is None else keep & (scale != 0)
    return _per_row(x, target, soft, label_smoothing, scale, keep, xp)


def _per_row(x, target, soft, label_smoothing, scale, keep, xp):
    """The loss of checked arguments: ``scale`` multiplies a row, and rows outside ``keep`` are never looked at."""
    if keep is not None:
        x = xp.where(keep[..., None], x, xp.zeros_like(x))
        target = xp.where(keep[..., None], target, xp.zeros_like(target)) if soft else target
    row = split(x, xp)
    loss = _weighed_sum(target, surprise(row), xp) if soft else _hard(row, target)
    loss = loss if soft or scale is None else loss * scale
    if label_smoothing:
        allowed = xp.astype(x != -xp.inf, x.dtype)
        count = xp.where(row.max == -xp.inf, xp.ones_like(loss), total(allowed, xp))
        uniform = _weighed_sum(allowed, surprise(row), xp) / count
        uniform = uniform if scale is None else uniform * scale
        loss = uniform if label_smoothing == 1 else (1 - label_smoothing) * loss + label_smoothing * uniform
    loss = xp.where(row.max == -xp.inf, xp.full_like(loss, xp.nan), loss)
    return loss if keep is None else xp.where(keep, loss, xp.zeros_like(loss))


def _hard(row, target):
    """``log1p(rest)`` where the target is the top class, else ``(m - z_target) + log1p(rest)``."""
    xp = row.xp
    elsewhere = (row.max - take(row.x, target, xp)) + xp.log1p(row.rest_from_max())
    return xp.where(target == row.top, xp.log1p(row.rest_from_top()), elsewhere)


def _weighed_sum(weight, cost, xp):
    """``sum_k weight_k cost_k`` with ``0 * inf = 0``."""
    return total(_weighed(weight, cost, xp), xp)


def _weighed(weight, cost, xp):
    """``weight * cost`` with ``0 * inf = 0``, in value and in gradient."""
    free = (weight == 0) & (cost == xp.inf)
    return weight * xp.where(free, xp.zeros_like(cost), cost)


def _aligned(function, name, array, each, like, dtype):
    """``array`` as ``dtype`` in the library of ``like``, after checking that the two have one shape."""
    array = as_array(array, like=like)
    if tuple(array.shape) != tuple(like.shape):
        raise ValueError(f"{function}: one {name} per {each}, {shape(like)}; {name} is {shape(array)}.")
    return namespace(like).astype(array, dtype)


def _check_target(x, target, soft):
    if soft and tuple(target.shape) != tuple(x.shape):
        raise ValueError(
            f"cross_entropy: a floating target is a distribution of the shape of logits. logits {shape(x)}, target is "
            f"{shape(target)}; class indices are integers: target.astype(int)."
        )
    if not soft and tuple(target.shape) != tuple(x.shape[:-1]):
        more = (
            " A target that is a distribution is floating: target.astype(float)."
            if tuple(target.shape) == tuple(x.shape)
            else ""
        )
        raise ValueError(
            f"cross_entropy: one target per row of logits. logits {shape(x)} has rows {shape(x[..., 0])}, target is "
            f"{shape(target)}.{more}"
        )


@dispatched
def binary_cross_entropy(
    logits: Float[Array, "*batch"],
    target: Int[Array, "*batch"] | Bool[Array, "*batch"] | Float[Array, "*batch"],
    *,
    pos_weight: Float[Array, "*labels"] | None = None,
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Cross-entropy of a binary target under ``sigmoid(logits)``, one number per logit.

        binary_cross_entropy = pos_weight * y * softplus(-z) + (1 - y) * softplus(z)

    ``y`` is bool, 0/1, or a floating probability; ``0 * inf = 0``, so ``z = inf`` costs 0 for y = 1 and ``inf`` for
    y = 0. For multilabel logits ``(*batch, labels)`` sum the result over the labels; ``pos_weight`` is a number or one
    per label. An entry that is not ``valid`` gives 0 with gradient exactly 0, whatever it holds.

    >>> binary_cross_entropy(np.array([40.0, -40.0, 0.0]), np.array([1, 1, 0]))
    array([4.24835426e-18, 4.00000000e+01, 6.93147181e-01])
    """
    x = floating(logits)
    xp = namespace(x)
    y = _aligned("binary_cross_entropy", "target", target, "logit", x, x.dtype)
    if valid is not None:
        keep = _aligned("binary_cross_entropy", "valid", valid, "logit", x, xp.bool)
        x, y = xp.where(keep, x, xp.zeros_like(x)), xp.where(keep, y, xp.zeros_like(y))
    outside = (y < 0) | (y > 1)
    if readable(y) and bool(xp.any(outside)):
        value = float(y[outside][0] if y.ndim else y)
        raise ValueError(f"binary_cross_entropy: target is 0, 1 or between, not {value:g}; for -1/+1 write target > 0.")
    positive = y
    if pos_weight is not None:
        positive = y * xp.astype(as_array(pos_weight, like=x), x.dtype)
        if tuple(positive.shape) != tuple(x.shape):
            raise ValueError(
                f"binary_cross_entropy: pos_weight is a number or one per label, the last axis of logits. logits are "
                f"{shape(x)}, pos_weight makes them {shape(positive)}."
            )
    loss = _weighed(positive, softplus(-x), xp) + _weighed(1 - y, softplus(x), xp)
    loss = xp.where(outside, xp.nan, loss)
    return loss if valid is None else xp.where(keep, loss, xp.zeros_like(loss))


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
    w = xp.ones_like(x) if weight is None else _aligned("mean", "weight", weight, "loss", x, x.dtype)
    if valid is not None:
        w = xp.where(_aligned("mean", "valid", valid, "loss", x, xp.bool), w, xp.zeros_like(w))
    mass = xp.sum(w)
    none = mass == 0
    if empty == "raise" and bool(none):
        raise ValueError("mean: no row counts: every one is not valid or weighs 0.")
    counted = xp.where(w == 0, xp.zeros_like(x), x)
    average = xp.sum(w * counted) / xp.where(none, xp.ones_like(mass), mass)
    return xp.where(none, xp.full_like(average, 0.0 if empty == "zero" else math.nan), average)
