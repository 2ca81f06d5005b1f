"""A block of labelled rows as the columns and sums that every state of an `Evaluation` is made of."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lastlayer.measure.rows import EvaluationSums
from lastlayer.outputs import Outputs
from lastlayer.state import Bins, Confusion, Grid, WeightedSum

COLUMN_NAMES = ("nll", "brier", "correct", "top5", "confidence", "overconfidence", "undone_gain")


@dataclass(frozen=True, eq=False)
class Block:
    """The rows of ``outputs``: one `EvaluationSums`, or one per label, of pairs [0, z] whose second class counts.

    Entries are rows (multiclass), or the labels of rows; only those of rows that can be scored are given out.
    """

    outputs: Outputs
    parts: list[EvaluationSums]
    keep: np.ndarray  # (rows,): can be scored
    weight: np.ndarray  # (rows,)

    @classmethod
    def of(cls, outputs, class_bins, ranked):
        """``ranked`` asks for the log-odds of every class; margins have none, their scores rank as they are."""
        z = outputs.scores if outputs.kind == "margin" else outputs.logits
        weight = np.ones(len(z)) if outputs.weight is None else outputs.weight
        how = class_bins, ranked and outputs.kind != "margin"
        if outputs.task == "multiclass":
            parts = [EvaluationSums.of(z, outputs.target, weight, *how)]
        else:
            z = z.reshape(len(z), -1)
            scored = np.where(np.isnan(z).any(1), 0.0, weight)  # one nan leaves out the whole row
            pairs = (np.stack([np.zeros_like(column), column], 1) for column in z.T)
            targets = outputs.target.reshape(z.shape).T
            parts = [EvaluationSums.of(pair, y, scored, *how) for pair, y in zip(pairs, targets, strict=True)]
        return cls(outputs, parts, np.all([part.top >= 0 for part in parts], axis=0), weight)

    @property
    def exclusive(self):
        return self.outputs.task == "multiclass"

    @cached_property
    def target(self):
        return self.outputs.target.reshape(len(self.keep), -1)[self.keep]

    def entries(self, name):
        """A column of every part, ``(kept rows, labels)``."""
        kept = slice(None) if self.keep.all() else self.keep
        return np.stack([getattr(part, name)[kept] for part in self.parts], 1)

    def tables(self, name):
        """A table of every part as one, ``(columns, ...)``."""
        return np.concatenate([getattr(part, name)[0 if self.exclusive else 1 :] for part in self.parts])

    def total(self, name):
        return sum(getattr(part, name) for part in self.parts[1:]) + getattr(self.parts[0], name)

    @cached_property
    def hits(self):
        return (self.entries("top") == self.target).astype(float)

    @cached_property
    def columns(self):
        """What is averaged, ``(kept rows, COLUMN_NAMES)``."""
        confidence, brier = self.entries("confidence"), self.entries("brier").sum(1)
        several = self.exclusive and len(self.outputs.classes) > 1
        gain = self.entries("undone_gain")[:, 0] if several else np.zeros(len(brier))
        found = {
            "nll": self.entries("nll").sum(1),
            "brier": brier if self.exclusive else brier / 2,
            "correct": self.hits.mean(1),
            "top5": (self.entries("rank") < 5).mean(1),
            "confidence": confidence.mean(1),
            "overconfidence": (confidence - self.hits).mean(1),
            "undone_gain": gain,
        }
        return np.stack([found[name] for name in COLUMN_NAMES]).T  # each together in memory, as sums want it

    def means(self, of=slice(None)):
        return WeightedSum.of(self.columns[of], self.weight[self.keep][of])

    def top(self, edges, of=slice(None)):
        """Reliability of the predicted class of each entry."""
        columns = self.entries("confidence")[of], self.hits[of], self._entry_weight[of]
        confidence, hits, weight = (column.reshape(-1) for column in columns)
        return Bins.of(confidence, hits, weight, edges)

    @cached_property
    def _entry_weight(self):
        return np.repeat(self.weight[self.keep][:, None], len(self.parts), 1)

    def odds(self):
        """Log-odds of the predicted class, wrong and right."""
        return Grid.of(
            self.entries("log_odds"), self.hits.reshape(-1).astype(int), (2,), self._entry_weight.reshape(-1)
        )

    def class_odds(self):
        """Log-odds of every class, absent and present."""
        if self.outputs.kind != "margin":
            return Grid(self.tables("class_odds"))
        scores = self.outputs.scores.reshape(len(self.keep), -1)[self.keep]
        columns = scores.shape[1]
        present = np.arange(columns) == self.target if self.exclusive else self.target == 1
        which = np.arange(columns) * 2 + present
        return Grid.of(scores, which.reshape(-1), (columns, 2), np.repeat(self.weight[self.keep], columns))

    def occurrence(self):
        """Weight of each class, and its sum of squares: twice, of an indicator being its own square."""
        w, columns = self._entry_weight, self.outputs.scores.reshape(len(self.keep), -1).shape[1]
        index = self.target if self.exclusive else np.arange(columns) * np.ones_like(self.target)
        w = w if self.exclusive else np.where(self.target == 1, w, 0.0)
        total, square = (np.bincount(index.reshape(-1), v.reshape(-1), columns) for v in (w, w**2))
        return total, square, square

    def confusion(self, classes):
        return Confusion.of(
            self.target.reshape(-1), self.entries("top").reshape(-1), classes, self._entry_weight.reshape(-1)
        )
