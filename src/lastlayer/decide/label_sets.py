"""Sets of labels whose expected loss is kept below a target: thresholds of log-odds for multilabel outputs."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from lastlayer._array import as_array, floating, namespace
from lastlayer._check import DataError, one_of, shape
from lastlayer.decide._fixed_sequence import fewest_rows, lowest
from lastlayer.decide._sorted_rows import wide
from lastlayer.decide.bound import counted, fraction
from lastlayer.decide.conformal import Sets
from lastlayer.outputs import Outputs, brief, wanted
from lastlayer.state import cell_edges

_LOSSES = {
    "fnr": "the share of its true labels that a row's set misses",
    "fdr": "the share of the set that is not true",
}


@dataclass(frozen=True)
class LabelSets(Sets, name="labels"):
    """``sets(logits)``: the labels whose logit is at least ``threshold``, bool ``(*batch, labels)``.

    ``measured`` is the mean loss of the held-out ``rows`` at it, ``confidence`` None for a promise on
    average.
    """

    threshold: float
    loss: str
    risk: float
    method: str
    confidence: float | None
    rows: int
    measured: float
    classes: tuple[str, ...]

    def __post_init__(self):
        object.__setattr__(self, "threshold", float(self.threshold))
        object.__setattr__(self, "classes", tuple(map(str, self.classes)))
        if math.isnan(self.threshold):
            raise ValueError("LabelSets: threshold is a number, not nan.")
        fraction("LabelSets", "risk", self.risk)
        if self.confidence is not None:
            fraction("LabelSets", "confidence", self.confidence)
        if not isinstance(self.rows, int) or not 0 <= self.measured <= 1:
            raise ValueError("LabelSets: rows is a count, measured a mean loss between 0 and 1.")
        one_of("LabelSets", "loss", self.loss, tuple(_LOSSES))
        one_of("LabelSets", "method", self.method, ("crc", "ltt"))

    @classmethod
    def fit(cls, outputs: Outputs, risk=0.1, *, loss="fnr", method=None, confidence=0.95) -> "LabelSets":
        """The threshold that keeps the mean loss of rows like these labelled ones at most ``risk``.

            crc:  E[loss of a new row] <= risk,  threshold = max {t : (sum of losses at t + 1) / (n + 1) <= risk}
            ltt:  P(mean loss at the threshold > risk) <= 1 - confidence

        ``loss="fnr"`` is the share of its true labels that a row's set misses (0 for a row without any), ``"fdr"`` the
        share of the set that is not true (0 for an empty set). The first only grows with the threshold, which conformal
        risk control needs (``"crc"``, its default: Angelopoulos et al. 2024). The second does not, so it takes
        ``"ltt"``: the thresholds of a fixed grid of log-odds are tested from the safest on by the Hoeffding-Bentkus
        p-value until one fails (Angelopoulos et al. 2021, Learn then Test).

        >>> z, y = np.array([[2.0, -1.0], [0.5, 3.0]] * 20), np.array([[1, 0], [1, 1]] * 20)
        >>> sets = LabelSets.fit(Outputs(z, "logits", target=y), risk=0.1)
        >>> sets.threshold, sets(np.array([0.4, 0.6]))
        (0.5, array([False,  True]))
        """
        fraction("LabelSets.fit", "risk", risk)
        fraction("LabelSets.fit", "confidence", confidence)
        one_of("LabelSets.fit", "loss", loss, tuple(_LOSSES))
        method = ("crc" if loss == "fnr" else "ltt") if method is None else method
        one_of("LabelSets.fit", "method", method, ("crc", "ltt"))
        if method == "crc" and loss == "fdr":
            raise ValueError(
                "LabelSets.fit: method='crc' needs a loss that only grows with the threshold, and fdr does not; say "
                "method='ltt'."
            )
        rows = counted(_labels("LabelSets.fit", outputs).labelled).hard("a loss counts labels that are there or not")
        z, target = rows.logits.astype(np.float64), rows.target == 1
        z = np.where(np.isnan(z), -np.inf, z)  # in no set, like a masked label
        if method == "crc":
            found, measured = _controlled(z, target, risk, outputs.source)
            return cls(found, loss, float(risk), method, None, len(z), measured, tuple(rows.classes))
        found, measured = _tested(z, target, loss, risk, confidence, outputs.source)
        return cls(found, loss, float(risk), method, float(confidence), len(z), measured, tuple(rows.classes))

    def __str__(self):
        sure = "on average" if self.confidence is None else f"at confidence {self.confidence:g}"
        return f"{self.loss} at most {self.risk:g} {sure}: log-odds from {self.threshold:.6g}, {self.rows:,} rows"

    def __call__(self, logits) -> Any:
        """The labels in the set of each row; a label that is nan or masked (-inf) is in none."""
        x = floating(as_array(logits))
        if x.shape[-1:] != (len(self.classes),):
            raise ValueError(f"sets: fitted on {len(self.classes)} labels; these logits are {shape(x)}.")
        xp = namespace(x)
        x = wide(x, xp)
        return (x >= self.threshold) & (x > -xp.inf)

    def apply(self, outputs: Outputs) -> np.ndarray:
        """The sets of these rows, bool ``(n, labels)``."""
        outputs = _labels("sets.apply", outputs)
        if tuple(outputs.classes) != self.classes:
            raise DataError(
                f"the sets were fitted on labels {brief(self.classes)}; these are {brief(tuple(outputs.classes))}.",
                file=outputs.source,
                field="classes",
                fix="bring the columns and `classes` into the order of the fit.",
            )
        return self(outputs.logits)


def _labels(function, outputs):
    outputs = wanted(function, outputs)
    if outputs.task != "multilabel":
        raise DataError(
            f"{outputs.task} outputs have one true class per row; sets of labels are for multilabel ones.",
            file=outputs.source,
            field="task",
            fix="use decide.LAC.fit or decide.APS.fit, or say task='multilabel' (--task multilabel).",
        )
    return outputs


def _controlled(z, target, risk, source):
    """The largest threshold within the budget ``risk (n + 1) - 1`` of losses, counted in whole parts of a label."""
    n, labels = len(z), target.sum(axis=1)
    unit = math.lcm(*np.unique(labels[labels > 0]).tolist(), 1)
    row, _ = np.nonzero(target)
    value, part = z[target], np.array([unit // int(count) for count in labels[row]], dtype=object)
    lost = int(part[value == -np.inf].sum())
    budget = (Fraction(repr(float(risk))) * (n + 1) - 1) * unit
    if lost > budget:
        least = math.ceil(1 / Fraction(repr(float(risk)))) - 1
        raise DataError(
            f"no threshold promises a false negative rate of at most {risk:g} on {n} held-out rows; the lowest they "
            f"can promise is {(lost / unit + 1) / (n + 1):.4g}.",
            file=source,
            fix=f"ask for a higher risk, or give more held-out rows (at least {least}, with their labels unmasked).",
        )
    ascending = np.argsort(value, kind="stable")
    value, part = value[ascending], part[ascending]
    before = np.concatenate([[0], np.cumsum(part)])[np.searchsorted(value, value, side="left")]
    if part.sum() <= budget:
        return math.inf, float(part.sum() / unit / n)
    last = np.flatnonzero(before <= budget)[-1]
    return float(value[last]), float(before[last] / unit / n)


def _tested(z, target, loss, risk, confidence, source):
    """The last threshold that passes before the first that fails, from the safest on."""
    fewest = fewest_rows(risk, confidence)
    if len(z) < fewest:
        raise DataError(
            f"{len(z)} held-out rows cannot promise a risk of {risk:g} at confidence {confidence:g}: even without a "
            f"loss it takes {fewest}.",
            file=source,
            fix="give more labelled held-out rows, or ask for a higher risk or a lower confidence.",
        )
    thresholds = np.concatenate([[-np.inf], cell_edges(), [np.inf]])
    mean = _mean_losses(z, target, thresholds, loss)
    if loss == "fdr":
        thresholds, mean = thresholds[::-1], mean[::-1]
    largest = z.max()

    def reached(risk):
        passes = _p_value(mean, len(z), risk) <= 1 - confidence
        last = (len(passes) if passes.all() else int(passes.argmin())) - 1
        return None if last < 0 or (loss == "fdr" and thresholds[last] > largest) else last

    last = reached(risk)
    if last is None:
        works = lowest(risk, lambda r: reached(r) is not None)
        raise DataError(
            f"no threshold that leaves a label promises a {loss} of at most {risk:g} at confidence {confidence:g} on "
            f"{len(z)} held-out rows; the lowest they can promise is {works}.",
            file=source,
            fix="ask for a higher risk, give more held-out rows, or calibrate first.",
        )
    return float(thresholds[last]), float(mean[last])


def _mean_losses(z, target, thresholds, loss):
    """The mean loss over the rows at each threshold, from what each label adds where it enters or leaves the sets."""
    cell = np.where(z == -np.inf, -1, np.searchsorted(thresholds, z, side="right") - 1)
    if loss == "fnr":
        share = target / np.maximum(target.sum(axis=1, keepdims=True), 1)
        lost = np.bincount(cell[target] + 1, share[target], len(thresholds) + 1)
        return np.cumsum(lost)[:-1] / len(z)
    by_rank = np.argsort(-z, axis=1, kind="stable")
    wrong = ~np.take_along_axis(target, by_rank, axis=1)
    so_far = np.cumsum(wrong, axis=1) / np.arange(1, z.shape[1] + 1)
    enters = np.diff(so_far, axis=1, prepend=0.0)
    at = np.take_along_axis(cell, by_rank, axis=1)
    added = np.bincount(at[at >= 0], enters[at >= 0], len(thresholds))
    return np.maximum(np.cumsum(added[::-1])[::-1] / len(z), 0.0)  # a sum that is 0 may be rounded to -1e-17


def _p_value(mean, n, risk):
    """Of the hypothesis that the mean of a loss in [0, 1] exceeds ``risk`` (Hoeffding-Bentkus: Bates et al. 2021)."""
    from scipy.special import bdtr, rel_entr

    below = np.minimum(mean, risk)
    hoeffding = np.exp(-n * (rel_entr(below, risk) + rel_entr(1 - below, 1 - risk)))
    bentkus = math.e * bdtr(np.ceil(n * mean), n, risk)
    return np.minimum(hoeffding, bentkus)
