"""Selective prediction: how wrong the rows are that a model is surest of, and how that grows as more are accepted."""

from typing import NamedTuple

import numpy as np

from lastlayer._check import shape
from lastlayer._typing import Array, Float, Int
from lastlayer.measure._entries import count_of, entries_of, one_decision_a_row
from lastlayer.measure.curves import harmonic, levels_of, roc_auc_of
from lastlayer.measure.metric import Z95, Metric, normal, score_interval, wilson
from lastlayer.measure.read import effective_rows
from lastlayer.state import WeightedSum


class RiskCoverage(NamedTuple):
    """A point for each distinct confidence, from the surest rows to all of them; arrays of one length."""

    coverage: np.ndarray  # share of the rows accepted
    risk: np.ndarray  # share of errors among them
    low: np.ndarray  # Wilson's interval of the risk, point by point
    high: np.ndarray
    threshold: np.ndarray  # accept where the confidence is at least this


def risk_coverage(
    logits: Float[Array, "n ..."], target: Int[Array, " n"], *, confidence=None, weight=None
) -> RiskCoverage:
    """The risk-coverage curve: the error rate among the surest rows, for every share of rows.

        risk(t) = errors with confidence >= t / rows with confidence >= t

    El-Yaniv and Wiener 2010. Confidence is the log-odds of the predicted class, which tells rows apart whose
    probability rounds to 1; or any number per row, larger for surer, as ``confidence=``.

    >>> curve = risk_coverage([3.0, 3.0, 1.0, -1.0], [1, 1, 0, 0])
    >>> curve.coverage.tolist(), curve.risk.tolist()
    ([0.5, 1.0], [0.0, 0.25])
    """
    ranking = _Ranking.of("risk_coverage", logits, target, confidence, weight)
    accepted, errors = np.cumsum(ranking.rows), np.cumsum(ranking.errors)
    risk = errors / accepted
    middle, half = score_interval(risk, accepted, Z95)
    return RiskCoverage(
        accepted / accepted[-1],
        risk,
        np.clip(middle - half, 0.0, risk),
        np.clip(middle + half, risk, 1.0),
        ranking.confidence,
    )


def risk_at_coverage(
    logits: Float[Array, "n ..."], target: Int[Array, " n"], *, coverage, confidence=None, weight=None
) -> Metric:
    """Error rate of the surest share ``coverage`` of the rows, with Wilson's interval.

        risk = errors among the first coverage * n / (coverage * n)

    The last level counts by the part of it that is accepted: the expectation over the order of tied rows. ``n`` is the
    rows accepted. The interval is for a coverage chosen beforehand; a threshold with a guarantee is `decide.Risk`.
    ``confidence`` as in `risk_coverage`.

    >>> float(risk_at_coverage([3.0, 2.0, 1.0, -1.0], [1, 1, 0, 0], coverage=0.75))
    0.16666666666666666
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"risk_at_coverage: coverage is a share above 0 and at most 1, not {coverage!r}.")
    ranking = _Ranking.of("risk_at_coverage", logits, target, confidence, weight)
    accepted, errors = np.cumsum(ranking.rows), np.cumsum(ranking.errors)
    wanted = coverage * accepted[-1]
    risk = np.interp(wanted, np.append(0.0, accepted), np.append(0.0, errors)) / wanted
    return wilson(float(risk), float(wanted), round(float(wanted)))


def aurc(logits: Float[Array, "n ..."], target: Int[Array, " n"], *, confidence=None, weight=None) -> Metric:
    """Area under the risk-coverage curve: the mean, over the rows, of the risk when each is the last accepted.

        aurc = 1/n sum_k (errors among the k surest) / k

    Geifman, Uziel and El-Yaniv 2019. Tied rows count by the expectation over their order. ``confidence`` as in
    `risk_coverage`. The interval is normal, by the influence of each row on the curve. Weights that differ fill in
    between whole rows, by digamma for the harmonic numbers.

    >>> round(float(aurc([3.0, 2.0, 1.0], [1, 0, 1])), 4)  # (0 + 1/2 + 1/3) / 3
    0.2778
    """
    ranking = _Ranking.of("aurc", logits, target, confidence, weight)
    return normal(_area(ranking.rows, ranking.errors), ranking.error(_risk_influence), ranking.n, 0.0, 1.0)


def excess_aurc(logits: Float[Array, "n ..."], target: Int[Array, " n"], *, confidence=None, weight=None) -> Metric:
    """`aurc` above that of a ranking that puts every error last: what the ranking costs, given the accuracy.

        excess_aurc = aurc - aurc of the errors last

    Geifman, Uziel and El-Yaniv 2019; exact, where they approximate. ``confidence`` as in `risk_coverage`.

    >>> round(float(excess_aurc([3.0, 2.0, 1.0], [1, 0, 1])), 4)
    0.1667
    """
    ranking = _Ranking.of("excess_aurc", logits, target, confidence, weight)
    wrong = ranking.errors.sum()
    right = ranking.rows.sum() - wrong
    best = _area(np.array([right, wrong]), np.array([0.0, wrong]))

    def influence(rows, errors, level, wrong_rows):
        # The best area is r + (1 - r) log(1 - r) for the error rate r, of which -log(1 - r) is the slope.
        rate = errors.sum() / rows.sum()
        slope = -np.log1p(-rate) if rate < 1 else 0.0
        return _risk_influence(rows, errors, level, wrong_rows) - slope * wrong_rows

    value = max(_area(ranking.rows, ranking.errors) - best, 0.0)
    return normal(value, ranking.error(influence), ranking.n, 0.0, 1.0)


def augrc(logits: Float[Array, "n ..."], target: Int[Array, " n"], *, confidence=None, weight=None) -> Metric:
    """Area under the generalised risk-coverage curve: the chance that a row is accepted and wrong, over all thresholds.

        augrc = integral of (errors among the accepted / n) over the coverage
              = (1 - auroc) accuracy (1 - accuracy) + (1 - accuracy)^2 / 2

    Traub et al. 2024, where auroc is `failure_auroc`; it weighs all errors alike, where `aurc` weighs
    those of the surest rows most. Ties count one half. ``confidence`` as in `risk_coverage`.

    >>> round(float(augrc([3.0, 2.0, 1.0], [1, 0, 1])), 4)
    0.1667
    """
    ranking = _Ranking.of("augrc", logits, target, confidence, weight)
    total = ranking.rows.sum()
    height = (np.cumsum(ranking.errors) - ranking.errors / 2) / total
    area = float((ranking.rows * height).sum() / total)
    return normal(area, ranking.error(_generalised_influence), ranking.n, 0.0, 1.0)


def failure_auroc(logits: Float[Array, "n ..."], target: Int[Array, " n"], *, confidence=None, weight=None) -> Metric:
    """How well confidence tells right rows from wrong ones: the area under that ROC curve, with DeLong's interval.

        failure_auroc = P(a right row is surer than a wrong one) + P(tie) / 2

    Hendrycks and Gimpel 2017. ``confidence`` as in `risk_coverage`; nan where all rows are right, or all wrong.

    >>> float(failure_auroc([3.0, 2.0, 1.0], [1, 0, 1]))
    0.5
    """
    ranking = _Ranking.of("failure_auroc", logits, target, confidence, weight)
    if not len(ranking.rows) or np.isnan(ranking.confidence).any():
        return Metric(np.nan, 0.0, 1.0, ranking.n)
    right, wrong = (ranking.rows - ranking.errors)[::-1], ranking.errors[::-1]
    effective = [float(e[0]) for e in effective_rows(WeightedSum.of(1.0 - ranking.wrong[:, None], ranking.weight))]
    return roc_auc_of(right, wrong, ranking.n, tuple(effective))


class _Ranking(NamedTuple):
    """Rows and errors at each distinct confidence, the surest first, in units of effective rows."""

    confidence: np.ndarray
    rows: np.ndarray
    errors: np.ndarray
    level: np.ndarray  # of each row that counts
    wrong: np.ndarray
    weight: np.ndarray
    n: int

    @classmethod
    def of(cls, function, logits, target, confidence, weight):
        rows = one_decision_a_row(function, logits, target, weight)
        n, per_weight = count_of(rows)
        entries = entries_of(rows, "top")
        if confidence is not None:
            confidence = np.asarray(confidence, dtype=np.float64)
            if confidence.shape != (len(rows),):
                raise ValueError(
                    f"{function}: one confidence per row. There are {len(rows)}, confidence is {shape(confidence)}."
                )
            undecided = np.isnan(entries.odds[:, 0])
            entries = entries._replace(odds=np.where(undecided, np.nan, confidence)[:, None])
        entries = entries.counted()
        sure, wrong, w = -entries.odds[:, 0], 1 - entries.hits[:, 0], entries.weight * per_weight
        distinct, level = np.unique(sure, return_inverse=True)
        errors, right = levels_of(sure, wrong, w)
        rows = errors + right
        if not entries.known:
            errors = np.full(len(rows), np.nan)
        return cls(-distinct, rows, errors, level, wrong, w, n)

    def error(self, influence):
        """Standard error of an area whose ``influence`` of each row is known."""
        with np.errstate(all="ignore"):
            each = influence(self.rows, self.errors, self.level, self.wrong)
            return float(WeightedSum.of(each, self.weight).value().error)


def _area(rows, errors):
    """The mean risk, each level's errors spread evenly over its rows.

    sum_(j = 1..t) (S + j E / t) / (A + j) = S h + (E / t)(t - A h),    h = sum_(j = 1..t) 1 / (A + j)
    """
    rows, errors = rows[rows != 0], errors[rows != 0]
    after, wrong = np.cumsum(rows), np.cumsum(errors)
    before, wrong = after - rows, wrong - errors
    h = harmonic(after, before)
    return float((wrong * h + errors / rows * (rows - before * h)).sum() / after[-1])


def _risk_influence(rows, errors, level, wrong):
    """Each row moves the risk at its own coverage, and, if it is accepted there, at every later one."""
    accepted, risk = np.cumsum(rows), np.cumsum(errors) / np.cumsum(rows)
    at = rows / accepted
    later, drawn = (np.cumsum((at * a)[::-1])[::-1] for a in (np.ones_like(risk), risk))
    return risk[level] + wrong * later[level] - drawn[level]


def _generalised_influence(rows, errors, level, wrong):
    total = rows.sum()
    height = (np.cumsum(errors) - errors / 2) / total
    later = (total - np.cumsum(rows) + rows / 2) / total
    return height[level] + wrong * later[level]
