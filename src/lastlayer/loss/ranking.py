"""Losses of pairs: what should rank higher against what should rank lower, alone, sampled, or within a list."""

import math

import numpy as np

from lastlayer._array import arange_like, as_array, floating, namespace, readable, stop_gradient, two_arrays
from lastlayer._check import one_of, shape
from lastlayer._row import limit, prepare, subtract, total
from lastlayer._typing import Array, Bool, Float, Int
from lastlayer.kernels import dispatched
from lastlayer.loss._parts import aligned, counted, softplus_of, weighed


@dispatched
def bpr(
    positive: Float[Array, "..."], negative: Float[Array, "..."], *, valid: Bool[Array, "..."] | None = None
) -> Float[Array, "..."]:
    """Bayesian personalised ranking: cross-entropy of "the positive beats the negative", one number per pair.

        bpr = softplus(-(positive - negative))

    The two broadcast: ``(users, 1)`` against ``(users, k)`` gives ``(users, k)``. The slope is
    ``-sigmoid(-(positive - negative))``, never 0 before it underflows; what rounding takes from the difference is
    carried along. A negative of ``-inf`` costs 0, a positive of ``-inf`` costs ``inf``, both together nan with gradient
    0; two at ``+inf`` tie. A pair that is not ``valid`` gives 0 with gradient exactly 0 (Rendle et al. 2009, BPR-OPT).
    Use it for clicks and purchases, where all that is known is that one item was taken and another was not.

    >>> bpr(np.array([2.0, 40.0, -40.0]), 0.0)
    array([1.26928011e-01, 4.24835426e-18, 4.00000000e+01])
    """
    better, worse, keep, xp = _pair("bpr", positive, negative, valid)
    cost = softplus_of(*gap_of(better, worse, xp), xp)
    cost = xp.where((better == -xp.inf) & (worse == -xp.inf), xp.nan, cost)
    return counted(cost, keep, xp)


@dispatched
def pair_hinge(
    positive: Float[Array, "..."],
    negative: Float[Array, "..."],
    *,
    margin: float = 1.0,
    valid: Bool[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """Hinge of a pair: what the positive lacks to lead the negative by ``margin``, one number per pair.

        pair_hinge = max(0, margin - (positive - negative))

    Shapes and edges as in `bpr`; the slope at the corner is 0. ``margin`` is finite and not below 0. Use it where a
    pair that is right by the margin should teach nothing more.

    >>> pair_hinge(np.array([2.0, 0.5, -1.0]), 0.0)
    array([0. , 0.5, 2. ])
    """
    _check_margin("pair_hinge", margin)
    better, worse, keep, xp = _pair("pair_hinge", positive, negative, valid)
    cost, violates = _hinges(better, worse, margin, xp)
    cost = xp.where(violates, cost, xp.zeros_like(cost))
    cost = xp.where((better == -xp.inf) & (worse == -xp.inf), xp.nan, cost)
    return counted(cost, keep, xp)


@dispatched
def warp(
    positive: Float[Array, "*batch"],
    negatives: Float[Array, "*batch k"],
    *,
    items: int | None = None,
    margin: float = 1.0,
    rank: str = "count",
    weighting: str = "harmonic",
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Weighted approximate-rank pairwise loss: hinges, weighted by the rank the positive seems to have; one per row.

        warp = weight(rank) * mean over the violators of (margin - positive + negative)

    A negative violates where that hinge is above 0. With ``rank="count"`` all violators count, and the rank is their
    number, scaled from the k negatives to a catalogue of ``items``: ``floor((items - 1) violators / k)`` (without
    ``items`` the negatives are the catalogue). With ``rank="tries"`` the negatives are draws in their order, only the
    first violator counts, and the rank is ``floor((items - 1) / tries)``, as WSABIE and LightFM sample. ``weighting``
    is ``"harmonic"``, ``1 + 1/2 + ... + 1/rank`` (Weston, Bengio & Usunier 2011), or ``"log"``, ``log(max(1, rank))``
    (LightFM). The rank and its weight are constants of the differentiation. No violator costs 0. Negatives of ``-inf``
    are absent; a row of nothing but ``-inf`` is nan with gradient 0. A row that is not ``valid`` gives 0 with gradient
    exactly 0. Use it when the top of the list is what counts and the catalogue is too long to score.

    >>> warp(np.array([1.0, 3.0]), np.array([[0.5, 1.5, -1.0], [0.5, 1.5, -1.0]]))
    array([1.5, 0. ])
    """
    one_of("warp", "rank", rank, ("count", "tries"))
    one_of("warp", "weighting", weighting, ("harmonic", "log"))
    _check_margin("warp", margin)
    worse, better, keep, xp = rows_of_negatives("warp", positive, negatives, valid)
    check_items("warp", items, worse)
    hinges, violates = _hinges(better[..., None], worse, margin, xp)
    there = total(xp.astype(worse != -xp.inf, worse.dtype), xp)
    there = xp.where(there == 0, xp.ones_like(there), there)
    each = xp.astype(violates, worse.dtype)
    if rank == "count":
        violators = total(each, xp)
        place = violators if items is None else xp.floor((items - 1) * violators / there)
    else:
        first = xp.argmax(each, axis=-1)[..., None]
        violates = violates & (arange_like(worse, xp) == first)
        violators = total(xp.astype(violates, worse.dtype), xp)
        tried = (worse != -xp.inf) & (arange_like(worse, xp) <= first)
        tries = total(xp.astype(tried, worse.dtype), xp)
        others = there if items is None else xp.full_like(there, items - 1)
        place = xp.floor(others / xp.where(tries == 0, xp.ones_like(tries), tries))
    place = xp.where(place < 1, xp.ones_like(place), place)
    weight = _harmonic(place, xp) if weighting == "harmonic" else xp.log(place)
    lack = total(xp.where(violates, hinges, xp.zeros_like(hinges)), xp)
    loss = weighed(weight, lack / xp.where(violators == 0, xp.ones_like(violators), violators), xp)
    gone = (better == -xp.inf) & xp.all(worse == -xp.inf, axis=-1)
    loss = xp.where(gone | xp.isnan(better) | xp.any(xp.isnan(worse), axis=-1), xp.nan, loss)
    return counted(loss, keep, xp)


@dispatched
def rank_net(
    scores: Float[Array, "*batch items"],
    relevance: Float[Array, "*batch items"] | Int[Array, "*batch items"],
    *,
    mask: Bool[Array, "*batch items"] | None = None,
    empty: str = "zero",
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Mean over the pairs of a list that relevance puts in order of the cost of that order, one number per list.

        rank_net = mean over i, j with relevance_i > relevance_j of softplus(-(s_i - s_j))

    It is divided by the number of such pairs, so that long lists do not outweigh short ones (Burges 2010, sec. 2, has
    the sum). ``mask`` is True where an item is in the list; padding may hold anything. An item of ``-inf`` ranks last:
    ahead of nothing it costs nothing and does not count, as the better of a pair it costs ``inf``; a list of nothing
    but ``-inf`` is nan with gradient 0. A list without a pair to order (one item, or equal relevance) gives 0, or nan
    with ``empty="nan"``. Relevance is finite and not below 0. A list that is not ``valid`` gives 0 with gradient
    exactly 0. Memory grows with the square of the list. Use it for graded judgements when every pair counts alike.

    >>> rank_net(np.array([[2.0, 1.0, 0.0]]), np.array([[1, 0, 0]])).round(4)
    array([0.2201])
    """
    x, relevance, inside, keep, xp = lists("rank_net", scores, relevance, mask, empty, valid)
    cost, ordered = _pair_costs(x, relevance, inside, xp)
    pairs = _flat_total(xp.astype(ordered, x.dtype), xp)
    loss = _flat_total(cost, xp) / xp.where(pairs == 0, xp.ones_like(pairs), pairs)
    return finished(loss, pairs == 0, x, inside, empty, keep, xp)


@dispatched
def lambda_rank(
    scores: Float[Array, "*batch items"],
    relevance: Float[Array, "*batch items"] | Int[Array, "*batch items"],
    *,
    k: int | None = None,
    gain: str = "exponential",
    mask: Bool[Array, "*batch items"] | None = None,
    empty: str = "zero",
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Pairs of a list, each weighted by how much NDCG changes when the two change places; one number per list.

        lambda_rank = sum over i, j with relevance_i > relevance_j of |delta NDCG_ij| softplus(-(s_i - s_j))
        |delta NDCG_ij| = |gain_i - gain_j| |1 / log2(1 + rank_i) - 1 / log2(1 + rank_j)| / (largest DCG)

    Ranks are those of the scores, of equal ones the first item first; they and the weights are constants of the
    differentiation, so the gradient is Burges's lambda (Burges 2010, sec. 4; as a loss: Wang et al. 2018). With ``k``
    places beyond the first k have no discount. ``gain="exponential"`` is ``2^relevance - 1``, ``"linear"`` is the
    relevance. The sum is not divided by the pairs: the weights are already shares of one NDCG. A list without gain
    gives 0, or nan with ``empty="nan"``; everything else as in `rank_net`. Use it when NDCG is the measure.

    >>> lambda_rank(np.array([[2.0, 1.0, 0.0]]), np.array([[1, 0, 0]])).round(4)
    array([0.1791])
    """
    one_of("lambda_rank", "gain", gain, ("exponential", "linear"))
    x, relevance, inside, keep, xp = lists("lambda_rank", scores, relevance, mask, empty, valid)
    if k is not None and not k >= 1:
        raise ValueError(f"lambda_rank: k is a number of places, 1 at least, not {k!r}.")
    k = x.shape[-1] if k is None else k
    gains = gains_of(gain, relevance)
    places = np.arange(1, x.shape[-1] + 1)
    discounts, _ = two_arrays(np.where(places <= k, 1 / np.log1p(places), 0.0), x)  # their unit falls out of the share
    ideal = total(discounts * -xp.sort(-gains, axis=-1), xp)
    order = xp.argsort(-stop_gradient(xp.where(inside, x, -xp.inf)), axis=-1, stable=True)
    ranks = xp.argsort(order, axis=-1, stable=True)
    cost, _ = _pair_costs(x, relevance, inside, xp)
    change = abs(gains[..., :, None] - gains[..., None, :]) * _discounts_apart(ranks, discounts, xp)
    none = ideal == 0
    loss = _flat_total(weighed(change, cost, xp), xp) / xp.where(none, xp.ones_like(ideal), ideal)
    return finished(loss, none, x, inside, empty, keep, xp)


def gap_of(better, worse, xp):
    """``worse - better`` and what rounding took from it: 0 between equal infinities, -inf where the worse is absent."""
    better, far = limit(better[..., None], xp)
    worse, away = limit(worse[..., None], xp)
    better, worse = better[..., 0], worse[..., 0]
    gap, error = subtract(worse, better, xp)
    gap = gap + xp.where(away == far, xp.zeros_like(gap), away - far)
    return xp.where((worse == -xp.inf) & ~xp.isnan(better), -xp.inf, gap), error


def gains_of(gain, relevance):
    """What an item of some relevance is worth."""
    return 2.0**relevance - 1 if gain == "exponential" else relevance


def lists(function, scores, relevance, mask, empty, valid):
    """Scores and relevance to compute with, which items are in their list, which lists count; padding holds 0."""
    one_of(function, "empty", empty, ("zero", "nan"))
    x, xp = prepare(scores, -1)
    relevance = aligned(function, "relevance", relevance, "score", x, x.dtype)
    inside, keep = places_of(function, mask, valid, x, xp)
    relevance = xp.where(inside, relevance, xp.zeros_like(relevance))
    wrong = ~((relevance >= 0) & (relevance < xp.inf))
    if readable(relevance) and bool(xp.any(wrong)):
        value = float(relevance[wrong][0])
        raise ValueError(f"{function}: relevance is finite and not below 0; one is {value:g}.")
    x = xp.where(xp.any(wrong, axis=-1, keepdims=True), xp.nan, xp.where(inside, x, xp.zeros_like(x)))
    return x, xp.where(wrong, xp.zeros_like(relevance), relevance), inside, keep, xp


def places_of(function, mask, valid, x, xp):
    """Which items of ``x`` are in a list that counts, and which lists count (None: all)."""
    inside = xp.ones_like(x, dtype=xp.bool) if mask is None else aligned(function, "mask", mask, "score", x, xp.bool)
    if valid is None:
        return inside, None
    keep = aligned(function, "valid", valid, "list", x[..., 0], xp.bool)
    return inside & keep[..., None], keep


def finished(loss, none, x, inside, empty, keep, xp):
    """The losses of lists: what ``empty`` says where there was nothing to learn, nan where every item is -inf."""
    loss = xp.where(none, xp.zeros_like(loss) if empty == "zero" else xp.full_like(loss, xp.nan), loss)
    gone = xp.any(inside, axis=-1) & xp.all(~inside | (x == -xp.inf), axis=-1)
    loss = xp.where(gone, xp.nan, loss)
    return counted(loss, keep, xp)


def rows_of_negatives(function, positive, negatives, valid):
    """Scores of negatives ``(*batch, k)`` and of their positives ``(*batch,)``, which rows count, and the namespace."""
    worse = floating(negatives, like=as_array(positive))
    xp = namespace(worse)
    if worse.ndim == 0 or worse.shape[-1] == 0:
        raise ValueError(f"{function}: one negative at least for each positive; negatives are {shape(worse)}.")
    better = aligned(function, "positive", positive, "row of negatives", worse[..., 0], worse.dtype)
    if valid is None:
        return worse, better, None, xp
    keep = aligned(function, "valid", valid, "positive", better, xp.bool)
    worse = xp.where(keep[..., None], worse, xp.zeros_like(worse))
    return worse, xp.where(keep, better, xp.zeros_like(better)), keep, xp


def check_items(function, items, negatives):
    """Refuse a catalogue that could not hold the positive and its negatives."""
    k = negatives.shape[-1]
    if items is not None and not k + 1 <= items < math.inf:
        raise ValueError(
            f"{function}: items is the size of the catalogue: the positive and at least its {k} negatives; "
            f"{items!r} came."
        )


def _pair(function, positive, negative, valid):
    """The two of each pair to compute with, which pairs count, and the namespace."""
    better = floating(positive)
    xp = namespace(better)
    worse = xp.astype(floating(negative, like=better), better.dtype)
    try:
        together = np.broadcast_shapes(tuple(better.shape), tuple(worse.shape))
    except ValueError:
        raise ValueError(
            f"{function}: positive and negative broadcast to one shape of pairs, as (users, 1) and (users, k) do; they "
            f"are {shape(better)} and {shape(worse)}."
        ) from None
    better, worse = xp.broadcast_to(better, together), xp.broadcast_to(worse, together)
    if valid is None:
        return better, worse, None, xp
    keep = aligned(function, "valid", valid, "pair", better, xp.bool)
    zero = xp.zeros_like(better)
    return xp.where(keep, better, zero), xp.where(keep, worse, zero), keep, xp


def _pair_costs(x, relevance, inside, xp):
    """The cost of each pair ``(*batch, better, worse)`` of a list, 0 where it does not count, and which do."""
    ordered = relevance[..., :, None] > relevance[..., None, :]
    ordered = ordered & inside[..., :, None] & (inside & (x != -xp.inf))[..., None, :]
    gap, error = gap_of(x[..., :, None], x[..., None, :], xp)
    cost = softplus_of(xp.where(ordered, gap, xp.zeros_like(gap)), error, xp)
    return xp.where(ordered, cost, xp.zeros_like(cost)), ordered


def _flat_total(pairs, xp):
    """The sum over the pairs of each list."""
    return total(xp.reshape(pairs, (*pairs.shape[:-2], pairs.shape[-2] * pairs.shape[-1])), xp)


def _hinges(better, worse, margin, xp):
    """``margin - better + worse``, with what both roundings take, and where that is above 0 (or nan)."""
    gap, error = gap_of(better, worse, xp)
    hinge, rounding = subtract(gap, -margin, xp)
    hinge = hinge + (error + rounding)
    return hinge, ~(hinge <= 0)


def _discounts_apart(ranks, discounts, xp):
    """How far the discounts of each two ranks (from 0) are apart; beyond the first k places they are 0.

    As ``d_a d_b log((2 + b) / (2 + a))``, for neighbours far down would cancel to nothing.
    """
    each = xp.reshape(xp.take(discounts, xp.reshape(ranks, (-1,)), axis=0), ranks.shape)
    place = xp.astype(ranks + 2, each.dtype)
    before = ranks[..., :, None] < ranks[..., None, :]
    (a, b), (near, far) = (
        [xp.where(before, first, second), xp.where(before, second, first)]
        for first, second in (xp.broadcast_arrays(v[..., :, None], v[..., None, :]) for v in (place, each))
    )
    return xp.where(far == 0, near, near * far * xp.log1p((b - a) / a))


def _harmonic(n, xp):
    """``1 + 1/2 + ... + 1/n`` for whole numbers: added up to 16, and Euler and Maclaurin's series beyond."""
    small = sum(xp.where(n >= i, xp.full_like(n, 1 / i), xp.zeros_like(n)) for i in range(16, 0, -1))
    v = 1 / (n * n)
    tail = v * (1 / 12 - v * (1 / 120 - v * (1 / 252 - v * (1 / 240 - v / 132))))
    return xp.where(n <= 16, small, xp.log(n) + np.euler_gamma + (0.5 / n - tail))


def _check_margin(function, margin):
    if not 0 <= margin < math.inf:
        raise ValueError(f"{function}: margin is a finite distance, not below 0; {margin!r} came.")
