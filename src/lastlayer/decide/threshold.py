"""Thresholds of confidence: given, or found on held-out rows with a bound that holds for the one that was chosen."""

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lastlayer._check import DataError
from lastlayer.decide.bound import clopper_pearson, fraction
from lastlayer.decide.choice import choose
from lastlayer.decide.decisions import Decisions
from lastlayer.decide.policy import Policy
from lastlayer.outputs import Outputs, wanted
from lastlayer.state import cell_edges

# The share of held-out rows that the first tested threshold accepts. Where it is small, one wrong row may end the
# sequence; where it is large, thresholds that accept few rows are out of reach. Five simulations of 400 runs (1,000 to
# 5,000 rows, risks of 0.005 to 0.05): 0.2 found a threshold as often as 0.1 or more often, and accepted as many rows or
# more, in each; 0.4 found none in over 40 % of the runs of two. Testing only every 8th or 32nd border accepted fewer.
_FIRST_SHARE = 0.2


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

    ``accepted`` of the ``rows`` held-out rows reach it, and ``low`` is the share it is sure to accept.
    """

    coverage: float
    confidence: float
    rows: int
    accepted: int
    low: float

    @classmethod
    def fit(cls, outputs: Outputs, coverage=0.95, confidence=0.95) -> "Coverage":
        """The highest threshold whose share of accepted rows is certain: no target is needed.

            log_odds = the a-th largest of n,  a = min {a : clopper_pearson(a, n).low >= coverage}

        The share of the population above the a-th largest of n has the distribution Beta(a, n - a + 1), of which
        ``clopper_pearson(a, n).low`` is a quantile: the bound is exact for the threshold chosen, and safe under ties.

        >>> Coverage.fit(Outputs(np.linspace(0, 9.99, 1000), "logits"), coverage=0.9).log_odds.__round__(2)
        0.84
        """
        fraction("Coverage.fit", "coverage", coverage)
        fraction("Coverage.fit", "confidence", confidence)
        log_odds = choose(_counted(wanted("Coverage.fit", outputs))).log_odds
        usable = np.sort(log_odds[~np.isnan(log_odds)])[::-1]

        def sure(accepted):
            return float(clopper_pearson(accepted, len(log_odds), confidence).low)

        needed = 1 + bisect_left(range(1, len(usable) + 1), coverage, key=sure)
        if needed > len(usable):
            enough = math.ceil(math.log(1 - confidence) / math.log(coverage))
            raise DataError(
                f"no threshold is sure to accept {coverage:g} of the rows: {len(log_odds)} held-out rows, of which "
                f"{len(usable)} have a class, promise at most {sure(len(usable)):.4f} at confidence {confidence:g}.",
                file=outputs.source,
                fix=f"ask for less, or give more held-out rows (at least {enough}, all with a class).",
            )
        threshold = float(usable[needed - 1])
        accepted = int((usable >= threshold).sum())
        return cls(threshold, coverage, confidence, len(log_odds), accepted, sure(needed))


@dataclass(frozen=True)
class Risk(Threshold, name="risk"):
    """A threshold above which at most the share ``risk`` of rows like the held-out ones is wrong, with ``confidence``.

    On the ``rows`` held-out rows, ``errors`` of the ``accepted`` ones are wrong; ``high`` bounds their true risk.
    """

    risk: float
    confidence: float
    rows: int
    accepted: int
    errors: int
    high: float

    @classmethod
    def fit(cls, outputs: Outputs, risk=0.02, confidence=0.95) -> "Risk":
        """The lowest threshold that fixed-sequence testing reaches.

            P(error rate of accepted rows > risk) <= 1 - confidence

        Thresholds are tested from the most cautious down, each at the full level, by ``clopper_pearson(errors,
        accepted).high <= risk``; the first failure ends the sequence and the threshold before it is taken. One that is
        too low is taken only if the first such passes its test, so testing many costs nothing (Angelopoulos et al.
        2021, Learn then Test, fixed-sequence testing).

        Few rows make it cautious: at a risk of 0.02 the true risk was 0.66 of that on average with 2,000 held-out rows,
        and 0.44 with 1,000, where even 600 accepted rows may hold only 6 errors (1,000 simulations of each).

        >>> z, target = np.repeat([5.0, 0.5], [900, 100]), np.repeat([1, 0, 1, 0], [895, 5, 60, 40])
        >>> policy = Risk.fit(Outputs(z, "logits", target=target), risk=0.02)
        >>> policy.accepted, policy.errors, round(policy.high, 4)
        (900, 5, 0.0116)
        """
        fraction("Risk.fit", "risk", risk)
        fraction("Risk.fit", "confidence", confidence)
        labelled = wanted("Risk.fit", outputs).labelled
        counted = _counted(labelled).hard("a risk counts rows that are right or wrong")
        steps = _Steps.of(counted, confidence)
        last = steps.reached(risk, confidence)
        if last is None:
            raise _beyond(steps, risk, confidence, outputs.source)
        evidence = (int(steps.accepted[last]), int(steps.errors[last]), float(steps.high[last]))
        return cls(float(steps.log_odds[last]), risk, confidence, len(counted), *evidence)


class _Steps(NamedTuple):
    """The thresholds in the order they are tested, with what the held-out rows say of each.

    They are the borders of the fixed asinh grid of log-odds (`state.Grid`), and -inf: chosen before the data, so at a
    given threshold the errors among the accepted rows are binomial, ties or not. Were they taken from the data, for
    instance at the confidence of a wrong row, they would not be.
    """

    log_odds: np.ndarray
    accepted: np.ndarray
    errors: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, outputs, confidence):
        index, log_odds = choose(outputs)
        usable = ~np.isnan(log_odds)
        thresholds = np.concatenate([[-np.inf], cell_edges()])
        cell = np.searchsorted(thresholds, log_odds[usable], side="right") - 1
        wrong = (index != outputs.target)[usable]
        accepted, errors = (np.bincount(c, minlength=len(thresholds))[::-1].cumsum() for c in (cell, cell[wrong]))
        # Most borders lie where no row does: a bound is worked out once for each number of accepted rows.
        _, first, again = np.unique(accepted, return_index=True, return_inverse=True)
        high = clopper_pearson(errors[first], accepted[first], confidence).high[again]
        return cls(thresholds[::-1], accepted, errors, high)

    @property
    def usable(self):
        """Held-out rows that have a class, all of which the last threshold accepts."""
        return int(self.accepted[-1])

    def reached(self, risk, confidence):
        """The last threshold that passes before the first that fails; None if the first one fails.

        The sequence starts at the first threshold that accepts `_first_count` rows. Where that lies depends on the
        confidences of the held-out rows, never on their errors, and is harmless as long as less confident rows are not
        right more often: if the start lies below the first threshold that is too low, the rows between the two are
        wrong more often than ``risk`` as well, so the start passes no more easily than that threshold would.
        """
        tested = np.flatnonzero(self.accepted >= _first_count(self.usable, risk, confidence))
        passes = self.high[tested] <= risk
        if not passes[:1].any():
            return None
        return tested[-1] if passes.all() else tested[passes.argmin() - 1]


def _first_count(rows, risk, confidence):
    """Rows that the first tested threshold accepts at least; the number of held-out rows alone fixes it.

    It is the smallest count that allows as many errors as `_FIRST_SHARE` of the rows would, or else none.
    """

    def passes(errors, accepted):
        return clopper_pearson(errors, accepted, confidence).high <= risk

    fewest = math.ceil(math.log(1 - confidence) / math.log1p(-risk))
    share = max(fewest, int(rows * _FIRST_SHARE))
    allowed = bisect_left(range(1, share + 1), True, key=lambda errors: not passes(errors, share))
    return fewest + bisect_left(range(fewest, share + 1), True, key=lambda accepted: passes(allowed, accepted))


def _beyond(steps, risk, confidence, source):
    fewest = _first_count(0, risk, confidence)
    if steps.usable < fewest:
        return DataError(
            f"{steps.usable} held-out rows cannot promise a risk of {risk:g} at confidence {confidence:g}: even "
            f"without an error it takes {fewest}.",
            file=source,
            fix="give more labelled held-out rows, or ask for a higher risk or a lower confidence.",
        )
    # In steps of about 5 %, rounded before they are tried: the target that the message names works.
    higher = (float(f"{risk * 1.05**step:.2g}") for step in range(1, 1 + int(math.log(1 / risk) / math.log(1.05))))
    works = next((f"about {r:g}" for r in higher if r < 1 and steps.reached(r, confidence) is not None), "none below 1")
    return DataError(
        f"no threshold promises a risk of at most {risk:g} at confidence {confidence:g} on these {steps.usable} "
        f"held-out rows; the lowest risk they can promise is {works}.",
        file=source,
        fix="ask for a higher risk, give more held-out rows, or calibrate first (`lastlayer fit`).",
    )


def _counted(outputs):
    """The rows that count. A bound over rows that weigh differently would need another law than the binomial."""
    if outputs.weight is None:
        return outputs
    counted = outputs.rows(outputs.weight > 0)
    uneven = np.flatnonzero((outputs.weight > 0) & (outputs.weight != counted.weight[0]))
    if len(uneven):
        raise DataError(
            "held-out rows weigh differently; a bound on counted rows needs equal weights (0 leaves a row out).",
            file=outputs.source,
            field="weight",
            rows=uneven,
            fix="draw held-out rows as they will come, and leave the weight out.",
        )
    return counted
