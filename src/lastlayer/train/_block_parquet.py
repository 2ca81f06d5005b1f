"""Columns of parquet files as rows of features, a row group or a part of one at a time."""

import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from lastlayer._check import DataError, one_of, require


class _Group(NamedTuple):
    """A row group: what can be read alone."""

    file: str
    index: int
    first: int  # the row of the file that is its first
    rows: int


@dataclass(frozen=True, eq=False)
class Parquet:
    """The columns of some row groups; a block of them is a table in F order, as its columns come."""

    groups: tuple[_Group, ...]
    names: tuple[str, ...]
    target: Any  # one name, or several
    weight: str | None
    offset: Any  # the same, or None
    dtype: str
    separate = True

    @classmethod
    def of(cls, paths, target, features, weight, offset):
        if not paths:
            raise ValueError("Blocks.of_parquet: paths are the names of one file or more; there is none.")
        target, offset = (name if isinstance(name, str | None) else tuple(name) for name in (target, offset))
        groups, narrow = [], True
        for path in map(os.fspath, paths):
            with _reading(path), _opened(path) as file:
                schema, first = file.schema_arrow, 0
                if features is None:
                    others = {*_listed(target), *_listed(weight), *_listed(offset)}
                    features = [name for name in schema.names if name not in others]
                _refuse_columns(schema, [*features, *_listed(weight), *_listed(offset)], _listed(target))
                narrow = narrow and all(_narrow(schema.field(name).type) for name in features)
                for i in range(file.num_row_groups):
                    rows = file.metadata.row_group(i).num_rows
                    groups.append(_Group(path, i, first, rows))
                    first += rows
        return cls(tuple(groups), tuple(features), target, weight, offset, "float32" if narrow else "float64")

    @property
    def count(self):
        return sum(group.rows for group in self.groups)

    @property
    def width(self):
        return len(self.names)

    @property
    def row_bytes(self):
        return self.width * np.dtype(self.dtype).itemsize

    def part(self, k, n):
        size = len(self.groups)
        return replace(self, groups=self.groups[size * k // n : size * (k + 1) // n])

    def parts(self, rows):
        """Row groups of a file, so many together as have no more than ``rows``, or one."""
        runs = []
        for _, groups in groupby(self.groups, lambda group: group.file):
            held = rows + 1
            for group in groups:
                if held + group.rows > rows:
                    runs.append([])
                    held = 0
                runs[-1].append(group)
                held += group.rows
        return [tuple(run) for run in runs]

    def read(self, part, rows):
        pa = require("pyarrow", "tables", "reading parquet")
        path, first, wanted = part[0].file, part[0].first, [group.index for group in part]
        columns = [*self.names, *_listed(self.target), *_listed(self.weight), *_listed(self.offset)]
        with _reading(path), _opened(path) as file:
            if sum(group.rows for group in part) <= rows:
                tables = iter([file.read_row_groups(wanted, columns)])
            else:
                batches = file.iter_batches(rows, row_groups=wanted, columns=columns)
                tables = (pa.Table.from_batches([batch]) for batch in batches)
            for table in tables:
                block = self._block(table, first)
                rows_here = table.num_rows
                del table
                yield *block, first, self.names, path
                first += rows_here

    def _block(self, table, first):
        features = np.empty((self.width, table.num_rows), self.dtype)
        for row, name in zip(features, self.names, strict=True):
            row[:] = _numbers(table.column(name))
        for name in _listed(self.target):
            column = table.column(name)
            if column.null_count:
                missing = first + np.flatnonzero(column.is_null().to_numpy())
                raise DataError("the target is missing.", field=name, rows=missing, fix="leave those rows out.")
        target, offset = (
            named if named is None else each(table.column(named)) if isinstance(named, str)
            else np.stack([each(table.column(name)) for name in named], axis=1)
            for named, each in ((self.target, _labels), (self.offset, _numbers))
        )  # fmt: skip
        return features.T, target, None if self.weight is None else _numbers(table.column(self.weight)), offset


def _listed(names):
    return () if names is None else (names,) if isinstance(names, str) else names


def _opened(path):
    pq = require("pyarrow.parquet", "tables", "reading parquet")
    # Neither all column chunks nor a whole one ahead: a row group may be larger than memory.
    return pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)


@contextmanager
def _reading(path):
    """What pyarrow says of a file, as a sentence of ours; but for the lack of memory, which has another way out."""
    arrow = require("pyarrow", "tables", "reading parquet").ArrowException
    try:
        yield
    except MemoryError:
        raise
    except DataError as error:
        raise error.within(path) from None
    except (arrow, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(
            f"damaged, cut short or not readable: {reason}.", file=path, fix="write the file again, or copy it again."
        ) from error


def _refuse_columns(schema, numbers, others):
    from pyarrow import types

    for name in (*numbers, *others):
        if name not in schema.names:
            one_of("Blocks.of_parquet", "a column", name, schema.names)
    for name in numbers:
        kind = schema.field(name).type
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind)):
            raise DataError(
                f"a column of {kind}, which holds no numbers.",
                field=name,
                fix="name the features that are numbers, features=[...], or turn categories into columns of 0 and 1.",
            )


def _narrow(kind):
    """Whether float32 holds every number of the type."""
    from pyarrow import types

    return (types.is_integer(kind) or types.is_boolean(kind) or types.is_floating(kind)) and (
        types.is_float32(kind) or kind.bit_width <= 16
    )


def _numbers(column):
    """A column as an array, a null as nan."""
    from pyarrow import types

    if types.is_decimal(column.type) or (column.null_count and types.is_boolean(column.type)):
        column = column.cast("float64" if types.is_decimal(column.type) else "int8")
    return column.to_numpy()


def _labels(column):
    """A column as an array; texts by their few different ones."""
    from pyarrow import types

    if types.is_integer(column.type) or types.is_floating(column.type) or types.is_boolean(column.type):
        return column.to_numpy()
    if not types.is_dictionary(column.type):
        column = column.dictionary_encode()
    column = column.unify_dictionaries().combine_chunks()
    column = column.chunk(0) if hasattr(column, "chunk") else column
    return np.array(column.dictionary.to_pylist())[column.indices.to_numpy()]
