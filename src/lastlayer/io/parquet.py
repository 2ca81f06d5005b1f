"""Parquet and every other Arrow table (pandas, polars, duckdb), through pyarrow: ``pip install 'lastlayer[tables]'``.

Scores are one column of equal lists, which a file keeps best as ``fixed_size_list`` with zstd over BYTE_STREAM_SPLIT
(85 % of the raw bytes, and the fastest of all to read), or one column per class. The file's metadata hold, under
``lastlayer``, a JSON object of kind, classes and task.
"""

import json
import sys
from contextlib import contextmanager

import numpy as np

from lastlayer._check import DataError, require
from lastlayer.io._fields import columns_of, refuse_surrogates, text_array

_BATCH = 1 << 16


def read(file, form):
    """The columns of an open parquet file; only those asked for are read."""
    pa = require("pyarrow", "tables", "reading parquet")
    pq = require("pyarrow.parquet", "tables", "reading parquet")
    with _arrow():
        # Neither all column chunks nor a whole one ahead: a file of one row group may be larger than memory.
        parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
        schema, rows = parquet.schema_arrow, parquet.metadata.num_rows

    def fetch(names):
        # Whole row groups are allocated by the number of rows they claim; batches are not, and are as fast.
        table = pa.Table.from_batches(parquet.iter_batches(_BATCH, columns=names))
        if table.num_rows != rows:
            raise DataError(f"claims {rows} rows and holds {table.num_rows}.", fix="write or copy the file again.")
        return table

    def batches(names, step):
        return parquet.iter_batches(step, columns=list(names))

    return _Columns(schema, rows, fetch, batches)


def read_table(table):
    """The columns of any object with ``__arrow_c_stream__``."""
    pa = require("pyarrow", "tables", "reading a table")
    with _arrow():
        table = pa.table(table)
    return _Columns(table.schema, table.num_rows, table.select)


class _Columns:
    """A `Source` over Arrow columns: ``fetch(names)`` gives them as a table, ``batches(names, step)`` in pieces."""

    typed = True

    def __init__(self, schema, rows, fetch, batches=None):
        self.names, self.declared = schema.names, _declared(schema)
        self._schema, self._rows, self._fetch, self._batches = schema, rows, fetch, batches

    def outline(self, name):
        from pyarrow import types

        kind, dims = self._schema.field(name).type, (self._rows,)
        if types.is_fixed_size_list(kind):
            kind, dims = kind.value_type, (self._rows, kind.list_size)
        number = types.is_integer(kind) or types.is_floating(kind)
        return np.dtype(kind.to_pandas_dtype() if number else np.str_), dims

    def read(self, numbers, others):
        names = [*numbers, *others]
        if self._rows == 0:
            raise DataError("no rows.", fix="check how it was written.")
        with _arrow():
            table = self._fetch(names)
            return {name: _array(name, table.column(name)) for name in names}

    def stream(self, names, start, step):
        if self._batches is None or not self._rows:
            return None
        return self._streamed(self._batches(names, step), names, start)

    def _streamed(self, batches, names, start):
        pa = require("pyarrow", "tables", "reading parquet")
        done = 0
        with _arrow():
            for batch in batches:
                piece = batch.slice(max(start - done, 0))
                done += batch.num_rows
                if piece.num_rows:
                    table = pa.Table.from_batches([piece])
                    yield {name: _array(name, table.column(name)) for name in names}
        if done != self._rows:
            raise DataError(f"claims {self._rows} rows and holds {done}.", fix="write or copy the file again.")


def write(outputs, file, form):
    """``outputs`` as parquet: scores as a list column, with kind, classes and task in the metadata."""
    pa = require("pyarrow", "tables", "writing parquet")
    pq = require("pyarrow.parquet", "tables", "writing parquet")
    columns = columns_of(outputs)
    split = [f"{name}.list.element" if a.ndim == 2 else name for name, a in columns.items() if a.dtype.kind == "f"]
    plain = [f"{name}.list.element" if a.ndim == 2 else name for name, a in columns.items() if a.dtype.kind != "f"]
    metadata = {"kind": outputs.kind, "classes": outputs.classes, "task": outputs.task}
    arrays = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(a.ravel()), a.shape[1]) if a.ndim == 2 else pa.array(a)
        for name, a in columns.items()
    }
    table = pa.table(arrays).replace_schema_metadata({"lastlayer": json.dumps(metadata, ensure_ascii=False)})
    pq.write_table(table, file, compression="zstd", use_dictionary=plain, use_byte_stream_split=split)


@contextmanager
def _arrow():
    """What pyarrow raises on a damaged file or a foreign type, as one sentence of ours."""
    try:
        yield
    except DataError:
        raise
    except (sys.modules["pyarrow"].ArrowException, OSError, ValueError, KeyError, TypeError, MemoryError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise DataError(
            f"damaged, cut short or not readable: {reason}.",
            fix="write the file again, or copy it again.",
        ) from error


def _declared(schema):
    """Kind, classes and task from our own entry in the schema's metadata."""
    entry = (schema.metadata or {}).get(b"lastlayer")
    if entry is None:
        return {}
    try:
        declared = json.loads(entry)
        classes = declared.get("classes", [])
        fine = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    except (ValueError, AttributeError, RecursionError):
        fine = False
    if not fine:
        raise DataError("kind, classes and task are not there as JSON.", field="metadata", fix="write it again.")
    refuse_surrogates("classes", declared.get("classes", []))
    return declared


def _array(name, column):
    """A column as a NumPy array; lists of one length become rows, a null number becomes nan, a null text empty."""
    import pyarrow.compute
    from pyarrow import types

    kind = column.type
    if types.is_dictionary(kind) and not _is_text(kind.value_type):
        return _array(name, column.cast(kind.value_type))
    if types.is_fixed_size_list(kind) and not column.null_count and not _is_list(kind.value_type):
        return _array(name, pyarrow.compute.call_function("list_flatten", [column])).reshape(-1, kind.list_size)
    if _is_list(kind) and not _is_list(kind.value_type):
        widths = pyarrow.compute.call_function("list_value_length", [column]).to_numpy().astype(np.float64)
        odd = np.flatnonzero(~(widths == widths[0]))
        if len(odd):
            found = "no list" if np.isnan(widths[odd[0]]) else f"{widths[odd[0]]:.0f} values"
            raise DataError(
                f"row {odd[0]} holds {found}, row 0 holds {widths[0]:.0f}.",
                field=name,
                rows=odd,
                fix="give every row one number per class.",
            )
        return _array(name, pyarrow.compute.call_function("list_flatten", [column])).reshape(len(column), -1)
    if types.is_decimal(kind) or (column.null_count and (types.is_integer(kind) or types.is_boolean(kind))):
        return column.cast("float64").to_numpy()
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return column.to_numpy()
    if types.is_dictionary(kind) or _is_text(kind):
        return text_array(name, ["" if text is None else text for text in column.to_pylist()])
    raise DataError(f"a column of {kind} is not read.", field=name, fix="store numbers, texts or lists of numbers.")


def _is_list(kind):
    from pyarrow import types

    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _is_text(kind):
    from pyarrow import types

    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
