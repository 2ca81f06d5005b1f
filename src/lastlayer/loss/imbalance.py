"""Losses for classes of unequal size, one number per row, and class weights: what is known of the counts is built in.

The logits are moved by the prior or by a margin while training; what each sum rounds away is carried along, so that the
tail keeps its digits (`lastlayer._row`).
"""

import math

from lastlayer._array import arange_like, floating, namespace, two_arrays
from lastlayer._check import positive, shape
from lastlayer._typing import Array, Bool, Float, Int
from lastlayer.kernels import dispatched
from lastlayer.loss._indexed import above_0, cost_of, finished, indexed, moved, not_negative, per_class


@dispatched
def logit_adjusted(
    logits: Float[Array, "*batch classes"],
    target: Int[Array, "*batch"],
    prior: Float[Array, " classes"],
    *,
    tau: float = 1.0,
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Cross-entropy of logits that are raised by the log prior while training, one number per row.

        logit_adjusted = cross_entropy(z + tau log(prior), target)

    Menon et al. 2021, eq. 10. The prior of the training set is given to the model and need not be learned, so at test
    time the bare logits are those of a balanced world. ``prior`` is one number per class, finite and above 0, and need
    not sum to 1. ``tau`` is finite. Special values as in `cross_entropy`.

    Use it for long-tailed classes when each class should be found equally well (balanced error).

    >>> logit_adjusted(np.array([[2.0, 1.0]]), np.array([1]), [0.9, 0.1])
    array([3.23728676])
    """
    if not math.isfinite(tau):
        raise ValueError(f"logit_adjusted: tau is a finite number, not {tau!r}.")
    return _adjusted("logit_adjusted", logits, target, "prior", prior, tau, valid)


@dispatched
def balanced_softmax(
    logits: Float[Array, "*batch classes"],
    target: Int[Array, "*batch"],
    counts: Float[Array, " classes"],
    *,
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Cross-entropy under the softmax in which each class weighs by its count, one number per row.

        balanced_softmax = -log(n_t exp(z_t) / sum_j n_j exp(z_j))

    Ren et al. 2020. That is `logit_adjusted` with the counts for a prior and ``tau=1``, under the name it is often
    looked for by; ``counts`` are finite and above 0.

    >>> balanced_softmax(np.array([[2.0, 1.0]]), np.array([1]), [90, 10])
    array([3.23728676])
    """
    return _adjusted("balanced_softmax", logits, target, "counts", counts, 1.0, valid)


@dispatched
def ldam(
    logits: Float[Array, "*batch classes"],
    target: Int[Array, "*batch"],
    counts: Float[Array, " classes"],
    *,
    max_margin: float = 0.5,
    scale: float = 30.0,
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Cross-entropy with a margin that is larger for rarer classes (LDAM), one number per row.

        ldam = cross_entropy(scale (z - margin_t onehot_t), target),   margin_j = max_margin (n_min / n_j)^(1/4)

    Cao et al. 2019, eq. 13; the constant is such that the rarest class has ``max_margin``, as in the authors' code.
    ``logits`` are cosines, of unit features and unit weights, which is what ``scale`` is for. ``counts`` are finite and
    above 0, ``max_margin`` is finite and not below 0, ``scale`` finite and above 0. Special values as in
    `cross_entropy`.

    Use it for long-tailed classes with a cosine classifier, usually with `class_balanced_weights` late in training.

    >>> ldam(np.array([[0.8, 0.3], [0.8, 0.3]]), np.array([0, 1]), [1000, 10])
    array([3.51248721e-05, 3.00000000e+01])
    """
    not_negative("ldam", "max_margin", max_margin)
    positive("ldam", "scale", scale)
    x, target, keep, xp = indexed("ldam", logits, target, valid)
    n = per_class("ldam", "counts", counts, x)
    own = namespace(n)
    margin = max_margin * own.sqrt(own.sqrt(own.min(n) / n))
    is_target = arange_like(x, xp) == target[..., None]
    high, low = (xp.where(is_target, -part, xp.zeros_like(x)) for part in two_arrays(margin, x))
    row = moved(x, high, low, scale, xp)
    return finished(cost_of(row, target), row, keep)


@dispatched
def class_balanced_weights(counts: Float[Array, " classes"], *, beta: float = 0.999) -> Float[Array, " classes"]:
    """Weights for ``class_weight=``: one over the effective number of samples of each class, with the mean 1.

        class_balanced_weights_j = c (1 - beta) / (1 - beta^n_j)

    Cui et al. 2019; c makes them sum to the number of classes. ``beta`` is in [0, 1): 0 gives ones, and near 1 they are
    inverse frequencies; ``1 - beta^n`` is ``-expm1(n log(beta))``, so they stay so however near. ``counts`` are finite
    and above 0; where nobody can look (under ``jax.jit``, on a GPU) others give nan.

    >>> class_balanced_weights(np.array([1000, 100, 10])).round(4)
    array([0.0422, 0.28  , 2.6778])
    """
    if not 0 <= beta < 1:
        raise ValueError(f"class_balanced_weights: beta is at least 0 and below 1, not {beta!r}.")
    n = floating(counts)
    if n.ndim != 1:
        raise ValueError(f"class_balanced_weights: counts are one number per class, (classes,); they are {shape(n)}.")
    n = above_0("class_balanced_weights", "counts", n, zero=False)
    xp = namespace(n)
    weight = -1 / xp.expm1(n * (math.log(beta) if beta else -math.inf))
    return weight / (xp.sum(weight) / n.shape[0])


def _adjusted(function, logits, target, name, prior, tau, valid):
    """The cross-entropy of ``logits + tau log(prior)``."""
    x, target, keep, xp = indexed(function, logits, target, valid)
    prior = per_class(function, name, prior, x)
    high, low = two_arrays(tau * namespace(prior).log(prior), x)
    row = moved(x, high, low, 1.0, xp)
    return finished(cost_of(row, target), row, keep)
