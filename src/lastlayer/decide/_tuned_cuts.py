"""The best cut of a sorted column of scores, all cuts tried at once, for measures that are read from counts."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from lastlayer._check import one_of, positive
from lastlayer.decide.bound import fraction

POOLED = "micro_f1"  # of the counts of all labels together
MEASURES = ("f1", "f_beta", "balanced_accuracy", "net_benefit", "cost", POOLED)
OF_CLASSES = MEASURES[:3]  # what is a mean over classes that exclude each other; the others weigh two of them
_OPTIONS = {"f_beta": ("beta",), "net_benefit": ("at",), "cost": ("false_positive", "false_negative")}


class Counts(NamedTuple):
    """Weights of rows, per label or class: said and true, said, true, and all."""

    hit: Any
    said: Any
    true: Any
    rows: Any


class Goal(NamedTuple):
    """What is to be as large as possible, as a function of `Counts`, and what it is called: see `Tuned.fit`."""

    measure: str
    sign: int
    neutral: float  # the threshold that a calibrated model would have without tuning
    of: Callable[[Counts], Any]

    @property
    def pooled(self):
        """Whether it is read from the counts of all labels together, and not a mean over them."""
        return self.measure == POOLED

    def counted(self, counts) -> Counts:
        """The counts as they are, or those of all labels together."""
        return Counts(*(np.sum(each, keepdims=True) for each in counts)) if self.pooled else counts

    def value(self, counts) -> float:
        """The measure, as a mean over labels or classes."""
        return float(np.mean(self.of(self.counted(counts))))


def goal(function, measure, options, exclusive) -> Goal:
    """The goal of this name; ``exclusive`` where one of several classes is said for each row."""
    one_of(function, "measure", measure, OF_CLASSES if exclusive else MEASURES)
    wanted = _OPTIONS.get(measure, ())
    for name in {**dict.fromkeys(wanted), **options}:
        if (name in wanted) != (name in options):
            needs = f"needs {' and '.join(f'{w}=' for w in wanted)}" if wanted else "takes no such parameter"
            raise ValueError(f"{function}: {name} {'is missing' if name in wanted else 'is given'}; {measure} {needs}.")
    if measure == "net_benefit":
        fraction(function, "at", options["at"])
        odds = options["at"] / (1 - options["at"])
        return Goal(measure, 1, math.log(odds), lambda c: (c.hit - (c.said - c.hit) * odds) / c.rows)
    for name in wanted:
        positive(function, name, options[name])
    if measure == "cost":
        fp, fn = options["false_positive"], options["false_negative"]
        return Goal(measure, -1, math.log(fp / fn), lambda c: ((c.said - c.hit) * fp + (c.true - c.hit) * fn) / c.rows)
    if measure == "balanced_accuracy":
        return Goal(measure, 1, 0.0, _recall if exclusive else _balanced)
    squared = float(options.get("beta", 1.0)) ** 2
    return Goal(measure, 1, 0.0, lambda c: share((1 + squared) * c.hit, squared * c.true + c.said))


def share(part, whole):
    """``part / whole``, 0 of nothing."""
    return np.divide(part, whole, out=np.zeros(np.broadcast(part, whole).shape), where=np.asarray(whole) > 0)


def _recall(counts):
    return share(counts.hit, counts.true)


def _balanced(counts):
    false = counts.rows - counts.true
    return (share(counts.hit, counts.true) + share(false - (counts.said - counts.hit), false)) / 2


class Changes(NamedTuple):
    """What moves a cut past ``value`` adds to the counts of ``part``: an entry for each row and part concerned."""

    value: np.ndarray
    part: np.ndarray
    hit: np.ndarray
    said: np.ndarray


def best_cut(changes: Changes, start: Counts, aim: Goal) -> float:
    """The threshold that makes the mean over parts best, when what has a value of at least the threshold is counted.

    Every cut between two different values is tried, with all and none, after one sort: past a value, one part's share
    of the mean changes. The threshold lies midway between the values of the best cut, of several the highest one.
    Values that are nan or -inf are never counted, those of +inf always.
    """
    start = Counts(*(np.asarray(column) for column in np.broadcast_arrays(*start)))
    usable = np.flatnonzero(changes.value > -np.inf)
    order = usable[np.lexsort((-changes.value[usable], changes.part[usable]))]
    value, part = changes.value[order], changes.part[order]
    after, before = aim.of(_running(changes, order, start)), aim.of(start)
    first = np.diff(part, prepend=-1) > 0
    change = after - np.where(first, before[part], np.concatenate([[0.0], after[:-1]]))
    down = np.argsort(-value, kind="stable")
    value = value[down]
    # With one part the sum of the changes is what it is after them, to the last bit.
    summed = after[down] if len(before) == 1 else before.sum() + np.cumsum(change[down])
    last = np.flatnonzero(np.append(value[1:], -np.inf) < value)  # equal values stand on one side of a cut
    none = -aim.sign * np.inf if len(value) and value[0] == np.inf else before.sum()
    best = int(np.argmax(aim.sign * np.concatenate([[none], summed[last]])))
    return _between(np.concatenate([[np.inf], value[last], [-np.inf]]), best)


def _running(changes, order, start):
    """The counts of each entry's part when it and those before it have been passed."""
    part = changes.part[order]
    first = np.flatnonzero(np.diff(part, prepend=-1) > 0)

    def running(column, begin):
        total = np.cumsum(column[order])
        base = np.concatenate([[0], total])[first]
        return total - np.repeat(base, np.diff(first, append=len(order))) + begin[part]

    hit, said = running(changes.hit, start.hit), running(changes.said, start.said)
    return Counts(hit, said, start.true[part], start.rows[part])


def _between(values, best):
    """A number above ``values[best + 1]`` and not above ``values[best]``: their middle, where there is one."""
    high, low = float(values[best]), float(values[best + 1])
    middle = low + (high - low) / 2 if np.isfinite([low, high]).all() else math.nan
    if best == 0:
        return math.inf
    if best == len(values) - 2:
        return -math.inf
    return middle if low < middle <= high else high
