"""A last layer with its features, swept in tiles of logits."""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from threading import Semaphore
from typing import Any, NamedTuple

import numpy as np

from lastlayer._row import merge
from lastlayer.linear.plan import Plan
from lastlayer.linear.tile import head_parts, head_slopes, head_totals, logits_of, over_rows, written
from lastlayer.transform.sigmoid import capped

SMALL = 2**14  # entries of a tile that are finished at a time: short rows one by one would be all Python


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


class Turn:
    """``with`` it, threads that go through the same tiles add to the same sums one after the other, tile by tile."""

    def __init__(self, before, after):
        self._before, self._after = before, after

    def __enter__(self):
        if self._before is not None:
            self._before.acquire()

    def __exit__(self, *error):
        self._after.release()


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
        for block, tile in self._empty(rows, buffer):
            self._fill_beside(rows, block, tile)
            yield block, tile

    @property
    def abreast(self):
        """Whether parts of the rows go through the tiles beside one another.

        Not where a tile holds whole rows, which all cores share, nor in bfloat16, where one product over all the rows
        is rounded once and many need a float32 sum of the weight's size.
        """
        return self.plan.tile[1] < self.plan.classes and not self.products.half

    @property
    def additions(self):
        """How many sums the gradient of a class is made of: one for each part of the rows that `sweep` makes."""
        rows = self.plan.tile[0]
        return math.ceil(self.plan.rows / rows) * (self.products.parts(rows) if self.abreast else 1)

    def sweep(self, work, buffer):
        """``work(rows, own, turn)`` for all the rows, in parts, each with memory of its ``own``: what they gave.

        Parts that are `abreast` add to the same sums ``with turn:``, once a tile, so that it is done in the order of
        the rows.
        """
        found = []
        for rows in self.groups():
            if self.abreast:
                found += self.products.lanes(self._in_turn(work, rows, buffer), rows.stop - rows.start)
            else:
                found.append(work(rows, buffer, nullcontext()))
        return found

    def _in_turn(self, work, rows, buffer):
        wide, done = self.plan.tile[1], {}

        def of_lane(a, b):
            before, after = done.setdefault(a, Semaphore(0)) if a else None, done.setdefault(b, Semaphore(0))
            try:
                return work(_part(rows, a, b), buffer[a * wide : b * wide], Turn(before, after))
            finally:
                after.release(self.plan.classes)  # one that fails lets the others end

        return of_lane

    def room(self):
        """Memory for one tile."""
        rows, classes = self.plan.tile
        return self.products.room(min(rows, max(self.plan.rows, 1)) * classes)

    def parts(self, rows, buffer, target, totals=False) -> tuple[Any, Any]:
        """The sums of some rows over all classes, and the last tile, None where it does not hold them all."""
        found: Any = None
        tile: Any = None
        for block, tile in self.tiles(rows, buffer):
            part = Parts.of(self.products.bits(tile), target[rows] - block.start, totals)
            found = part if found is None else found.merge(part)
        return found, tile if len(tile[0]) == self.plan.classes else None

    def sloped(self, rows, buffer, lines, picks, tile=None):
        """The slopes of some rows, tile by tile, as `tiles` gives logits; ``tile`` has these if they are there."""
        for block, slopes in self._empty(rows, buffer):
            self._steepen(rows, block, slopes, lines, picks.within(block), tile is None)
            yield block, slopes

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

    def _empty(self, rows, buffer):
        """The memory of the tiles of some rows, one after the other: the classes of each, and its array."""
        classes, size, n = self.plan.classes, self.plan.tile[1], rows.stop - rows.start
        for start in range(0, classes, size):
            block = slice(start, min(start + size, classes))
            yield block, buffer[: n * (block.stop - start)].reshape(n, block.stop - start)

    def logits(self, rows, block, tile):
        """Write the logits of some rows and classes into a tile, as they are before cap and temperature."""
        bias = None if self.bias is None else self.bias[block]
        self.products.logits(self.features[rows], self.weight[block], bias, tile)

    def _fill_beside(self, rows, block, tile):
        """Write the logits of some rows and classes into a tile, parts of the classes beside one another.

        Parts of the rows would each bring all the weight into the order that a product reads it in.
        """

        def of_lane(a, b):
            self._fill(rows, slice(block.start + a, block.start + b), tile[:, a:b])

        if self.products.parts(len(tile)) == 1:
            self._fill(rows, block, tile)
        else:
            self.products.lanes(of_lane, tile.shape[1])

    def _fill(self, rows, block, tile):
        """Write the logits of some rows and classes into a tile."""
        self.logits(rows, block, tile)
        if self.softcap is not None or self.temperature != 1:
            over_rows(_finished, self.products.bits(tile), self.softcap, self.temperature)

    def _steepen(self, rows, block, tile, lines, picks, empty):
        """Write slopes into a tile, which is empty or holds the logits."""

        def of_lane(a, b):
            own = tile[a:b]
            if empty:
                self._fill(_part(rows, a, b), block, own)
            self.slope(self.products.bits(own), Lines(*(c[a:b] for c in lines)), Picks(*(c[a:b] for c in picks)))

        self.products.lanes(of_lane, len(tile))


def _part(rows, a, b):
    return slice(rows.start + a, rows.start + b)


def picked(bits, target):
    """The logit of one class of each row, -inf where it lies outside the tile."""
    found, (inside,) = np.full(len(bits), -np.inf), np.nonzero((target >= 0) & (target < bits.shape[1]))
    found[inside] = logits_of(bits[inside, target[inside]])
    return found


def _finished(tile, softcap, temperature):
    high = max(SMALL // tile.shape[1], 1)
    for start in range(0, len(tile), high):
        part = tile[start : start + high]
        np.divide(part if softcap is None else capped("head", "softcap", part, softcap, np), temperature, out=part)
