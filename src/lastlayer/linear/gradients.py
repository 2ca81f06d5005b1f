"""The gradients of a head, summed over the tiles that its slopes are made in."""

from typing import Any, NamedTuple

import numpy as np


class Wanted(NamedTuple):
    """Which gradients are asked for; a frozen weight's product is then not made."""

    features: bool
    weight: bool
    bias: bool


class Swept(NamedTuple):
    """The loss of each row in float64, and the gradients that were wanted."""

    loss: np.ndarray
    features: Any
    weight: Any
    bias: Any


class LinearGradients(NamedTuple):
    """The loss of each row, and the gradients to what made it."""

    loss: np.ndarray
    features: np.ndarray
    weight: np.ndarray
    bias: np.ndarray | None


class PairGradients(NamedTuple):
    """The loss of each query, and the gradients to both sides."""

    loss: np.ndarray
    queries: np.ndarray
    keys: np.ndarray


class Gradients:
    """Sums of products over the tiles: stored by the first tile that reaches them, added to by the others."""

    def __init__(self, head, wanted):
        plan, room = head.plan, head.products.room
        self.head = head
        groups, blocks = (-(-whole // part) for whole, part in zip((plan.rows, plan.classes), plan.tile, strict=True))
        self.features: Any = room(plan.rows, plan.width, products=blocks) if wanted.features else None
        self.weight: Any = room(plan.classes, plan.width, products=groups) if wanted.weight else None
        self.bias: Any = np.zeros(plan.classes) if wanted.bias else None
        if not plan.rows and self.weight is not None:
            self.weight[...] = 0

    def add(self, rows, block, tile):
        """What the slopes of a tile add."""
        products, head = self.head.products, self.head
        if self.features is not None:
            products.rows(tile, head.weight[block], self.features[rows], block.start == 0)
        if self.weight is not None:
            products.columns(tile, head.features[rows], self.weight[block], rows.start == 0)
        if self.bias is not None:
            self.bias[block] += products.sums(tile)

    def add_in_turn(self, rows, block, tile, turn):
        """The same, by one of several threads, each with classes of its own, which share the gradient of the rows."""
        products, head = self.head.products, self.head
        waits = products.half and rows.stop - rows.start < head.plan.rows  # to be summed in float32: held once
        if not waits:
            self._add_to_classes(rows, block, tile)
        with turn:
            if waits:
                self._add_to_classes(rows, block, tile)
            if self.features is not None:
                products.add(tile, head.weight[block], self.features[rows], block.start == 0)

    def _add_to_classes(self, rows, block, tile):
        products, head = self.head.products, self.head
        if self.weight is not None:
            products.add(tile.T, head.features[rows], self.weight[block], rows.start == 0)
        if self.bias is not None:
            self.bias[block] += products.sums(tile)

    def arrays(self):
        return self.features, self.weight, self.bias


NOTHING = Wanted(False, False, False)
