"""Labelled rows as a column for each label or class, and the thresholds of the columns that suit them best."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from lastlayer._check import DataError
from lastlayer.calibrate.rows import LeftOut, Rows
from lastlayer.decide._tuned_cuts import Changes, Counts, best_cut
from lastlayer.decide.choice import argmax
from lastlayer.outputs import brief


def said(logits, thresholds):
    """The labels whose logits reach the thresholds; none that is nan or masked (-inf)."""
    logits = np.asarray(logits, np.float64)
    return (logits >= np.array(thresholds)) & (logits > -np.inf)


@dataclass(frozen=True, eq=False)
class Columns:
    """Logits and targets ``(rows, columns)``: of labels, each there or not, or of classes that exclude each other."""

    logits: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    names: tuple[str, ...]
    exclusive: bool
    rows: Rows

    @classmethod
    def of(cls, outputs) -> Self:
        """The rows that count and have a class; what no threshold can be tuned on is refused."""
        logits = np.asarray(outputs.logits, np.float64)
        kept = np.ones(len(outputs), bool) if outputs.weight is None else outputs.weight > 0
        if outputs.task != "multilabel":  # a label that is nan is one that is not said
            kept &= ~np.isnan(logits) if outputs.task == "binary" else argmax(logits) >= 0
        outputs, logits = outputs.rows(kept), logits[kept]
        weight = np.ones(len(logits)) if outputs.weight is None else np.asarray(outputs.weight, np.float64)
        about = (outputs.task, tuple(outputs.classes), outputs.kind, outputs.ids, np.flatnonzero(kept), outputs.source)
        rows = Rows(outputs.scores, outputs.target, weight, *about, LeftOut())
        names, target = tuple(outputs.classes), outputs.target
        if outputs.task == "multiclass":
            target = target[:, None] == np.arange(len(names))
        elif outputs.task == "binary":
            logits, target, names = logits[:, None], target[:, None], names[1:]
        columns = cls(logits, target == 1, weight, names, outputs.task == "multiclass", rows)
        columns._check()
        return columns

    def _check(self):
        what = "label" if self.rows.task == "multilabel" else "class"
        absent, everywhere = ~self.target.any(axis=0), self.target.all(axis=0)
        for constant, words in ((absent, "has no row"), (everywhere, "is that of every row")):
            if constant.any():
                names = tuple(np.array(self.names)[constant].tolist())
                raise DataError(
                    f"{what} {brief(names)} {words}, so no threshold can be tuned for it.",
                    file=self.rows.source,
                    field="target",
                    fix="give labelled rows with and without it, or leave its column out.",
                )
        same = (self.logits == self.logits[:1]).all(axis=0)
        if same.all() or (same.any() and not self.exclusive):
            names = tuple(np.array(self.names)[same].tolist())
            raise DataError(
                f"{what} {brief(names)} has the same score in every row; no threshold parts them.",
                file=self.rows.source,
                field=self.rows.kind,
                fix="check how the scores were written.",
            )

    def folds(self, count, seed):
        """The fold of each row, from its hash."""
        if len(self.logits) < count:
            raise DataError(
                f"{len(self.logits)} labelled rows are fewer than {count} folds.",
                file=self.rows.source,
                fix="give more rows (a few hundred are wise), or fewer folds.",
            )
        return self.rows.several_folds(count, seed)

    def take(self, index) -> Self:
        rows = self.rows.take(index)
        return type(self)(self.logits[index], self.target[index], self.weight[index], self.names, self.exclusive, rows)

    def said(self, thresholds) -> np.ndarray:
        """What is said with these thresholds, bool ``(rows, columns)``."""
        if not self.exclusive:
            return said(self.logits, thresholds)
        return (self.logits - thresholds).argmax(axis=1)[:, None] == np.arange(len(self.names))

    def counts(self, said) -> Counts:
        """Weights per column of what is said, true, and both."""
        hit, all_said, true = (self.weight @ each for each in (said & self.target, said, self.target))
        return Counts(hit, all_said, true, np.full(len(self.names), self.weight.sum()))

    def tuned(self, aim, by) -> np.ndarray:
        """The best thresholds: one for all columns, or one for each (``by`` label or class)."""
        if self.exclusive:
            return self._of_classes(aim)
        columns = [np.arange(len(self.names))] if by is None else np.arange(len(self.names))[:, None]
        cuts = [best_cut(self._changes(each, aim), aim.counted(self._unsaid(each)), aim) for each in columns]
        return np.repeat(cuts, len(self.names) // len(cuts))

    def _unsaid(self, columns):
        true = self.weight @ self.target[:, columns]
        return Counts(np.zeros(len(columns)), np.zeros(len(columns)), true, np.full(len(columns), self.weight.sum()))

    def _changes(self, columns, aim):
        value, weight = self.logits[:, columns].reshape(-1), np.repeat(self.weight, len(columns))
        part = np.tile(np.arange(len(columns)) * (not aim.pooled), len(self.logits))
        return Changes(value, part, weight * self.target[:, columns].reshape(-1), weight)

    def _of_classes(self, aim):
        """Coordinate ascent from two starts: the better of the optima that no single threshold improves."""
        shares = self.weight @ self.target / self.weight.sum()
        logs = np.log(shares, where=shares > 0, out=np.zeros(len(shares)))  # a fold may lack a class
        found = [self._ascended(start, aim) for start in (np.zeros(len(shares)), logs)]
        return max(found, key=lambda thresholds: aim.value(self.counts(self.said(thresholds))))

    def _ascended(self, thresholds, aim):
        best, since = aim.value(self.counts(self.said(thresholds))), 0
        while since < len(thresholds):
            for k in range(len(thresholds)):
                trial = thresholds.copy()
                trial[k] = self._of_class(k, thresholds, aim)
                value = aim.value(self.counts(self.said(trial)))
                better = value > best
                thresholds, best, since = (trial, value, 0) if better else (thresholds, best, since + 1)
                if since == len(thresholds):
                    break
        return thresholds - thresholds.mean()

    def _of_class(self, k, thresholds, aim):
        """The best threshold of one class among the present ones of the others.

        The class is said where ``z_k - t_k`` exceeds the largest of the others, ``z_j - t_j``: passing that difference
        adds a row to class k and takes it from class j.
        """
        others = self.logits - thresholds
        others[:, k] = -np.inf
        other = others.argmax(axis=1)
        value = self.logits[:, k] - others[np.arange(len(others)), other]
        true = np.take_along_axis(self.target, other[:, None], axis=1)[:, 0]
        changes = Changes(
            np.tile(value, 2),
            np.concatenate([np.full(len(value), k), other]),
            np.concatenate([self.weight * self.target[:, k], -self.weight * true]),
            np.concatenate([self.weight, -self.weight]),
        )
        cut = best_cut(changes, self.counts(other[:, None] == np.arange(len(thresholds))), aim)
        finite = value[np.isfinite(value)]
        if not np.isfinite(cut) and len(finite):  # all or none: just past the last row
            cut = finite.max() + 1 if cut > 0 else finite.min() - 1
        return cut if np.isfinite(cut) else thresholds[k]
