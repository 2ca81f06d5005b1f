"""What affine maps act on: logits without the constant that a softmax does not see.

    x = z / temperature - shift(z)

The shift is the mean of the row's finite entries (``"centred"``) or its logsumexp (``"log_softmax"``), so that a
constant added to a row changes nothing. A masked class has x = 0 and moves no other.
"""

import functools
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from lastlayer._array import floating, namespace
from lastlayer._row import limit, total
from lastlayer.transform import logsumexp

KINDS = ("centred", "log_softmax")


def features(logits, kind, temperature) -> tuple[Any, Any]:
    """The features of rows of any array library, and where they are masked."""
    z: Any = floating(logits)
    xp = namespace(z)
    z, _ = limit(z, xp)
    masked = z == -xp.inf
    zero = xp.zeros_like(z)
    z = xp.where(masked, zero, z / temperature)
    if kind == "centred":
        count = total(xp.astype(~masked, z.dtype), xp)
        shift = total(z, xp) / xp.where(count == 0, xp.ones_like(count), count)
    else:
        shift = logsumexp(xp.where(masked, -xp.inf, z))
    return xp.where(masked, zero, z - shift[..., None]), masked


@dataclass(frozen=True, eq=False)
class Block:
    """Rows of a fit, whose features are ``logits * scale - shift``."""

    logits: np.ndarray  # (n, K)
    scale: float
    shift: np.ndarray  # (n,)
    target: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, rows, kind, temperature) -> Self:
        z, scale = rows.logits, 1 / temperature
        with np.errstate(all="ignore"):
            if kind == "log_softmax":
                shift = logsumexp(z.astype(np.float64) * scale)
            else:
                shift = scale * z.mean(1, dtype=np.float64)
                if not np.isfinite(shift).all():
                    shift = scale * z.mean(1, dtype=np.float64, where=z > -np.inf)
        return cls(z, scale, shift, rows.target, rows.weight)

    def largest(self) -> float:
        """The size of the largest logit that is not masked."""
        low, high = float(self.logits.min()), float(self.logits.max())
        if low == -np.inf:
            low = float(self.logits.min(where=self.logits > -np.inf, initial=high))
        return max(-low, high)

    @functools.cached_property
    def features(self):
        """In float64, and where they are masked: None where nowhere."""
        x = self.logits.astype(np.float64)
        x *= self.scale
        x -= self.shift[:, None]
        masked = x == -np.inf
        if not masked.any():
            return x, None
        x[masked] = 0.0
        return x, masked

    def target_features(self):
        """The feature of each row's target, an index."""
        return self.logits[np.arange(len(self.logits)), self.target].astype(np.float64) * self.scale - self.shift

    def weighted_target(self):
        """The weight of each row at its target, ``(n, K)``."""
        hit = np.arange(self.logits.shape[1]) == self.target[:, None] if self.target.ndim == 1 else self.target
        return hit * self.weight[:, None]
