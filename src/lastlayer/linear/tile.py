"""What is done to a tile of logits while it is there: the sums of each row, then its slopes, written over it.

A tile is a C-contiguous NumPy array, float32 or float64, or the bits of bfloat16 as uint16, which are computed in
float32. Columns per row are float64. ``largest`` is what a row's exponentials are taken from; -inf is a row with
nothing in it, nan one that holds a nan.
"""

from typing import Any

import numpy as np

from lastlayer._row import merge
from lastlayer.kernels import dispatched
from lastlayer.parallel import over_ranges

# Entries of one range of the pool: half a millisecond of a kernel; float64 has formulas alone, of a dozen tables.
ENTRIES = {"uint16": 2**21, "float32": 2**21, "float64": 2**14}

MASKED = {"uint16": 0xFF80, "float32": -np.inf, "float64": -np.inf}  # what stands for -inf in a tile


def over_rows(function, tile, *columns):
    """``function(tile, *columns)`` over ranges of rows on all cores: the results, in the order of the rows."""

    def work(a, b):
        return function(tile[a:b], *(c[a:b] if isinstance(c, np.ndarray) else c for c in columns))

    return list(over_ranges(work, len(tile), max(ENTRIES[tile.dtype.name] // tile.shape[1], 1)))


def logits_of(tile):
    """The numbers of a tile, in float64."""
    wide = (tile.astype(np.uint32) << 16).view(np.float32) if tile.dtype == np.uint16 else tile
    return wide.astype(np.float64)


def written(tile, values):
    """Put ``values`` into a tile; bfloat16 takes the nearest, ties to even."""
    if tile.dtype != np.uint16:
        tile[...] = values
        return
    values = np.asarray(values, np.float32)
    bits = values.view(np.uint32).astype(np.uint64)
    nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    tile[...] = np.where(np.isnan(values), 0x7FC0, nearest)


@dispatched
def head_parts(tile, target, largest, rest, moment, at):
    """Take a tile into the sums of its rows, which are written over: the classes of both together.

        rest = sum over the others of exp(z_i - m),   moment = sum_i exp(z_i - m) (m - z_i)

    m is the ``largest`` entry, ``at`` the logit of class ``target``, which counts from the first class of the tile and
    may lie outside it: then ``at`` stays. Of no classes, m and ``at`` are -inf and the others 0.
    """
    at[:] = np.maximum(at, picked(tile, target))
    largest[:], rest[:], moment[:] = merged((largest, rest, moment), _parts(tile))


def merged(one, other):
    """Three columns, ``largest``, ``rest`` and ``moment``, over two blocks of classes: those of both."""
    m, rest = merge(one[0], one[1], other[0], other[1], np)
    moment = np.zeros_like(m)
    for largest, others, part in (one, other):
        fall = np.where(largest == m, 0.0, m - largest)
        share = np.where(largest > -np.inf, np.exp(-fall), 0.0)
        moment += share * (part + np.where(share > 0, fall, 0.0) * (1 + others))
    return m, rest, moment


def picked(tile, target):
    """The logit of one class of each row, -inf where it lies outside the tile."""
    found, (inside,) = np.full(len(tile), -np.inf), np.nonzero((target >= 0) & (target < tile.shape[1]))
    found[inside] = logits_of(tile[inside, target[inside]])
    return found


def _parts(tile):
    """The three columns of a tile."""
    z = logits_of(tile)
    m = z.max(axis=1)
    below = z < m[:, None]
    d = np.where(below, z - m[:, None], 0.0)
    e = np.where(below, np.exp(d), 0.0)
    rest = e.sum(axis=1) + ((z == m[:, None]).sum(axis=1) - 1.0)
    moment = -(e * np.where(e > 0, d, 0.0)).sum(axis=1)
    empty, undefined = m == -np.inf, np.isnan(m)
    parts = np.where(empty, 0.0, np.stack([rest, moment]))
    return np.stack([m, *np.where(undefined, np.nan, parts)])


@dispatched
def head_totals(tile, largest):
    """Two columns: the sum of ``largest - z_i`` over the classes that are not masked, and how many these are."""
    z = logits_of(tile)
    allowed = z > -np.inf
    distance = np.where(allowed & (z != largest[:, None]), largest[:, None] - z, 0.0)
    return np.stack([distance.sum(axis=1), allowed.sum(axis=1)])


@dispatched
def head_slopes(tile, largest, a, b, u, curve, index=None, spot: Any = None):
    """Write over each logit the slope of what was made of it.

        slope_i = (exp(z_i - m) (a + b (z_i - m)) - u [z_i > -inf]) (1 - curve z_i^2)

    ``a``, ``b`` and ``u`` are per row; ``curve`` is that of a cap, 1 / cap^2. Where m is +inf the entries of +inf count
    1 each and the others 0; an empty row has no slope. Classes whose slope is known are those of ``index``,
    ``(rows, picks)``, which counts from the first class of the tile and may lie outside it; ``spot`` has their slopes.
    """
    z = logits_of(tile)
    m = largest[:, None]
    allowed, finite = z > -np.inf, np.isfinite(m)
    d = np.where(allowed & finite, z - m, 0.0)
    e = np.where(allowed, np.exp(d), 0.0)
    smooth = e * (a[:, None] + b[:, None] * d) - np.where(allowed, u[:, None], 0.0)
    smooth = smooth * (1 - curve * np.where(allowed & finite, z, 0.0) ** 2)
    limit = np.where(z == np.inf, a[:, None], 0.0) - np.where(allowed, u[:, None], 0.0)
    slopes = np.where(m == np.inf, limit, np.where(m == -np.inf, 0.0, smooth))
    slopes = np.where(np.isnan(m), np.nan, slopes)
    if index is not None:
        row, pick = np.nonzero((index >= 0) & (index < tile.shape[1]))
        slopes[row, index[row, pick]] = spot[row, pick]
    written(tile, slopes)


@dispatched
def head_ranks(tile, at, target):
    """How many classes of the tile come before class ``target``, whose logit is ``at``: larger, or equal and earlier.

    ``target`` counts from the first class of the tile and may lie outside it.
    """
    z = logits_of(tile)
    earlier = np.arange(z.shape[1]) < target[:, None]
    return ((z > at[:, None]) | ((z == at[:, None]) & earlier)).sum(axis=1)


@dispatched
def head_stats(tile, k, at=None, target=None):
    """What one read of a tile gives: the three columns of `head_parts`, `head_ranks`, and the first classes.

    The ``k`` largest entries of each row come in falling order, the first of equals first, and then their classes.
    Without ``at`` nothing is ranked, and there are no ranks.
    """
    z = logits_of(tile)
    index = np.argsort(-z, axis=1, kind="stable")[:, :k] if k else np.empty((len(z), 0), np.int64)
    values = np.take_along_axis(z, index, axis=1).astype(tile.dtype if tile.itemsize > 2 else np.float32)
    return _parts(tile), np.empty(0, np.int64) if at is None else head_ranks(tile, at, target), values, index


def head_cross(teacher, tile, largest):
    """What a divergence needs: the sum of ``exp(t_i - m) (t_i - z_i)``, t being the logits of ``teacher``, m theirs.

    A class masked in both, or by the teacher, adds nothing; one that the tile alone masks, +inf.
    """
    t, z = logits_of(teacher), logits_of(tile)
    share = np.where(t == largest[:, None], 1.0, np.exp(t - largest[:, None]))
    share = np.where(t == -np.inf, 0.0, share)
    return np.where(share == 0, 0.0, share * (t - z)).sum(axis=1)
