"""Thresholds of confidence tested one after the other, so that the risk of the one that is chosen is known."""

import math
from bisect import bisect_left
from typing import Any, NamedTuple

import numpy as np

from lastlayer.decide.bound import clopper_pearson
from lastlayer.decide.choice import choose
from lastlayer.state import cell_edges

# The sequence starts where the next less confident rows, half as many again, are wrong at most 0.8 times as often as
# is allowed. Simulations of 400 to 2,000 runs, 1,000 to 20,000 rows, risks of 0.005 to 0.05, accurate and poor models:
# as many again, or 0.75 times, with factors of 0.4 to 3, realised up to 0.06 of the risk less in one or several.
_AGAIN = 0.5
_CALM = 0.8


class Steps(NamedTuple):
    """The thresholds from the most cautious down, with how many held-out rows each accepts and how many are wrong.

    They are the borders of the fixed asinh grid of log-odds (`state.Grid`), and -inf: chosen before the data, so at a
    given threshold the errors among the accepted rows are binomial, ties or not. Were they taken from the data, for
    instance at the confidence of a wrong row, they would not be.
    """

    log_odds: np.ndarray
    accepted: np.ndarray
    errors: np.ndarray

    @classmethod
    def of(cls, outputs):
        """Of labelled rows that count alike."""
        index, log_odds = choose(outputs)
        return cls.counted(log_odds, index != outputs.target)

    @classmethod
    def counted(cls, log_odds, wrong):
        """Of rows with these log-odds (nan: never accepted) that are right or wrong."""
        usable = ~np.isnan(log_odds)
        thresholds = np.concatenate([[-np.inf], cell_edges()])
        cell = np.searchsorted(thresholds, log_odds[usable], side="right") - 1
        accepted, errors = (
            np.bincount(c, minlength=len(thresholds))[::-1].cumsum() for c in (cell, cell[wrong[usable]])
        )
        return cls(thresholds[::-1], accepted, errors)

    @property
    def usable(self):
        """Held-out rows that have a class, all of which the last threshold accepts."""
        return int(self.accepted[-1])

    def reached(self, risk, confidence, draw=1.0):
        """The last threshold that passes before the first that fails; None if the first one fails.

        Why the one that is taken keeps the risk: let t be the first threshold that is too low. A lower one is taken
        only if the sequence starts at t or above and t passes, or starts below t and its start passes. Read the rows
        from the least confident up. The start is known by the rows below it, and by how many lie just above; so when
        the first of t and the start is met, nothing is known of which rows above it are wrong. Of those, at least the
        share ``risk`` is expected to be: the errors pass the test with probability ``1 - confidence`` at most.

        This takes for granted that below t rows are not right more often again, up to the start; it is needed only
        where the start itself is too low. Then a start between two crossings of the risk could be taken or left by what
        the rows below say, and each crossing has its own ``1 - confidence`` in the worst case.
        """
        if self.usable < fewest_rows(risk, confidence):
            return None
        start = self._start(risk, confidence)
        passes = self._p_values(risk, draw)[start:] <= 1 - confidence
        if not passes[0]:
            return None
        return len(self.accepted) - 1 if passes.all() else start + int(passes.argmin()) - 1

    def _p_values(self, risk, draw):
        # Most borders lie where no row does: a test is worked out once for each number of accepted rows.
        _, first, again = np.unique(self.accepted, return_index=True, return_inverse=True)
        return p_value(self.errors[first], self.accepted[first], risk, draw)[again]

    def _start(self, risk, confidence):
        """The lowest threshold above rows that are wrong so rarely that those it accepts should pass.

        The sequence ends at the first failure, so a start among few accepted rows is soon over; one that is too low
        fails at once. From the start it goes up to the fewest rows that allow as many errors, which pass most easily.
        """
        count = self.accepted
        next_rows = np.searchsorted(count, np.ceil(count * (1 + _AGAIN)))
        below = np.minimum(next_rows, len(count) - 1)
        calm = self.errors[below] - self.errors <= _CALM * risk * (count[below] - count)
        found = np.flatnonzero(calm & (next_rows < len(count)))
        rows = int(count[found[-1]]) if len(found) else 0
        return int(np.searchsorted(count, _fewest_alike(rows, risk, confidence)))


def p_value(errors, accepted, risk, draw: Any = 1.0) -> Any:
    """Of the hypothesis that rows are wrong with a probability above ``risk``, from errors among accepted ones.

        P(Binomial(accepted, risk) < errors) + draw P(Binomial(accepted, risk) = errors)

    ``draw`` 1 is the exact test, whose level jumps from one count to the next; a number drawn uniformly from (0, 1) for
    all thresholds together makes it uniform under ``risk`` itself.
    """
    from scipy.special import bdtr

    fewer = np.where(errors > 0, bdtr(np.maximum(errors - 1, 0), accepted, risk), 0.0)
    return fewer + draw * (bdtr(errors, accepted, risk) - fewer)


def highest_risk(errors, accepted, confidence, draw=1.0) -> float:
    """The risk at which `p_value` is ``1 - confidence``: Clopper-Pearson's bound, or with a draw that of Stevens 1950.

    >>> round(highest_risk(0, 149, 0.95), 5), round(highest_risk(0, 149, 0.95, draw=0.5), 5)  # 1 - 0.1^(1/149)
    (0.0199, 0.01533)
    """
    high = float(clopper_pearson(errors, accepted, confidence).high)
    low = float(clopper_pearson(errors - 1, accepted, confidence).high) if errors else 0.0

    def beyond(risk):
        return float(p_value(errors, accepted, risk, draw)) - (1 - confidence)

    if draw == 1 or beyond(high) >= 0:
        return high
    if beyond(low) <= 0:
        return low
    for _ in range(60):  # to the last bits of any risk above 1e-16
        middle = (low + high) / 2
        low, high = (middle, high) if beyond(middle) > 0 else (low, middle)
    return high


def fewest_rows(risk, confidence):
    """Accepted rows without an error that it takes to promise ``risk``."""
    return math.ceil(math.log(1 - confidence) / math.log1p(-risk))


def lowest(risk, works) -> str:
    """The lowest risk above this one that ``works``, in words, for the message that this one does not."""
    # In steps of about 5 %, rounded before they are tried: the target that the message names works.
    higher = (float(f"{risk * 1.05**step:.2g}") for step in range(1, 1 + int(math.log(1 / risk) / math.log(1.05))))
    return next((f"about {r:g}" for r in higher if r < 1 and works(r)), "none below 1")


def _fewest_alike(rows, risk, confidence):
    """The fewest accepted rows that may hold as many errors as ``rows`` may, or none where those may not be."""

    def fails(errors, accepted):
        return errors >= accepted or bool(p_value(errors, accepted, risk) > 1 - confidence)

    allowed = bisect_left(range(1, rows + 1), True, key=lambda errors: fails(errors, rows))
    fewest = fewest_rows(risk, confidence)
    return fewest + bisect_left(range(fewest, rows + 1), True, key=lambda accepted: not fails(allowed, accepted))
