"""Thresholds of confidence: given, or found on held-out rows with a bound that holds for the one that was chosen."""

import math
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np

from lastlayer._check import DataError
from lastlayer.decide._fixed_sequence import Steps, fewest_rows, highest_risk, lowest
from lastlayer.decide._uniform import check_seed
from lastlayer.decide.bound import clopper_pearson, counted, fraction
from lastlayer.decide.choice import choose
from lastlayer.decide.decisions import Decisions
from lastlayer.decide.policy import Policy
from lastlayer.measure.signs import row_hashes
from lastlayer.outputs import Outputs, wanted


@dataclass(frozen=True)
class Threshold(Policy, name="threshold"):
    """Accept the likeliest class where its log-odds reach ``log_odds``; ``-inf`` accepts every row that has a class.

    >>> Threshold(1.5)(Outputs([2.0, -1.0], "logits")).accept
    array([ True, False])
    """

    log_odds: float

    def __post_init__(self):
        if math.isnan(self.log_odds):
            raise ValueError(f"{type(self).__name__}: log_odds is a number, not nan.")

    def decide(self, outputs: Outputs) -> Decisions:
        choice = choose(outputs)
        return Decisions.of(outputs, self, choice.log_odds >= self.log_odds, choice)


@dataclass(frozen=True)
class Coverage(Threshold, name="coverage"):
    """A threshold that accepts at least the share ``coverage`` of rows like the held-out ones, with ``confidence``.

    ``accepted`` of the ``rows`` held-out rows reach it, and ``low`` is the share it is sure to accept. Where their true
    classes are known, ``errors`` of those are wrong, and ``high`` bounds their true risk with the same confidence.
    """

    coverage: float
    confidence: float
    rows: int
    accepted: int
    low: float
    errors: int | None = None
    high: float | None = None

    @classmethod
    def fit(cls, outputs: Outputs, coverage=0.95, confidence=0.95) -> "Coverage":
        """The highest threshold whose share of accepted rows is certain: no target is needed.

            log_odds = the a-th largest of n,  a = min {a : clopper_pearson(a, n).low >= coverage}

        The share of the population above the a-th largest of n has the distribution Beta(a, n - a + 1), of which
        ``clopper_pearson(a, n).low`` is a quantile: the bound is exact for the threshold chosen, and safe under ties.

        The risk of accepted rows is then what their errors say, ``clopper_pearson(errors, accepted).high``: given the
        a-th largest, those above it are rows like any others above it, and the choice looked at no error. It is safe as
        long as the rows exactly at the threshold are not right more often than those above it.

        >>> Coverage.fit(Outputs(np.linspace(0, 9.99, 1000), "logits"), coverage=0.9).log_odds.__round__(2)
        0.84
        """
        fraction("Coverage.fit", "coverage", coverage)
        fraction("Coverage.fit", "confidence", confidence)
        rows = counted(wanted("Coverage.fit", outputs))
        index, log_odds = choose(rows)
        usable = np.sort(log_odds[~np.isnan(log_odds)])[::-1]

        def sure(accepted):
            return float(clopper_pearson(accepted, len(log_odds), confidence).low)

        needed = 1 + bisect_left(range(1, len(usable) + 1), coverage, key=sure)
        if needed > len(usable):
            enough = math.ceil(math.log(1 - confidence) / math.log(coverage))
            raise DataError(
                f"no threshold is sure to accept {coverage:g} of the rows: {len(rows)} held-out rows, of which "
                f"{len(usable)} have a class, promise at most {sure(len(usable)):.4f} at confidence {confidence:g}.",
                file=outputs.source,
                fix=f"ask for less, or give more held-out rows (at least {enough}, all with a class).",
            )
        threshold = float(usable[needed - 1])
        accepted = int((usable >= threshold).sum())
        errors, high = None, None
        if rows.true_target is not None:
            errors = int(((log_odds >= threshold) & (index != rows.true_target)).sum())
            high = float(clopper_pearson(errors, accepted, confidence).high)
        return cls(threshold, coverage, confidence, len(rows), accepted, sure(needed), errors, high)


@dataclass(frozen=True)
class Risk(Threshold, name="risk"):
    """A threshold above which at most the share ``risk`` of rows like the held-out ones is wrong, with ``confidence``.

    On the ``rows`` held-out rows, ``errors`` of the ``accepted`` ones are wrong; ``high`` bounds their true risk.
    ``draw`` is 1, or the number that was drawn where `fit` was given a seed.
    """

    risk: float
    confidence: float
    rows: int
    accepted: int
    errors: int
    high: float
    draw: float = 1.0

    @classmethod
    def fit(cls, outputs: Outputs, risk=0.02, confidence=0.95, *, seed=None) -> "Risk":
        """The lowest threshold that fixed-sequence testing reaches.

            P(error rate of accepted rows > risk) <= 1 - confidence

        Thresholds are tested down from a start, each at the full level, by the exact binomial test; the first failure
        ends the sequence and the threshold before it is taken. One that is too low is taken only if the first such
        passes its test, so testing many costs nothing (Angelopoulos et al. 2021, Learn then Test, fixed-sequence
        testing). The start is the lowest threshold below which rows are still wrong rarely; it is found from the less
        confident rows up, so that nothing it knows bears on the rows it accepts. The promise holds for any scores,
        ties or not, as long as rows below a threshold that is too low are not right more often again.

        Few errors make it cautious, since they are whole: at a risk of 0.02 the true risk was 0.66 of that on average
        with 2,000 held-out rows, and 0.49 with 1,000, where 600 accepted rows may hold only 6 errors. One such test,
        made where it does best, would have realised 0.52. A ``seed`` spends the rest of the level: a number drawn from
        it and the held-out scores decides between two counts of errors, which makes the test exact (0.53 with 1,000
        rows). ``high`` is then Stevens' bound, which cannot be read from the counts alone.

        >>> z, target = np.repeat([5.0, 0.5], [900, 100]), np.repeat([1, 0, 1, 0], [895, 5, 60, 40])
        >>> policy = Risk.fit(Outputs(z, "logits", target=target), risk=0.02)
        >>> policy.accepted, policy.errors, round(policy.high, 4)
        (900, 5, 0.0116)
        """
        fraction("Risk.fit", "risk", risk)
        fraction("Risk.fit", "confidence", confidence)
        labelled = wanted("Risk.fit", outputs).labelled
        rows = counted(labelled).hard("a risk counts rows that are right or wrong")
        draw = 1.0 if seed is None else _drawn(rows, seed)
        steps = Steps.of(rows)
        last = steps.reached(risk, confidence, draw)
        if last is None:
            raise _beyond(steps, risk, confidence, draw, outputs.source)
        accepted, errors = int(steps.accepted[last]), int(steps.errors[last])
        high = highest_risk(errors, accepted, confidence, draw)
        return cls(float(steps.log_odds[last]), risk, confidence, len(rows), accepted, errors, high, draw)


def _drawn(rows, seed):
    """A number from (0, 1) that follows from the seed and the scores of all rows, in whatever order."""
    check_seed("Risk.fit", seed)
    hashes = row_hashes(rows.scores.reshape(len(rows), -1))
    word = np.random.SeedSequence([seed, int(hashes.sum())]).generate_state(1, np.uint64)[0]
    return (int(word >> np.uint64(11)) + 0.5) / 2**53


def _beyond(steps, risk, confidence, draw, source):
    fewest = fewest_rows(risk, confidence)
    if steps.usable < fewest:
        return DataError(
            f"{steps.usable} held-out rows cannot promise a risk of {risk:g} at confidence {confidence:g}: even "
            f"without an error it takes {fewest}.",
            file=source,
            fix="give more labelled held-out rows, or ask for a higher risk or a lower confidence.",
        )
    works = lowest(risk, lambda r: steps.reached(r, confidence, draw) is not None)
    return DataError(
        f"no threshold promises a risk of at most {risk:g} at confidence {confidence:g} on these {steps.usable} "
        f"held-out rows; the lowest risk they can promise is {works}.",
        file=source,
        fix="ask for a higher risk, give more held-out rows, or calibrate first (`lastlayer fit`).",
    )
