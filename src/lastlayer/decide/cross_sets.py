"""Sets from cross-validation: every labelled row serves the fit and the promise (CV+)."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lastlayer._array import as_array, floating, namespace
from lastlayer._check import DataError, one_of, shape
from lastlayer.decide._conformal_quantile import fewest_rows, order, too_few
from lastlayer.decide._sorted_rows import ranked, ranks
from lastlayer.decide._uniform import NEW_ROWS, check_seed, row_numbers, uniform
from lastlayer.decide.bound import fraction
from lastlayer.decide.conformal import Score, Sets, as_score, calibration_rows, one_per_row, row_blocks, target_scores
from lastlayer.outputs import Outputs, wanted


@dataclass(frozen=True)
class CrossSets(Sets, name="cross"):
    """``sets(logits)`` with the logits of every fold's model, ``(*batch, folds, classes)``: bool ``(*batch, classes)``.

    ``scores`` are those of the true classes, per fold from the smallest up; ``rows`` counts also those no set can hold.
    """

    score: Score
    alpha: float
    scores: tuple[tuple[float, ...], ...]
    rows: int
    classes: tuple[str, ...]
    task: str
    seed: int

    def __post_init__(self):
        object.__setattr__(self, "score", as_score(self.score))
        fraction("CrossSets", "alpha", self.alpha)
        folds = tuple(tuple(map(float, fold)) for fold in self.scores)
        if (
            not isinstance(self.rows, int)
            or any(math.isnan(s) for fold in folds for s in fold)
            or sum(map(len, folds)) > self.rows
        ):
            raise ValueError("CrossSets: scores are numbers, at most one for each of the rows.")
        object.__setattr__(self, "scores", tuple(tuple(sorted(fold)) for fold in folds))
        object.__setattr__(self, "classes", tuple(map(str, self.classes)))
        one_of("CrossSets", "task", self.task, ("multiclass", "binary"))
        check_seed("CrossSets", self.seed)

    @classmethod
    def fit(cls, score, outputs: Outputs, fold, alpha=0.1, *, seed=0) -> "CrossSets":
        """Sets of ``score`` from out-of-fold logits: each row's, from the model that did not see its fold.

            y in the set  <=>  #{i : score_i < score of y by the model without the fold of i} < k,
            k = ceil((n + 1)(1 - alpha))

        Romano, Sesia & Candès 2020. ``fold`` is 0 .. K-1, one per row. What is promised for exchangeable rows is
        ``1 - 2 alpha`` less a term that vanishes with n and K (Barber et al. 2021); what comes is about ``1 - alpha``.

        >>> from lastlayer.decide.conformal_scores import LAC
        >>> z, y = np.eye(3)[np.arange(60) % 3] * 3, np.arange(60) % 3
        >>> sets = CrossSets.fit(LAC(), Outputs(z, "logits", target=y), fold=np.arange(60) % 5)
        >>> sets(np.tile([[3.0, 0.0, 0.0]], (5, 1)))
        array([ True, False, False])
        """
        score = as_score(score)
        fraction("CrossSets.fit", "alpha", alpha)
        check_seed("CrossSets.fit", seed)
        fold = one_per_row("CrossSets.fit", "fold", fold, (len(wanted("CrossSets.fit", outputs)),))
        rows = calibration_rows("CrossSets.fit", outputs)
        fold = fold if outputs.weight is None else fold[outputs.weight > 0]
        if len(rows) < fewest_rows(alpha):
            raise too_few(len(rows), alpha, outputs.source)
        if fold.dtype.kind not in "iu" or set(np.unique(fold).tolist()) != set(range(int(fold.max()) + 1)):
            raise DataError(
                "folds are numbered 0, 1, ... without a gap, as the models that did not see them.",
                file=outputs.source,
                field="fold",
                fix="give the index of each row's fold: np.unique(fold, return_inverse=True)[1].",
            )
        scores = target_scores(score, rows, seed)
        by_fold = (scores[(fold == k) & ~np.isnan(scores)] for k in range(int(fold.max()) + 1))
        found = tuple(tuple(np.sort(s).tolist()) for s in by_fold)
        return cls(score, float(alpha), found, len(rows), tuple(rows.classes), rows.task, int(seed))

    def __str__(self):
        return f"{self.score.name} at alpha {self.alpha:g}: {len(self.scores)} folds, {self.rows:,} rows"

    def __call__(self, logits, *, rows=None) -> Any:
        """The classes of each row that conform in enough folds; edges, draws and ``rows`` as in `ConformalSets`."""
        x = floating(as_array(logits))
        xp = namespace(x)
        x = xp.stack([xp.zeros_like(x), x], axis=-1) if self.task == "binary" else x
        folds = (len(self.scores), len(self.classes))
        if tuple(x.shape[-2:]) != folds:
            raise ValueError(
                f"sets: logits are (*batch, folds, classes), here (*batch, {folds[0]}, {folds[1]}); these "
                f"are {shape(x)}."
            )
        batch = x.shape[:-2]
        flat = xp.reshape(x, (-1, *folds))
        if rows is not None:
            rows = row_numbers(one_per_row("sets", "rows", rows, batch))
        if xp is not np:
            return xp.reshape(self._members(flat, rows, 0, xp), (*batch, folds[1]))
        members = np.empty((len(flat), folds[1]), bool)
        for block in row_blocks(flat[:, 0]):
            members[block] = self._members(flat[block], None if rows is None else rows[block], block.start, np)
        return members.reshape((*batch, folds[1]))

    def _members(self, x, rows, start, xp):
        total, possible = 0, True
        with np.errstate(all="ignore"):
            for k, known in enumerate(self.scores):
                by_rank = ranked(x[:, k, :], xp)
                share = uniform(self.seed, NEW_ROWS, rows, start, by_rank.top, xp, draw=self.score.randomized)
                by_class = xp.moveaxis(self.score.at(by_rank, share), 0, -1)
                scores = xp.take_along_axis(by_class, ranks(x[:, k, :], xp), axis=-1)
                known = xp.astype(as_array(np.array(known), like=scores), scores.dtype)
                below = xp.searchsorted(known, xp.reshape(scores, (-1,)), side="left")
                total = total + xp.reshape(below, scores.shape)
                possible = possible & (scores == scores)
        return possible & (total < order(self.rows, self.alpha))
