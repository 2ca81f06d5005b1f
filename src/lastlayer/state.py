"""The mergeable states: small frozen records of arrays that summarise rows, with one law.

    summarising the whole = merging the summaries of any way of cutting it

Each has ``empty``, ``of(block)``, ``merge(a, b)`` and ``value()``. Threads, tiles, shards, files and machines are only
ways of cutting, so streamed and distributed work is the same code. The law is exact for counts, maxima and indices,
holds to a few units in the last place for floating sums (which are float64), and bit for bit along one fixed merge
tree.

    LogSumExp    (max, rest) of each row                              per row
    ArgMax       (value, index) of each row                           per row, exact
    TopK         the k largest (value, index) of each row             per row, exact
    Moments      weight, mean, squared deviation, least, largest      per column
    WeightedSum  what a weighted mean and its standard error need     per column
    Bins         per bin: weight, confidence, hits, squared gap       bins x columns
    Grid         histogram of log-odds on a fixed asinh grid          4,096 cells x columns
    Confusion    weight of each (target, predicted) pair              pairs that occur
    Distinct     hashes of rows, to tell repeated ones                16,384 hashes
"""

import io
import zipfile
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Self

import numpy as np

from lastlayer._array import as_array, floating, last_axis, namespace, take
from lastlayer._check import DataError
from lastlayer._row import merge, split

SCHEMA_VERSION = 1
LARGEST = 2**28  # bytes of a state when unpacked: 2,048 classes with every pair confused take 64 MiB


@dataclass(frozen=True, eq=False)
class State:
    """Named arrays that merge. A subclass adds ``empty``, ``of``, ``merge`` and ``value``."""

    def arrays(self) -> dict[str, np.ndarray]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def to_bytes(self) -> bytes:
        """An npz archive (no pickle) that `from_bytes` reads back bit for bit."""
        return pack(self.arrays(), type(self).__name__)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        arrays = unpack(data, cls.__name__)
        names = {f.name for f in fields(cls)}
        if set(arrays) != names:
            raise DataError(f"a {cls.__name__} holds {sorted(names)}; this one holds {sorted(arrays)}.")
        return cls(**arrays)


def pack(arrays: dict[str, np.ndarray], name: str) -> bytes:
    """Named arrays as the bytes of an npz archive that says which state it is."""
    buffer = io.BytesIO()
    everything: dict[str, Any] = {"state": np.array(name), "schema_version": np.array(SCHEMA_VERSION), **arrays}
    np.savez_compressed(buffer, **everything)
    return buffer.getvalue()


def unpack(data: bytes, name: str) -> dict[str, np.ndarray]:
    """The arrays that `pack` wrote, after checking that they are of that state and version."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > LARGEST:  # zeros compress a thousandfold: what would be allocated is asked first
            raise ValueError(f"{size / 2**20:,.0f} MiB when unpacked; the largest has {LARGEST / 2**20:,.0f}")
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        found, version = str(arrays.pop("state")), int(arrays.pop("schema_version"))
    except Exception as problem:  # zipfile, zlib and NumPy each have their own for bytes that were cut or changed
        raise DataError(f"these bytes are no {name} state ({problem}).") from None
    if found != name or version != SCHEMA_VERSION:
        raise DataError(
            f"these bytes hold a {found} of schema {version}; a {name} of schema {SCHEMA_VERSION} is wanted.",
            fix="summarise the data again with this version.",
        )
    return arrays


@dataclass(frozen=True, eq=False)
class _Sums(State):
    """A state whose every field is a sum, so that merging is adding."""

    def merge(self, other: Self) -> Self:
        theirs = other.arrays()
        return type(self)(**{name: mine + theirs[name] for name, mine in self.arrays().items()})


@dataclass(frozen=True, eq=False)
class LogSumExp(State):
    """``max`` and ``rest``, the sum of ``exp(x - max)`` over every entry but one that has the maximum.

        logsumexp = max + log1p(rest)

    A further entry equal to the maximum counts exactly 1, also when it is +inf; ``max = -inf`` has rest 0; a nan makes
    both nan. Any array-API array; a block without columns is ``empty``. ``merge``, with the larger maximum first:
    ``(m1, s1 + (1 + s2) exp(m2 - m1))``.

    >>> whole = np.array([3.0, 1.0, 3.0, -np.inf])
    >>> LogSumExp.of(whole[:1]).merge(LogSumExp.of(whole[1:])).value() == LogSumExp.of(whole).value()
    np.True_
    """

    max: Any
    rest: Any

    @classmethod
    def empty(cls, shape: tuple[int, ...] = (), dtype: Any = np.float64) -> Self:
        return cls(np.full(shape, -np.inf, dtype), np.zeros(shape, dtype))

    @classmethod
    def of(cls, block, axis=-1) -> Self:
        x = floating(block)
        xp = namespace(x)
        x: Any = last_axis(x, axis, xp)
        with np.errstate(all="ignore"):
            if not x.shape[-1]:
                zero = xp.sum(x, axis=-1)
                return cls(zero - xp.inf, zero)
            row = split(x, xp)
            return cls(row.max + row.removed, row.rest)

    def merge(self, other: Self) -> Self:
        with np.errstate(all="ignore"):
            return type(self)(*merge(self.max, self.rest, other.max, other.rest, namespace(self.max)))

    def value(self):
        xp = namespace(self.max)
        with np.errstate(all="ignore"):
            return self.max + xp.log1p(self.rest)


_NO_INDEX = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class ArgMax(State):
    """The largest value of each row and where it first stands; a nan is the largest of all, as in ``np.argmax``.

    ``offset`` is the index of the block's first column in the whole row. ``value()`` is the index.

    >>> ArgMax.of(np.array([2.0, 5.0])).merge(ArgMax.of(np.array([5.0, 1.0]), offset=2)).value()
    array(1)
    """

    largest: Any
    index: Any

    @classmethod
    def empty(cls, shape: tuple[int, ...] = (), dtype: Any = np.float64) -> Self:
        return cls(np.full(shape, -np.inf, dtype), np.full(shape, _NO_INDEX))

    @classmethod
    def of(cls, block, axis=-1, offset=0) -> Self:
        x = as_array(block)
        xp = namespace(x)
        x: Any = last_axis(x, axis, xp)
        if not x.shape[-1]:
            zero = xp.asarray(xp.sum(x, axis=-1))
            return cls(zero - xp.inf, xp.full_like(zero, _NO_INDEX, dtype=xp.int64))
        index = xp.argmax(x, axis=-1)
        return cls(xp.asarray(take(x, index, xp)), xp.asarray(index + offset))

    def merge(self, other: Self) -> Self:
        xp = namespace(self.largest)
        mine, theirs = xp.isnan(self.largest), xp.isnan(other.largest)
        tie = (self.largest == other.largest) | (mine & theirs)
        swap = (other.largest > self.largest) | (theirs & ~mine) | (tie & (other.index < self.index))
        return type(self)(xp.where(swap, other.largest, self.largest), xp.where(swap, other.index, self.index))

    def value(self):
        return self.index


@dataclass(frozen=True, eq=False)
class TopK(State):
    """The ``k`` largest entries of each row, largest first, ties by the lower index; a nan is the largest of all.

    Rows shorter than ``k`` are filled with ``-inf`` at no index. ``value()`` is the indices.

    >>> TopK.of(np.array([2.0, 5.0, 3.0]), 2).value()
    array([1, 2])
    """

    largest: np.ndarray
    index: np.ndarray

    @classmethod
    def empty(cls, k, shape: tuple[int, ...] = (), dtype: Any = np.float64) -> Self:
        return cls(np.full((*shape, k), -np.inf, dtype), np.full((*shape, k), _NO_INDEX))

    @classmethod
    def of(cls, block, k, offset=0) -> Self:
        x = np.asarray(block)
        index = np.broadcast_to(np.arange(x.shape[-1]) + offset, x.shape)
        none = cls.empty(k, x.shape[:-1], x.dtype)
        return cls._best(np.concatenate([x, none.largest], -1), np.concatenate([index, none.index], -1), k)

    @classmethod
    def _best(cls, largest, index, k):
        order = np.lexsort((index, -largest, ~np.isnan(largest)))[..., :k]
        return cls(np.take_along_axis(largest, order, -1), np.take_along_axis(index, order, -1))

    def merge(self, other: Self) -> Self:
        largest = np.concatenate([self.largest, other.largest], -1)
        return self._best(largest, np.concatenate([self.index, other.index], -1), self.largest.shape[-1])

    def value(self):
        return self.index


@dataclass(frozen=True, eq=False)
class Moments(State):
    """Weight, mean, sum of squared deviations, least and largest of each column (Chan, Golub, LeVeque 1983, eq. 2.1).

    ``value()`` is the mean; ``variance()`` divides by the weight. A row of weight 0 leaves no trace.
    """

    weight: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    least: np.ndarray
    largest: np.ndarray

    @classmethod
    def empty(cls, columns=()) -> Self:
        zero = np.zeros(columns)
        return cls(zero, zero, zero, np.full(columns, np.inf), np.full(columns, -np.inf))

    @classmethod
    def of(cls, block, weight=None) -> Self:
        x, w = _weighted_rows(block, weight)
        if not len(x):
            return cls.empty(x.shape[1:])
        with np.errstate(all="ignore"):
            total = np.broadcast_to(w.sum(0), x.shape[1:])
            mean = (w * x).sum(0) / total
            return cls(total + 0.0, mean, (w * (x - mean) ** 2).sum(0), x.min(0), x.max(0))

    def merge(self, other: Self) -> Self:
        weight = self.weight + other.weight
        share = np.divide(other.weight, weight, out=np.zeros_like(weight), where=weight > 0)
        with np.errstate(all="ignore"):
            apart = np.where((self.weight > 0) & (other.weight > 0), other.mean - self.mean, 0.0)
            shifted = np.where(np.isfinite(apart), self.mean + apart * share, self.mean + other.mean)
            mean = np.where(self.weight > 0, shifted, other.mean)
            deviation = self.deviation + other.deviation + apart**2 * self.weight * share
        least, largest = np.minimum(self.least, other.least), np.maximum(self.largest, other.largest)
        return type(self)(weight, mean, deviation, least, largest)

    def value(self):
        return np.where(self.weight > 0, self.mean, np.nan)

    def variance(self):
        return np.divide(self.deviation, self.weight, out=np.full_like(self.weight, np.nan), where=self.weight > 0)


class Mean(NamedTuple):
    """A weighted mean, its standard error, and the rows and the effective rows behind it."""

    mean: np.ndarray
    error: np.ndarray
    rows: np.ndarray
    effective: np.ndarray


@dataclass(frozen=True, eq=False)
class WeightedSum(_Sums):
    """What a weighted mean of each column and its standard error need: six sums.

        mean  = sum w x / sum w
        error = sqrt(sum w^2 (x - mean)^2) / sum w * sqrt(k / (k - 1)),   k = (sum w)^2 / sum w^2

    The error is that of a ratio of sums, to first order (Cochran 1977, eq. 6.13 with equal sampling). A row of weight 0
    adds nothing, whatever it holds.

    >>> WeightedSum.of([1.0, 3.0]).value().mean
    np.float64(2.0)
    """

    rows: np.ndarray
    weight: np.ndarray
    weight2: np.ndarray
    total: np.ndarray
    cross: np.ndarray
    square: np.ndarray

    @classmethod
    def empty(cls, columns=()) -> Self:
        return cls(np.zeros((), np.int64), np.zeros(()), np.zeros(()), *(np.zeros(columns) for _ in range(3)))

    @classmethod
    def of(cls, block, weight=None) -> Self:
        x, w = _weighted_rows(block, weight)
        flat = w.reshape(len(w), -1)[:, 0] if len(w) else np.zeros(0)
        with np.errstate(all="ignore"):
            weighted = w * x
            sums = (weighted.sum(0), (w * weighted).sum(0), (weighted * weighted).sum(0))
        return cls(np.array(len(flat)), np.array(flat.sum()), np.array((flat**2).sum()), *map(np.asarray, sums))

    def value(self) -> Mean:
        with np.errstate(all="ignore"):
            mean = self.total / self.weight
            effective = self.weight**2 / self.weight2
            spread = np.maximum(self.square - 2 * mean * self.cross + mean**2 * self.weight2, 0.0)
            error = np.sqrt(spread) / self.weight * np.sqrt(effective / (effective - 1))
        return Mean(mean, np.where(np.isnan(error), np.inf, error), self.rows, effective)


@dataclass(frozen=True, eq=False)
class Bins(State):
    """Confidence against what came true, in bins ``(low, high]`` of confidence; the first bin includes its low end.

    Per column and bin: the weight, the sums of confidence and of hits, and ``sum w^2 (hit - confidence)^2``, from
    which the standard error of a calibration error follows. ``value()`` is the mean gap, hits minus confidence, of
    each bin.
    """

    edges: np.ndarray
    weight: np.ndarray
    confidence: np.ndarray
    hits: np.ndarray
    square: np.ndarray

    @classmethod
    def empty(cls, bins: Any = 15, columns: tuple[int, ...] = ()) -> Self:
        edges = np.linspace(0.0, 1.0, int(bins) + 1) if np.ndim(bins) == 0 else np.asarray(bins, dtype=np.float64)
        return cls(edges, *(np.zeros((*columns, len(edges) - 1)) for _ in range(4)))

    @classmethod
    def of(cls, confidence, hits, weight=None, bins: Any = 15) -> Self:
        c, w = _weighted_rows(confidence, weight)
        h = np.asarray(hits, dtype=np.float64)
        h = h if len(h) == len(c) else h[np.asarray(weight) > 0]
        none = cls.empty(bins, c.shape[1:])
        count = none.weight.shape[-1]
        cell = np.searchsorted(none.edges, c, side="left") - 1
        cell = np.minimum(np.maximum(cell, 0), count - 1)
        columns = int(np.prod(c.shape[1:], dtype=np.int64))
        cell = (cell + np.arange(columns).reshape(c.shape[1:]) * count).reshape(-1)
        w = np.broadcast_to(w, c.shape)

        def add(v):
            return _sum_in_cells(cell, v.reshape(-1), columns * count).reshape(none.weight.shape)

        return cls(none.edges, add(w), add(w * c), add(w * h), add((w * (h - c)) ** 2))

    def merge(self, other: Self) -> Self:
        if not np.array_equal(self.edges, other.edges):
            raise ValueError(f"Bins: only equal edges merge; these are {self.edges} and {other.edges}.")
        mine, theirs = list(self.arrays().values())[1:], list(other.arrays().values())[1:]
        return type(self)(self.edges, *(a + b for a, b in zip(mine, theirs, strict=True)))

    def value(self):
        with np.errstate(all="ignore"):
            return (self.hits - self.confidence) / self.weight


GRID_CELLS = 4096
GRID_REACH = 10.0  # asinh of the largest log-odds told apart: sinh(10) = 11,013


@dataclass(frozen=True, eq=False)
class Grid(_Sums):
    """Histogram of log-odds on a fixed grid, even in ``asinh``: constant size, the same cells for any data.

        cell = 1 + floor((asinh(x) + 10) / 20 * 4094),  0 below and 4095 above

    A cell is 0.005 wide at log-odds 0 and 0.5 % of the log-odds far out, so that both ends of a confident model are
    told apart. ``value()`` is the weight per cell. Ranking measures read it with a bound: pairs within a cell are
    undecided.
    """

    weight: np.ndarray

    @classmethod
    def empty(cls, columns=()) -> Self:
        return cls(np.zeros((*columns, GRID_CELLS)))

    @classmethod
    def of(cls, values, column, columns=(), weight=None) -> Self:
        """``column`` says, per value, into which of the flattened ``columns`` histograms it falls; nan into none."""
        values = np.asarray(values, dtype=np.float64).reshape(-1)
        column = np.broadcast_to(column, values.shape)
        weight = np.ones(values.shape) if weight is None else np.broadcast_to(weight, values.shape)
        inside = ~np.isnan(values)
        flat = (column * GRID_CELLS + cells(np.where(inside, values, 0.0)))[inside]
        size = int(np.prod(columns, dtype=np.int64)) * GRID_CELLS
        return cls(_sum_in_cells(flat, weight[inside], size).reshape(*columns, GRID_CELLS))

    def value(self):
        return self.weight


def cells(values):
    """The grid cell of each log-odds."""
    scaled = (np.arcsinh(values) + GRID_REACH) * ((GRID_CELLS - 2) / (2 * GRID_REACH))
    return np.minimum(np.maximum(np.floor(scaled), -1), GRID_CELLS - 2).astype(np.int64) + 1


def cell_edges():
    """Log-odds at the 4,095 borders between neighbouring cells."""
    return np.sinh(np.linspace(-GRID_REACH, GRID_REACH, GRID_CELLS - 1))


@dataclass(frozen=True, eq=False)
class Confusion(State):
    """Weight of each (target, predicted) pair that occurs, as ``target * classes + predicted`` and its weight.

    Exact up to 2,048 classes. Beyond, the heaviest million pairs are kept and ``lost`` says how much weight the others
    had. ``value()`` is the full matrix (up to 2,048 classes), targets down, predictions across.
    """

    classes: np.ndarray
    pair: np.ndarray
    weight: np.ndarray
    lost: np.ndarray

    @classmethod
    def empty(cls, classes) -> Self:
        return cls(np.array(classes), np.zeros(0, np.int64), np.zeros(0), np.zeros(()))

    @classmethod
    def of(cls, target, predicted, classes, weight=None) -> Self:
        pair, weight = _weighted_rows(np.asarray(target, np.int64) * classes + np.asarray(predicted), weight, np.int64)
        return cls._of_pairs(classes, pair, weight, 0.0)

    @classmethod
    def _of_pairs(cls, classes, pair, weight, lost):
        if classes <= 256:
            total = _sum_in_cells(pair, weight, classes * classes)
            present = np.flatnonzero(total)
            return cls(np.array(classes), present, total[present], np.asarray(lost))
        present, where = np.unique(pair, return_inverse=True)
        return cls._heaviest(classes, present, _sum_in_cells(where, weight, len(present)), lost)

    @classmethod
    def _heaviest(cls, classes, present, total, lost):
        limit = 2048**2 if classes <= 2048 else 2**20
        if len(present) > limit:
            keep = np.sort(np.argsort(-total, kind="stable")[:limit])
            lost = lost + total.sum() - total[keep].sum()
            present, total = present[keep], total[keep]
        return cls(np.array(classes), present, total, np.asarray(lost))

    def merge(self, other: Self) -> Self:
        if int(self.classes) != int(other.classes):
            raise ValueError(f"Confusion: only equal classes merge; these have {self.classes} and {other.classes}.")
        pair, weight = _together(self.pair, self.weight, other.pair, other.weight)
        if len(pair) and not 0 <= pair[0] <= pair[-1] < int(self.classes) ** 2:
            raise ValueError(f"Confusion: a pair lies outside {self.classes} x {self.classes}.")
        return self._heaviest(int(self.classes), pair, weight, self.lost + other.lost)

    def heaviest(self, count):
        """The heaviest pairs as (target, predicted, weight), heaviest first."""
        order = np.lexsort((self.pair, -self.weight))[:count]
        return self.pair[order] // self.classes, self.pair[order] % self.classes, self.weight[order]

    def value(self):
        if self.classes > 2048:
            raise ValueError(f"Confusion: {self.classes} classes make no matrix; read `heaviest(count)`.")
        k = int(self.classes)
        return _sum_in_cells(self.pair, self.weight, k * k).reshape(k, k)


@dataclass(frozen=True, eq=False)
class Distinct(State):
    """The smallest hashes of rows with how often each came: exact below 16,384 distinct rows, a sample of them beyond.

    ``value()`` is the estimated share of rows that repeat an earlier one (a bottom-k sketch: Cohen & Kaplan 2007).
    """

    hashes: np.ndarray
    count: np.ndarray

    LIMIT = 16384

    @classmethod
    def empty(cls) -> Self:
        return cls(np.zeros(0, np.uint64), np.zeros(0, np.int64))

    @classmethod
    def of(cls, hashes) -> Self:
        present, count = np.unique(np.asarray(hashes, dtype=np.uint64), return_counts=True)
        return cls(present[: cls.LIMIT], count.astype(np.int64)[: cls.LIMIT])

    def merge(self, other: Self) -> Self:
        few, many = sorted([self, other], key=lambda each: len(each.hashes))
        full = len(many.hashes) == self.LIMIT
        some = slice(np.searchsorted(few.hashes, many.hashes[-1], "right") if full else None)  # no larger one stays
        hashes, count = _together(many.hashes, many.count, few.hashes[some], few.count[some])
        return type(self)(hashes[: self.LIMIT], count[: self.LIMIT])

    def value(self):
        return 1 - len(self.count) / self.count.sum() if len(self.count) else 0.0


def _together(keys, sums, other_keys, other_sums):
    """Two ascending runs of distinct keys as one; sums of a key that stands in both are added.

    What is new is put into the longer run: to sort both takes three times as long, and of many blocks ten times.
    """
    if len(keys) < len(other_keys):
        keys, sums, other_keys, other_sums = other_keys, other_sums, keys, sums
    if not len(other_keys):
        return keys, sums
    at = np.searchsorted(keys, other_keys)
    known = keys[np.minimum(at, len(keys) - 1)] == other_keys
    sums = sums.copy()
    sums[at[known]] += other_sums[known]
    if known.all():
        return keys, sums
    at = at[~known]
    return np.insert(keys, at, other_keys[~known]), np.insert(sums, at, other_sums[~known])


def _sum_in_cells(cell, weight, count):
    """Sum of the weights in each cell, float64 also where there are none."""
    return np.bincount(cell, weight, count).astype(np.float64, copy=False)


def _weighted_rows(block, weight, dtype: Any = np.float64):
    """Rows and their weights, broadcastable to them; rows of weight 0 are gone."""
    x = np.asarray(block, dtype=dtype)
    if weight is None:
        return x, np.ones((len(x),) + (1,) * (x.ndim - 1))
    w = np.asarray(weight, dtype=np.float64)
    if not (w > 0).all():
        x, w = x[w > 0], w[w > 0]
    return x, w.reshape((len(w),) + (1,) * (x.ndim - 1))
