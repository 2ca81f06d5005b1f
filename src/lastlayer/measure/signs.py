"""What the raw scores look like, before anything is computed from them: counts that findings are made of.

Only `check` reads these. Nothing here decides what the scores mean; that is declared.
"""

from dataclasses import dataclass

import numpy as np

from lastlayer.state import Distinct, State

NEAR_ONE = 1e-3  # a row of half-precision probabilities sums to 1 to within this
ROUNDING = 1e-6  # a float32 probability, taken back through a softmax, lies on the simplex to within this


@dataclass(frozen=True, eq=False)
class Signs(State):
    """Counts of rows with a property, extremes with how often they occur, and hashes of rows. ``value()`` is itself."""

    rows: np.ndarray
    nan_rows: np.ndarray
    infinite_rows: np.ndarray  # some entry is +inf
    empty_rows: np.ndarray  # every entry is -inf
    simplex_rows: np.ndarray  # every entry in [0, 1], sum 1 to NEAR_ONE (binary, multilabel: every entry in [0, 1])
    improper_rows: np.ndarray  # declared probabilities: outside [0, 1] or not summing to 1 to rounding
    worst_sum: np.ndarray  # the largest |sum - 1| among declared probabilities
    softmaxed_rows: np.ndarray  # log p + constant lies on the simplex: what a second softmax leaves behind
    tied_rows: np.ndarray  # the two largest entries are equal
    highest: np.ndarray  # the largest finite score of all, and the rows that attain it
    highest_rows: np.ndarray
    lowest: np.ndarray
    lowest_rows: np.ndarray
    least: np.ndarray  # per class, over finite scores
    largest: np.ndarray
    peak: np.ndarray  # per class, its largest probability
    hashes: np.ndarray
    hash_count: np.ndarray

    @classmethod
    def empty(cls, classes):
        counts = [np.zeros((), np.int64) for _ in range(9)]
        counts[6] = np.zeros(())
        low, high = np.full(classes, -np.inf), np.full(classes, np.inf)
        distinct = Distinct.empty()
        ends = (np.array(-np.inf), np.zeros((), np.int64), np.array(np.inf), np.zeros((), np.int64))
        return cls(*counts, *ends, high, low, low, distinct.hashes, distinct.count)

    @classmethod
    def of(cls, outputs, probs):
        """Signs of a block of `Outputs` whose probabilities are known."""
        scores = outputs.scores.astype(np.float64)
        table = scores[:, None] if scores.ndim == 1 else scores
        finite = np.isfinite(table)
        nan = np.isnan(table).any(1)
        total = table.sum(1)
        unit = ((table >= 0) & (table <= 1)).all(1)
        exclusive = outputs.task == "multiclass" and table.shape[1] > 1
        with np.errstate(all="ignore"):
            off = np.abs(total - 1)
        improper = np.zeros(len(table), bool)
        if outputs.kind == "probs":
            rounding = table.shape[1] * np.finfo(outputs.scores.dtype).eps
            improper = ~nan & (~unit | (exclusive & (off > rounding)))
        top2 = np.partition(table, -2, axis=1)[:, -2:] if exclusive else None
        tied = np.zeros(len(table), bool) if top2 is None else (top2[:, 0] == top2[:, 1]) & np.isfinite(top2[:, 1])
        masked = lambda fill: np.where(finite, table, fill)  # noqa: E731
        rows_high, rows_low = masked(-np.inf).max(1), masked(np.inf).min(1)
        high, low = rows_high.max(), rows_low.min()
        declared_sum = off[~nan] if outputs.kind == "probs" and exclusive else np.zeros(0)
        distinct = Distinct.of(row_hashes(table, outputs.target))
        return cls(
            np.array(len(table)),
            np.array(nan.sum()),
            np.array((table == np.inf).any(1).sum()),
            np.array((table == -np.inf).all(1).sum()),
            np.array((unit & ((off <= NEAR_ONE) | (not exclusive))).sum()),
            np.array(improper.sum()),
            np.array(declared_sum.max(initial=0.0)),
            np.array(_softmaxed(probs).sum() if exclusive else 0),
            np.array(tied.sum()),
            np.array(high),
            np.array((rows_high == high).sum()),
            np.array(low),
            np.array((rows_low == low).sum()),
            masked(np.inf).min(0),
            masked(-np.inf).max(0),
            np.fmax.reduce(probs, axis=0, initial=0.0),
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
            hashes=distinct.hashes,
            hash_count=distinct.count,
        )

    @property
    def distinct(self):
        return Distinct(self.hashes, self.hash_count)

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
)


def _extreme(a, count_a, b, count_b, of):
    best = of(a, b)
    return best, np.where(a == best, count_a, 0) + np.where(b == best, count_b, 0)


def undone(probs):
    """The distribution whose softmax ``probs`` would be: if q = softmax(p) with sum p = 1, p = log q - mean(log q) + 1/K."""
    with np.errstate(all="ignore"):
        logq = np.log(probs)
        return logq - logq.mean(1, keepdims=True) + 1 / probs.shape[1]


def _softmaxed(probs):
    p = undone(probs)
    return ((p >= -ROUNDING) & (p <= 1 + ROUNDING)).all(1)


def row_hashes(table, target=None):
    """64-bit hashes of rows by their float64 values (and target): the same in every file, order and machine.

    SplitMix64's finaliser (Steele, Lea and Flood 2014) after each column. -0 hashes as 0.
    """
    bits = (np.ascontiguousarray(table, dtype=np.float64) + 0.0).view(np.uint64).reshape(len(table), -1)
    if target is not None:
        bits = np.concatenate([bits, np.asarray(target).astype(np.int64).view(np.uint64).reshape(len(bits), -1)], axis=1)
    state = np.full(len(bits), bits.shape[1], np.uint64)
    with np.errstate(over="ignore"):
        for column in bits.T:
            state = (state ^ column) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state ^= state >> np.uint64(31)
    return state


def undone_gain(probs, brier, target):
    """Per row, how much the Brier score falls when a second softmax is undone."""
    hit = np.arange(probs.shape[1]) == np.asarray(target)[:, None]
    return brier - ((undone(probs) - hit) ** 2).sum(1)
