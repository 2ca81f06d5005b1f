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
        blocks, groups = -(-plan.classes // plan.tile[1]), head.additions
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

    def arrays(self):
        return self.features, self.weight, self.bias


NOTHING = Wanted(False, False, False)
