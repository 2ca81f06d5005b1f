"""A last layer with its features, swept in tiles of logits."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lastlayer._row import merge
from lastlayer.linear.plan import Plan
from lastlayer.linear.tile import head_parts, head_slopes, head_totals, logits_of, over_rows, written


class Parts(NamedTuple):
    """The sums of each row over the classes seen so far, float64. `merge` makes them those of all."""

    largest: np.ndarray  # m
    rest: np.ndarray  # sum over the others of exp(z_i - m)
    moment: np.ndarray  # sum of exp(z_i - m) (m - z_i)
    total: np.ndarray  # sum of m - z_i over the classes that are not masked
    count: np.ndarray  # how many these are
    at: np.ndarray  # z of the target, -inf until its block is seen

    @classmethod
    def of(cls, bits, target, totals):
        """The sums of a tile; ``target`` counts from its first class and may lie outside."""
        m, rest, moment = np.concatenate(over_rows(head_parts, bits), axis=1)
        total, count = np.zeros((2, len(m)))
        if totals:
            total, count = np.concatenate(over_rows(head_totals, bits, m), axis=1)
        return cls(m, rest, moment, total, count, picked(bits, target))

    def merge(self, other):
        """The sums over both blocks of classes."""
        m, rest = merge(self.largest, self.rest, other.largest, other.rest, np)
        moment, total = np.zeros((2, len(m)))
        for side in (self, other):
            fall = np.where(side.largest == m, 0.0, m - side.largest)
            there = side.largest > -np.inf
            share = np.where(there, np.exp(-fall), 0.0)
            moment += share * (side.moment + np.where(share > 0, fall, 0.0) * (1 + side.rest))
            total += side.total + np.where(side.count > 0, fall, 0.0) * side.count
        return Parts(m, rest, moment, total, self.count + other.count, np.maximum(self.at, other.at))

    def logsumexp(self):
        return self.largest + np.log1p(self.rest)


class Lines(NamedTuple):
    """What `tile.head_slopes` takes for each row."""

    largest: np.ndarray
    a: np.ndarray
    b: np.ndarray
    u: np.ndarray


class Picks(NamedTuple):
    """Classes of each row, ``(rows, picks)``, whose slope is written by itself; a class below 0 is none."""

    index: np.ndarray
    logit: np.ndarray
    slope: np.ndarray

    def within(self, block):
        """The picks of a block of classes, counted from its first."""
        inside = (self.index >= block.start) & (self.index < block.stop)
        return self._replace(index=np.where(inside, self.index - block.start, -1))


@dataclass(frozen=True)
class Head:
    """What logits are made of: features ``(rows, width)``, weight, bias, then a cap and a temperature."""

    features: Any
    weight: Any
    bias: Any
    softcap: float | None
    temperature: float
    products: Any
    plan: Plan

    @property
    def curve(self):
        """``1 / cap^2`` of the logits as softmax sees them."""
        return 0.0 if self.softcap is None else (self.temperature / self.softcap) ** 2

    def groups(self):
        """The rows of each tile."""
        n, size = self.plan.rows, self.plan.tile[0]
        return [slice(start, min(start + size, n)) for start in range(0, n, size)]

    def tiles(self, rows, buffer):
        """The logits of some rows, tile by tile: their classes, and the tile."""
        classes, size = self.plan.classes, self.plan.tile[1]
        n = rows.stop - rows.start
        for start in range(0, classes, size):
            block = slice(start, min(start + size, classes))
            tile = buffer[: n * (block.stop - start)].reshape(n, block.stop - start)
            bias = None if self.bias is None else self.bias[block]
            self.products.logits(self.features[rows], self.weight[block], bias, tile)
            self._finish(self.products.bits(tile))
            yield block, tile

    def room(self):
        """Memory for one tile."""
        rows, classes = self.plan.tile
        return self.products.room(min(rows, max(self.plan.rows, 1)) * classes)

    def parts(self, rows, buffer, target, totals=False) -> tuple[Any, Any]:
        """The sums of some rows over all classes, and the last tile."""
        found, tile = None, None
        for block, tile in self.tiles(rows, buffer):
            part = Parts.of(self.products.bits(tile), target[rows] - block.start, totals)
            found = part if found is None else found.merge(part)
        return found, tile

    def slope(self, bits, lines, picks):
        """Write over a tile the slopes of what was made of its logits, as seen by the products."""
        largest, *columns = lines
        scaled = (column / self.temperature for column in columns)
        over_rows(head_slopes, bits, largest, *scaled, self.curve)
        row, pick = np.nonzero(picks.index >= 0)
        logit = picks.logit[row, pick]
        steep = 1 - self.curve * np.where(np.isfinite(logit), logit, 0.0) ** 2
        spot = np.empty(len(row), bits.dtype)
        written(spot, picks.slope[row, pick] * steep / self.temperature)
        bits[row, picks.index[row, pick]] = spot

    def _finish(self, tile):
        """Cap and temperature, in place."""
        if self.softcap is not None or self.temperature != 1:
            over_rows(_finished, tile, self.softcap, self.temperature)


def picked(bits, target):
    """The logit of one class of each row, -inf where it lies outside the tile."""
    inside = (target >= 0) & (target < bits.shape[1])
    index = np.where(inside, target, 0)[:, None]
    return np.where(inside, logits_of(np.take_along_axis(bits, index, axis=1))[:, 0], -np.inf)


def _finished(tile, softcap, temperature):
    if softcap is not None:
        masked = tile == -np.inf
        np.divide(tile, softcap, out=tile)
        np.tanh(tile, out=tile)
        np.multiply(tile, softcap, out=tile)
        tile[masked] = -np.inf
    np.divide(tile, temperature, out=tile)
