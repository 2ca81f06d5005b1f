"""Reading an `Evaluation`: metrics with intervals, tables per class and per group, reliability, the temperature curve.

These functions are methods of `Evaluation`; each takes it as its only argument and computes from sums alone.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lastlayer.measure._block import COLUMN_NAMES
from lastlayer.measure.convention import CONVENTIONS
from lastlayer.measure.curves import average_precision_of, calibration_error_of, macro, roc_auc_of
from lastlayer.measure.metric import Z95, Metric, normal, wilson
from lastlayer.measure.rows import TEMPERATURES
from lastlayer.state import Bins

if TYPE_CHECKING:
    from lastlayer.measure.evaluation import Evaluation, GroupEvaluation


class ClassRow(NamedTuple):
    """One class (or label): how often it is there, how probable it was held to be, and how well it was found."""

    name: str
    frequency: float
    mean_prob: float
    bias: Metric  # mean probability minus frequency
    recall: Metric  # nan for labels of a multilabel task
    precision: Metric
    ece: Metric
    auroc: Metric


class GroupRow(NamedTuple):
    """One value of one grouping."""

    group: str
    value: str
    n: int
    accuracy: Metric
    confidence: float
    overconfidence: Metric  # confidence minus accuracy
    nll: Metric
    ece: Metric


class BinRow(NamedTuple):
    """One bin ``(low, high]`` of confidence; an empty one has share 0 and nan inside."""

    low: float
    high: float
    share: float
    confidence: float
    accuracy: Metric


class CurveRow(NamedTuple):
    """What the same rows would give with every logit divided by ``temperature``; the accuracy stays as it is."""

    temperature: float
    nll: float
    ece: float
    confidence: float
    bins: list[BinRow]


def metrics(evaluation: "Evaluation") -> dict[str, Metric]:
    """Every metric by name, in the order they are printed; a margin has only those that rank."""
    mean = evaluation.means.value()
    n, effective = int(mean.rows), float(mean.effective)
    rule = CONVENTIONS[evaluation.convention]
    per_weight = rows_per_weight(evaluation.means)
    at = dict(zip(COLUMN_NAMES, zip(mean.mean, mean.error, strict=True), strict=True))

    accuracy = _share(at["correct"], effective, n, evaluation.task)
    found = {"accuracy": accuracy, "error": Metric(1 - accuracy, 1 - accuracy.high, 1 - accuracy.low, n)}
    if evaluation.task == "multiclass" and len(evaluation.classes) > 5:
        found["top5_accuracy"] = _share(at["top5"], effective, n, evaluation.task)
    if evaluation.kind != "margin":
        columns = evaluation.classwise.weight.shape[0]
        brier = normal(*at["brier"], n, 0.0)
        by_class = Metric(brier / columns, brier.low / columns, brier.high / columns, n)
        found = {"nll": normal(*at["nll"], n, 0.0), **found, "brier": brier, "brier_per_class": by_class}
        together = _labels_per_row(evaluation.top, evaluation.means)
        found["ece"] = calibration_error_of(evaluation.top, n, per_weight, together=together)
        found["ece_classwise"] = calibration_error_of(evaluation.classwise, n, per_weight, combine=rule.combine)
        found["mce"] = calibration_error_of(evaluation.top, n, per_weight, norm="max", together=together)
        found["confidence"] = normal(*at["confidence"], n, 0.0, 1.0)
    if len(evaluation.class_odds.weight):
        found["auroc"], found["average_precision"] = (
            macro(_ranked(evaluation, measure)) for measure in (roc_auc_of, average_precision_of)
        )
    return {name: found[name] for name in METRICS if name in found}


METRICS = (
    "nll",
    "accuracy",
    "error",
    "top5_accuracy",
    "brier",
    "brier_per_class",
    "ece",
    "ece_classwise",
    "mce",
    "confidence",
    "auroc",
    "average_precision",
)


def per_class(evaluation: "Evaluation") -> list[ClassRow]:
    """A row per class in the order of the columns (binary: the positive class; multilabel: a row per label).

    A margin has no probabilities, so what is made of them is nan; this holds for groups too.
    """
    n, per_weight = int(evaluation.means.rows), rows_per_weight(evaluation.means)
    bias, occurrence = evaluation.frequency.value(), evaluation.occurrence.value().mean
    columns = len(occurrence)
    names = evaluation.classes[-columns:]
    recall = precision = [Metric(np.nan, 0.0, 1.0, 0)] * columns
    if evaluation.task != "multilabel" and columns <= 2048:
        recall, precision = _found(evaluation, columns)
    auroc = _ranked(evaluation, roc_auc_of) or [Metric(np.nan, 0.0, 1.0, n)] * columns
    rows = []
    for k, name in enumerate(names):
        ece, gap = Metric(np.nan, 0.0, 1.0, n), Metric(np.nan, -1.0, 1.0, n)
        if evaluation.kind != "margin":
            ece = calibration_error_of(_column(evaluation.classwise, k), n, per_weight)
            gap = normal(float(bias.mean[k]), float(bias.error[k]), n, -1.0, 1.0)
        frequency = float(occurrence[k])
        rows.append(ClassRow(name, frequency, frequency + gap, gap, recall[k], precision[k], ece, auroc[k]))
    return rows


def per_group(evaluation: "Evaluation") -> list[GroupRow]:
    """A row per value of each grouping."""
    return [
        _group_row(name, value, part, evaluation)
        for name, parts in evaluation.groups.items()
        for value, part in sorted(parts.items())
    ]


def reliability(evaluation: "Evaluation") -> list[BinRow]:
    """Confidence of the predicted class against how often it was right, bin by bin; none for a margin."""
    if evaluation.kind == "margin":
        return []
    return bin_rows(evaluation.top, rows_per_weight(evaluation.means))


def curve(evaluation: "Evaluation") -> list[CurveRow]:
    """Reliability and loss over a fixed grid of temperatures, as a slider needs them, from sums; none for a margin."""
    if evaluation.kind == "margin":
        return []
    per_weight = rows_per_weight(evaluation.means)
    total = float(evaluation.means.weight)
    rows = []
    for i, temperature in enumerate(TEMPERATURES):
        bins = _column(evaluation.curve_bins, i)
        ece = calibration_error_of(bins, int(evaluation.means.rows), per_weight)
        confidence = float(bins.confidence.sum() / bins.weight.sum())
        nll = float(evaluation.curve_nll[i]) / total
        rows.append(CurveRow(float(temperature), nll, float(ece), confidence, bin_rows(bins, per_weight)))
    return rows


def rows_per_weight(means) -> float:
    """How many rows a unit of weight stands for: the effective number of rows over the sum of the weights."""
    return float(means.weight / means.weight2) if means.weight2 > 0 else 1.0


def effective_rows(occurrence):
    """Effective rows of each class and of the others, ``(sum w)^2 / sum w^2`` over those rows alone."""
    total, squares = occurrence.total, occurrence.cross  # of an indicator: sum w and sum w^2 where it is 1
    with np.errstate(all="ignore"):
        others = (occurrence.weight - total) ** 2 / (occurrence.weight2 - squares)
        return np.where(total > 0, total**2 / squares, 0.0), np.where(total < occurrence.weight, others, 0.0)


def _ranked(evaluation, measure):
    n, rows = int(evaluation.means.rows), zip(*effective_rows(evaluation.occurrence), strict=True)
    tables = evaluation.class_odds.weight
    return [measure(present, absent, n, of, exact=False) for (absent, present), of in zip(tables, rows, strict=False)]


def _found(evaluation, columns):
    """Recall and precision of each class."""
    matrix = evaluation.confusion.value()
    hits, present, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    mine, others = effective_rows(evaluation.occurrence)
    rows = mine if columns > 1 else np.append(others, mine)
    # What was predicted has no sum of squared weights; there are at least as many rows as heaviest ones would make.
    tables = []
    for total, effective in ((present, rows), (predicted, predicted / float(evaluation.signs.heaviest))):
        with np.errstate(all="ignore"):
            share = np.where(total > 0, hits / total, np.nan)
        found = [wilson(s, k, round(k)) for s, k in zip(share, effective, strict=True)]
        tables.append(found[-columns:])
    return tables


def _share(found, effective, n, task):
    """A share of rows; that of labels is a mean over each row's, so no count of hits."""
    share, error = found
    return normal(share, error, n, 0.0, 1.0) if task == "multilabel" else wilson(share, effective, n)


def _labels_per_row(top, means):
    return float(top.weight.sum() / means.weight) if means.weight > 0 else 1.0


def _column(bins, k):
    return Bins(bins.edges, bins.weight[k], bins.confidence[k], bins.hits[k], bins.square[k])


def bin_rows(bins, per_weight, z=Z95):
    """A row per bin, with Wilson's interval ``z`` standard errors wide to each side."""
    total = bins.weight.sum()
    rows = []
    with np.errstate(all="ignore"):
        share, confidence, hits = bins.weight / total, bins.confidence / bins.weight, bins.hits / bins.weight
    for i in range(len(bins.weight)):
        size = float(bins.weight[i]) * per_weight
        accuracy = wilson(float(hits[i]), size, round(size), z)
        rows.append(
            BinRow(float(bins.edges[i]), float(bins.edges[i + 1]), float(share[i]), float(confidence[i]), accuracy)
        )
    return rows


def _group_row(name, value, part: "GroupEvaluation", evaluation) -> GroupRow:
    mean = part.means.value()
    n = int(mean.rows)
    at = dict(zip(COLUMN_NAMES, zip(mean.mean, mean.error, strict=True), strict=True))
    accuracy = _share(at["correct"], float(mean.effective), n, evaluation.task)
    if evaluation.kind == "margin":
        unit, any_sign, any_size = (Metric(np.nan, *ends, n) for ends in ((0.0, 1.0), (-1.0, 1.0), (0.0, np.inf)))
        return GroupRow(name, value, n, accuracy, np.nan, any_sign, any_size, unit)
    return GroupRow(
        name,
        value,
        n,
        accuracy,
        float(at["confidence"][0]),
        normal(*at["overconfidence"], n, -1.0, 1.0),
        normal(*at["nll"], n, 0.0),
        calibration_error_of(part.top, n, rows_per_weight(part.means), together=_labels_per_row(part.top, part.means)),
    )
