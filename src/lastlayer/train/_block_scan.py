"""The first pass over blocks: what classes there are, and some of the rows, to begin with."""

from typing import Any, NamedTuple

import numpy as np

from lastlayer._check import DataError
from lastlayer.train import _encode
from lastlayer.train._objective import RUN
from lastlayer.train.blocks import Block

SHARE = 2  # of so many rows of a block one may be in the sample
FEWEST = 1000  # rows that may be in it at least


class Sample(NamedTuple):
    """Runs of rows, each ``every``-th one; a sparse table is its values, indices and starts."""

    every: int
    most: int  # rows
    index: np.ndarray  # where in the source
    values: np.ndarray
    indices: np.ndarray
    starts: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    offset: np.ndarray

    @classmethod
    def of(cls, features: Any, target, weight, offset, first, most):
        every, index = _thinned(1, np.arange(first, first + features.shape[0]), most)
        kept = index - first
        values, indices, starts = _parts(features[kept])
        return cls(every, most, index, values, indices, starts, target[kept], weight[kept], offset[kept])

    def features(self, width) -> Any:
        if self.values.ndim == 2:
            return self.values
        from scipy.sparse import csr_array

        return csr_array((self.values, self.indices, self.starts), shape=(len(self.index), width))

    def plus(self, other, width):
        most = min(self.most, other.most)
        every, index = max(self.every, other.every), np.concatenate([self.index, other.index])
        every, _ = _thinned(every, index, most)
        mine, theirs = (part.index // RUN % every == 0 for part in (self, other))
        features: list[Any] = [part.features(width)[kept] for part, kept in ((self, mine), (other, theirs))]
        if self.values.ndim == 2:
            joined: Any = np.concatenate(features)
        else:
            from scipy.sparse import vstack

            joined = vstack(features, format="csr")
        rest = (
            np.concatenate([a[mine], b[theirs]])
            for a, b in ((self.target, other.target), (self.weight, other.weight), (self.offset, other.offset))
        )
        return Sample(every, most, np.concatenate([self.index[mine], other.index[theirs]]), *_parts(joined), *rest)


def _thinned(every, index, most):
    """How many runs one stands for, so that no more than ``most`` rows are left; and those."""
    while True:
        kept = index[index // RUN % every == 0]
        if len(kept) <= most:
            return every, kept
        every *= 2


def _parts(features):
    nothing = np.empty(0, np.int32)
    if hasattr(features, "indptr"):
        return features.data, features.indices, features.indptr
    return np.ascontiguousarray(features), nothing, nothing


class Seen(NamedTuple):
    """Of rows: their features, the classes (labels) with their rows and weights, and a sample."""

    rows: int
    width: int
    names: np.ndarray  # () of features without
    dtype: str
    offsets: int  # columns; 0: none
    labels: int  # columns of the target, 1: classes
    classes: np.ndarray  # of labels their numbers
    counts: np.ndarray  # rows of each that have a weight
    sums: np.ndarray
    counted: int  # rows that have a weight
    weight: float
    sample: Sample

    def plus(self, other):
        _refuse_unlike(self, other)
        classes = np.union1d(self.classes, other.classes)
        counts, sums = np.zeros(len(classes), np.int64), np.zeros(len(classes))
        for part in (self, other):
            place = np.searchsorted(classes, part.classes)
            counts[place] += part.counts
            sums[place] += part.sums
        return Seen(
            self.rows + other.rows,
            self.width,
            self.names,
            str(np.promote_types(str(self.dtype), str(other.dtype))),
            self.offsets,
            self.labels,
            classes,
            counts,
            sums,
            self.counted + other.counted,
            self.weight + other.weight,
            self.sample.plus(other.sample, self.width),
        )


def look(model, block: Block) -> Seen:
    """What is seen in a block, all of which is checked."""
    features, names = checked(model, block)
    rows, width = features.shape
    y: Any = _encode.labels(features, block.target)
    labels = 1 if y.ndim == 1 else y.shape[1]
    weight = weights(block.weight, rows)
    if y.ndim == 2:
        table = _encode.indicators(y, model.ordinal).values
        classes, counts, sums = np.arange(y.shape[1]), table[weight > 0].sum(0).astype(np.int64), weight @ table
    else:
        classes, index = _encode.classes_of(y)
        classes = _plain(classes)
        counts, sums = (np.bincount(index, w, len(classes)) for w in (weight > 0, weight))
        y = classes[index]
    offset: Any = np.zeros(rows) if block.offset is None else np.asarray(block.offset, np.float64)
    offsets = 0 if block.offset is None else 1 if offset.ndim == 1 else offset.shape[1]
    return Seen(
        rows, width, names, features.dtype.name, offsets, labels, classes,
        counts.astype(np.int64), sums, int(np.count_nonzero(weight)), float(weight.sum()),
        Sample.of(features, y, weight, offset, block.first, max(block.most // SHARE, FEWEST)),
    )  # fmt: skip


def checked(model, block: Block):
    """The features of a block as `LinearClassifier.fit` takes them, and their names."""
    from sklearn.base import clone

    seen: Any = clone(model)
    if block.names is None:
        features = _encode.features(seen, block.features, reset=True)
    else:  # a table of ours, of numbers
        features, seen.feature_names_in_ = block.features, np.array(block.names)
        _encode.refuse_nonfinite(seen, features)
    return features, np.asarray(getattr(seen, "feature_names_in_", ()), dtype=np.str_)


def weights(weight, rows) -> np.ndarray:
    """As `_encode.weights` has them, but that all of a block may be 0."""
    if weight is not None and not np.any(weight):
        return np.zeros(rows)
    return _encode.weights(weight, rows)


def _plain(classes):
    """Classes without Python objects, which no file and no other rank has."""
    return np.array(classes.tolist()) if classes.dtype.kind == "O" else classes


def _refuse_unlike(a, b):
    def refuse(what, field, fix="blocks and ranks hold rows of one table."):
        raise DataError(f"blocks differ: {what}.", field=field, fix=fix)

    if a.width != b.width:
        refuse(f"one has {a.width:,} features, another {b.width:,}", "X")
    if not np.array_equal(a.names, b.names):
        refuse("their features have different names or another order", "X")
    if (a.sample.values.ndim == 2) != (b.sample.values.ndim == 2):
        refuse("one is sparse, another is not", "X")
    if a.labels != b.labels:
        refuse(f"the target of one has {a.labels} columns, that of another {b.labels}", "target")
    if (a.classes.dtype.kind in "US") != (b.classes.dtype.kind in "US"):
        refuse("classes of one are texts, those of another are numbers", "target", "give names alone: y.astype(str).")
    if a.offsets != b.offsets:
        refuse(f"the offset of one has {a.offsets} columns, that of another {b.offsets}", "offset")
