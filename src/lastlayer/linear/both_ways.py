"""The loss of pairs in both directions: rows and columns of one matrix, tile by tile."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lastlayer._array import to_numpy
from lastlayer.linear.call import Call
from lastlayer.linear.gradients import Gradients, Swept
from lastlayer.linear.head import Lines, Parts, Picks
from lastlayer.linear.masked import masked
from lastlayer.linear.softmax_loss import Smoothed
from lastlayer.linear.streamed import Streamed


@dataclass(frozen=True)
class OfBothWays(Streamed):
    """The mean of the cross-entropies of row i and of column i at (i, i); pairs that are not ``valid`` cost 0."""

    layer: Call
    mask: Any
    valid: Any

    def cotangents(self, cotangent=None):
        """Those of the pairs that count; each of the others still serves all the rest."""
        counts = self._counts()
        return counts / max(counts.sum(), 1) if cotangent is None else super().cotangents(cotangent) * counts

    def _counts(self):
        return np.ones(self.layer.rows) if self.valid is None else to_numpy(self.valid).astype(float)

    def sweep(self, cotangent, wanted):
        # every logit is made for the sums and again for the slopes, whatever the tiles
        head = self.layer.head(any(wanted), sweeps=1, share=2, kind=masked(self.layer, self.mask), held=HELD)
        with np.errstate(all="ignore"):  # written for limits
            sides = _sums(head)
            cost = [np.where(side.largest == -np.inf, np.nan, RULE.loss(side, 1.0)) for side in sides]
            loss = np.where(self._counts() > 0, 0.5 * (cost[0] + cost[1]), 0.0)
            if cotangent is None:
                return Swept(loss, None, None, None)
            slopes = [_slopes(side, 0.5 * cotangent) for side in sides]
            return Swept(loss, *_back(head, slopes, Gradients(head, wanted)).arrays())


RULE = Smoothed()
HELD = 320  # bytes of a pair: the sums of its row and column, and what their slopes are made of


def _tiles(head):
    """Every tile, with its rows and columns, and its transpose."""
    room, other = head.room(), head.room()
    for rows in head.groups():
        for block, tile in head.tiles(rows, room):
            turned = other[: tile.shape[0] * tile.shape[1]].reshape(tile.shape[1], tile.shape[0])
            turned[...] = tile.T
            yield rows, block, tile, turned


def _sums(head):
    """The sums of every row and of every column."""
    sides: Any = [{}, {}]
    for rows, block, tile, turned in _tiles(head):
        for side, lines, others, part in ((sides[0], rows, block, tile), (sides[1], block, rows, turned)):
            target = np.arange(lines.start, lines.stop) - others.start
            sums = Parts.of(head.products.bits(part), target, False)
            side[lines.start] = side[lines.start].merge(sums) if lines.start in side else sums
    return [Parts(*(np.concatenate(c) for c in zip(*side.values(), strict=True))) for side in sides]


def _slopes(sums, cotangent):
    """What `Head.slope` takes for each line; a line without a cotangent is an empty one, whatever it holds."""
    counts = (cotangent != 0) & (sums.largest != -np.inf)
    factor, none, at = (np.where(counts, s * cotangent, 0.0) for s in RULE.slopes(sums, np.ones_like(cotangent)))
    lines = Lines(np.where(counts, sums.largest, -np.inf), np.where(counts, factor / (1 + sums.rest), 0.0), none, none)
    return lines, Picks(np.arange(len(at))[:, None], sums.at[:, None], at[:, None])


def _back(head, slopes, out):
    """The gradients, of both directions in one product."""
    for rows, block, tile, turned in _tiles(head):
        for (lines, picks), mine, others, part in zip(
            slopes, (rows, block), (block, rows), (tile, turned), strict=True
        ):
            lines, picks = (type(each)(*(column[mine] for column in each)) for each in (lines, picks))
            head.slope(head.products.bits(part), others, *head.seen(lines, picks))
        tile += turned.T
        out.add(rows, block, tile)
    return out
