"""Losses of whole lists: the order, or the shares of relevance, under the softmax of the scores."""

import numpy as np

from lastlayer._array import arange_like, as_array, dtype_name, is_torch, readable, stop_gradient
from lastlayer._check import one_of
from lastlayer._row import limit, merge, prepare, split, subtract, total
from lastlayer._typing import Array, Bool, Float, Int
from lastlayer.kernels import dispatched
from lastlayer.loss._parts import aligned, softplus_of, weighed
from lastlayer.loss.ranking import finished, gains_of, lists, places_of
from lastlayer.transform.softmax import softmax, surprise


@dispatched
def list_net(
    scores: Float[Array, "*batch items"],
    relevance: Float[Array, "*batch items"] | Int[Array, "*batch items"],
    *,
    gain: str = "softmax",
    mask: Bool[Array, "*batch items"] | None = None,
    empty: str = "zero",
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Cross-entropy of "which item comes first" between relevance and scores, one number per list.

        list_net = -sum_i q_i log softmax(s)_i

    ``gain="softmax"`` takes ``q = softmax(relevance)`` over the items that are there (Cao et al. 2007, top one);
    ``"linear"`` and ``"exponential"`` share 1 among the items as relevance, or ``2^relevance - 1``, is shared. ``mask``
    is True where an item is in the list; padding may hold anything. An item of ``-inf`` is absent; it costs ``inf``
    where a gain is on it (with ``"softmax"`` absent items have none). A list without items or without gain gives 0, or
    nan with ``empty="nan"``; a list of nothing but ``-inf`` is nan with gradient 0. Relevance is finite and not below
    0. A list that is not ``valid`` gives 0 with gradient exactly 0. Use it when a list is one decision, long lists
    included: its memory grows with the list, not with its square.

    >>> list_net(np.array([[2.0, 1.0, 0.0]]), np.array([[1, 0, 0]]), gain="linear").round(4)
    array([0.4076])
    """
    one_of("list_net", "gain", gain, ("softmax", "linear", "exponential"))
    x, relevance, inside, keep, xp = lists("list_net", scores, relevance, mask, empty, valid)
    x = xp.where(inside, x, -xp.inf)
    if gain == "softmax":
        share, none = softmax(xp.where(x == -xp.inf, x, relevance), empty="zero"), ~xp.any(inside, axis=-1)
    else:
        gains = gains_of(gain, relevance)
        mass = total(gains, xp)
        none = mass == 0
        share = gains / xp.where(none, xp.ones_like(mass), mass)[..., None]
    loss = total(weighed(share, surprise(split(x, xp)), xp), xp)
    return finished(loss, none, x, inside, empty, keep, xp)


@dispatched
def list_mle(
    scores: Float[Array, "*batch items"],
    order: Int[Array, "*batch items"],
    *,
    mask: Bool[Array, "*batch items"] | None = None,
    empty: str = "zero",
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Negative log-likelihood of an order: each item is drawn from those not yet drawn, by softmax; one per list.

        list_mle = sum_i [logsumexp(s_order[i], ..., s_order[n]) - s_order[i]]

    ``order`` names the items from best to worst, as ``argsort(-relevance, stable=True)`` does (Xia et al. 2008).
    Each term is the softplus of what comes after minus the item, from the (max, rest) of the suffix, so an
    item far ahead of the rest keeps its tail. ``mask`` is True where an item is in the list; padding may hold anything
    and stand anywhere in the order. An item of ``-inf`` costs ``inf`` before one that is not, and nothing at the end; a
    list of nothing but ``-inf`` is nan with gradient 0. One item alone costs 0; a list without items gives 0, or nan
    with ``empty="nan"``. An order that is no permutation is refused; where it cannot be looked at its list is nan. A
    list that is not ``valid`` gives 0 with gradient exactly 0. Use it when the whole order is known.

    >>> list_mle(np.array([[2.0, 1.0, 0.0]]), np.array([[0, 1, 2]])).round(4)
    array([0.7209])
    """
    one_of("list_mle", "empty", empty, ("zero", "nan"))
    x, xp = prepare(scores, -1)
    inside, keep = places_of("list_mle", mask, valid, x, xp)
    x = xp.where(inside, x, -xp.inf)
    order, x = _permutation(order, keep, x, xp)
    each, far = limit(xp.take_along_axis(x, order, axis=-1)[..., None], xp)
    each = each[..., 0]
    gap, error = _remaining_less_drawn(each, far, xp)
    cost = softplus_of(gap, error, xp)
    cost = xp.where(xp.take_along_axis(inside, order, axis=-1), cost, xp.zeros_like(cost))
    return finished(total(cost, xp), ~xp.any(inside, axis=-1), x, inside, empty, keep, xp)


def _remaining_less_drawn(each, far, xp):
    """``logsumexp`` of all that follows, minus the item itself, and what rounding took; -inf where nothing follows.

    ``each`` is the scores in their order with 0 for +inf, and ``far`` is +inf there.
    """
    largest, rest = _after(*_suffixes(each, far, xp), xp)
    infinite = largest == xp.inf
    ahead, error = subtract(xp.where(infinite, xp.zeros_like(largest), largest), each, xp)
    gap, rounding = subtract(ahead, -xp.log1p(rest), xp)
    away = xp.where(infinite, largest, xp.zeros_like(largest))
    gap = gap + xp.where(away == far, xp.zeros_like(far), away - far)
    return xp.where((largest == -xp.inf) & ~xp.isnan(each), -xp.inf, gap), error + rounding


def _suffixes(each, far, xp):
    """The (max, rest) of each item with all that follow it: pieces that double in length, so in log2(n) merges."""
    absent = each == -xp.inf
    there = xp.where(absent, xp.zeros_like(each), each)
    held = stop_gradient(there)
    largest, rest = xp.where(absent, -xp.inf, held + far), xp.expm1(there - held)
    step = 1
    while step < each.shape[-1]:
        largest, rest = merge(largest, rest, *_after(largest, rest, xp, step), xp)
        step *= 2
    return largest, rest


def _after(largest, rest, xp, step=1):
    """The parts that stand ``step`` places further on, and those of nothing at the end."""
    nothing = xp.zeros_like(largest[..., :step])
    largest = xp.concat([largest[..., step:], nothing - xp.inf], axis=-1)
    return largest, xp.concat([rest[..., step:], nothing], axis=-1)


def _permutation(order, keep, x, xp):
    """``order`` to gather with, and ``x``: an order that leaves an item out is refused, or makes its list nan."""
    order = as_array(order, like=x)
    if not dtype_name(order).startswith(("int", "uint")):
        raise ValueError(
            "list_mle: order holds the indices of the items from best to worst; relevance becomes one by "
            f"argsort(-relevance, stable=True). {dtype_name(order)} came."
        )
    order = aligned("list_mle", "order", order, "score", x, xp.int64 if xp is np or is_torch(order) else order.dtype)
    places = arange_like(x, xp)
    order = order if keep is None else xp.where(keep[..., None], order, places)
    wrong = xp.any(xp.sort(order, axis=-1) != places, axis=-1, keepdims=True)
    if readable(order) and bool(xp.any(wrong)):
        raise ValueError(
            f"list_mle: order names each of the {x.shape[-1]} items of a list once, from best to worst; one does not."
        )
    return xp.where(wrong, places, order), xp.where(wrong, xp.nan, x)
