"""Cross-entropy of binary labels: one number per logit, or per row of labels."""

from lastlayer._array import as_array, floating, namespace, readable
from lastlayer._check import shape
from lastlayer._row import total
from lastlayer._typing import Array, Bool, Float, Int
from lastlayer.kernels import dispatched
from lastlayer.loss._parts import aligned, weighed
from lastlayer.transform.sigmoid import softplus


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
    y = aligned("binary_cross_entropy", "target", target, "logit", x, x.dtype)
    if valid is not None:
        keep = aligned("binary_cross_entropy", "valid", valid, "logit", x, xp.bool)
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
    loss = weighed(positive, softplus(-x), xp) + weighed(1 - y, softplus(x), xp)
    loss = xp.where(outside, xp.nan, loss)
    return loss if valid is None else xp.where(keep, loss, xp.zeros_like(loss))


@dispatched
def multilabel_cross_entropy(
    logits: Float[Array, "*batch labels"],
    target: Int[Array, "*batch labels"] | Bool[Array, "*batch labels"] | Float[Array, "*batch labels"],
    *,
    pos_weight: Float[Array, "*labels"] | None = None,
    valid: Bool[Array, "*batch labels"] | None = None,
) -> Float[Array, "*batch"]:
    """Cross-entropy of a set of labels, each with its own sigmoid: one number per row, the sum over its labels.

        multilabel_cross_entropy = sum_l binary_cross_entropy(z_l, y_l)

    Edges, ``pos_weight`` and ``valid`` (True where an entry counts) as in `binary_cross_entropy`.

    >>> multilabel_cross_entropy(np.array([[40.0, -40.0, 0.0]]), np.array([[1, 0, 1]]))
    array([0.69314718])
    """
    losses = binary_cross_entropy(logits, target, pos_weight=pos_weight, valid=valid)
    if losses.ndim == 0:
        raise ValueError("multilabel_cross_entropy: logits have a last axis of labels; this is a single number.")
    return total(losses, namespace(losses))
