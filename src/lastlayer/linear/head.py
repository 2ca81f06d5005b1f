"""A last layer with its features, swept in tiles of logits."""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lastlayer.linear.plan import Plan
from lastlayer.linear.tile import head_parts, head_slopes, head_totals, merged, over_rows
from lastlayer.linear.turns import Turns
from lastlayer.transform.sigmoid import capped

WIDE = 768  # classes of a product that a lane makes: of narrower blocks much of the time is Python
SMALL = 2**14  # entries of a tile that are finished at a time: short rows one by one would be all Python


class Parts(NamedTuple):
    """The sums of each row over the classes seen so far, float64; `add` and `merge` bring in others."""

    largest: np.ndarray  # m
    rest: np.ndarray  # sum over the others of exp(z_i - m)
    moment: np.ndarray  # sum of exp(z_i - m) (m - z_i)
    total: np.ndarray  # sum of m - z_i over the classes that are not masked
    count: np.ndarray  # how many these are
    at: np.ndarray  # z of the target, -inf until its block is seen

    @classmethod
    def none(cls, rows):
        """The sums of rows of which nothing is seen."""
        largest, at = np.full((2, rows), -np.inf)
        rest, moment, total, count = np.zeros((4, rows))
        return cls(largest, rest, moment, total, count, at)

    @classmethod
    def of(cls, bits, target, totals):
        """The sums of a tile; ``target`` counts from its first class and may lie outside."""
        return cls.none(len(bits)).add(bits, target, totals)

    def add(self, bits, target, totals):
        """The same sums, into which a further tile is taken."""
        before = self.largest.copy() if totals else self.largest
        over_rows(head_parts, bits, target, self.largest, self.rest, self.moment, self.at)
        if totals:
            total, count = np.concatenate(over_rows(head_totals, bits, self.largest), axis=1)
            np.add(self._total_from(before, self.largest), total, out=self.total)
            np.add(self.count, count, out=self.count)
        return self

    def merge(self, other):
        """The sums over both blocks of classes."""
        m, rest, moment = merged(self[:3], other[:3])
        total = self._total_from(self.largest, m) + other._total_from(other.largest, m)
        return Parts(m, rest, moment, total, self.count + other.count, np.maximum(self.at, other.at))

    def _total_from(self, largest, m):
        """``total``, taken from ``largest``, as it is from ``m``."""
        fall = np.where((self.count > 0) & (largest != m), m - largest, 0.0)
        return self.total + fall * self.count

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

    @property
    def plain(self):
        """Whether softmax sees the products as they are."""
        return self.softcap is None and self.temperature == 1

    def groups(self):
        """The rows of each tile."""
        n, size = self.plan.rows, self.plan.tile[0]
        return [slice(start, min(start + size, n)) for start in range(0, n, size)]

    def tiles(self, rows, buffer):
        """The logits of some rows, tile by tile: their classes, and the tile."""
        for block in self._blocks(1):
            tile = self._room(rows, block, buffer)
            self._fill_beside(rows, block, tile)
            yield block, tile

    @property
    def lanes(self):
        """How many blocks of classes are worked on beside one another, each in a part of a tile.

        One where a tile holds whole rows: all cores share it.
        """
        wide = self.plan.tile[1]
        return self.products.parts(wide, WIDE) if wide < self.plan.classes else 1

    def room(self):
        """Memory for one tile."""
        rows, classes = self.plan.tile
        return self.products.room(min(rows, max(self.plan.rows, 1)) * classes)

    def parts(self, rows, buffer, target, totals=False) -> tuple[Any, Any]:
        """The sums of some rows over all classes, and their tile, None where it does not hold them all."""
        target, lanes = target[rows], self.lanes

        def of_lane(lane, _):
            found = Parts.none(len(target))
            for block in self._blocks(lanes)[lane::lanes]:
                tile = self._logits(rows, block, buffer, lane)
                found.add(self.products.bits(tile), target - block.start, totals)
            return found

        found = functools.reduce(Parts.merge, self.products.beside(of_lane, lanes, 1))
        every = slice(0, self.plan.classes)
        return found, self._room(rows, every, buffer) if self.plan.tile[1] == every.stop else None

    def back(self, rows, buffer, lines, picks, out, tile=None):
        """Add what some rows give to the gradients ``out``; ``tile`` has all their logits if they are there.

        Each lane takes the next block until none is left. What all of them add to is added to in the order of the
        blocks, whoever takes which.
        """
        lanes = self.lanes
        blocks, (lines, picks) = self._blocks(lanes), self.seen(lines, picks)
        turns = Turns(len(blocks))

        def of_lane(lane, _):
            with turns:
                for turn in turns:
                    block = blocks[turn.place]
                    slopes = self._logits(rows, block, buffer, lane) if tile is None else tile
                    self.slope(self.products.bits(slopes), block, lines, picks)
                    if lanes == 1:
                        out.add(rows, block, slopes)
                    else:
                        out.add_in_turn(rows, block, slopes, turn)

        self.products.beside(of_lane, lanes, 1)

    def seen(self, lines, picks):
        """What slopes are made of, as the products see them: before temperature and cap."""
        if self.plain:
            return lines, picks
        largest, *columns = lines
        steep = 1 - self.curve * np.where(np.isfinite(picks.logit), picks.logit, 0.0) ** 2
        scaled = (column / self.temperature for column in columns)
        return Lines(largest, *scaled), picks._replace(slope=picks.slope * steep / self.temperature)

    def slope(self, bits, block, lines, picks):
        """Write over a tile the slopes of what was made of its logits; lines and picks are as `seen`."""
        over_rows(head_slopes, bits, *lines, self.curve, picks.index - block.start, picks.slope)

    def _blocks(self, lanes):
        """The classes of each tile, or of its part that is one lane's."""
        classes, wide = self.plan.classes, self.plan.tile[1] // lanes
        return [slice(start, min(start + wide, classes)) for start in range(0, classes, wide)]

    def _room(self, rows, block, buffer):
        """Memory for the logits of some rows and classes, as an array."""
        shape = rows.stop - rows.start, block.stop - block.start
        return buffer[: shape[0] * shape[1]].reshape(shape)

    def _logits(self, rows, block, buffer, lane):
        """The logits of some rows and classes, in the part of a tile's memory that is a lane's."""
        tile = self._room(rows, block, buffer[lane * (len(buffer) // self.lanes) :])
        (self._fill if self.lanes > 1 else self._fill_beside)(rows, block, tile)
        return tile

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
        if not self.plain:
            over_rows(_finished, self.products.bits(tile), self.softcap, self.temperature)


def _finished(tile, softcap, temperature):
    high = max(SMALL // tile.shape[1], 1)
    for start in range(0, len(tile), high):
        part = tile[start : start + high]
        np.divide(part if softcap is None else capped("head", "softcap", part, softcap, np), temperature, out=part)
