"""Thresholds tuned for what is counted in the end: F-beta, balanced accuracy, net benefit or cost."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lastlayer._check import DataError, one_of
from lastlayer.decide._tuned_columns import Columns, said
from lastlayer.decide._tuned_cuts import goal
from lastlayer.decide.choice import Choice, argmax, blocks, log_odds_of
from lastlayer.decide.decisions import Decisions
from lastlayer.decide.policy import Policy
from lastlayer.outputs import Outputs, brief, wanted

_BY = {"binary": (None,), "multilabel": (None, "label"), "multiclass": ("class",)}


@dataclass(frozen=True)
class Tuned(Policy, name="tuned"):
    """Say a class or a label where its logit reaches a threshold that was tuned for a measure.

        binary: classes[1] <=> z >= t,    multilabel: label k <=> z_k >= t_k,    multiclass: argmax_k z_k - t_k

    ``thresholds`` has a number for each label or class (for binary outputs one). What the ``measure`` is on the rows of
    the fit: ``untuned`` with the thresholds of a calibrated model, ``in_sample`` with the tuned ones, and ``held_out``
    with each row decided by thresholds tuned on the other folds. Expect the last on new rows.

    ``policy(outputs)`` gives `Decisions` where one is made per row, ``policy.apply(outputs)`` the labels of each row. A
    label that is nan or masked (-inf) is never said.
    """

    thresholds: Any
    task: str
    classes: Any
    measure: str
    options: Any
    by: str | None
    rows: int
    folds: int
    untuned: float
    in_sample: float
    held_out: float

    def __post_init__(self):
        one_of("Tuned", "task", self.task, tuple(_BY))
        object.__setattr__(self, "thresholds", tuple(map(float, self.thresholds)))
        object.__setattr__(self, "classes", tuple(map(str, self.classes)))
        goal("Tuned", self.measure, dict(self.options), self.task == "multiclass")
        if len(self.thresholds) != (1 if self.task == "binary" else len(self.classes)):
            raise ValueError(f"Tuned: {len(self.thresholds)} thresholds for {len(self.classes)} classes.")
        if any(math.isnan(t) for t in self.thresholds):
            raise ValueError("Tuned: thresholds are numbers, not nan.")

    @classmethod
    def fit(cls, outputs: Outputs, measure="f1", *, by=None, folds=5, seed=0, **options) -> "Tuned":
        """The thresholds that make the measure best on these labelled rows, and what to expect of them on new ones.

            f_beta             (1 + beta^2) TP / (beta^2 (TP + FN) + TP + FP),  0 of nothing;  f1 is beta = 1
            balanced_accuracy  (TP / (TP + FN) + TN / (TN + FP)) / 2 = (1 + Youden's J) / 2;  of classes: mean recall
            net_benefit        (TP - FP at / (1 - at)) / n
            cost               (FP false_positive + FN false_negative) / n, the only one to be small
            micro_f1           2 TP / (2 TP + FN + FP) of all labels together

        Net benefit is given ``at=``, the threshold probability (Vickers and Elkin 2006), and cost ``false_positive=``
        and ``false_negative=``. Of several labels or classes it is the mean, except for ``micro_f1``. Multilabel rows
        get one threshold, or with ``by="label"`` each label its own. Multiclass ones, with ``by="class"``, get one for
        each class, for F-beta and balanced accuracy; costs of classes are for `CostMatrix`.

        One or each threshold is the exact optimum: all cuts are tried after one sort. Those of classes depend on each
        other and are found by coordinate ascent, each step exact, from no thresholds and from the logs of the classes'
        shares: an optimum that no single threshold improves, not always the best of all.

        The thresholds fit these rows better than others. ``held_out`` is free of that: every row is decided by
        thresholds tuned without its fold, and the measure is taken of all these decisions together. Folds follow from
        the hash of a row's id, or of its content (`Rows.folds`), so the order of the rows says nothing.

        >>> z = np.random.default_rng(0).normal(-2, 2, 500)
        >>> y = np.random.default_rng(1).random(500) < 1 / (1 + np.exp(-z))
        >>> policy = Tuned.fit(Outputs(z, "logits", target=y), "f1")
        >>> round(policy.untuned, 2), round(policy.in_sample, 2), round(policy.held_out, 2)
        (0.58, 0.65, 0.64)
        """
        outputs = wanted("Tuned.fit", outputs).labelled.hard("a measure of decisions counts what is right or wrong")
        aim = goal("Tuned.fit", measure, options, outputs.task == "multiclass")
        if by not in _BY[outputs.task]:
            allowed = " or ".join(repr(each) for each in _BY[outputs.task])
            raise ValueError(f"Tuned.fit: by is {allowed} for {outputs.task} outputs, not {by!r}.")
        if by is not None and aim.pooled:
            raise ValueError(f"Tuned.fit: {measure} counts all labels together, which is for one threshold: by=None.")
        if isinstance(folds, bool) or not (isinstance(folds, int) and folds >= 2):
            raise ValueError(f"Tuned.fit: folds is an integer of at least 2, not {folds!r}.")
        columns = Columns.of(outputs)
        fold = columns.folds(folds, seed)
        tuned = columns.tuned(aim, by)
        neutral, crossed = np.full(len(tuned), aim.neutral), np.empty(columns.target.shape, bool)
        for k in np.unique(fold):
            here = fold == k
            crossed[here] = columns.take(here).said(columns.take(~here).tuned(aim, by))
        scores = (aim.value(columns.counts(s)) for s in (columns.said(neutral), columns.said(tuned), crossed))
        options = {name: float(value) for name, value in options.items()}
        return cls(tuned, outputs.task, outputs.classes, measure, options, by, len(fold), folds, *scores)

    def __str__(self):
        return (
            f"tuned for {self.measure}: {self.held_out:.4g} held out, {self.in_sample:.4g} on the {self.rows:,} rows "
            f"of the fit, {self.untuned:.4g} untuned"
        )

    @property
    def optimism(self) -> float:
        """By how much the measure looks better on the rows of the fit than held out; chance may make it negative."""
        better = self.in_sample - self.held_out
        return -better if self.measure == "cost" else better

    def decide(self, outputs: Outputs) -> Decisions:
        self._check(outputs)
        if self.task == "multilabel":
            raise DataError(
                f"{len(self.classes)} labels per row are as many decisions; one decision per row is made here.",
                file=outputs.source,
                fix="policy.apply(outputs) gives the labels of each row.",
            )
        index, log_odds = np.empty(len(outputs), np.int64), np.empty(len(outputs))
        for rows, logits in blocks(outputs):
            if self.task == "binary":
                chosen = np.where(said(logits[:, 1:], self.thresholds)[:, 0], 1, 0)
            else:
                chosen = (logits - np.array(self.thresholds)).argmax(axis=1)
            index[rows] = np.where(argmax(logits) < 0, -1, chosen)
            log_odds[rows] = log_odds_of(logits, index[rows])
        return Decisions.of(outputs, self, index >= 0, Choice(index, log_odds))

    def apply(self, outputs: Outputs) -> np.ndarray:
        """The labels of each row of multilabel outputs, bool ``(n, labels)``, as of `LabelSets`."""
        self._check(wanted("Tuned.apply", outputs))
        if self.task != "multilabel":
            raise DataError(
                f"{self.task} outputs have one class per row; sets of labels are for multilabel ones.",
                file=outputs.source,
                fix="policy(outputs) gives the decisions.",
            )
        return said(outputs.logits, self.thresholds)

    def _check(self, outputs):
        if outputs.task != self.task or tuple(outputs.classes) != self.classes:
            raise DataError(
                f"the thresholds were tuned on {self.task} outputs with classes {brief(self.classes)}; these are "
                f"{outputs.task} with {brief(tuple(outputs.classes))}.",
                file=outputs.source,
                field="classes",
                fix="bring the columns and `classes` into the order of the fit, or tune on rows like these.",
            )
