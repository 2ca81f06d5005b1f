"""What the text in a target column means: the name of a class, else an index, else a number."""

import numpy as np

from lastlayer._check import DataError


def class_pair(positive, target):
    """The two classes of a table with one score column: the negative is the one other text in the target.

    Where the target has no such text (0/1, or positives only) it is ``"0"`` beside ``"1"``, else ``not_<positive>``.
    """
    others = set() if target is None or np.ndim(target) != 1 else {str(value) for value in np.asarray(target).tolist()}
    named = positive in others
    others.discard(positive)
    if len(others) == 1:
        (other,) = others
        if named or _numbers([other]) is None:
            return [other, positive]
    return ["0" if positive == "1" else f"not_{positive}", positive]


def look_up(target, classes):
    """A target read from names and numbers alike: class names first, then indices, then (floating) probabilities.

    Texts that are none of these stay, for `Outputs` to refuse.
    """
    if target.dtype.kind not in "iuU":
        return target
    if target.ndim != 1:
        numbers = _numbers(target.ravel().tolist())
        return target if numbers is None else numbers.reshape(target.shape)
    values = target.tolist()
    index = {name: k for k, name in enumerate(classes)}
    texts = {value: str(value) for value in set(values)}
    if any(text in index for text in texts.values()):
        if all(text in index for text in texts.values()):
            return np.array([index[texts[value]] for value in values], dtype=np.int64)
        return target.astype(np.str_)
    numbers = _numbers(values)
    return target if numbers is None else numbers


def refuse_missing(target):
    """Refuse empty texts and nan, which is what a missing value becomes."""
    absent = target == "" if target.dtype.kind == "U" else np.isnan(target) if target.dtype.kind == "f" else None
    if absent is not None and absent.ndim and absent.any():
        rows = np.flatnonzero(absent.reshape(len(target), -1).any(axis=1))
        raise DataError(
            f"the target is missing in {len(rows)} of {len(target)} rows.",
            field="target",
            rows=rows,
            fix="leave unlabelled rows out, or put them in a file of their own.",
        )


def _numbers(values):
    """All as int64, else all as float64, by how they are written ("1" or "1.0"), else None."""
    for dtype in (int, float):
        try:
            return np.array([dtype(value) for value in values], dtype=np.dtype(dtype))
        except (ValueError, OverflowError):
            continue
    return None
