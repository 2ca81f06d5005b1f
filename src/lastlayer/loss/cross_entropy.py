"""Cross-entropy of classes, one number per row: of an index, of a distribution."""

import math

from lastlayer._array import arange_like, as_array, dtype_name, readable, take
from lastlayer._check import one_of, shape
from lastlayer._row import class_index, prepare, total
from lastlayer._typing import Array, Bool, Float, Int
from lastlayer.kernels import dispatched
from lastlayer.loss._parts import aligned, counted, weighed
from lastlayer.transform.sigmoid import capped
from lastlayer.transform.softmax import normaliser, surprise, tempered


@dispatched
def cross_entropy(
    logits: Float[Array, "*batch classes"],
    target: Int[Array, "*batch"] | Float[Array, "*batch classes"],
    *,
    label_smoothing: float = 0.0,
    class_weight: Float[Array, " classes"] | None = None,
    weighting: str = "row",
    temperature: float | Float[Array, "*batch 1"] = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Cross-entropy of ``target`` under ``softmax(logits)``, one number per row.

        cross_entropy = logsumexp(logits) - logits[target]

    A floating target is a distribution q and gives ``sum_k q_k (logsumexp - z_k)``, where ``0 * inf = 0``. A confident
    right answer costs ``log1p(rest)``, not 0, and its gradient at the target is ``-rest / (1 + rest)``. The gradient is
    ``p - onehot``. A masked (``-inf``) target costs ``inf``; an empty row is nan with gradient 0. A target outside the
    classes is refused; where it cannot be looked at (under ``jax.jit``, on a GPU) its row is nan. Half precision comes
    out in float32.

    ``label_smoothing`` s mixes in s times the mean over the classes that are not masked (Szegedy et al. 2016, eq. 7).
    ``class_weight`` scales the row by the weight of its target (for a distribution: the mean of the weights under it),
    so it does not change what smoothing or a distribution teaches; ``weighting="class"`` weighs each class's share of
    the smoothed target instead, as PyTorch does (pytorch#104776). ``softcap`` caps the logits first
    (`transform.softcap`), then they are divided by ``temperature``, a number or one per row as ``[:, None]``;
    ``z_loss`` adds that many times ``logsumexp^2`` of what softmax sees (Chowdhery et al. 2022, sec. 5). A row that is
    not ``valid``, or that weighs 0, gives 0 with gradient exactly 0, whatever it holds.

    >>> cross_entropy(np.array([[2.0, 1.0, 0.1], [40.0, 0.0, 0.0]]), np.array([0, 0]))
    array([4.17030016e-01, 8.49670851e-18])
    """
    x, xp = prepare(logits, -1)
    target = as_array(target, like=x)
    soft = dtype_name(target).startswith(("float", "bfloat"))
    _check(x, target, soft, label_smoothing, weighting, z_loss)
    keep = None if valid is None else aligned("cross_entropy", "valid", valid, "row of logits", x[..., 0], xp.bool)
    if soft:
        target = xp.astype(target, x.dtype)
    else:
        target = target if keep is None else xp.where(keep, target, xp.zeros_like(target))
        target, x = class_index("cross_entropy", "target", target, x, xp)
    weight, scale = None, None
    if class_weight is not None:
        weight = _weights(class_weight, x, xp)
        scale = total(target * weight, xp) if soft else _of_target(weight, target, xp)
        keep = scale != 0 if keep is None else keep & (scale != 0)
    if keep is not None:  # rows outside are never looked at
        x = xp.where(keep[..., None], x, xp.zeros_like(x))
        target = xp.where(keep[..., None], target, xp.zeros_like(target)) if soft else target
    x = x if softcap is None else capped("cross_entropy", "softcap", x, softcap, xp)
    row = tempered("cross_entropy", x, temperature, math.e, -1, xp)
    by_class = weight if weighting == "class" else None
    loss = _of_row(row, target, soft, by_class)
    if label_smoothing:
        uniform = _uniform(row, xp.astype(x != -xp.inf, x.dtype), by_class)
        loss = uniform if label_smoothing == 1 else (1 - label_smoothing) * loss + label_smoothing * uniform
    loss = loss if scale is None or weighting == "class" else loss * scale
    empty = row.max == -xp.inf
    if z_loss:
        size = normaliser(row)
        infinite = (size == xp.inf) | (size == -xp.inf)
        square = xp.where(infinite, xp.zeros_like(size), size) ** 2
        loss = loss + z_loss * xp.where(infinite, xp.inf, square)
    loss = xp.where(empty, xp.full_like(loss, xp.nan), loss)
    return counted(loss, keep, xp)


def _of_row(row, target, soft, weight):
    """The loss of the target, each class weighed."""
    xp = row.xp
    if soft:
        return total(weighed(target if weight is None else target * weight, surprise(row), xp), xp)
    loss = _hard(row, target)
    return loss if weight is None else weighed(_of_target(weight, target, xp), loss, xp)


def _uniform(row, allowed, weight):
    """The mean loss of the allowed classes, each weighed."""
    xp = row.xp
    count = total(allowed, xp)
    count = xp.where(count == 0, xp.ones_like(count), count)
    return total(weighed(allowed if weight is None else allowed * weight, surprise(row), xp), xp) / count


def _hard(row, target):
    """``log1p(rest)`` where the target is the top class, else ``(m - z_target) + log1p(rest)``."""
    xp = row.xp
    elsewhere = (row.max - take(row.x, target, xp)) + xp.log1p(row.rest_from_max())
    return xp.where(target == row.top, xp.log1p(row.rest_from_top()), elsewhere)


def _weights(class_weight, x, xp):
    """One weight per class; a negative one, or one that is not finite, is refused or makes every row nan."""
    weight = aligned("cross_entropy", "class_weight", class_weight, "class", arange_like(x, xp), x.dtype)
    outside = ~((weight >= 0) & (weight < xp.inf))
    if readable(weight) and bool(xp.any(outside)):
        value = float(weight[outside][0])
        raise ValueError(f"cross_entropy: class weights are finite and not below 0; one is {value:g}.")
    return xp.where(outside, xp.nan, weight)


def _of_target(weight, target, xp):
    return xp.reshape(xp.take(weight, xp.reshape(target, (-1,)), axis=0), target.shape)


def _check(x, target, soft, label_smoothing, weighting, z_loss):
    """What is wrong with the call, in a sentence."""
    one_of("cross_entropy", "weighting", weighting, ("row", "class"))
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing is between 0 and 1, not {label_smoothing!r}.")
    if not 0 <= z_loss < math.inf:
        raise ValueError(f"cross_entropy: z_loss is a finite factor, not below 0; {z_loss!r} came.")
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
