"""What the raw scores look like, before anything is computed from them: counts that findings are made of.

Only `check` reads these. Nothing here decides what the scores mean; that is declared.
"""

from dataclasses import dataclass

import numpy as np

from lastlayer.kernels import dispatched
from lastlayer.state import Distinct, State

SHORT = 32  # columns
NEAR_ONE = 1e-3  # a row of half-precision probabilities sums to 1 to within this
TARGET_BITS = np.uint64(12)  # of a hash, so that rows of equal scores stand together


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
    def of(cls, outputs, scored, peak, softmaxed):
        """Signs of a block of `Outputs`, with what is known of its probabilities; only ``scored`` rows are hashed."""
        table = outputs.scores.reshape(len(outputs), -1)
        if table.shape[1] < SHORT:  # column by column in memory: NumPy reduces short rows one by one otherwise
            table = np.asarray(table, dtype=np.float64, order="F")
        exclusive = outputs.task == "multiclass" and table.shape[1] > 1
        most, least, tied, class_high, class_low = extremes(table)
        nan, rows_high, rows_low = np.isnan(most), most, least
        if not (np.isfinite(most).all() and np.isfinite(least).all()):
            rows_high, rows_low = _extremes(table, 1, np.isfinite(table))
        high, low = rows_high.max(initial=-np.inf), rows_low.min(initial=np.inf)
        improper, worst_sum = _improper(outputs, table, exclusive)
        on_simplex = _proper(table[(least >= 0) & (most <= 1)], exclusive, NEAR_ONE)[0]
        hashed = slice(None) if scored.all() else scored
        distinct = Distinct.of(_hashes(table[hashed], outputs.target[hashed]))
        return cls(
            np.array(len(table)),
            np.array(nan.sum()),
            np.array((most == np.inf).sum() + (table[nan] == np.inf).any(1).sum()),
            np.array((most == -np.inf).sum()),
            np.array(on_simplex.sum()),
            np.array(improper),
            np.array(worst_sum),
            np.array(softmaxed if exclusive else 0),
            np.array(tied.sum() if exclusive else 0),
            np.array(_impossible(outputs, table, most, least)),
            np.array(high),
            np.array((rows_high == high).sum()),
            np.array(low),
            np.array((rows_low == low).sum()),
            class_low,
            class_high,
            peak,
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


@dispatched
def extremes(table):
    """Largest and least of each row (nan where one is), whether a finite largest stands twice, and those of columns.

    Those of columns are of what is finite. All float64.
    """
    most, least = table.max(1), table.min(1)
    times = (table == most[:, None]).sum(1, dtype=np.uint8 if table.shape[1] < 256 else np.int64)
    finite = (np.isfinite(most).all() and np.isfinite(least).all()) or np.isfinite(table)
    numbers = most.astype(np.float64), least.astype(np.float64)
    return *numbers, (times > 1) & np.isfinite(most), *_extremes(table, 0, finite)


def _extremes(table, axis, finite):
    """Largest and least along an axis of what is ``finite`` (True: of everything)."""
    high, low = table.max(axis, initial=-np.inf, where=finite), table.min(axis, initial=np.inf, where=finite)
    return high.astype(np.float64), low.astype(np.float64)


def _impossible(outputs, table, most, least):
    """How many rows can be scored and give their target probability 0: it stands at 0 or -inf, or another at +inf."""
    if outputs.kind == "margin":
        return 0
    never, always = {"probs": (0.0, 1.0), "logp": (-np.inf, 0.0), "logits": (-np.inf, np.inf)}[outputs.kind]
    if outputs.task != "multiclass":
        target = outputs.target.reshape(table.shape)
        return (~np.isnan(most) & (table == np.where(target == 1, never, always)).any(1)).sum()
    some = (least <= never) | (most == np.inf)  # no row that holds a nan
    table, target = table[some], outputs.target[some]
    own = np.take_along_axis(table, target[:, None], 1)[:, 0]
    overruled = (own == never) | ((own != np.inf) & (table == np.inf).any(1))
    return (~(table == never).all(1) & overruled).sum()


def _extreme(a, count_a, b, count_b, of):
    best = of(a, b)
    return best, np.where(a == best, count_a, 0) + np.where(b == best, count_b, 0)


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
