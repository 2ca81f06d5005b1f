"""Tables of classes and groups whose intervals and p-values hold for the whole table at once."""

from typing import NamedTuple

import numpy as np

from lastlayer._check import DataError, one_of
from lastlayer._typing import Array, Float, Int
from lastlayer.loss import binary_cross_entropy, cross_entropy
from lastlayer.measure._entries import entries_of, refuse_undefined
from lastlayer.measure._offset import Offset
from lastlayer.measure.metric import Metric, normal, simultaneous, wilson
from lastlayer.outputs import Outputs
from lastlayer.state import WeightedSum


class SubgroupRow(NamedTuple):
    """One event in one part of the rows. The intervals of a column hold for all rows of the table at once, at 95 %."""

    group: str  # name of the grouping; "" where the part is all rows
    value: str
    event: str  # a class, or "correct": the decision was right
    n: int
    frequency: float
    mean_prob: float
    bias: Metric  # mean_prob - frequency
    offset: float  # what would have to be added to the log-odds for the bias to be 0
    p_value: float  # of no bias, adjusted for the number of rows of the table
    significant: bool  # p_value <= 0.05
    accuracy: Metric  # of the rows that are of the class; of all rows of the part where the event is "correct"
    nll: Metric  # of the same rows


CONTROLS = ("holm", "bonferroni", "bh")


def by_class(
    logits: Float[Array, "n ..."], target: Int[Array, "n ..."], *, classes=None, control="holm", weight=None
) -> list[SubgroupRow]:
    """Is each class as frequent as it is held to be? A row per class (binary: the positive one; or label).

        bias_k = mean of p_k - frequency of k

    The test is the likelihood ratio of one offset on all log-odds of the class against none, which is right for rare
    classes too, divided by the dispersion of the residuals where that is above 1, so that a model that is only too sure
    is not called biased. ``control`` adjusts the p-values: "holm" or "bonferroni" keep the chance of any false finding
    at 5 %, "bh" the expected share of false ones among the findings. The intervals are Bonferroni's in each case, and
    come from the same likelihood, so a bias that is significant at "bonferroni" is one whose interval leaves out 0.

    Holm 1979; Benjamini and Hochberg 1995.

    >>> z, y = np.zeros((400, 2)), np.repeat([0, 1], [300, 100])
    >>> [(row.event, round(float(row.bias), 3), row.significant) for row in by_class(z, y)]
    [('0', -0.25, True), ('1', 0.25, True)]
    """
    one_of("by_class", "control", control, CONTROLS)
    rows = Outputs(logits, "logits", target=target, classes=classes, weight=weight).hard("by_class counts hits")
    return _table(rows, [("", "", np.ones(len(rows), bool))], "classwise", control)


def by_group(
    logits: Float[Array, "n ..."],
    target: Int[Array, "n ..."],
    groups,
    *,
    over="top",
    classes=None,
    control="holm",
    weight=None,
) -> list[SubgroupRow]:
    """Is the model as right in each group as it holds itself to be? A row per value of each grouping.

        bias = mean confidence - accuracy of the group          (over="classwise": a row per group and class)

    ``groups`` is an array with a value per row, or several by name. Tests, intervals and ``control`` as in `by_class`,
    over all rows of the table together.

    >>> z, y = np.full(400, 1.0), np.tile([1, 1, 1, 0], 100)
    >>> y[:100] = 0
    >>> [(row.value, row.significant) for row in by_group(z, y, np.repeat(["a", "b", "b", "b"], 100))]
    [('a', True), ('b', False)]
    """
    one_of("by_group", "over", over, ("top", "classwise"))
    one_of("by_group", "control", control, CONTROLS)
    rows = Outputs(logits, "logits", target=target, classes=classes, weight=weight, groups=groups)
    rows = rows.hard("by_group counts hits")
    if not rows.groups:
        raise DataError(
            "no groups.", field="groups", fix="give an array with a value per row, or a dict of such arrays."
        )
    parts = [(name, str(value), values == value) for name, values in rows.groups.items() for value in np.unique(values)]
    return _table(rows, parts, over, control)


def _table(rows, parts, over, control):
    entries = entries_of(rows, over)
    refuse_undefined(rows)
    columns = entries.columns() if over == "classwise" else [entries]
    names = rows.classes[-len(columns) :] if over == "classwise" else ("correct",)
    counts = entries.weight > 0
    cells = [
        (name, value, k, np.flatnonzero(inside & counts)) for name, value, inside in parts for k in range(len(columns))
    ]
    offsets = [
        Offset.of(columns[k].odds[inside], columns[k].hits[inside], columns[k].weight[inside])
        for *_, k, inside in cells
    ]
    adjusted = _adjusted(np.array([offset.p_value for offset in offsets]), control)
    outcomes, z = _outcomes(rows, over, len(columns)), simultaneous(len(cells))
    table = []
    for (name, value, k, inside), offset, p_value in zip(cells, offsets, adjusted, strict=True):
        of = inside if over == "top" else inside[columns[k].hits[inside, 0] == 1]
        right, losses = (WeightedSum.of(column[of], columns[k].weight[of]) for column in outcomes[k])
        table.append(
            SubgroupRow(
                name,
                value,
                names[k],
                len(inside),
                offset.frequency,
                offset.mean_prob,
                offset.bias(z),
                offset.best,
                float(p_value),
                bool(p_value <= 0.05),
                _accuracy(right, z, rows.task == "multilabel" and over == "top"),
                _mean(losses, z, 0.0, np.inf),
            )
        )
    return table


def _outcomes(rows, over, columns):
    """Per event, whether each row was decided rightly and what it cost; labels apart where events are."""
    z = np.asarray(rows.logits, dtype=np.float64)
    if rows.task == "multiclass":
        return [(z.argmax(-1) == rows.target, cross_entropy(z, rows.target))] * columns
    right, losses = (z > 0) == (rows.target == 1), binary_cross_entropy(z, rows.target)
    if rows.task == "binary":
        return [(right, losses)] * columns
    return [(right.mean(1), losses.sum(1))] if over == "top" else list(zip(right.T, losses.T, strict=True))


def _accuracy(sums, z, of_labels):
    if of_labels:
        return _mean(sums, z, 0.0, 1.0)
    mean = sums.value()
    return wilson(float(mean.mean), float(mean.effective), int(mean.rows), z)


def _mean(sums, z, low, high):
    mean = sums.value()
    return normal(float(mean.mean), float(mean.error), int(mean.rows), low, high, z)


def _adjusted(p_values, control):
    """p-values so that each may be held against 5 % itself; nan where there was nothing to test, and not counted."""
    adjusted = np.full(len(p_values), np.nan)
    tested = np.flatnonzero(~np.isnan(p_values))
    m = len(tested)
    order = tested[np.argsort(p_values[tested], kind="stable")]
    p, rank = p_values[order], np.arange(1, m + 1)
    if control == "bonferroni":
        p = p * m
    elif control == "holm":
        p = np.maximum.accumulate(p * (m + 1 - rank))
    else:
        p = np.minimum.accumulate((p * m / rank)[::-1])[::-1]
    adjusted[order] = np.minimum(p, 1.0)
    return adjusted
