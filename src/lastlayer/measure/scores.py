"""Measures of arrays, each one number with its interval, exact: what `evaluate` reads from a state, by name.

The shapes say the task: logits ``(n,)`` are binary, ``(n, classes)`` with a target ``(n,)`` multiclass, and with an
integer target of their own shape multilabel.
"""

import numpy as np

from lastlayer._check import one_of
from lastlayer._typing import Array, Float, Int
from lastlayer.measure._entries import (
    OVER,
    SCHEMES,
    binned,
    brier_of,
    count_of,
    entries_of,
    labels_together,
    mean_of,
    nll_of,
    one_decision_a_row,
    outputs_of,
    refuse_undefined,
    undefined,
    with_hits,
)
from lastlayer.measure.convention import convention_of
from lastlayer.measure.curves import average_precision_of, calibration_error_of, levels_of, macro, roc_auc_of
from lastlayer.measure.metric import Metric, wilson
from lastlayer.measure.read import effective_rows
from lastlayer.state import Confusion, WeightedSum


def nll(logits: Float[Array, "n ..."], target: Int[Array, "n ..."], *, weight=None) -> Metric:
    """Mean negative log-likelihood, from logits and so without clipping.

        nll = mean of cross_entropy(logits, target)          (binary: binary_cross_entropy; multilabel: its sum over
        labels)

    A target of probability 0 makes it ``inf``. The target may also be a distribution over the classes.

    >>> nll([[100.0, 0.0], [0.0, 100.0]], [0, 0])
    Metric(50, low=0, high=147.998, n=2)
    """
    rows = outputs_of(logits, target, weight)
    return mean_of(nll_of(rows), rows, low=0.0)


def brier(logits: Float[Array, "n ..."], target: Int[Array, "n ..."], *, weight=None) -> Metric:
    """Brier score: the mean over rows of the squared distance between probabilities and what came true.

        brier = mean of sum_k (p_k - onehot_k)^2          (binary: (p - y)^2; multilabel: its sum over labels)

    Brier 1950. The target may also be a distribution over the classes.

    >>> float(brier([[0.0, 0.0]], [1]))
    0.5
    """
    rows = outputs_of(logits, target, weight)
    return mean_of(brier_of(rows), rows, low=0.0)


def accuracy(logits: Float[Array, "n ..."], target: Int[Array, "n ..."], *, k=1, weight=None) -> Metric:
    """Share of rows whose target is among the ``k`` largest logits, with Wilson's interval.

    Ties go to the lower index. Binary: the sign of the logit against the target, 0 counting as negative. Multilabel:
    the mean over labels, with the normal interval. A row that holds a nan, or nothing but ``-inf``, makes it nan.

    >>> float(accuracy([[3.0, 1.0, 2.0]], [2], k=2))
    1.0
    """
    rows = with_hits("accuracy", logits, target, weight)
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
        unknown = undefined(z)
    hits = np.where(unknown, np.nan, hits)
    if rows.task == "multilabel":
        return mean_of(hits, rows, low=0.0, high=1.0)
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
    mean over them (Kull et al. 2019). ``scheme="width"`` has equal bins ``(low, high]`` of probability,
    ``"mass"`` bins of equal numbers of rows, cut in log-odds so that probabilities that round to 1 are still told
    apart. ``convention="guo2017" | "kull2019"`` has that paper's bins, edges and way of combining classes, and so no
    ``bins`` or ``scheme`` of yours.

    >>> z, y = np.array([[2.0, 0.0]] * 4), np.array([0, 0, 1, 1])
    >>> round(float(calibration_error(z, y)), 4)
    0.3808
    """
    for name, value, allowed in (
        ("scheme", scheme, SCHEMES),
        ("norm", norm, ("l1", "l2", "max")),
        ("over", over, OVER),
    ):
        one_of("calibration_error", name, value, allowed)
    if convention is not None and (bins != 15 or scheme != "width"):
        raise ValueError(f"calibration_error: {convention} says how to bin; leave bins and scheme out, or it.")
    if bins < 1:
        raise ValueError(f"calibration_error: bins is at least 1, not {bins}.")
    rows = with_hits("calibration_error", logits, target, weight)
    rule = convention_of("calibration_error", convention)
    if convention is not None:
        bins = rule.top_edges if over == "top" else rule.class_edges
    state = binned(rows, over, bins, scheme)
    n, per_weight = count_of(rows)
    return calibration_error_of(state, n, per_weight, norm, rule.combine, labels_together(rows, over))


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
    rows = one_decision_a_row("confusion", logits, target, weight)
    refuse_undefined(rows)
    z = rows.logits
    predicted = (z > 0).astype(int) if rows.task == "binary" else z.argmax(-1)
    return Confusion.of(rows.target, predicted, len(rows.classes), rows.weight).value()


def _ranked(function, measure, logits, target, weight):
    rows = with_hits(function, logits, target, weight)
    entries = entries_of(rows, "classwise")
    odds, present, w = entries
    occurrence = WeightedSum.of(present, w)
    n = int(occurrence.rows)
    if not entries.known:
        return Metric(np.nan, 0.0, 1.0, n)
    columns = zip(odds.T, present.T, zip(*effective_rows(occurrence), strict=True), strict=True)
    return macro([measure(*levels_of(x, y, w), n, of) for x, y, of in columns])
