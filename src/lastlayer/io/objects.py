"""Objects in memory: arrays and tensors of any library, tables, dictionaries of arrays, lists."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lastlayer._array import to_numpy
from lastlayer._check import DataError
from lastlayer.io._fields import Arrays, bare


def read(source):
    """The columns of an object: a table's or a dictionary's by name, an array's or a list's as the scores."""
    if isinstance(source, Mapping):
        arrays = {str(name): array(str(name), values) for name, values in source.items()}
        return Arrays(arrays, arrays.__getitem__, lambda name: (arrays[name].dtype, arrays[name].shape))
    if hasattr(source, "__arrow_c_stream__") and not _is_column(source):
        from lastlayer.io.parquet import read_table

        return read_table(source)
    if isinstance(source, list | tuple) and source and all(isinstance(row, Mapping) for row in source):
        from lastlayer.io.text import Records

        return Records(enumerate(source))
    scores = array("scores", source)
    return bare(scores.dtype, scores.shape, lambda: scores)


def _is_column(source):
    """A pandas or polars series, or an Arrow array: it streams as well, but it is an array."""
    return hasattr(source, "__array__") and len(getattr(source, "shape", (0,))) == 1


def array(name, values: Any):
    """One array of numbers, texts or truth values, whatever library it comes from."""
    if isinstance(values, list | tuple) and any(hasattr(row, "shape") for row in values):
        values = [to_numpy(row) for row in values]
    try:
        values = to_numpy(values)
        if values.dtype.kind == "S":
            return np.strings.decode(values, "utf-8")
    except ValueError as error:
        raise DataError(
            f"is no array: {str(error).splitlines()[0]}", field=name, fix="give rows of one length."
        ) from None
    if values.dtype == object and all(isinstance(value, str) for value in values.ravel().tolist()):
        return values.astype(np.str_)
    if values.dtype.kind not in "fiubU":
        raise DataError(f"{values.dtype} is not read.", field=name, fix="give numbers, texts or truth values.")
    return values
