"""Losses of one class under the softmax of a head, tile by tile: of each row, and gradients from the same logits."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lastlayer.linear.call import Call
from lastlayer.linear.gradients import Gradients, Swept
from lastlayer.linear.head import Head, Lines, Picks
from lastlayer.linear.masked import masked
from lastlayer.linear.streamed import Streamed


class Smoothed(NamedTuple):
    """``scale`` times the cross-entropy of the target, with smoothing and z-loss."""

    label_smoothing: float = 0.0
    z_loss: float = 0.0

    @property
    def totals(self):
        """Whether it asks for the mean of the logits."""
        return self.label_smoothing > 0

    def loss(self, parts, scale):
        """``scale ((1 - s) (lse - z_y) + s (lse - mean z)) + z_loss lse^2``."""
        s, log1p = self.label_smoothing, np.log1p(parts.rest)
        loss = log1p - _below(parts)
        if s:
            uniform = log1p + parts.total / np.maximum(parts.count, 1)
            loss = uniform if s == 1 else (1 - s) * loss + s * uniform
        loss = loss * scale
        return loss + self.z_loss * parts.logsumexp() ** 2 if self.z_loss else loss

    def slopes(self, parts, scale):
        """Per row the factor of every probability, what is taken off every class, and the slope at the target.

        The last is written by itself: it loses no tail to ``p - 1``.
        """
        s, lse = self.label_smoothing, parts.logsumexp()
        pull = self.z_loss * 2 * np.where(np.isinf(lse), 0.0, lse)
        uniform = scale * s / np.maximum(parts.count, 1)
        p, other = _shares(parts)
        at = scale * (s - other) + pull * p - np.where(parts.at > -np.inf, uniform, 0.0)
        return scale + pull, uniform, at


class Focal(NamedTuple):
    """``scale (1 - p)^gamma (-log p)`` of the target."""

    gamma: float
    totals = False

    def loss(self, parts, scale):
        cost = np.log1p(parts.rest) - _below(parts)
        return scale * cost * _shares(parts)[1] ** self.gamma

    def slopes(self, parts, scale):
        """As those of `Smoothed`: the slope in log p is ``-q^gamma (1 + gamma p cost / q)``, q being 1 - p."""
        p, q = _shares(parts)
        cost = np.log1p(parts.rest) - _below(parts)
        steep = np.where(p == 0, 0.0, p * np.where(q == 0, 1.0, cost / q))  # cost / q is 1 in the limit of q = 0
        factor = scale * q**self.gamma * (1 + self.gamma * steep)
        return factor, np.zeros_like(factor), -factor * q


def _below(parts):
    """``z_y - m``, 0 where both are infinite alike."""
    return np.where(parts.at == parts.largest, 0.0, parts.at - parts.largest)


def _shares(parts):
    """The probability p of the target, and 1 - p, also where p rounds to 1."""
    d, one = _below(parts), 1 + parts.rest
    p = np.exp(d) / one
    return p, np.where(d == 0, parts.rest / one, 1 - p)


@dataclass(frozen=True)
class OfClasses(Streamed):
    """The loss of the class of each row, by a rule of the row's sums, among the classes that a ``mask`` leaves."""

    layer: Call
    rule: Any
    mask: Any = None
    held: int = 0  # bytes of a row that the budget holds beside a tile

    def sweep(self, cotangent, wanted):
        head = self.layer.head(any(wanted), kind=masked(self.layer, self.mask), held=self.held)
        return sweep(head, self.rule, self.layer.targets(), self.layer.scale(), cotangent, Gradients(head, wanted))


def sweep(head: Head, rule, target, scale, cotangent, out: Gradients) -> Swept:
    """Loss of every row and, for the cotangent of each, the gradients that are wanted."""
    loss = np.empty(head.plan.rows)

    def work(rows, room):
        parts, tile = head.parts(rows, room, target, rule.totals)
        empty = parts.largest == -np.inf
        loss[rows] = np.where(empty, np.nan, rule.loss(parts, scale[rows]))
        if cotangent is None:
            return
        factor, uniform, at = (np.where(empty, 0.0, s) * cotangent[rows] for s in rule.slopes(parts, scale[rows]))
        lines = Lines(parts.largest, factor / (1 + parts.rest), np.zeros_like(factor), uniform)
        picks = Picks(target[rows][:, None], parts.at[:, None], at[:, None])
        head.back(rows, room, lines, picks, out, tile)

    room = head.room()
    with np.errstate(all="ignore"):  # written for limits
        for rows in head.groups():
            work(rows, room)
    return Swept(loss, *out.arrays())
