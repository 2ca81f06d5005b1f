"""Losses that judge each logit of a head on its own, by its sigmoid: one sweep makes the sums and the slopes."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lastlayer._array import to_numpy
from lastlayer.kernels import dispatched
from lastlayer.linear.gradients import Gradients, Swept
from lastlayer.linear.streamed import Streamed
from lastlayer.linear.tile import written

STRIP = 2**15  # entries at a time: a dozen tables of them stay in the second cache


class Entries(NamedTuple):
    """How much each entry is a yes and a no: ``y`` times ``yes``, ``1 - y`` times ``no``.

    ``target`` is y, from 0 to 1, of every entry, or the class of the one yes of each row. What ``keep`` has as False
    weighs nothing; ``always``, it does so as a no alone.
    """

    function: str
    target: Any
    keep: Any = None
    yes: Any = 1.0  # a number, or one per label
    no: float = 1.0
    gamma: float = 0.0
    always: bool = False

    def tables(self, layer):
        """The same in NumPy, a row of entries per row of features."""
        target, keep = to_numpy(self.target), None if self.keep is None else table(layer, self.keep)
        target = table(layer, target) if target.ndim > len(layer.batch) else target.reshape(-1)
        yes = np.broadcast_to(to_numpy(self.yes), layer.weight.shape[:1])
        return self._replace(target=target, yes=yes, keep=keep)

    def of(self, z, rows, block):
        """Logits to compute with, and what each costs as a yes and as a no."""
        if self.target.ndim == 1:
            y = self.target[rows][:, None] == np.arange(block.start, block.stop)
        else:
            y = part_of(self.target, rows, block)
        y = y.astype(z.dtype)
        keep: Any = self.keep
        if keep is not None:
            keep = part_of(keep, rows, block)
            there = keep | (y > 0) if self.always else keep
            z, y = np.where(there, z, 0), np.where(there, y, 0)
        outside = (y < 0) | (y > 1)
        if outside.any():
            hint = "for -1/+1 write target > 0."
            raise ValueError(f"{self.function}: target is 0, 1 or between, not {y[outside][0]:g}; {hint}")
        yes, no = y * self.yes[block].astype(z.dtype), (1 - y) * z.dtype.type(self.no)
        return z, yes, no if keep is None else np.where(keep, no, 0)


@dataclass(frozen=True)
class OfEntries(Streamed):
    """The sum over a row's entries of ``yes q^gamma softplus(-z) + no p^gamma softplus(z)``, p and q = 1 - p of z."""

    entries: Entries

    def sweep(self, cotangent, wanted):
        head = self.layer.head(any(wanted), sweeps=1, share=2)  # half the memory is for what the entries are made of
        out, room = Gradients(head, wanted), head.room()
        loss, kept, entries = np.zeros(head.plan.rows), self.layer.kept, self.entries.tables(self.layer)
        with np.errstate(all="ignore"):  # written for limits
            for rows in head.groups():
                index = np.arange(rows.start, rows.stop) if kept is None else kept[rows]
                step = None if cotangent is None else cotangent[rows] / head.temperature
                for block, tile in head.tiles(rows, room):
                    loss[rows] += head_entries(head.products.bits(tile), entries, index, block.start, step)
                    if cotangent is not None:
                        out.add(rows, block, tile)
        return Swept(loss, *out.arrays())


@dispatched
def head_entries(tile, entries, index, start, step):
    """The sum of each row of a tile whose first class is ``start``; with ``step`` its slopes are written over it.

    ``index`` is the rows of the tile among those of the ``entries``, which are NumPy's tables.
    """
    found = np.zeros(len(tile))
    for rows, columns in strips(tile):
        classes = slice(start + columns.start, start + columns.stop)
        z, yes, no = entries.of(_numbers(tile[rows, columns]), index[rows], classes)
        cost, slope = _costs(z, yes, no, entries.gamma, step is not None)
        found[rows] += cost.sum(axis=1, dtype=np.float64)
        if step is not None:
            slope *= step[rows, None].astype(z.dtype)
            written(tile[rows, columns], slope)
    return found


def strips(tile):
    """Rows and columns of the parts of a tile, one after another: threads would wait for each other's Python."""
    rows, columns = tile.shape
    high = max(STRIP // columns, 1)
    for top in range(0, rows, high):
        for left in range(0, columns, STRIP):
            yield slice(top, min(top + high, rows)), slice(left, min(left + STRIP, columns))


def _costs(z, yes, no, gamma, slopes):
    """The cost of each entry, with 0 * inf = 0, and its slope in z where ``slopes`` are asked for.

    A choice by entry takes as long as all the rest here, so it is made where something is infinite alone; and so does
    fresh memory, so tables are written over.
    """
    weighed = _weighed if np.isinf(z).any() else np.multiply
    low = np.abs(z)
    np.log1p(np.exp(np.negative(low, out=low), out=low), out=low)
    as_yes, as_no = np.minimum(z, 0), np.maximum(z, 0)
    np.subtract(low, as_yes, out=as_yes)
    np.add(low, as_no, out=as_no)
    sides: Any = (_sigmoid(z, turned) if gamma or slopes else None for turned in (np.negative, np.positive))
    p, q = sides
    if not gamma:
        cost = weighed(yes, as_yes, out=as_yes)
        cost += weighed(no, as_no, out=as_no)
        if slopes:
            p *= no
            q *= yes
            p -= q
        return cost, p
    yes, no = yes * q**gamma, no * p**gamma
    cost = weighed(yes, as_yes) + weighed(no, as_no)
    return cost, no * (p + gamma * weighed(q, as_no)) - yes * (q + gamma * weighed(p, as_yes))


def _sigmoid(z, turned):
    """``1 / (1 + exp(turned(z)))``, which keeps the tail where that is large."""
    e = turned(z)
    np.exp(e, out=e)
    e += 1
    return np.reciprocal(e, out=e)


def _weighed(weight, cost, out=None):
    return np.multiply(np.where(weight == 0, 0, cost), weight, out=out)


def _numbers(tile):
    """A tile as numbers of its precision; bits of bfloat16 as float32."""
    return (tile.astype(np.uint32) << 16).view(np.float32) if tile.dtype == np.uint16 else tile


def part_of(array, rows, block):
    """Entries of some rows, of which those one after another are not copied."""
    if rows[-1] - rows[0] == len(rows) - 1:
        rows = slice(rows[0], rows[-1] + 1)
    return array[rows, block]


def table(layer, array):
    """One number per entry, ``(*batch, classes)``, as rows."""
    return to_numpy(array).reshape(-1, layer.weight.shape[0])
