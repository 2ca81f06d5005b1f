"""Cross-entropy of a head, tile by tile: the loss of each row, and its gradients from the same logits."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lastlayer.linear.gradients import Gradients, Wanted
from lastlayer.linear.head import Head, Lines, Picks


class Swept(NamedTuple):
    """The loss of each row in float64, and the gradients that were wanted."""

    loss: np.ndarray
    features: Any
    weight: Any
    bias: Any


@dataclass(frozen=True)
class Objective:
    """What is made of each row: ``scale`` times the cross-entropy of ``target``, with smoothing and z-loss."""

    target: np.ndarray
    scale: np.ndarray
    label_smoothing: float
    z_loss: float

    def loss(self, parts, rows):
        """``scale ((1 - s) (lse - z_y) + s (lse - mean z)) + z_loss lse^2``."""
        s, log1p = self.label_smoothing, np.log1p(parts.rest)
        loss = log1p - _below(parts.at, parts.largest)
        if s:
            uniform = log1p + parts.total / np.maximum(parts.count, 1)
            loss = uniform if s == 1 else (1 - s) * loss + s * uniform
        loss = loss * self.scale[rows]
        if self.z_loss:
            loss = loss + self.z_loss * parts.logsumexp() ** 2
        return np.where(parts.largest == -np.inf, np.nan, loss)

    def slopes(self, parts, rows, cotangent):
        """What `head_slopes` takes for each row, and the slope at the target, which loses no tail to ``p - 1``."""
        s, scale = self.label_smoothing, self.scale[rows]
        lse = parts.logsumexp()
        pull = self.z_loss * 2 * np.where(np.isinf(lse), 0.0, lse)
        uniform = scale * s / np.maximum(parts.count, 1)
        d = _below(parts.at, parts.largest)
        p = np.exp(d) / (1 + parts.rest)
        other = np.where(d == 0, parts.rest / (1 + parts.rest), 1 - p)  # 1 - p, also where p rounds to 1
        at = scale * (s - other) + pull * p - np.where(parts.at > -np.inf, uniform, 0.0)
        at = np.where(parts.largest == -np.inf, 0.0, at) * cotangent
        return (scale + pull) / (1 + parts.rest) * cotangent, uniform * cotangent, at


def _below(at, largest):
    """``z_y - m``, 0 where both are infinite alike."""
    return np.where(at == largest, 0.0, at - largest)


def sweep(head: Head, objective: Objective, cotangent, wanted: Wanted) -> Swept:
    """Loss of every row and, for the cotangent of each, the gradients that are wanted."""
    plan, products, room = head.plan, head.products, head.room()
    out, loss = Gradients(head, wanted), np.empty(plan.rows)
    smoothed = objective.label_smoothing > 0
    with np.errstate(all="ignore"):  # written for limits
        for rows in head.groups():
            parts, tile = head.parts(rows, room, objective.target, smoothed)
            loss[rows] = objective.loss(parts, rows)
            if not any(wanted):
                continue
            a, uniform, at = objective.slopes(parts, rows, cotangent[rows])
            lines = Lines(parts.largest, a, np.zeros_like(a), uniform)
            picks = Picks(objective.target[rows][:, None], parts.at[:, None], at[:, None])
            again = [(slice(0, plan.classes), tile)] if plan.sweeps == 1 else head.tiles(rows, room)
            for block, tile in again:
                head.slope(products.bits(tile), lines, picks.within(block))
                out.add(rows, block, tile)
    return Swept(loss, *out.arrays())
