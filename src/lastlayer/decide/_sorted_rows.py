"""A row of logits from the likeliest class down: what conformal scores are made of.

    z_(0) >= z_(1) >= ...,    after_r = sum over the classes behind rank r of exp(z_j - z_(r))
                                      = exp(z_(r+1) - z_(r)) (1 + after_(r+1))

Classes with equal logits stand in the order of their index. Every probability and every tail follows from `after`
without a difference of nearly equal numbers, so rows whose largest probability rounds to 1 are still told apart:

    p_(0) = 1 / (1 + after_0),    log p_(r) = z_(r) - z_(0) - log1p(after_0),    mass behind r = p_(r) after_r

Arrays here have ranks first and rows last, ``(classes, rows)``, so that a step down the ranks is one operation on
contiguous numbers. Everything is float64 where the library has it; JAX without ``jax_enable_x64`` decides in float32.
"""

from typing import Any, NamedTuple

import numpy as np

from lastlayer._array import arange_like, is_jax, readable, take
from lastlayer._typing import Array


class Place(NamedTuple):
    """What a score may know of a class: its rank and its mass, its row's top, and the share drawn for the row.

    The first three are ``(classes, rows)``, or ``(rows,)`` for one class of each row; the others are ``(rows,)``.
    """

    rank: Array  # 0 for the likeliest
    below: Array  # z_(0) - z_(rank)
    after: Array
    top: Array  # after_0: the odds against the likeliest class
    gap: Array  # z_(0) - z_(1), +inf for a lone class
    second: Array  # after_1
    share: Array  # of the class's own mass, what a score counts: 0, or the number drawn for the row
    xp: Any


class Ranked(NamedTuple):
    """A block of rows by rank."""

    logit: Array  # (classes, rows), largest first
    possible: Array | None  # (classes, rows): neither masked nor in a row that ranks nothing; None where all are
    below: Array
    after: Array
    xp: Any

    @property
    def top(self):
        """The odds against the likeliest class of each row."""
        return self.after[0, ...]

    def places(self, share, rank=None) -> Place:
        """All places, or the one at ``rank`` of each row."""
        xp, top = self.xp, self.top
        alone = self.below.shape[0] == 1
        gap, second = (top + xp.inf, top) if alone else (self.below[1, ...], self.after[1, ...])
        row = (top, gap, second, share, xp)
        if rank is None:
            ranks = xp.astype(arange_like(xp.moveaxis(self.after, 0, -1), xp), self.after.dtype)
            return Place(xp.reshape(ranks, (-1, 1)), self.below, self.after, *row)
        below, after = (take(xp.moveaxis(a, 0, -1), rank, xp) for a in (self.below, self.after))
        return Place(xp.astype(rank, after.dtype), below, after, *row)

    def only_possible(self, scores, rank=None):
        """Scores of all places, or of the one at ``rank`` of each row, with nan where a class can be in no set."""
        if self.possible is None:
            return scores
        xp = self.xp
        possible = self.possible if rank is None else take(xp.moveaxis(self.possible, 0, -1), rank, xp)
        return xp.where(possible, scores, xp.nan * xp.ones_like(scores))


def wide(x, xp):
    """``x`` in the widest floats of its library."""
    return xp.astype(x, xp.asarray(1.0).dtype if is_jax(x) else xp.float64, copy=False)


def ranked(x, xp) -> Ranked:
    """Rows ``(rows, classes)`` by rank. Entries of +inf share their row; a row with a nan, or all -inf, ranks nothing.

    A row that holds +inf is taken as its limit, as in `_row.limit`. Sorted, a row's ends say whether it is ordinary.
    """
    z = wide(xp.moveaxis(xp.flip(xp.sort(x, axis=-1), axis=-1), -1, 0), xp)  # the sort is faster in float32
    z = np.ascontiguousarray(z) if xp is np else z
    if readable(x) and bool(xp.all((z[0, ...] < xp.inf) & (z[-1, ...] > -xp.inf))):  # also no nan: it would come first
        return Ranked(z, None, z[0, ...] - z, _after(xp.exp(z[1:, ...] - z[:-1, ...]), z, xp), xp)
    first, zero = z[0, ...], xp.zeros_like(z)
    v = xp.where(first == xp.inf, xp.where(z == xp.inf, zero, zero - xp.inf), z)
    present = v > -xp.inf
    after = _after(xp.where(present[1:, ...], xp.exp(v[1:, ...] - v[:-1, ...]), zero[1:, ...]), z, xp)
    return Ranked(z, present & (first == first), v[0, ...] - v, after, xp)


def _after(ratio, z, xp):
    """`after` of all ranks: from the last up, or where arrays are traced or far away in log2(classes) whole steps.

    The second composes the maps ``t -> ratio (1 + t)`` of neighbouring ranks, then of pairs of them, and so on. It is
    the slower one on a CPU (7 times at 100 classes), but a trace of 1,000 single steps compiles for minutes.
    """
    last = xp.zeros_like(z[:1, ...])
    if readable(z):
        tails = [last[0, ...]]
        for r in range(z.shape[0] - 2, -1, -1):
            tails.append(ratio[r, ...] * (1 + tails[-1]))
        return xp.stack(tails[::-1])
    slope = sums = xp.concat([ratio, last], axis=0)
    step = 1
    while step < z.shape[0]:
        behind = xp.zeros_like(z[:step, ...])
        sums = sums + slope * xp.concat([sums[step:, ...], behind], axis=0)
        slope = slope * xp.concat([slope[step:, ...], behind], axis=0)
        step *= 2
    return sums


def rank_of(x, index):
    """The rank of one class of each row (NumPy): how many are larger, or equal with a lower index."""
    own = np.take_along_axis(x, index[:, None], axis=-1)
    rank = np.count_nonzero(x > own, axis=-1)
    tied = x == own
    if (np.count_nonzero(tied, axis=-1) > 1).any():
        rank += np.count_nonzero(tied & (np.arange(x.shape[-1]) < index[:, None]), axis=-1)
    return rank


def ranks(x, xp):
    """The rank of every class, ``(rows, classes)``."""
    return xp.argsort(xp.argsort(-x, axis=-1, stable=True), axis=-1, stable=True)


def likeliest(x, size, by_rank: Ranked):
    """The ``size`` first classes of each row, ``(rows, classes)``: the largest logits, ties by class index."""
    xp = by_rank.xp
    some = size > 0
    if readable(x):
        last = take(xp.moveaxis(by_rank.logit, 0, -1), xp.where(some, size - 1, xp.zeros_like(size)), xp)
        inside = (x >= xp.astype(last, x.dtype)[..., None]) & some[..., None]
        if bool(xp.all(xp.count_nonzero(inside, axis=-1) == size)):  # no tie is cut in two
            return inside
    return ranks(x, xp) < size[..., None]
