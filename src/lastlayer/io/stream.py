"""Files larger than memory: their rows as `Outputs`, some ten thousand at a time."""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from lastlayer._check import DataError
from lastlayer.io._fields import Layout, Source, Wanted, assemble, layout, outputs_of
from lastlayer.outputs import Outputs

T = TypeVar("T")

SUMMED = 2**20  # logits that `evaluate` sums up at once, by one thread: what it keeps is small beside them
FEWEST, FEWEST_RANKED = 32, 2**14  # rows; with a grid of log-odds for each class, 64 KiB, the second
RANKED = 256  # classes that have one: 16 MiB together
READ = 2  # times as many rows are read, and as many again ahead


def rows_at_once(width, exclusive):
    """Rows of so many columns that `evaluate` sums up at once; how many are in memory does not depend on the file.

    Of many exclusive classes twice as many: counts by class are as large for few rows. Labels keep columns for each.
    """
    rows = max(FEWEST_RANKED if 16 < width <= RANKED else FEWEST, SUMMED // max(width, 1))
    return 2 * rows if exclusive and width > RANKED else rows


def rows_of_block(width):
    """Rows that are read at once, 8 or 16 MiB of float32: cut so, they are summed in the order of the whole."""
    return READ * rows_at_once(width, exclusive=True)


@dataclass(frozen=True)
class Blocks:
    """Rows as `Outputs`, block by block; every iteration reads them again, from row ``start``."""

    opened: Callable[[], Any]  # a context manager that gives a `Source`
    wanted: Wanted
    start: int = 0

    def __iter__(self) -> Iterator[Outputs]:
        with self.opened() as source:
            where = layout(source, self.wanted)
            step = _rows(source, where)
            pieces = None if step is None else source.stream([*where.numbers, *where.others], self.start, step)
            if pieces is None:
                yield from _cut(assemble(source, self.wanted), self.start)
                return
            with closing(ahead(self._read(pieces, where, source))) as several:  # and done with the file before it is
                yield from several

    def _read(self, pieces, where, source):
        first = self.start
        for columns in pieces:
            block = self._block(columns, where, source, first)
            yield block
            first += len(block)

    def _block(self, columns, where, source, first):
        rows = len(next(iter(columns.values())))
        target = self.wanted.target
        wanted = self.wanted if target is None else replace(self.wanted, target=target[first : first + rows])
        try:
            return outputs_of(columns, where, source, wanted)
        except DataError as error:
            message = error.message if not first else f"in the rows from {first:,} on: {error.message}"
            moved = None if error.rows is None else [first + row for row in error.rows]
            raise DataError(message, file=error.file, field=error.field, rows=moved, fix=error.fix) from None

    @property
    def rows(self) -> int | None:
        """The number of rows from ``start`` on; None where only reading tells."""
        with self.opened() as source:
            outline = source.outline(layout(source, self.wanted).scores.columns[0])
        return None if outline is None or not outline[1] else max(outline[1][0] - self.start, 0)


def ahead(items: Iterator[T]) -> Generator[T]:
    """The items, each made on a thread of its own while the one before it is used.

    The thread waits for nobody: it makes one item when it is told to, so nothing hangs where the rest is not wanted.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="lastlayer-reader") as reader:
        coming = reader.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = reader.submit(next, items, None)
            yield item


def _rows(source: Source, where: Layout) -> int | None:
    """Rows of a block; None where the columns are to be read whole."""
    if where.scores.classes is not None and len(where.scores.classes) == 1:
        return None  # the name of the other class stands somewhere in the target
    outline = source.outline(where.scores.columns[0])
    if outline is None or not outline[1]:
        return None
    width = len(where.scores.columns) if len(outline[1]) == 1 else outline[1][1]
    return rows_of_block(width)


def _cut(outputs, start):
    width = 1 if outputs.scores.ndim == 1 else outputs.scores.shape[1]
    step = rows_of_block(width)
    for first in range(start, len(outputs), step):
        yield outputs.rows(slice(first, first + step))
