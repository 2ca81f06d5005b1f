"""Rows that are too many for memory: read a block at a time, anew at each pass over them."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np

from lastlayer._check import DataError, shape
from lastlayer.linear.plan import bytes_of
from lastlayer.train._block_parquet import Parquet

PER_ROW = 32  # bytes besides the features: target, weight, offset and slope
COPIES = 3  # of features: as they are read, as a table, and those of the block before


class Block(NamedTuple):
    """Some rows as they came."""

    most: int  # rows that are in one block
    features: Any
    target: Any
    weight: Any  # None: 1 each
    offset: Any  # None: none
    first: int  # the row of the source, or of the file, that is its first
    names: tuple[str, ...] | None = None  # of the features, where they are not in them
    file: str | None = None


@dataclass(frozen=True, eq=False)
class Blocks:
    """Rows for `fit_blocks`, some at a time: of arrays and memory maps, of parquet files, or of blocks of your own.

    ``memory`` bounds what is in memory of them at once, as a number of bytes or a string. Where even that is too much,
    `fit_blocks` halves the blocks and goes on. ``part(k, n)`` is the k-th of n about equal parts: what rank k
    of n reads.

    >>> X, y = np.arange(8.0)[:, None], np.array([0, 0, 1, 0, 1, 0, 1, 1])
    >>> rows = Blocks.of_arrays(X, y, memory=120)
    >>> rows
    Blocks(8 rows, 1 features, 2 rows at once)
    >>> rows.part(0, 2)
    Blocks(4 rows, 1 features, 2 rows at once)
    """

    source: Any
    rows: int  # of a block, at most

    @classmethod
    def of_arrays(cls, features, target, sample_weight=None, offset=None, *, memory: int | str = "64MiB") -> Self:
        """Of arrays of one length each, which are memory maps, names of ``.npy`` files to be mapped, or in memory.

        ``features`` are float32 or float64, ``(n, d)`` in either order (rows in C order are read from one place of the
        file); ``target``, ``sample_weight`` and ``offset`` are those of `LinearClassifier.fit`.

        DataError where a file is no array, ValueError where lengths differ.
        """
        X, y, weight, offset = (_opened(array) for array in (features, target, sample_weight, offset))
        if X.ndim != 2:
            raise ValueError(f"Blocks.of_arrays: features are a table (n, d); they are {shape(X)}.")
        for name, array in (("target", y), ("sample_weight", weight), ("offset", offset)):
            if array is not None and (array.ndim == 0 or len(array) != len(X)):
                raise ValueError(
                    f"Blocks.of_arrays: {name} has one entry for each of {len(X):,} rows; it is {shape(array)}."
                )
        return cls._of(_Arrays(X, y, weight, offset, 0, len(X)), memory)

    @classmethod
    def of_parquet(
        cls,
        paths: str | os.PathLike | Sequence[str | os.PathLike],
        target: str | Sequence[str],
        *,
        features: Sequence[str] | None = None,
        sample_weight: str | None = None,
        offset: str | Sequence[str] | None = None,
        memory: int | str = "64MiB",
    ) -> Self:
        """Of parquet files, one or several, whose columns are named; without ``features`` they are all the others.

        Several names of a ``target`` are labels, of an ``offset`` one for each class. Features are numbers, and read as
        float32 where no column holds more. Files are read by row groups, a large one in batches.

        DataError where a file is damaged, or a column is not there or holds no numbers; MissingExtra without pyarrow.
        """
        several = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        return cls._of(Parquet.of(several, target, features, sample_weight, offset), memory)

    @classmethod
    def of(cls, blocks: Iterable | Callable[[], Iterable], *, memory: int | str = "64MiB") -> Self:
        """Of what gives ``(X, y)``, ``(X, y, weight)`` or ``(X, y, weight, offset)`` each time it is gone over.

        A generator is empty the second time: give the function that makes it. ``X`` is what `LinearClassifier.fit`
        takes, sparse tables and data frames too. Blocks with more rows than ``memory`` holds are cut.

        >>> Blocks.of(lambda: ((np.eye(3), [0, 1, k]) for k in (0, 1)))
        Blocks(3 features, 645,277 rows at once)
        """
        if isinstance(blocks, Iterator):
            raise ValueError(
                "Blocks.of: blocks are read at every pass, and a generator is empty after the first; give the function "
                "that makes it, or a list."
            )
        return cls._of(_Stream.of(blocks), memory)

    @classmethod
    def _of(cls, source, memory):
        return cls(source, max(bytes_of("Blocks", memory) // (COPIES * source.row_bytes + PER_ROW), 1))

    def part(self, k: int, n: int) -> Self:
        """The ``k``-th of ``n`` parts: neighbouring rows of arrays, neighbouring row groups of parquet files."""
        if not 0 <= k < n:
            raise ValueError(f"Blocks.part: the parts are 0 to n - 1; it is part {k} of {n}.")
        return replace(self, source=self.source.part(k, n))

    def halved(self) -> Self | None:
        """Blocks of half as many rows, after what ran out of memory; None where they have one."""
        if self.rows == 1:
            return None
        warnings.warn(
            f"out of memory with {self.rows:,} rows at once: it goes on with {self.rows // 2:,}.",
            ResourceWarning,
            stacklevel=2,
        )
        return replace(self, rows=self.rows // 2)

    def parts(self) -> list:
        """What can be read one without the other, in order: ``read`` takes it."""
        return self.source.parts(self.rows)

    def read(self, part) -> Iterator[Block]:
        """The blocks of a part."""
        for read in self.source.read(part, self.rows):
            yield Block(self.rows, *read)

    def __repr__(self):
        count = "" if self.source.count is None else f"{self.source.count:,} rows, "
        return f"Blocks({count}{self.source.width:,} features, {self.rows:,} rows at once)"


def fit_blocks(model, blocks: Blocks, *, processes=1, group=None):
    """Fit a `LinearClassifier` to rows that are read in blocks, anew at each pass: the minimum that `fit` finds.

    A pass adds, in float64, what each block says of loss, gradient and curvature; the first one checks the rows, finds
    the classes and keeps a sample, whose fit is where the others begin. ``model`` is fitted and given back; what is no
    l1 penalty and no bound is as in `LinearClassifier.fit`, and the certificate is of all rows. Where memory does not
    suffice blocks are halved, with a ResourceWarning, down to a row. `inference` takes the model with the rows as
    arrays or memory maps; the roots of the diagonal of ``inverse_hessian_`` are standard errors where there is no
    penalty.

    ``processes`` read the parts of files, each with one core; they change no bit. Threads use every core already: take
    processes where reading holds them up, and call from ``if __name__ == "__main__":``. ``group`` is "world" or a group
    of torch.distributed (gloo): each of its ranks calls with rows of its own, ``blocks.part(rank, ranks)``, and gets
    the fit of all of them, to the same bits.

    DataError for rows that `LinearClassifier.fit` would refuse, of any rank on all ranks; ValueError for an l1 penalty
    or bounds; TypeError for another model.

    >>> from lastlayer.train import LinearClassifier
    >>> X, y = np.arange(8.0)[:, None], np.array([0, 0, 1, 0, 1, 0, 1, 1])
    >>> model = fit_blocks(LinearClassifier(), Blocks.of_arrays(X, y, memory=120))
    >>> np.abs(model.coef_ - LinearClassifier().fit(X, y).coef_).max() < 1e-9
    np.True_
    """
    from lastlayer.train._block_fit import fit
    from lastlayer.train.linear_classifier import LinearClassifier

    if type(model) is not LinearClassifier:
        raise TypeError(f"fit_blocks: model is a LinearClassifier, not {type(model).__name__}; others need all rows.")
    if not isinstance(blocks, Blocks):
        raise TypeError(
            f"fit_blocks: blocks are train.Blocks, of_arrays, of_parquet or of(...), not {type(blocks).__name__}."
        )
    return fit(model, blocks, processes, group)


def _opened(array) -> Any:
    """An array, or the file of that name mapped into memory."""
    if not isinstance(array, str | os.PathLike):
        return None if array is None else array if hasattr(array, "shape") else np.asarray(array)
    try:
        return np.load(array, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(
            f"not an array file ({reason}).", file=os.fspath(array), fix="np.save writes one; of_parquet reads others."
        ) from None


@dataclass(frozen=True, eq=False)
class _Arrays:
    """Rows from ``start`` to ``stop`` of arrays; those that are mapped go to another process as the place they have."""

    features: Any
    target: Any
    weight: Any
    offset: Any
    start: int
    stop: int

    @property
    def count(self):
        return self.stop - self.start

    @property
    def width(self):
        return self.features.shape[1]

    @property
    def row_bytes(self):
        return self.width * self.features.dtype.itemsize

    @property
    def separate(self):
        """Whether another process can read them without a copy being sent."""
        return _place(self.features) is not None

    def part(self, k, n):
        return replace(self, start=self.start + self.count * k // n, stop=self.start + self.count * (k + 1) // n)

    def parts(self, rows):
        return [(a, min(a + rows, self.stop)) for a in range(self.start, self.stop, rows)]

    def read(self, part, rows):
        for a in range(part[0], part[1], rows):
            cut = slice(a, min(a + rows, part[1]))
            yield *(None if array is None else _rows(array, cut) for array in self._arrays()), a

    def _arrays(self):
        return self.features, self.target, self.weight, self.offset

    def __getstate__(self):
        places = [_place(array) for array in self._arrays()]
        return [p or a for p, a in zip(places, self._arrays(), strict=True)], self.start, self.stop

    def __setstate__(self, state):
        arrays, self.__dict__["start"], self.__dict__["stop"] = state
        for name, array in zip(("features", "target", "weight", "offset"), arrays, strict=True):
            self.__dict__[name] = array.mapped() if isinstance(array, _Place) else array


class _Place(NamedTuple):
    """Where in a file an array is."""

    file: str
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    strides: tuple[int, ...]

    def mapped(self):
        whole = np.memmap(self.file, np.uint8, "r")
        return np.ndarray(self.shape, self.dtype, whole, self.start, self.strides)


def _place(array) -> _Place | None:
    """Where a memory map is, or a part of one, which has the attributes of the whole."""
    if not isinstance(array, np.memmap) or array.filename is None or array.mode == "c":
        return None
    whole = array
    while isinstance(whole.base, np.memmap):
        whole = whole.base
    start = whole.offset + array.ctypes.data - whole.ctypes.data
    return _Place(os.fspath(array.filename), array.dtype, array.shape, start, array.strides)


@dataclass(frozen=True, eq=False)
class _Stream:
    """Blocks that somebody else makes, in an order of his own: they have no parts."""

    blocks: Any
    width: int
    row_bytes: int
    count = None
    separate = False

    @classmethod
    def of(cls, blocks):
        for block in _gone_over(blocks):
            X = block[0]
            if np.ndim(X) != 2:
                raise ValueError(f"Blocks.of: X is a table (n, d); it is {shape(np.asarray(X))}.")
            wide = np.shape(X)[1]
            full = hasattr(X, "nnz")
            size = -(-12 * X.nnz // max(X.shape[0], 1)) if full else wide * getattr(X, "itemsize", 8)
            return cls(blocks, wide, size)
        raise DataError("there are no rows.", field="blocks", fix="give at least one block (X, y).")

    def part(self, k, n):
        raise ValueError(
            "Blocks.part: blocks of your own are not cut; give each part the blocks that are its own, Blocks.of(mine)."
        )

    def parts(self, rows):
        return [None]

    def read(self, part, rows):
        first = 0
        for block in _gone_over(self.blocks):
            count = np.shape(block[0])[0]
            for a in range(0, count, rows):
                cut = slice(a, min(a + rows, count))
                yield *(None if array is None else _rows(array, cut) for array in block), first + a
            first += count


def _gone_over(blocks: Any) -> Iterator[list[Any]]:
    made: Any = blocks() if callable(blocks) else blocks
    for block in made:
        if not isinstance(block, tuple | list) or not 2 <= len(block) <= 4:
            raise TypeError(
                f"Blocks.of: a block is (X, y), (X, y, weight) or (X, y, weight, offset), not {block!r:.60}."
            )
        yield [*block, *[None] * (4 - len(block))]


def _rows(array, cut):
    """Some rows; of memory maps as the plain arrays they are."""
    if hasattr(array, "iloc"):
        return array.iloc[cut]
    part = array[cut]
    return np.asarray(part) if isinstance(part, np.ndarray) else part
