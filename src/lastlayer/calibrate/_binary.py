"""What the calibrators of one logit at a time are fitted to: binary scores as columns, or as sorted runs.

Both are exact and grow with the rows: 24 bytes for each score, whatever the file they come from.
"""

from typing import NamedTuple, Self

import numpy as np

from lastlayer._check import DataError


class BinaryScores(NamedTuple):
    """One logit, or one label of a multilabel row, each. An infinite one that is right says nothing: it is left out."""

    z: np.ndarray  # (n,), float64, finite
    target: np.ndarray  # (n,), float64 in [0, 1]
    weight: np.ndarray  # (n,)

    @classmethod
    def of(cls, rows) -> Self:
        """The entries of binary or multilabel `calibrate.rows.Rows`, in their order."""
        parts = [_finite(block) for block in rows.blocks()]
        z, target, weight = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        if not len(z) or not (target > 0).any() or not (target < 1).any():
            raise DataError(
                "the finite scores are all of one class.",
                file=rows.source,
                field="target",
                fix="a calibrator of one logit at a time needs finite scores of both classes.",
            )
        return cls(z, target, weight)

    def spread(self):
        """Mean and standard deviation of the scores; a deviation of 0 counts as 1."""
        with np.errstate(over="ignore"):
            total = self.weight.sum()
            mean = (self.weight * self.z).sum() / total
            deviation = np.sqrt((self.weight * (self.z - mean) ** 2).sum() / total)
        if not np.isfinite(deviation):
            raise DataError(
                "the scores overflow float64.", field="logits", fix="check the largest scores; 1e300 is no logit."
            )
        return float(mean), float(deviation) if deviation > 0 else 1.0

    def level(self) -> bool:
        """Whether all scores are one, which says nothing about a slope."""
        return bool(self.z.min() == self.z.max())

    def separation(self):
        """The least score that may be positive and the largest that may be negative, where a threshold parts the two.

        None where it does not, or where there is but one score. With a threshold between the classes no likelihood has
        a steepest slope.
        """
        positive, negative = self.z[self.target > 0].min(), self.z[self.target < 1].max()
        return (float(positive), float(negative)) if positive >= negative and not self.level() else None


def _finite(block):
    z, target = block.logits.reshape(-1).astype(np.float64), block.target.reshape(-1).astype(np.float64)
    weight = np.repeat(block.weight, z.size // len(block))
    finite = np.isfinite(z)
    return z[finite], target[finite], weight[finite]


class Runs(NamedTuple):
    """The distinct scores, ascending, with the weight of positives and of negatives at each.

    The sums are taken in one order, whatever that of the entries, so runs are the same bits for the same set.
    """

    z: np.ndarray
    hits: np.ndarray
    misses: np.ndarray

    @classmethod
    def of(cls, entries: BinaryScores) -> Self:
        order = np.lexsort((entries.weight, entries.target, entries.z))
        z, target, weight = (column[order] for column in entries)
        first = np.flatnonzero(np.r_[True, z[1:] > z[:-1]])
        hits, misses = (np.add.reduceat(part, first) for part in (weight * target, weight * (1 - target)))
        return cls(z[first], hits, misses)

    def joined(self, first):
        """Hits and misses of neighbours put together, each group beginning at an index of ``first``."""
        return np.add.reduceat(self.hits, first), np.add.reduceat(self.misses, first)
