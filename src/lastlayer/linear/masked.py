"""A head of which some logits are taken out, tile by tile."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from lastlayer.linear.entries import part_of, strips, table
from lastlayer.linear.head import Head
from lastlayer.linear.tile import MASKED


@dataclass(frozen=True)
class MaskedHead(Head):
    """Logits are -inf but where ``mask`` is True, or where the class is the ``target`` of its row."""

    mask: Any
    index: np.ndarray  # of each row that counts, its row of the mask
    target: np.ndarray

    def logits(self, rows, block, tile):
        """The logits of some rows and classes."""
        super().logits(rows, block, tile)
        bits, index, target = self.products.bits(tile), self.index[rows], self.target[rows]
        for part, columns in strips(bits):
            classes = slice(block.start + columns.start, block.start + columns.stop)
            own = np.arange(classes.start, classes.stop) == target[part, None]
            bits[part, columns][~(part_of(self.mask, index[part], classes) | own)] = MASKED[bits.dtype.name]


def masked(call, mask):
    """The kind of head that a call with a mask is swept by."""
    if mask is None:
        return Head
    index = np.arange(call.rows) if call.kept is None else call.kept
    return functools.partial(MaskedHead, mask=table(call, mask), index=index, target=call.targets())
