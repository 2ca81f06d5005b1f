"""Contrastive losses by softmax: which key of a row belongs to its query. One number per row of similarities."""

import math

from lastlayer._array import arange_like, as_array, dtype_name, floating, namespace, readable, take
from lastlayer._check import shape
from lastlayer._row import class_index, total
from lastlayer._typing import Array, Bool, Float, Int
from lastlayer.kernels import dispatched
from lastlayer.loss._parts import aligned, counted
from lastlayer.transform.softmax import surprise, tempered


@dispatched
def info_nce(
    similarity: Float[Array, "*batch keys"],
    positive: Int[Array, "*batch"] | None = None,
    *,
    temperature: float | Float[Array, ""] | Float[Array, "*batch 1"] = 1.0,
    mask: Bool[Array, "*batch keys"] | None = None,
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Cross-entropy of the one key that belongs to each query, among all keys of its row.

        info_nce = logsumexp_j(s_j / temperature) - s_positive / temperature

    (van den Oord et al. 2018, eq. 4.) ``positive`` is the column of each row; without it row i belongs to column i, and
    columns beyond the square are further negatives. ``mask`` is True where a key may serve as a negative: a key known
    to match as well (a false negative) is taken out of the row, whatever it holds, with gradient 0. The positive
    always counts. ``temperature`` is a number, an array of one that is learned, or one per row as ``[:, None]``.

    Edges as in `cross_entropy`: a sure row keeps its tail in value and gradient, a positive at ``-inf`` costs ``inf``,
    a row without its negatives costs 0, an empty row is nan with gradient 0, and a positive that is not a column is
    refused, or its row is nan where it cannot be looked at. A row that is not ``valid`` gives 0 with gradient exactly
    0, whatever it holds; as a column the same item still serves, until ``mask`` takes it out. Half precision comes out
    in float32. Use it to train an encoder to find the one match of a query: retrieval, two views of one item.

    >>> info_nce(np.array([[0.9, 0.1, 0.2], [0.0, 0.8, 0.7]]), temperature=0.1).round(6)
    array([0.001247, 0.313507])
    """
    x = scores("info_nce", similarity, rows=positive is None)
    xp = namespace(x)
    index = diagonal("info_nce", x, xp) if positive is None else column("info_nce", positive, x)
    mask, keep = entries("info_nce", mask, x, xp), kept("info_nce", valid, x, xp)
    return _of_positive("info_nce", x, index, temperature, mask, keep, xp)


@dispatched
def nt_xent(
    similarity: Float[Array, "*batch views views"],
    *,
    temperature: float | Float[Array, ""] | Float[Array, "*batch views 1"],
    mask: Bool[Array, "*batch views views"] | None = None,
    valid: Bool[Array, "*batch views"] | None = None,
) -> Float[Array, "*batch views"]:
    """Cross-entropy of the other view of the same item, among all views but oneself: one number per view.

        nt_xent_i = logsumexp_{j != i}(s_ij / temperature) - s_i,pair(i) / temperature,   pair(i) = (i + n) mod 2n

    (Chen et al. 2020, eq. 1.) ``similarity`` is ``(2n, 2n)``, cosines as a rule: the first views of n items, then their
    second views in the same order (``concat([a, b])``), so i and i + n are a pair. Items interleaved as a1 b1 a2 b2 are
    another order, and `info_nce` takes any. A view's similarity to itself is gone, whatever it holds, with gradient 0.
    ``temperature``, ``mask``, ``valid`` and edges as in `info_nce`. A matrix that is not square, or with an odd number
    of views, is refused. Use it where two augmentations of each item are all the supervision there is.

    >>> views = np.array([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [0.6, 0.8]])
    >>> nt_xent(views @ views.T, temperature=0.5).round(4)
    array([0.6271, 0.6271, 1.1143, 1.1143])
    """
    x = square("nt_xent", scores("nt_xent", similarity), "row i and column i are the same view")
    xp, views = namespace(x), x.shape[-1]
    if views % 2:
        raise ValueError(f"nt_xent: views come in pairs, i and i + n of 2n; similarity {shape(x)} has {views}.")
    index = (diagonal("nt_xent", x, xp) + views // 2) % views
    mask, keep = entries("nt_xent", mask, x, xp), kept("nt_xent", valid, x, xp)
    return _of_positive("nt_xent", xp.where(_own(x, xp), -xp.inf, x), index, temperature, mask, keep, xp)


@dispatched
def clip(
    similarity: Float[Array, "*batch pairs pairs"],
    *,
    temperature: float | Float[Array, ""],
    mask: Bool[Array, "*batch pairs pairs"] | None = None,
    valid: Bool[Array, "*batch pairs"] | None = None,
) -> Float[Array, "*batch pairs"]:
    """Cross-entropy of pairs in both directions, the mean of a row and its column: one number per pair.

        clip_i = (info_nce(s)_i + info_nce(s^T)_i) / 2

    (Radford et al. 2021, figure 3.) ``similarity`` is square: image i and text i are a pair. ``temperature`` is a
    number, or an array of one that is learned: the logit scale of CLIP is its inverse, so a learned logarithm of the
    scale goes in as ``exp(-log_scale)``. ``mask`` is True where two items may serve as each other's negative, in both
    directions; ``valid`` is per pair. Edges as in `info_nce`. Use it to give two kinds of data one space.

    >>> clip(np.array([[0.3, 0.2], [0.1, 0.3]]), temperature=0.01).round(10)
    array([2.27005e-05, 2.27005e-05])
    """
    x = square("clip", scores("clip", similarity), "row i and column i are a pair")
    xp = namespace(x)
    if not isinstance(temperature, int | float):
        temperature = single("clip", "temperature", temperature, x)
    index, mask, keep = diagonal("clip", x, xp), entries("clip", mask, x, xp), kept("clip", valid, x, xp)
    there = _of_positive("clip", x, index, temperature, mask, keep, xp)
    x, mask = xp.moveaxis(x, -1, -2), None if mask is None else xp.moveaxis(mask, -1, -2)
    return 0.5 * (there + _of_positive("clip", x, index, temperature, mask, keep, xp))


@dispatched
def sup_con(
    similarity: Float[Array, "*batch queries keys"],
    labels: Int[Array, "*batch queries"],
    key_labels: Int[Array, "*batch keys"] | None = None,
    *,
    temperature: float | Float[Array, ""] | Float[Array, "*batch queries 1"],
    mask: Bool[Array, "*batch queries keys"] | None = None,
    valid: Bool[Array, "*batch queries"] | None = None,
) -> Float[Array, "*batch queries"]:
    """Mean cross-entropy of all keys that share the label of the anchor: one number per anchor.

        sup_con_i = mean_{p in P(i)} (logsumexp_{j in A(i)}(s_ij / temperature) - s_ip / temperature)

    (Khosla et al. 2020, eq. 2, the mean outside the logarithm.) A(i) is every entry but i itself, whose similarity is
    gone, whatever it holds, with gradient 0; P(i) are those of A(i) with the label of i. Two views of each item are two
    rows of one label. With ``key_labels`` the columns are other items, a queue say, and none is left out as one's own.
    ``mask`` is True where a key may serve as a negative; positives always count. ``temperature`` and edges as in
    `info_nce`.

    An anchor without a positive has no loss: it is refused, and where labels cannot be looked at (under ``jax.jit``, on
    a GPU) its row is nan with gradient 0. ``valid=`` leaves it out as an anchor, giving 0 with gradient exactly 0, and
    it stays a negative of the others. Use it to shape an encoder by labels before a linear probe.

    >>> vectors = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.6, 0.8]])
    >>> sup_con(vectors @ vectors.T, np.array([0, 0, 1, 1]), temperature=0.5).round(4)
    array([0.6271, 1.1143, 0.6271, 1.1143])
    """
    x = scores("sup_con", similarity)
    xp = namespace(x)
    same = _same_label(x, labels, key_labels)
    mask, keep = entries("sup_con", mask, x, xp), kept("sup_con", valid, x, xp)
    if keep is not None:
        x = xp.where(keep[..., None], x, xp.zeros_like(x))
    if key_labels is None:
        same, x = same & ~_own(x, xp), xp.where(_own(x, xp), -xp.inf, x)
    if mask is not None:
        x = xp.where(mask | same, x, -xp.inf)
    alone = ~xp.any(same, axis=-1)
    _refuse_alone(alone if keep is None else alone & keep, xp)
    row = tempered("sup_con", x, temperature, math.e, -1, xp)
    cost, count = surprise(row), xp.sum(xp.astype(same, x.dtype), axis=-1)
    loss = total(xp.where(same, cost, xp.zeros_like(cost)), xp) / xp.where(alone, xp.ones_like(count), count)
    loss = xp.where(alone | (row.max == -xp.inf), xp.full_like(loss, xp.nan), loss)
    return counted(loss, keep, xp)


def scores(function, similarity, rows=True):
    """``similarity`` as an array to compute with: rows of keys, and a matrix of them where ``rows`` are needed."""
    x = floating(similarity)
    if x.ndim < 1 + rows or x.shape[-1] == 0:
        raise ValueError(f"{function}: similarity has one row per query and one column per key; it is {shape(x)}.")
    return x


def square(function, x, why):
    """``x``, after checking that it has as many rows as columns."""
    if x.shape[-1] != x.shape[-2]:
        raise ValueError(f"{function}: {why}, so similarity is square; it is {shape(x)}.")
    return x


def diagonal(function, x, xp):
    """The column of each row where row i belongs to column i."""
    rows, columns = x.shape[-2:]
    if rows > columns:
        raise ValueError(
            f"{function}: without positive= row i belongs to column i, and similarity {shape(x)} has {rows} rows for "
            f"{columns} columns. Give the column of each row as positive=."
        )
    return xp.broadcast_to(arange_like(x[..., 0], xp), tuple(x.shape[:-1]))


def column(function, positive, x):
    """``positive`` as one whole number per row of ``x``."""
    index = as_array(positive, like=x)
    kind = dtype_name(index)
    if not kind.startswith(("int", "uint")):
        raise TypeError(f"{function}: positive is the index of a column, one per row, not {kind}.")
    return aligned(function, "positive", index, "row of similarity", x[..., 0], index.dtype)


def entries(function, mask, x, xp):
    """``mask``, one bool for each entry of ``x``, or None; a mask of numbers could mean either thing by its zeros."""
    if mask is None:
        return None
    mask = as_array(mask, like=x)
    kind = dtype_name(mask)
    if kind != "bool":
        raise TypeError(f"{function}: mask is bool, True where an entry may serve as a negative, not {kind}.")
    return aligned(function, "mask", mask, "entry of similarity", x, xp.bool)


def kept(function, valid, x, xp):
    """``valid`` as bool, one for each row of ``x``, or None."""
    return None if valid is None else aligned(function, "valid", valid, "row of similarity", x[..., 0], xp.bool)


def single(function, name, value, x):
    """A parameter that may be learned, as an array of no axes in the dtype of ``x``."""
    value = as_array(value, like=x)
    if value.ndim:
        raise ValueError(f"{function}: {name} is one number, for rows and columns alike; {shape(value)} came.")
    return namespace(x).astype(value, x.dtype)


def _of_positive(function, x, index, temperature, mask, keep, xp):
    """Cross-entropy of the column ``index`` of each row, among itself and what the mask leaves."""
    if keep is not None:  # rows outside are never looked at
        x = xp.where(keep[..., None], x, xp.zeros_like(x))
        index = xp.where(keep, index, xp.zeros_like(index))
    index, x = class_index(function, "positive", index, x, xp)
    if mask is not None:
        x = xp.where(mask | (arange_like(x, xp) == index[..., None]), x, -xp.inf)
    row = tempered(function, x, temperature, math.e, -1, xp)
    loss = take(surprise(row), index, xp)
    loss = xp.where(row.max == -xp.inf, xp.full_like(loss, xp.nan), loss)
    return counted(loss, keep, xp)


def _own(x, xp):
    """The entries on the diagonal."""
    each = arange_like(x, xp)
    return each[:, None] == each


def _same_label(x, labels, key_labels):
    """Which keys have the label of their query, after checking that there are as many labels as items."""
    queries = as_array(labels, like=x)
    keys = queries if key_labels is None else as_array(key_labels, like=x)
    rows, columns = x[..., 0], x[..., 0, :]
    if tuple(queries.shape) != tuple(rows.shape):
        raise ValueError(
            f"sup_con: one label per row of similarity, {shape(rows)}; labels are {shape(queries)}. Two views of each "
            f"item have its label twice."
        )
    if key_labels is not None and tuple(keys.shape) != tuple(columns.shape):
        raise ValueError(
            f"sup_con: one key label per column of similarity, {shape(columns)}; key_labels are {shape(keys)}."
        )
    if key_labels is None:
        square("sup_con", x, "without key_labels the columns are the rows")
    return queries[..., :, None] == keys[..., None, :]


def _refuse_alone(alone, xp):
    """An anchor without a positive, in a sentence."""
    if readable(alone) and bool(xp.any(alone)):
        rows = [int(i) for i in xp.nonzero(xp.reshape(alone, (-1,)))[0][:3]]
        raise ValueError(
            f"sup_con: each anchor has another entry of its label; row {', '.join(map(str, rows))} has none. Leave "
            f"such rows out with valid=: they stay negatives of the others."
        )
