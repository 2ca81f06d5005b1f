"""What the raw scores look like, before anything is computed from them: counts that findings are made of.

Only `check` reads these. Nothing here decides what the scores mean; that is declared.
"""

from dataclasses import dataclass

import numpy as np

from lastlayer.kernels import dispatched
from lastlayer.state import Distinct, State

NEAR_ONE = 1e-3  # a row of half-precision probabilities sums to 1 to within this
TARGET_BITS = np.uint64(12)  # of a hash, so that rows of equal scores stand together
ROUNDING = 1e-6  # a float32 probability, taken back through a softmax, lies on the simplex to within this


@dataclass(frozen=True, eq=False)
class Signs(State):
    """Counts of rows with a property, extremes with how often they occur, and hashes of rows. ``value()`` is itself."""

    rows: np.ndarray
    nan_rows: np.ndarray
    infinite_rows: np.ndarray  # some entry is +inf
    empty_rows: np.ndarray  # every entry is -inf
    simplex_rows: np.ndarray  # every entry in [0, 1], sum 1 to NEAR_ONE (binary, multilabel: every entry in [0, 1])
    improper_rows: np.ndarray  # declared probabilities (or their logs): outside [0, 1] or not summing to 1 to rounding
    worst_sum: np.ndarray  # the largest |sum - 1| among declared probabilities
    softmaxed_rows: np.ndarray  # log p + constant lies on the simplex: what a second softmax leaves behind
    tied_rows: np.ndarray  # the two largest entries are equal
    impossible_rows: np.ndarray  # the target has probability exactly 0, so the loss is infinite
    highest: np.ndarray  # the largest finite score of all, and the rows that attain it
    highest_rows: np.ndarray
    lowest: np.ndarray
    lowest_rows: np.ndarray
    least: np.ndarray  # per class, over finite scores
    largest: np.ndarray
    peak: np.ndarray  # per class, its largest probability
    heaviest: np.ndarray  # the largest weight of a row
    hashes: np.ndarray  # of rows that can be scored: scores in the high bits, target in the TARGET_BITS low ones
    hash_count: np.ndarray

    @classmethod
    def empty(cls, classes):
        low, high = np.full(classes, -np.inf), np.full(classes, np.inf)
        distinct = Distinct.empty()
        return cls(
            **{name: np.zeros((), np.int64) for name in (*_COUNTS, "highest_rows", "lowest_rows")},
            worst_sum=np.zeros(()),
            highest=np.array(-np.inf),
            lowest=np.array(np.inf),
            least=high,
            largest=low,
            peak=low,
            heaviest=np.zeros(()),
            hashes=distinct.hashes,
            hash_count=distinct.count,
        )

    @classmethod
    def of(cls, outputs, probs):
        """Signs of a block of `Outputs` whose probabilities are known."""
        # Column by column in memory: NumPy reduces short rows one by one otherwise, which took half of an evaluation.
        table = np.asarray(outputs.scores.reshape(len(outputs), -1), dtype=np.float64, order="F")
        finite = np.isfinite(table)
        nan = np.isnan(table).any(1)
        exclusive = outputs.task == "multiclass" and table.shape[1] > 1
        on_simplex = _proper(table, exclusive, NEAR_ONE)[0]
        improper, worst_sum = _improper(outputs, table, exclusive)
        top2 = np.partition(table, -2, axis=1)[:, -2:] if exclusive else None
        tied = np.zeros(len(table), bool) if top2 is None else (top2[:, 0] == top2[:, 1]) & np.isfinite(top2[:, 1])

        def masked(fill):
            return np.where(finite, table, fill)

        rows_high, rows_low = masked(-np.inf).max(1), masked(np.inf).min(1)
        high, low = rows_high.max(initial=-np.inf), rows_low.min(initial=np.inf)
        scored = ~np.isnan(probs).any(1)
        distinct = Distinct.of(_hashes(table[scored], outputs.target[scored]))
        return cls(
            np.array(len(table)),
            np.array(nan.sum()),
            np.array((table == np.inf).any(1).sum()),
            np.array((table == -np.inf).all(1).sum()),
            np.array(on_simplex.sum()),
            np.array(improper),
            np.array(worst_sum),
            np.array(_softmaxed(probs).sum() if exclusive else 0),
            np.array(tied.sum()),
            np.array(_impossible(outputs, table, nan).sum()),
            np.array(high),
            np.array((rows_high == high).sum()),
            np.array(low),
            np.array((rows_low == low).sum()),
            masked(np.inf).min(0, initial=np.inf),
            masked(-np.inf).max(0, initial=-np.inf),
            np.fmax.reduce(probs, axis=0, initial=0.0),
            np.array(float(len(table) > 0) if outputs.weight is None else outputs.weight.max(initial=0.0)),
            distinct.hashes,
            distinct.count,
        )

    def merge(self, other):
        distinct = self.distinct.merge(other.distinct)
        counts = [getattr(self, name) + getattr(other, name) for name in _COUNTS]
        highest, highest_rows = _extreme(self.highest, self.highest_rows, other.highest, other.highest_rows, np.maximum)
        lowest, lowest_rows = _extreme(self.lowest, self.lowest_rows, other.lowest, other.lowest_rows, np.minimum)
        return Signs(
            **dict(zip(_COUNTS, counts, strict=True)),
            worst_sum=np.maximum(self.worst_sum, other.worst_sum),
            highest=highest,
            highest_rows=highest_rows,
            lowest=lowest,
            lowest_rows=lowest_rows,
            least=np.minimum(self.least, other.least),
            largest=np.maximum(self.largest, other.largest),
            peak=np.maximum(self.peak, other.peak),
            heaviest=np.maximum(self.heaviest, other.heaviest),
            hashes=distinct.hashes,
            hash_count=distinct.count,
        )

    @property
    def distinct(self):
        return Distinct(self.hashes, self.hash_count)

    @property
    def copies(self):
        """Per distinct row of scores among the hashes: its rows, and how many different targets they have."""
        _, first = np.unique(self.hashes >> TARGET_BITS, return_index=True)
        if not len(first):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        return np.add.reduceat(self.hash_count, first), np.diff(first, append=len(self.hashes))

    def value(self):
        return self


_COUNTS = (
    "rows",
    "nan_rows",
    "infinite_rows",
    "empty_rows",
    "simplex_rows",
    "improper_rows",
    "softmaxed_rows",
    "tied_rows",
    "impossible_rows",
)


def _proper(probs, exclusive, tolerance):
    """Per row: whether it can be probabilities, and how far its sum is from 1 (0 where classes are not exclusive)."""
    with np.errstate(all="ignore"):
        off = np.abs(probs.sum(1) - 1) if exclusive else np.zeros(len(probs))
    return ((probs >= 0) & (probs <= 1)).all(1) & (off <= tolerance), off


def _improper(outputs, table, exclusive):
    """How many rows of declared probabilities are none, and the largest |sum - 1|."""
    if outputs.kind not in ("probs", "logp"):
        return 0, 0.0
    with np.errstate(over="ignore"):
        probs = np.exp(table) if outputs.kind == "logp" else table
    proper, off = _proper(probs, exclusive, table.shape[1] * np.finfo(outputs.scores.dtype).eps)
    known = ~np.isnan(probs).any(1)
    return (known & ~proper).sum(), np.fmax.reduce(off[known], initial=0.0)


def _impossible(outputs, table, nan):
    """Rows that can be scored and give their target probability 0: it stands at 0 or -inf, or another class at +inf."""
    if outputs.kind == "margin":
        return np.zeros(len(table), bool)
    never, always = {"probs": (0.0, 1.0), "logp": (-np.inf, 0.0), "logits": (-np.inf, np.inf)}[outputs.kind]
    if outputs.task != "multiclass":
        target = outputs.target.reshape(table.shape)
        return ~nan & (table == np.where(target == 1, never, always)).any(1)
    own = np.take_along_axis(table, outputs.target[:, None], 1)[:, 0]
    overruled = (own == never) | ((own != np.inf) & (table == np.inf).any(1))
    return ~nan & ~(table == never).all(1) & overruled


def _extreme(a, count_a, b, count_b, of):
    best = of(a, b)
    return best, np.where(a == best, count_a, 0) + np.where(b == best, count_b, 0)


def undone(probs):
    """The distribution whose softmax ``probs`` would be: q = softmax(p) gives p = log q - mean(log q) + 1 / K."""
    with np.errstate(all="ignore"):
        logq = np.log(probs)
        return logq - logq.mean(1, keepdims=True) + 1 / probs.shape[1]


def _softmaxed(probs):
    p = undone(probs)
    return ((p >= -ROUNDING) & (p <= 1 + ROUNDING)).all(1)


def _hashes(table, target):
    """Hashes of rows whose high bits are those of the scores alone."""
    low = (np.uint64(1) << TARGET_BITS) - np.uint64(1)
    return (row_hashes(table) & ~low) | (row_hashes(target if target.ndim == 2 else target[:, None]) & low)


def row_hashes(table, target=None):
    """64-bit hashes of rows by their float64 values (and target): the same in every file, order and machine.

    SplitMix64's finaliser (Steele, Lea and Flood 2014) after each column. -0 hashes as 0.
    """
    table = np.asarray(table)
    labels = [] if target is None else np.asarray(target).astype(np.int64).view(np.uint64).reshape(len(table), -1).T
    state = mixed_in(table, np.full(len(table), table.shape[1] + len(labels), np.uint64))
    for column in labels:
        state = _finalised(state ^ column)
    return state


@dispatched
def mixed_in(table, state):
    """Each column of ``table``, as the bits of float64, mixed into the hash of its row."""
    for column in (np.asarray(table, dtype=np.float64) + 0.0).view(np.uint64).T:
        state = _finalised(state ^ column)
    return state


def _finalised(state):
    with np.errstate(over="ignore"):
        state = state + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def undone_gain(probs, brier, target):
    """Per row, how much the Brier score falls when a second softmax is undone.

    It is 0 where a class is impossible, as none is after a softmax of probabilities.
    """
    hit = np.arange(probs.shape[1]) == np.asarray(target)[:, None]
    with np.errstate(all="ignore"):
        gain = brier - ((undone(probs) - hit) ** 2).sum(1)
    return np.where(np.isfinite(gain), gain, 0.0)
