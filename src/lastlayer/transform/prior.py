"""Logits of a model trained under other class frequencies, or with class weights, as those of the data at hand."""

import numpy as np

from lastlayer._array import as_array, dtype_name, floating, namespace, readable, restore, stop_gradient
from lastlayer._check import shape
from lastlayer._row import prepare
from lastlayer._typing import Array, Float
from lastlayer.kernels import dispatched

_FAR = 80.0  # exp of it is finite in float32


@dispatched
def adjust_prior(
    logits: Float[Array, "*any"], source: Float[Array, "*source"], target: Float[Array, "*target"]
) -> Float[Array, "*any"]:
    """Logits under the class prior ``target`` from those of a model trained under the prior ``source``.

        adjust_prior(z)_k = z_k + log(target_k) - log(source_k)

    That is Bayes' rule for ``p_k target_k / source_k`` (Saerens et al. 2002, eq. 2.4), exact where the classes
    themselves look alike in both places. Priors are ``(classes,)`` or one row per row of logits, and need not sum to 1:
    counts will do, a common factor moves the whole row. Two plain numbers are the shares of the positive class for
    binary logits of any shape:

        adjust_prior(z) = z + logit(target) - logit(source)

    (Elkan 2001, theorem 2). A target of 0 masks the class; a share of 1 makes it certain. A source of 0 under a target
    above 0 says nothing about the class and is refused, as is a prior that is negative or not finite; where values
    cannot be looked at (under ``jax.jit``, on a GPU) the row is nan. Differentiable in the priors too.

    >>> adjust_prior(np.array([1.0, 0.0]), [0.9, 0.1], [0.5, 0.5]).round(4)
    array([0.4122, 1.6094])
    >>> float(adjust_prior(0.0, 0.5, 0.75).round(4))
    1.0986
    """
    x, (s, t), prior_xp = _beside("adjust_prior", logits, source=source, target=target)
    if (s.ndim == 0) != (t.ndim == 0):
        raise ValueError(
            "adjust_prior: source and target are both one number per class, or both the share of the positive class; "
            f"source is {shape(s)}, target is {shape(t)}."
        )
    if s.ndim:
        offset, gone, sure, unknown = _of_classes(s, t, prior_xp)
    else:
        offset, gone, sure, unknown = _of_shares(s, t, prior_xp)
    xp = namespace(x)
    offset, gone, sure, unknown = (as_array(part, like=x) for part in (offset, gone, sure, unknown))
    moved = _added(x, offset, xp)
    moved = xp.where(gone, -xp.inf, xp.where(sure, xp.inf, moved))
    return restore(xp.where(unknown, xp.nan, moved), logits)


@dispatched
def adjust_class_weight(logits: Float[Array, "*any"], class_weight: Float[Array, "*weight"]) -> Float[Array, "*any"]:
    """Logits without the class weights that a model was trained with, or the rates its classes were sampled at.

        adjust_class_weight(z)_k = z_k - log(class_weight_k)

    A loss weighted by ``w_k`` is least at probabilities in proportion to ``w_k p_k``, so this is exact for a model that
    can represent those, and an approximation for any other. A plain number is the ``pos_weight`` of binary logits; an
    array is one weight per class, or per label of multilabel logits, or one row per row of logits. For sampling it is
    the prior correction of King and Zeng (2001, eq. 7). Weights are finite and above 0; another is refused, or where
    values cannot be looked at its row is nan.

    >>> adjust_class_weight(np.array([[2.0, 0.0]]), [4.0, 1.0]).round(4)
    array([[0.6137, 0.    ]])
    """
    x, (weight,), weight_xp = _beside("adjust_class_weight", logits, class_weight=class_weight)
    wrong = ~((weight > 0) & weight_xp.isfinite(weight))
    if readable(wrong) and bool(weight_xp.any(wrong)):
        raise ValueError(
            f"adjust_class_weight: class_weight is finite and above 0, not {_first(weight, wrong):g}; a class that was "
            "never seen has nothing to be undone."
        )
    offset = -weight_xp.log(weight_xp.where(wrong, weight_xp.ones_like(weight), weight))
    unknown = weight_xp.any(wrong, axis=-1, keepdims=True) if weight.ndim else wrong
    xp = namespace(x)
    moved = _added(x, as_array(offset, like=x), xp)
    return restore(xp.where(as_array(unknown, like=x), xp.nan, moved), logits)


def _beside(function, logits, **priors):
    """Logits to compute with, and priors that fit them, in NumPy's float64 where they came as numbers or in NumPy.

    A prior rounded to float32 would cost the digits of a small offset.
    """
    arrays = {name: as_array(prior) for name, prior in priors.items()}
    for name, prior in arrays.items():
        if not dtype_name(prior).startswith(("int", "uint", "float", "bfloat")):
            raise TypeError(f"{function}: {name} is a number, or one per class, not {dtype_name(prior)}.")
    x = floating(logits)
    if any(prior.ndim for prior in arrays.values()):
        x, _ = prepare(logits, -1)
    for name, prior in arrays.items():
        if prior.ndim and not _one_per_class(prior.shape, x.shape):
            raise ValueError(
                f"{function}: {name} is one number per class, ({x.shape[-1]},), or one row per row of logits, "
                f"{shape(x)}; {name} is {shape(prior)}."
            )
    if all(namespace(prior) is np for prior in arrays.values()):
        return x, [prior.astype(np.float64) for prior in arrays.values()], np
    xp = namespace(x)
    beside = [floating(prior, like=x) for prior in arrays.values()]
    widest = xp.result_type(x, *beside)
    return x, [xp.astype(prior, widest) for prior in beside], xp


def _one_per_class(part, whole):
    """Whether priors of shape ``part`` are one per class, and one row or one row for each of logits."""
    missing = len(whole) - len(part)
    rows = zip(part[:-1], whole[max(missing, 0) :], strict=False)
    return missing >= 0 and part[-1] == whole[-1] and all(a in (1, b) for a, b in rows)


def _of_classes(s, t, xp):
    """What is added to each class, which classes are masked, which are certain, and which rows are unknown."""
    for name, prior in (("source", s), ("target", t)):
        wrong = ~((prior >= 0) & xp.isfinite(prior))
        if readable(wrong) and bool(xp.any(wrong)):
            raise ValueError(
                f"adjust_prior: {name} is a prior or count of each class, finite and not negative, not "
                f"{_first(prior, wrong):g}."
            )
    unseen = (s == 0) & (t > 0)
    if readable(unseen) and bool(xp.any(unseen)):
        classes = np.unique(np.nonzero(np.asarray(unseen))[-1])
        raise ValueError(
            f"adjust_prior: class {classes[0]} has a target above 0 and a source of 0: a model that never saw a class "
            "knows nothing of it. Mask it with a target of 0, or give the source it was trained under."
        )
    known = (s > 0) & (t > 0) & xp.isfinite(s) & xp.isfinite(t)
    one = xp.ones_like(s + t)
    s_known, t_known = xp.where(known, s, one), xp.where(known, t, one)
    offset = _log_ratio(t_known, s_known, t_known - s_known, xp)
    gone = (t == 0) & (s >= 0) & xp.isfinite(s)
    unknown = xp.any(~(known | gone), axis=-1, keepdims=True)
    return offset, gone, xp.zeros_like(gone), unknown


def _of_shares(s, t, xp):
    """`_of_classes` for the share of the positive class.

    ``logit(t) - logit(s)`` is the sum of two logarithms of one sign, so that near priors do not cancel.
    """
    for name, share in (("source", s), ("target", t)):
        if readable(share) and not bool((share >= 0) & (share <= 1)):
            raise ValueError(
                f"adjust_prior: one number is the share of the positive class, between 0 and 1; {name} is "
                f"{float(share):g}."
            )
    valid = (s >= 0) & (s <= 1) & (t >= 0) & (t <= 1)
    gone, sure = valid & (t == 0) & (s < 1), valid & (t == 1) & (s > 0)
    known = valid & (s > 0) & (s < 1) & (t > 0) & (t < 1)
    unknown = ~(known | gone | sure)
    if readable(unknown) and bool(unknown):
        raise ValueError(
            f"adjust_prior: a model whose source was {float(s):g} never saw both classes and knows nothing of a target "
            f"of {float(t):g}. Give the share it was trained under."
        )
    half = xp.full_like(s, 0.5)
    s, t = xp.where(known, s, half), xp.where(known, t, half)
    difference = t - s
    return _log_ratio(t, s, difference, xp) - _log_ratio(1 - t, 1 - s, -difference, xp), gone, sure, unknown


def _log_ratio(a, b, difference, xp):
    """``log(a / b)`` of positive numbers, to full relative precision, from ``difference = a - b`` as it is known."""
    rough = xp.log(a) - xp.log(b)
    near = (rough > -_FAR) & (rough < _FAR)  # beyond, the quotient may overflow and the two logarithms cannot cancel
    below = difference < 0
    smaller = xp.where(near, xp.where(below, a, b), xp.ones_like(rough))
    apart = xp.where(near, xp.where(below, -difference, difference), xp.zeros_like(rough))
    exact = xp.log1p(apart / smaller)
    return xp.where(near, xp.where(below, -exact, exact), rough)


def _added(x, offset, xp):
    """``x + offset`` in the dtype of ``x``; a masked class stays masked, without slope."""
    return xp.where(x == -xp.inf, -xp.inf, x + xp.astype(offset, x.dtype))


def _first(values, where):
    """The first of ``values`` that is marked, as a number for a sentence."""
    values = stop_gradient(values)
    return float(values[where][0] if values.ndim else values)
