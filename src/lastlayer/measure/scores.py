"""Measures of arrays, each one number with its interval, exact: what `evaluate` reads from a state, by name.

The shapes say the task: logits ``(n,)`` are binary, ``(n, classes)`` with a target ``(n,)`` multiclass, and with an
integer target of their own shape multilabel.
"""

import numpy as np

from lastlayer._check import DataError, one_of
from lastlayer._typing import Array, Float, Int
from lastlayer.loss import binary_cross_entropy, cross_entropy
from lastlayer.measure.convention import convention_of
from lastlayer.measure.curves import average_precision_of, calibration_error_of, levels_of, macro, roc_auc_of
from lastlayer.measure.metric import Metric, normal, wilson
from lastlayer.measure.read import effective_rows, rows_per_weight
from lastlayer.measure.rows import RowStatistics
from lastlayer.outputs import Outputs
from lastlayer.state import Bins, Confusion, WeightedSum
from lastlayer.transform import log_odds, sigmoid, softmax


def nll(logits: Float[Array, "n ..."], target: Int[Array, "n ..."], *, weight=None) -> Metric:
    """Mean negative log-likelihood, from logits and so without clipping.

        nll = mean of cross_entropy(logits, target)          (binary: binary_cross_entropy; multilabel: its sum over
        labels)

    A target of probability 0 makes it ``inf``. The target may also be a distribution over the classes.

    >>> nll([[100.0, 0.0], [0.0, 100.0]], [0, 0])
    Metric(50, low=0, high=147.998, n=2)
    """
    rows = _outputs(logits, target, weight)
    z = np.asarray(rows.logits, dtype=np.float64)
    if rows.task == "multiclass":
        losses = cross_entropy(z, rows.target)
    else:
        losses = binary_cross_entropy(z, rows.target)
        losses = losses.sum(-1) if losses.ndim == 2 else losses
    return _mean(losses, rows, low=0.0)


def brier(logits: Float[Array, "n ..."], target: Int[Array, "n ..."], *, weight=None) -> Metric:
    """Brier score: the mean over rows of the squared distance between probabilities and what came true.

        brier = mean of sum_k (p_k - onehot_k)^2          (binary: (p - y)^2; multilabel: its sum over labels)

    Brier 1950. The target may also be a distribution over the classes.

    >>> float(brier([[0.0, 0.0]], [1]))
    0.5
    """
    rows = _outputs(logits, target, weight)
    p, y = _probs_and_onehot(rows)
    return _mean(((p - y) ** 2).reshape(len(rows), -1).sum(-1), rows, low=0.0)


def accuracy(logits: Float[Array, "n ..."], target: Int[Array, "n ..."], *, k=1, weight=None) -> Metric:
    """Share of rows whose target is among the ``k`` largest logits, with Wilson's interval.

    Ties go to the lower index. Binary: the sign of the logit against the target, 0 counting as negative. Multilabel:
    the mean over labels, with the normal interval. A row that holds a nan, or nothing but ``-inf``, makes it nan.

    >>> float(accuracy([[3.0, 1.0, 2.0]], [2], k=2))
    1.0
    """
    rows = _with_hits("accuracy", logits, target, weight)
    z = rows.logits
    if rows.task != "multiclass":
        if k != 1:
            raise ValueError(f"accuracy: k is for several classes; these are {rows.task}, so k is 1, not {k}.")
        hits = ((z > 0) == (rows.target == 1)).reshape(len(rows), -1).mean(-1)
        unknown = np.isnan(z).reshape(len(rows), -1).any(-1)
    else:
        if not 1 <= k <= z.shape[1]:
            raise ValueError(f"accuracy: k is between 1 and the {z.shape[1]} classes, not {k}.")
        own = np.take_along_axis(z, rows.target[:, None], 1)
        first = np.arange(z.shape[1]) < rows.target[:, None]
        hits = ((z > own) | ((z == own) & first)).sum(1) < k
        unknown = _undefined(z)
    hits = np.where(unknown, np.nan, hits)
    if rows.task == "multilabel":
        return _mean(hits, rows, low=0.0, high=1.0)
    mean = WeightedSum.of(hits, rows.weight).value()
    return wilson(float(mean.mean), float(mean.effective), int(mean.rows))


def calibration_error(
    logits: Float[Array, "n ..."],
    target: Int[Array, "n ..."],
    *,
    bins=15,
    scheme="width",
    norm="l1",
    over="top",
    convention=None,
    weight=None,
) -> Metric:
    """Distance between confidence and frequency, binned by confidence.

        l1 = sum_b share_b |hits_b - confidence_b|     l2, max: the root of the mean square, the largest

    ``over="top"`` takes the predicted class (Guo et al. 2017, eq. 3), ``"classwise"`` every class on its own, and the
    mean over them (Kull et al. 2019, eq. 4). ``scheme="width"`` has equal bins ``(low, high]`` of probability,
    ``"mass"`` bins of equal numbers of rows, cut in log-odds so that probabilities that round to 1 are still told
    apart. ``convention="guo2017" | "kull2019"`` has that paper's bins, edges and way of combining classes, and so no
    ``bins`` or ``scheme`` of yours.

    >>> z, y = np.array([[2.0, 0.0]] * 4), np.array([0, 0, 1, 1])
    >>> round(float(calibration_error(z, y)), 4)
    0.3808
    """
    for name, value, allowed in (
        ("scheme", scheme, ("width", "mass")),
        ("norm", norm, ("l1", "l2", "max")),
        ("over", over, ("top", "classwise")),
    ):
        one_of("calibration_error", name, value, allowed)
    if convention is not None and (bins != 15 or scheme != "width"):
        raise ValueError(f"calibration_error: {convention} says how to bin; leave bins and scheme out, or it.")
    if bins < 1:
        raise ValueError(f"calibration_error: bins is at least 1, not {bins}.")
    rows = _with_hits("calibration_error", logits, target, weight)
    rule = convention_of("calibration_error", convention)
    confidence, hits, odds, w = _confidences(rows, over)
    if scheme == "mass":
        state = _mass_bins(confidence, hits, odds, w, bins)
    else:
        chosen = rule.top_edges if over == "top" else rule.class_edges
        state = Bins.of(confidence, hits, w, chosen if convention is not None else bins)
    sums = WeightedSum.of(np.ones(len(rows)), rows.weight)
    together = rows.scores.shape[1] if rows.task == "multilabel" and over == "top" else 1
    return calibration_error_of(state, int(sums.rows), rows_per_weight(sums), norm, rule.combine, together)


def roc_auc(logits: Float[Array, "n ..."], target: Int[Array, "n ..."], *, weight=None) -> Metric:
    """Area under the ROC curve, exact, with DeLong's interval.

        auc = P(a positive scores above a negative) + P(they tie) / 2

    Several classes: each against the rest by its log-odds, and the mean over the classes that have both kinds of rows.
    Scores of one class alone give nan, and so does a row that holds a nan or nothing but ``-inf``.

    >>> float(roc_auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]))
    0.75
    """
    return _ranked("roc_auc", roc_auc_of, logits, target, weight)


def average_precision(logits: Float[Array, "n ..."], target: Int[Array, "n ..."], *, weight=None) -> Metric:
    """Average precision, exact: the mean precision over the positives, from the highest score down.

        ap = sum_l (recall_l - recall_(l-1)) precision_l

    Tied scores are one level. Several classes as in `roc_auc`.

    >>> round(float(average_precision([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])), 4)
    0.8333
    """
    return _ranked("average_precision", average_precision_of, logits, target, weight)


def confusion(logits: Float[Array, "n ..."], target: Int[Array, " n"], *, weight=None) -> np.ndarray:
    """Weight of each pair of target (down) and predicted class (across).

    A row that holds a nan, or nothing but ``-inf``, predicts no class: give it weight 0.

    >>> confusion([[3.0, 1.0], [0.0, 2.0], [1.0, 0.0]], [0, 1, 1])
    array([[1., 0.],
           [1., 1.]])
    """
    rows = _with_hits("confusion", logits, target, weight)
    if rows.task == "multilabel":
        raise ValueError("confusion: labels are not exclusive; call it per label, on logits[:, k] and target[:, k].")
    z = rows.logits
    bad = (np.isnan(z) if rows.task == "binary" else _undefined(z)) & (_weights(rows) > 0)
    if bad.any():
        raise DataError(
            "a row that holds a nan, or nothing but -inf, predicts no class.",
            field="logits",
            rows=np.flatnonzero(bad),
            fix="leave it out with weight 0.",
        )
    predicted = (z > 0).astype(int) if rows.task == "binary" else z.argmax(-1)
    return Confusion.of(rows.target, predicted, len(rows.classes), rows.weight).value()


def _outputs(logits, target, weight):
    return Outputs(logits, "logits", target=target, weight=weight)


def _with_hits(function, logits, target, weight):
    return _outputs(logits, target, weight).hard(f"{function} counts hits")


def _undefined(z):
    """Rows without a largest class."""
    return np.isnan(z).any(-1) | (z == -np.inf).all(-1)


def _weights(rows):
    return np.ones(len(rows)) if rows.weight is None else rows.weight


def _mean(values, rows, low=-np.inf, high=np.inf):
    mean = WeightedSum.of(values, rows.weight).value()
    return normal(float(mean.mean), float(mean.error), int(mean.rows), low, high)


def _probs_and_onehot(rows):
    z = np.asarray(rows.logits, dtype=np.float64)
    if rows.task != "multiclass":
        return sigmoid(z), rows.target.astype(float)
    soft = rows.target.dtype.kind == "f"
    return softmax(z), rows.target if soft else np.eye(z.shape[1])[rows.target]


def _confidences(rows, over):
    """Confidence, hit, log-odds and weight of every decision, as columns (top) or a column per class."""
    z = np.asarray(rows.logits, dtype=np.float64)
    w = _weights(rows)
    p, y = _probs_and_onehot(rows)
    if over == "classwise":
        if rows.task == "multiclass":
            z = RowStatistics.of(z, rows.target, w).odds
        columns = (len(rows), -1)
        return p.reshape(columns), y.reshape(columns), z.reshape(columns), w
    if rows.task == "multiclass":
        top = z.argmax(-1)
        return np.take_along_axis(p, top[:, None], 1)[:, 0], (top == rows.target).astype(float), log_odds(z), w
    sure = np.abs(z).reshape(-1)
    hit = ((z > 0) == (rows.target == 1)).reshape(-1).astype(float)
    return sigmoid(sure), hit, sure, np.repeat(w, sure.size // len(w))


def _mass_bins(confidence, hits, odds, weight, count):
    """Bins of equal weight along each column, by rank of the log-odds; equal log-odds share a bin."""
    columns = [a.reshape(len(weight), -1)[weight > 0] for a in (confidence, hits, odds)]
    weight = weight[weight > 0]
    parts = []
    for c, h, x in zip(*(a.T for a in columns), strict=True):
        distinct, where = np.unique(x, return_inverse=True)
        level = np.bincount(where, weight, len(distinct))
        before = np.cumsum(level) - level
        cell = np.minimum((before * count / level.sum()).astype(int), count - 1)[where]
        sums = [np.bincount(cell, v, count) for v in (weight, weight * c, weight * h, (weight * (h - c)) ** 2)]
        parts.append(np.stack(sums))
    return Bins(np.linspace(0, 1, count + 1), *np.stack(parts, axis=1))


def _ranked(function, measure, logits, target, weight):
    rows = _with_hits(function, logits, target, weight)
    _, present, odds, w = _confidences(rows, "classwise")
    occurrence = WeightedSum.of(present, w)
    n = int(occurrence.rows)
    if np.isnan(odds[w > 0]).any():
        return Metric(np.nan, 0.0, 1.0, n)
    columns = zip(odds.T, present.T, zip(*effective_rows(occurrence), strict=True), strict=True)
    return macro([measure(*levels_of(x, y, w), n, of) for x, y, of in columns])
