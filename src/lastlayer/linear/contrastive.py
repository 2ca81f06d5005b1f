"""Contrastive losses of queries and keys, whose matrix of pairs never exists."""

import functools
import math
import operator

import numpy as np

from lastlayer._array import as_array, dtype_name, floating, namespace
from lastlayer._check import positive as above_zero
from lastlayer._check import shape
from lastlayer._typing import Array, Bool, Float, Int
from lastlayer.linear.both_ways import OfBothWays
from lastlayer.linear.call import PAIRS, Call, Layer, one_each
from lastlayer.linear.entries import Entries, OfEntries
from lastlayer.linear.gradients import PairGradients
from lastlayer.linear.softmax_loss import OfClasses, Smoothed
from lastlayer.linear.streamed import gradients_of, streamed
from lastlayer.loss.contrastive import clip, info_nce
from lastlayer.loss.contrastive_pairs import siglip


@streamed
def linear_info_nce(
    function,
    queries: Float[Array, "*batch width"],
    keys: Float[Array, "keys width"],
    positive: Int[Array, "*batch"] | None = None,
    *,
    temperature: float | Float[Array, ""] = 1.0,
    mask: Bool[Array, "*batch keys"] | None = None,
    valid: Bool[Array, "*batch"] | None = None,
    memory: int | str = "64MiB",
):
    """Cross-entropy of the one key that belongs to each query among all keys, whose pairs never take over ``memory``.

        linear_info_nce = info_nce(queries @ keys.T, positive)

    ``positive`` is the key of each query; without it query i belongs to key i. ``mask``, ``valid`` and edges as in
    `info_nce`. ``temperature`` is a number, or an array of one that is learned. Streaming, libraries, dtypes and
    gradients (to queries and keys) as in `linear_cross_entropy`, and `linear_info_nce_grad` gives NumPy's. Vectors are
    taken as they are: divide by their lengths for cosines.

    >>> queries, keys = np.array([[1.0, 0.0], [0.6, 0.8]]), np.array([[0.8, 0.6], [0.0, 1.0]])
    >>> linear_info_nce(queries, keys, temperature=0.1).round(4)
    array([3.0000e-04, 1.7839e+00])
    """
    queries, temperature = _folded(function, "temperature", queries, temperature, operator.truediv)
    positive = _diagonal(function, queries, keys) if positive is None else positive
    layer = {"words": PAIRS, "valid": valid, "temperature": temperature, "memory": memory}
    call = Call.of(function, queries, keys, positive, name="positive", **layer)
    mask = _mask(call, mask)
    rows = {"positive": call.target, "mask": mask, "valid": call.valid}
    composed = functools.partial(info_nce, **rows, temperature=temperature)
    return OfClasses(call, composed, Smoothed(), mask, held=64)  # its class, cotangent and loss


@streamed
def linear_clip(
    function,
    queries: Float[Array, "pairs width"],
    keys: Float[Array, "pairs width"],
    *,
    temperature: float | Float[Array, ""],
    mask: Bool[Array, "pairs pairs"] | None = None,
    valid: Bool[Array, " pairs"] | None = None,
    memory: int | str = "64MiB",
):
    """Cross-entropy of pairs in both directions, one number per pair, without the matrix of them.

        linear_clip = clip(queries @ keys.T)

    Query i and key i are a pair. ``mask``, ``valid`` and edges as in `clip`, the rest as in `linear_info_nce`. Rows and
    columns are summed in one sweep over the tiles and their slopes made in a second; a tile and its transpose have half
    the ``memory`` each.

    >>> queries, keys = np.array([[1.0, 0.0], [0.6, 0.8]]), np.array([[0.8, 0.6], [0.0, 1.0]])
    >>> linear_clip(queries, keys, temperature=0.1).round(4)
    array([0.8921, 0.8921])
    """
    queries, temperature = _folded(function, "temperature", queries, temperature, operator.truediv)
    target = _diagonal(function, queries, keys)
    call = Call.of(function, queries, keys, target, words=PAIRS, temperature=temperature, memory=memory)
    if queries.ndim != 2 or call.weight.shape[0] != call.batch[0]:
        raise ValueError(f"{function}: query i and key i are a pair; there are {call.batch} and {len(call.weight)}.")
    mask = _mask(call, mask)
    if valid is not None:
        valid = as_array(valid, like=call.features)
        one_each(function, "valid", valid, "pair", call.target)
    composed = functools.partial(clip, temperature=temperature, mask=mask, valid=valid)
    return OfBothWays(call, composed, mask, valid)


@streamed
def linear_siglip(
    function,
    queries: Float[Array, "*batch width"],
    keys: Float[Array, "keys width"],
    positive: Int[Array, "*batch"] | Bool[Array, "*batch keys"] | None = None,
    *,
    scale: float | Float[Array, ""],
    bias: float | Float[Array, ""],
    mask: Bool[Array, "*batch keys"] | None = None,
    valid: Bool[Array, "*batch"] | None = None,
    memory: int | str = "64MiB",
):
    """Binary cross-entropy of every pair, summed over the keys: one number per query, without the matrix of pairs.

        linear_siglip = siglip(queries @ keys.T, positive, scale=scale, bias=bias)

    ``positive``, ``mask``, ``valid`` and edges as in `siglip`; ``scale`` and ``bias`` are numbers, or arrays of one
    that are learned. The rest as in `linear_info_nce`; `memory` as in `linear_multilabel_cross_entropy`.

    >>> queries, keys = np.array([[1.0, 0.0], [0.6, 0.8]]), np.array([[0.8, 0.6], [0.0, 1.0]])
    >>> linear_siglip(queries, keys, scale=10.0, bias=-5.0).round(4)
    array([0.0553, 4.6586])
    """
    queries, scale = _folded(function, "scale", queries, scale, operator.mul)
    above_zero(function, "scale", scale)
    if isinstance(bias, int | float) and not math.isfinite(bias):
        raise ValueError(f"{function}: bias is a finite number, not {bias!r}.")
    if positive is None:
        positive = _diagonal(function, queries, keys)
    shift = _shift(bias, 1 / scale, queries, as_array(keys))
    layer = {"words": PAIRS, "bias": shift, "valid": valid, "temperature": 1 / scale, "memory": memory}
    if dtype_name(as_array(positive)) == "bool":
        made = Layer.of(function, queries, keys, **layer)
        positive = as_array(positive, like=made.features)
        one_each(function, "positive", positive, "pair", made.entries)
    else:
        made = Call.of(function, queries, keys, positive, name="positive", **layer)
        positive = made.target
    mask = _mask(made, mask)
    rows = {"positive": positive, "mask": mask, "valid": made.valid}
    entries = Entries(function, positive, mask, always=True)  # a mask is of negatives
    return OfEntries(made, functools.partial(siglip, **rows, scale=scale, bias=0.0), entries)


linear_info_nce_grad = gradients_of(linear_info_nce, PairGradients)
linear_clip_grad = gradients_of(linear_clip, PairGradients)
linear_siglip_grad = gradients_of(linear_siglip, PairGradients)


def _folded(function, name, queries, value, fold):
    """``queries`` with an array that is learned folded in, and 1; a number is given back beside them."""
    if isinstance(value, int | float):
        return queries, value
    queries = as_array(queries)
    value = as_array(value, like=queries)
    if value.ndim:
        raise ValueError(f"{function}: {name} is one number, for all pairs alike; {shape(value)} came.")
    if isinstance(queries, np.ndarray):
        return queries, float(value)
    x = floating(queries)
    xp = namespace(x)
    value = xp.astype(value, x.dtype)
    return fold(x, xp.where(value > 0, value, xp.nan)), 1.0


def _shift(bias, factor, queries, keys):
    """``factor * bias`` for each key, in the dtype of the queries; a bias that is learned gets its gradient."""
    x = floating(queries)
    xp = namespace(x)
    return xp.broadcast_to(xp.astype(as_array(bias, like=x), x.dtype) * factor, tuple(keys.shape[:1]))


def _diagonal(function, queries, keys):
    """The key of each query where query i belongs to key i."""
    queries, keys = as_array(queries), as_array(keys)
    if queries.ndim < 2 or keys.ndim != 2 or queries.shape[-2] > keys.shape[0]:
        raise ValueError(
            f"{function}: query i belongs to key i, so there are as many keys as queries or more; queries are "
            f"{shape(queries)}, keys are {shape(keys)}."
        )
    return np.broadcast_to(np.arange(queries.shape[-2]), tuple(queries.shape[:-1]))


def _mask(layer, mask):
    """``mask``, one bool for each pair, or None; a mask of numbers could mean either thing by its zeros."""
    if mask is None:
        return None
    mask = as_array(mask, like=layer.features)
    if dtype_name(mask) != "bool":
        kind = dtype_name(mask)
        raise TypeError(f"{layer.function}: mask is bool, True where a key may serve as a negative, not {kind}.")
    one_each(layer.function, "mask", mask, "pair", layer.entries)
    return mask
