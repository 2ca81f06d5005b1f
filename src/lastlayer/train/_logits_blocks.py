"""The rows of whatever a model takes, some at a time."""

from collections.abc import Iterator, Mapping


def blocks(X, size) -> Iterator[tuple]:
    """Parts of ``X`` of at most ``size`` rows, the number of the first, and of all the rows (None where unknown).

    Arrays, tensors, sparse matrices, tables and lists are cut; of a mapping or tuple of them each is. An iterator's
    items are batches already, and the data objects of the boosting libraries stay whole.
    """
    if isinstance(X, str | bytes):
        raise TypeError("logits_of: X is one text; give a list of rows: [text].")
    if hasattr(X, "__next__"):
        start = 0
        for part in X:
            yield part, start, None
            start += rows_of(part)
        return
    rows = rows_of(X)
    if hasattr(X, "num_row") or size >= rows:
        yield X, 0, rows
        return
    X = X.tocsr() if hasattr(X, "tocsr") else X
    for start in range(0, rows, size):
        yield _cut(X, slice(start, start + size)), start, rows


def rows_of(X) -> int:
    if isinstance(X, Mapping | tuple):
        parts = X.values() if isinstance(X, Mapping) else X
        return next((rows_of(part) for part in parts if part is not None), 0)
    if hasattr(X, "num_row"):
        return X.num_row()
    shape = getattr(X, "shape", None)
    return shape[0] if shape else len(X)


def _cut(X, part):
    if isinstance(X, Mapping):
        return {name: None if x is None else _cut(x, part) for name, x in X.items()}
    if isinstance(X, tuple):
        return tuple(_cut(x, part) for x in X)
    return X.iloc[part] if hasattr(X, "iloc") else X[part]
