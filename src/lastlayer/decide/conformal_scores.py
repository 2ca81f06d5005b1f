"""How badly a class conforms to its row: the scores that conformal sets are cut from, on logits and exact in the tails.

Each is a rising function of the score its paper defines, chosen so that no digit is lost where a probability rounds to
1 or 0: the sets are those of the paper. Below, ``p_(0) >= p_(1) >= ...`` are the probabilities by rank from 0 and ``u``
is the number drawn for the row. With ``randomized=False`` it is 0, so a score counts what stands before the class: the
class that crosses the threshold is in the set, which is never empty and covers at least what is promised.

The sets of an easy row and of a hard one, with thresholds from the same 50 rows:

    >>> from lastlayer import Outputs
    >>> from lastlayer.decide import ConformalSets
    >>> held_out = Outputs(np.tile([0.6, 0.3, 0.1], (50, 1)), "probs", target=np.repeat([0, 1, 2], [30, 15, 5]))
    >>> new = np.log([[0.8, 0.15, 0.05], [0.4, 0.35, 0.25]])
    >>> fixed = [score(randomized=False) for score in (APS, RAPS, SAPS)]
    >>> for score in (LAC(), *fixed, TopK(), Margin()):
    ...     print(score.name, *ConformalSets.fit(score, held_out, alpha=0.2)(new).sum(axis=1))
    lac 1 2
    aps 1 2
    raps 1 2
    saps 1 2
    topk 2 2
    margin 1 3
"""

from dataclasses import dataclass

from lastlayer.decide.conformal import Score


@dataclass(frozen=True)
class LAC(Score, name="lac"):
    """Least ambiguous sets: the improbability of the class. The smallest sets on average; hard rows may get none.

        1 - p_r,   as   -log p_r

    Sadinle, Lei & Wasserman 2019, also called THR.

    >>> from lastlayer import Outputs
    >>> z = np.linspace(-2, 5, 50)
    >>> LAC.fit(Outputs(z, "logits", target=np.ones(50, int)), alpha=0.1)(np.array([3.0, 0.0, -3.0]))
    array([[False,  True],
           [ True,  True],
           [ True, False]])
    """

    def of(self, place):
        return place.below + place.xp.log1p(place.top)


@dataclass(frozen=True)
class APS(Score, name="aps"):
    """Adaptive sets: the probability gathered down to the class. Hard rows get large sets, easy ones small ones.

        p_(0) + ... + p_(r-1) + u p_(r),   as   -log of what remains, (1 - u) p_(r) + p_(r+1) + ...

    Romano, Sesia & Candès 2020.
    """

    randomized: bool = True

    def of(self, place):
        xp = place.xp
        return place.below - xp.log((1 + place.after - place.share) / (1 + place.top))


@dataclass(frozen=True)
class RAPS(Score, name="raps"):
    """Regularised adaptive sets: APS with a price on every class beyond the first ``free``, so that no set is huge.

        p_(0) + ... + p_(r-1) + u p_(r) + penalty * max(r + 1 - free, 0),   as   the penalty minus what remains

    Angelopoulos et al. 2021, where the two are lambda and k_reg.
    """

    penalty: float = 0.01
    free: int = 5
    randomized: bool = True

    def __post_init__(self):
        _at_least_0("RAPS", "penalty", self.penalty)
        _at_least_0("RAPS", "free", self.free)

    def of(self, place):
        xp = place.xp
        remains = xp.exp(-place.below) * ((1 + place.after - place.share) / (1 + place.top))
        beyond = place.rank + (1 - self.free)
        return self.penalty * xp.where(beyond > 0, beyond, xp.zeros_like(beyond)) - remains


@dataclass(frozen=True)
class SAPS(Score, name="saps"):
    """Sorted adaptive sets: of the probabilities only the largest counts, every further class costs ``penalty``.

        u p_(0) at rank 0,   p_(0) + (r - 1 + u) penalty beyond,   both minus 1

    Huang et al. 2024.
    """

    penalty: float = 0.2
    randomized: bool = True

    def __post_init__(self):
        _at_least_0("SAPS", "penalty", self.penalty)

    def of(self, place):
        odds, share = place.top, place.share
        first = -((1 + odds - share) / (1 + odds))
        others = self.penalty * (place.rank - 1 + share) - odds / (1 + odds)
        return place.xp.where(place.rank == 0, first, others)


@dataclass(frozen=True)
class TopK(Score, name="topk"):
    """The rank of the class: every set has the same size k, the smallest that covers enough.

        r + 1

    Nothing is drawn, so the sets of all rows are of one size whatever their probabilities.
    """

    def of(self, place):
        return place.rank + 1 + place.xp.zeros_like(place.below)


@dataclass(frozen=True)
class Margin(Score, name="margin"):
    """How far the class lies behind the likeliest other one.

        s = max over the others of p_j - p_r,   as   log(1 + s) - log(1 - s)

    Löfström et al. 2015. Near -1 and 1 the two logarithms are those of sums of small probabilities.
    """

    def of(self, place):
        xp = place.xp
        one = xp.log1p(place.top)  # -log p_(0)
        first, others = xp.exp(-one), -place.gap + xp.log1p(place.second) - one  # p_(0) and log(1 - p_(0))
        leads = xp.log1p(first - xp.exp(-place.gap - one))
        ahead = (-place.gap + xp.log(2 + place.second) - one) - leads
        behind = xp.log1p(first - xp.exp(-place.below - one)) - xp.logaddexp(others, -place.below - one)
        return xp.where(place.rank == 0, ahead, behind)


SCORES = Score.named  # by name, in the order of this file


def _at_least_0(score, name, value):
    if isinstance(value, bool) or not 0 <= value < float("inf"):
        raise ValueError(f"{score}: {name} is a finite number of at least 0, not {value!r}.")
