"""Cross-entropy of classes and of binary labels, one number per row, and the mean that leaves rows out."""

import math

import numpy as np

from lastlayer._array import as_array, dtype_name, floating, is_torch, namespace, take
from lastlayer._check import one_of, shape
from lastlayer._typing import Array, Bool, Float, Int
from lastlayer.kernels import dispatched
from lastlayer._row import prepare, split
from lastlayer.transform.sigmoid import softplus
from lastlayer.transform.softmax import surprise


@dispatched
def cross_entropy(
    logits: Float[Array, "*batch classes"],
    target: Int[Array, "*batch"] | Float[Array, "*batch classes"],
    *,
    label_smoothing: float = 0.0,
    class_weight: Float[Array, "classes"] | None = None,
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Cross-entropy of ``target`` under ``softmax(logits)``, one number per row.

        cross_entropy = logsumexp(logits) - logits[target]

    A floating target is a distribution q and gives ``sum_k q_k (logsumexp - z_k)``, where ``0 * inf = 0``. A confident
    right answer costs ``log1p(rest)``, not 0, and its gradient at the target is ``-rest / (1 + rest)``. The gradient is
    ``p - onehot``. A masked (``-inf``) target costs ``inf``; an empty row is nan with gradient 0. ``label_smoothing`` s
    mixes in s times the mean over the classes that are not masked (Szegedy et al. 2016, eq. 7). ``class_weight`` scales
    the row of that target and nothing else. A row that is not ``valid``, or whose class weighs 0, gives 0 with gradient
    exactly 0, whatever it holds. Half precision comes out in float32.

    >>> cross_entropy(np.array([[2.0, 1.0, 0.1], [40.0, 0.0, 0.0]]), np.array([0, 0]))
    array([4.17030e-01, 8.49671e-18])
    """
    x, xp = prepare(logits, -1)
    target = as_array(target, like=x)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing is between 0 and 1, not {label_smoothing!r}.")
    soft = dtype_name(target).startswith(("float", "bfloat"))
    _check_target(x, target, soft)
    keep = None if valid is None else xp.astype(as_array(valid, like=x), xp.bool)
    scale = None
    if class_weight is not None:
        class_weight = floating(class_weight, like=x)
        if tuple(class_weight.shape) != (x.shape[-1],):
            raise ValueError(
                f"cross_entropy: one weight per class. logits {shape(x)} have {x.shape[-1]} classes, "
                f"class_weight is {shape(class_weight)}."
            )
    if not soft:
        target = _in_range(x, target, keep, xp)
        if class_weight is not None:
            scale = xp.astype(xp.take(class_weight, xp.reshape(target, (-1,)), axis=0), x.dtype)
            scale = xp.reshape(scale, target.shape)
            keep = scale != 0 if keep is None else keep & (scale != 0)
    if keep is not None:
        x = xp.where(keep[..., None], x, xp.zeros_like(x))
    row = split(x, xp)
    loss = _soft(row, target, class_weight, keep) if soft else _hard(row, target)
    if label_smoothing:
        allowed = xp.astype(row.x != -xp.inf, x.dtype)
        uniform = _times(allowed, surprise(row), xp) / xp.sum(allowed, axis=-1)
        loss = uniform if label_smoothing == 1 else (1 - label_smoothing) * loss + label_smoothing * uniform
    loss = xp.where(row.max == -xp.inf, xp.full_like(loss, xp.nan), loss)
    loss = loss if scale is None else loss * scale
    return loss if keep is None else xp.where(keep, loss, xp.zeros_like(loss))


def _hard(row, target):
    """``log1p(rest)`` where the target is the top class, else ``(m - z_target) + log1p(rest)``."""
    xp = row.xp
    elsewhere = (row.max - take(row.x, target, xp)) + xp.log1p(row.rest_from_max())
    return xp.where(target == row.top, xp.log1p(row.rest_from_top()), elsewhere)


def _soft(row, target, class_weight, keep):
    xp = row.xp
    q = xp.astype(target, row.x.dtype)
    q = q if class_weight is None else q * xp.astype(class_weight, row.x.dtype)
    q = q if keep is None else xp.where(keep[..., None], q, xp.zeros_like(q))
    return _times(q, surprise(row), xp)


def _times(q, cost, xp):
    """``sum_k q_k cost_k`` with ``0 * inf = 0``, in value and in gradient."""
    none = q == 0
    return xp.sum(xp.where(none, xp.zeros_like(cost), q * xp.where(none, xp.zeros_like(cost), cost)), axis=-1)


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


def _in_range(x, target, keep, xp):
    """Indices to gather with: rows that do not count point at class 0; others outside the classes are refused.

    Only NumPy arrays and PyTorch CPU tensors are looked at: a traced or a GPU array would have to be waited for.
    """
    target = xp.astype(target, xp.int64 if xp is np or is_torch(target) else target.dtype)
    if keep is not None:
        target = xp.where(keep, target, xp.zeros_like(target))
    if isinstance(target, np.ndarray | np.generic) or (is_torch(target) and type(target).__name__ == "Tensor" and _is_plain_cpu(target)):
        wrong = (target < 0) | (target >= x.shape[-1])
        if bool(xp.any(wrong)):
            value = int(target[wrong].reshape(-1)[0]) if target.ndim else int(target)
            hint = " Ignored rows are said aloud: valid=target != -100." if value == -100 else ""
            raise ValueError(f"cross_entropy: target {value} is not one of the {x.shape[-1]} classes of logits.{hint}")
    return target


def _is_plain_cpu(tensor):
    import torch

    return tensor.device.type == "cpu" and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


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
    y = 0. For multilabel logits ``(*batch, labels)`` sum the result over the labels. An entry that is not ``valid`` gives 0
    with gradient exactly 0, whatever it holds.

    >>> binary_cross_entropy(np.array([40.0, -40.0, 0.0]), np.array([1, 1, 0]))
    array([4.24835426e-18, 4.00000000e+01, 6.93147181e-01])
    """
    x = floating(logits)
    xp = namespace(x)
    y = xp.astype(as_array(target, like=x), x.dtype)
    if tuple(y.shape) != tuple(x.shape):
        raise ValueError(
            f"binary_cross_entropy: one target per logit. logits are {shape(x)}, target is {shape(y)}."
        )
    if valid is not None:
        keep = xp.astype(as_array(valid, like=x), xp.bool)
        x, y = xp.where(keep, x, xp.zeros_like(x)), xp.where(keep, y, xp.zeros_like(y))
    if isinstance(y, np.ndarray | np.generic) and bool(np.any((y < 0) | (y > 1))):
        value = y[(y < 0) | (y > 1)].reshape(-1)[0] if y.ndim else y
        raise ValueError(f"binary_cross_entropy: target is 0, 1 or between, not {value:g}; for -1/+1 write target > 0.")
    positive = y if pos_weight is None else y * floating(pos_weight, like=x)
    loss = _weighed(positive, softplus(-x), xp) + _weighed(1 - y, softplus(x), xp)
    return loss if valid is None else xp.where(keep, loss, xp.zeros_like(loss))


def _weighed(weight, cost, xp):
    """``weight * cost`` with ``0 * inf = 0``."""
    zero = xp.zeros_like(cost)
    return xp.where(weight == 0, zero, weight * xp.where(weight == 0, zero, cost))


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
    w = xp.ones_like(x) if weight is None else xp.astype(as_array(weight, like=x), x.dtype)
    if valid is not None:
        w = xp.where(xp.astype(as_array(valid, like=x), xp.bool), w, xp.zeros_like(w))
    total = xp.sum(w)
    if empty == "raise" and bool(total == 0):
        raise ValueError("mean: no row counts: every one is not valid or weighs 0.")
    none = total == 0
    average = xp.sum(_weighed(w, x, xp)) / xp.where(none, xp.ones_like(total), total)
    return xp.where(none, xp.full_like(average, 0.0 if empty == "zero" else math.nan), average)
