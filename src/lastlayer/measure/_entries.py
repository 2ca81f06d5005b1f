"""Rows of arrays as the entries that measures count: a decision per row (or label), or every class on its own."""

from typing import NamedTuple

import numpy as np

from lastlayer._check import DataError
from lastlayer.kernels import dispatched
from lastlayer.loss import binary_cross_entropy, cross_entropy
from lastlayer.measure.metric import normal
from lastlayer.measure.read import rows_per_weight
from lastlayer.measure.rows import class_log_odds
from lastlayer.outputs import Outputs
from lastlayer.state import Bins, WeightedSum
from lastlayer.transform import log_odds, sigmoid, softmax

OVER = ("top", "classwise")
SCHEMES = ("width", "mass")


class Entries(NamedTuple):
    """Log-odds of an event and whether it came true, ``(n, columns)``, and the weight of each row.

    Probabilities come from the log-odds, so those that round to 1 are still told apart, and residuals keep their tail.
    """

    odds: np.ndarray
    hits: np.ndarray
    weight: np.ndarray

    @property
    def probs(self):
        return sigmoid(self.odds)

    @property
    def residuals(self):
        """``hit - p``, exact where p rounds to 1."""
        return np.where(self.hits == 1, sigmoid(-self.odds), -self.probs)

    @property
    def spread(self):
        """``p (1 - p)``, the variance of a hit where the probabilities are true."""
        return self.probs * sigmoid(-self.odds)

    @property
    def known(self):
        """Whether no row that counts holds a nan, or nothing but ``-inf``."""
        return not np.isnan(self.odds[self.weight > 0]).any()

    def columns(self):
        """Each column as entries of its own, ``(n, 1)``."""
        return [Entries(self.odds[:, [k]], self.hits[:, [k]], self.weight) for k in range(self.odds.shape[1])]

    def counted(self):
        """The entries of the rows that have weight, ``(m, columns)``."""
        some = self.weight > 0
        return Entries(self.odds[some], self.hits[some], self.weight[some])


def outputs_of(logits, target, weight):
    return Outputs(logits, "logits", target=target, weight=weight)


def with_hits(function, logits, target, weight):
    return outputs_of(logits, target, weight).hard(f"{function} counts hits")


def one_decision_a_row(function, logits, target, weight):
    """As `with_hits`, for measures that take rows one by one; labels that share a row are refused."""
    rows = with_hits(function, logits, target, weight)
    if rows.task == "multilabel":
        raise ValueError(f"{function}: labels are not exclusive; call it per label, on logits[:, k] and target[:, k].")
    return rows


def weights_of(rows):
    return np.ones(len(rows)) if rows.weight is None else rows.weight


def count_of(rows):
    """The rows that have weight, and how many rows a unit of weight stands for."""
    if rows.weight is None:
        return len(rows), 1.0
    sums = WeightedSum.of(np.ones(len(rows)), rows.weight)
    return int(sums.rows), rows_per_weight(sums)


def mean_of(values, rows, low=-np.inf, high=np.inf):
    """Weighted mean over rows with its normal interval."""
    mean = WeightedSum.of(values, rows.weight).value()
    return normal(float(mean.mean), float(mean.error), int(mean.rows), low, high)


def undefined(z):
    """Rows without a largest class."""
    return np.isnan(z).any(-1) | (z == -np.inf).all(-1)


def probs_and_onehot(rows):
    """Probability and occurrence of each class or label; one column's worth where the task is binary."""
    z = np.asarray(rows.logits, dtype=np.float64)
    if rows.task != "multiclass":
        return sigmoid(z), rows.target.astype(float)
    soft = rows.target.dtype.kind == "f"
    return softmax(z), rows.target if soft else np.eye(z.shape[1])[rows.target]


def nll_of(rows):
    """The loss of each row; of labels, their sum."""
    z = np.asarray(rows.logits, dtype=np.float64)
    if rows.task == "multiclass":
        return cross_entropy(z, rows.target)
    return binary_cross_entropy(z, rows.target).reshape(len(rows), -1).sum(-1)


def brier_of(rows):
    """The squared distance of each row; of classes or labels, their sum."""
    p, y = probs_and_onehot(rows)
    return ((p - y) ** 2).reshape(len(rows), -1).sum(-1)


def entries_of(rows, over) -> Entries:
    """``"top"``: was the predicted class right (a column; multilabel: one per label). ``"classwise"``: a column each.

    A binary row is one event in both: the right sign (top), or the positive class (classwise).
    """
    z, w = np.asarray(rows.logits, dtype=np.float64), weights_of(rows)
    table = (len(rows), -1)
    if rows.task == "multiclass":
        if over == "classwise":
            return Entries(class_log_odds(z), np.eye(z.shape[1])[rows.target], w)
        return Entries(log_odds(z)[:, None], (z.argmax(-1) == rows.target)[:, None].astype(float), w)
    if over == "classwise":
        return Entries(z.reshape(table), rows.target.reshape(table).astype(float), w)
    return Entries(np.abs(z).reshape(table), ((z > 0) == (rows.target == 1)).reshape(table).astype(float), w)


def labels_together(rows, over):
    """How many entries of one column share a row: labels do, in a decision per label."""
    return rows.scores.shape[1] if rows.task == "multilabel" and over == "top" else 1


def binned(rows, over, bins, scheme) -> Bins:
    """Confidence against what came true, in ``bins`` (a number, or edges where the scheme is "width")."""
    if scheme == "mass":
        entries = entries_of(rows, over).counted()
        odds, hits = (a.reshape(-1, 1) if over == "top" else a for a in (entries.odds, entries.hits))
        weight = np.repeat(entries.weight, entries.odds.shape[1]) if over == "top" else entries.weight
        parts = [_mass_bins(x, h, weight, bins) for x, h in zip(odds.T, hits.T, strict=True)]
        sums = np.stack(parts, axis=1)
        return Bins(np.linspace(0, 1, bins + 1), *(sums[:, 0] if over == "top" else sums))
    if over == "classwise":
        p, y = (a.reshape(len(rows), -1) for a in probs_and_onehot(rows))
        return Bins.of(p, y, rows.weight, bins)
    z, target, weight = rows.scores if rows.kind == "logits" else rows.logits, rows.target, weights_of(rows)
    if rows.task != "multiclass":
        weight = np.repeat(weight, z.size // len(z))
        z, target = np.stack([np.zeros_like(z), z], -1).reshape(-1, 2), target.reshape(-1)
    edges = Bins.empty(bins).edges
    return Bins(edges, *top_label_bins(z, target, weight, edges))


@dispatched
def top_label_bins(logits, target, weight, edges) -> np.ndarray:
    """The sums of `state.Bins` for the predicted class of each row, ``(4, bins)``: weight, confidence, hits, square.

    A row that holds a nan, or nothing but ``-inf``, makes its bin, the last, nan; weight 0 leaves it out.
    """
    z = np.asarray(logits, dtype=np.float64)
    top = z.argmax(-1)
    confidence = np.take_along_axis(softmax(z), top[:, None], 1)[:, 0]
    hits = np.where(np.isnan(confidence), np.nan, top == target)
    bins = Bins.of(confidence, hits, weight, edges)
    return np.stack([bins.weight, bins.confidence, bins.hits, bins.square])


def cells_of(entries, bins, scheme):
    """Which of ``bins`` bins each entry is in, ``(n, columns)``, column by column."""
    if scheme == "width":
        edges = np.linspace(0.0, 1.0, bins + 1)
        return np.clip(np.searchsorted(edges, entries.probs, side="left") - 1, 0, bins - 1)
    return np.stack([mass_cells(x, entries.weight, bins) for x in entries.odds.T], -1)


def mass_cells(odds, weight, count):
    """Which of ``count`` bins of equal weight each entry is in, by rank of its log-odds; equal ones share a bin."""
    distinct, where = np.unique(odds, return_inverse=True)
    level = np.bincount(where, weight, len(distinct))
    before = np.cumsum(level) - level
    return np.minimum((before * count / level.sum()).astype(int), count - 1)[where]


def _mass_bins(odds, hits, weight, count):
    cell, p = mass_cells(odds, weight, count), sigmoid(odds)
    return bin_sums(cell, p, hits, weight, count)


def bin_sums(cell, p, hits, weight, count):
    """The sums of `state.Bins` by the bin of each entry, ``(4, count)``: weight, confidence, hits, square."""
    columns = (weight, weight * p, weight * hits, (weight * (hits - p)) ** 2)
    return np.stack([np.bincount(cell, column, count) for column in columns])


def refuse_undefined(rows):
    """Refuse rows that count and predict no class, naming them."""
    z = np.asarray(rows.logits).reshape(len(rows), -1)
    bad = (undefined(z) if rows.task == "multiclass" else np.isnan(z).any(-1)) & (weights_of(rows) > 0)
    if bad.any():
        raise DataError(
            "a row that holds a nan, or nothing but -inf, predicts no class.",
            field="logits",
            rows=np.flatnonzero(bad),
            fix="leave it out with weight 0.",
        )
