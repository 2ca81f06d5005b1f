"""Losses of one positive among sampled negatives: softmax with logQ, in the batch, and binary with its overconfidence
taken back."""

import math

from lastlayer._array import arange_like, as_array, readable, take
from lastlayer._check import positive as check_positive
from lastlayer._check import shape
from lastlayer._row import prepare, split, subtract, total
from lastlayer._typing import Array, Bool, Float, Int
from lastlayer.kernels import dispatched
from lastlayer.loss._parts import aligned, counted, weighed
from lastlayer.loss.ranking import check_items, rows_of_negatives
from lastlayer.transform.sigmoid import softplus
from lastlayer.transform.softmax import per_row, surprise, tempered


@dispatched
def sampled_softmax(
    positive: Float[Array, "*batch"],
    negatives: Float[Array, "*batch k"],
    *,
    log_q_positive: Float[Array, "*batch"] | None = None,
    log_q_negatives: Float[Array, "... k"] | None = None,
    accidental: Bool[Array, "*batch k"] | None = None,
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Softmax cross-entropy over a catalogue, estimated from k sampled negatives; one number per positive.

        sampled_softmax = logsumexp over [s+ - log q+, s_1 - log q_1, ..., s_k - log q_k] - (s+ - log q+)

    ``log_q_*`` are logarithms of the probability of each item in one draw, and are taken off: an item that is drawn
    often counts less each time (Bengio & Senécal 2008; with the positive, Yi et al. 2019). Then the gradient tends to
    that of the full softmax as k grows. With ``log_q_negatives`` alone the positive is there for certain, and each
    negative is corrected by the number of times it is expected, ``s_j - log(k q_j)``; without either, all negatives
    count as they are. ``log_q_negatives`` are ``(*batch, k)``, or ``(k,)`` where the rows share their draws.
    ``accidental`` is True where a negative is the positive itself (``positive_id[:, None] == negative_id``): it is left
    out. Negatives of ``-inf`` are absent, a positive of ``-inf`` costs ``inf``, both nan with gradient 0. A probability
    of 0 or above 1 is refused; where it cannot be looked at its row is nan. A row that is not ``valid`` gives 0 with
    gradient exactly 0. Use it to train on a catalogue too long for a softmax.

    >>> log_q = np.log([0.5, 0.25, 0.25])
    >>> sampled_softmax(
    ...     np.array([1.0]), np.array([[0.5, 0.0]]), log_q_positive=log_q[:1], log_q_negatives=log_q[1:]
    ... ).round(4)
    array([1.0814])
    """
    x, s, keep, xp = rows_of_negatives("sampled_softmax", positive, negatives, valid)
    if accidental is not None:
        x = xp.where(aligned("sampled_softmax", "accidental", accidental, "negative", x, xp.bool), -xp.inf, x)
    scores = xp.concat([s[..., None], x], axis=-1)
    if log_q_negatives is not None:
        log_q = _draws("sampled_softmax", "log_q_negatives", log_q_negatives, x, keep, xp)
        if log_q_positive is None:
            first, log_q = xp.zeros_like(s), log_q + math.log(x.shape[-1])
        else:
            first = _draws("sampled_softmax", "log_q_positive", log_q_positive, s, keep, xp)
        log_q = xp.concat([first[..., None], log_q], axis=-1)
    elif log_q_positive is not None:
        raise ValueError("sampled_softmax: log_q_positive goes with log_q_negatives; it came alone.")
    row = split(scores, xp) if log_q_negatives is None else split(*_corrected(scores, log_q, xp))
    return _of_positive(row, xp.zeros_like(s, dtype=arange_like(x, xp).dtype), keep)


@dispatched
def in_batch(
    similarity: Float[Array, "*batch rows columns"],
    *,
    log_q: Float[Array, " columns"] | None = None,
    ids: Int[Array, " columns"] | None = None,
    temperature: float | Float[Array, "*batch rows 1"] = 1.0,
    valid: Bool[Array, "*batch rows"] | None = None,
) -> Float[Array, "*batch rows"]:
    """Softmax cross-entropy of each row's own item among the items of the batch, one number per row.

        in_batch_i = logsumexp_j(z_ij) - z_ii,   z_ij = similarity_ij / temperature - log q_j

    The positive of row i is column i; columns beyond the rows are further negatives. ``log_q`` is the logarithm of the
    probability that a draw of the batch is this item: items in the batch are there because they are popular, and
    without it the scores learn to be ``log p - log q`` (Yi et al. 2019). It is taken off, the positive's own too.
    ``ids`` names the item of each column: another column with the item of the row is no negative, and is left out.
    Pairs that must not count otherwise are masked with ``-inf``. Edges as in `sampled_softmax`. A row that is not
    ``valid`` gives 0 with gradient exactly 0; its column stays a negative of the others. Use it for two towers, where
    the other rows' items are at hand for nothing.

    >>> in_batch(np.array([[2.0, 0.0], [1.0, 1.0]]), log_q=np.log([0.8, 0.2])).round(4)
    array([0.4327, 0.2231])
    """
    x, xp = prepare(similarity, -1)
    if x.ndim < 2 or x.shape[-2] > x.shape[-1]:
        raise ValueError(
            f"in_batch: the positive of each row is on the diagonal, so there are as many columns as rows or more; "
            f"similarity is {shape(x)}."
        )
    keep = None if valid is None else aligned("in_batch", "valid", valid, "row", x[..., 0], xp.bool)
    x = x if keep is None else xp.where(keep[..., None], x, xp.zeros_like(x))
    columns, rows = arange_like(x, xp), arange_like(x[..., 0], xp)
    if ids is not None:
        item = aligned("in_batch", "ids", ids, "column", columns, columns.dtype)
        again = (item[: x.shape[-2], None] == item[None, :]) & (rows[:, None] != columns[None, :])
        x = xp.where(again, -xp.inf, x)
    if log_q is None:
        row = tempered("in_batch", x, temperature, math.e, -1, xp)
    else:
        if isinstance(temperature, int | float):
            check_positive("in_batch", "temperature", temperature)
        else:
            temperature = per_row("in_batch", temperature, x, -1, xp)
        row = split(*_corrected(x / temperature, _draws("in_batch", "log_q", log_q, x, keep, xp), xp))
    return _of_positive(row, xp.broadcast_to(rows, x.shape[:-1]), keep)


@dispatched
def gbce(
    positive: Float[Array, "*batch"],
    negatives: Float[Array, "*batch k"],
    *,
    items: int,
    t: float = 0.75,
    valid: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Binary cross-entropy of a positive and k sampled negatives, with the overconfidence of sampling taken back.

        gbce = (beta softplus(-s+) + sum_j softplus(s_j)) / (k + 1)
        beta = 1 - t + t alpha,   alpha = k / (items - 1)

    That is ``-log(sigmoid(s+)^beta)`` without forming the power, which rounds to 0 or 1, or its clamp, which has no
    slope. ``t`` between 0 and 1 goes from binary cross-entropy to scores that are calibrated under sampling (Petrov &
    Macdonald 2023). k counts the negatives that are there: those of ``-inf`` are absent. A positive of ``-inf`` costs
    ``inf``. A row that is not ``valid`` gives 0 with gradient exactly 0. Use it for sequences of items with few
    negatives each, when the scores should not all be near 1.

    >>> gbce(np.array([2.0, -40.0]), np.array([[0.5, -1.0], [0.5, -1.0]]), items=1000).round(4)
    array([0.4398, 3.7825])
    """
    if not 0 <= t <= 1:
        raise ValueError(f"gbce: t is between 0 (binary cross-entropy) and 1 (calibrated), not {t!r}.")
    x, s, keep, xp = rows_of_negatives("gbce", positive, negatives, valid)
    check_items("gbce", items, x)
    k = total(xp.astype(x != -xp.inf, x.dtype), xp)
    beta = (1 - t) + t * k / (items - 1)
    loss = (weighed(beta, softplus(-s), xp) + total(softplus(x), xp)) / (k + 1)
    return counted(loss, keep, xp)


def _corrected(scores, log_q, xp):
    """``scores - log_q`` as `split` takes it, with what rounding took from each."""
    scores, low = subtract(scores, log_q, xp)
    return scores, xp, low


def _of_positive(row, index, keep):
    """The cost of one class of each row; nan for a row of nothing but -inf, 0 for one that does not count."""
    xp = row.xp
    loss = take(surprise(row), index, xp)
    loss = xp.where(row.max == -xp.inf, xp.nan, loss)
    return counted(loss, keep, xp)


def _draws(function, name, log_q, like, keep, xp):
    """``log_q`` in the shape of ``like``; one that is no logarithm of a probability is refused, or nan."""
    log_q = xp.astype(as_array(log_q, like=like), like.dtype)
    if tuple(log_q.shape) not in (tuple(like.shape), tuple(like.shape[-1:])) or log_q.ndim == 0 < like.ndim:
        raise ValueError(
            f"{function}: {name} has one logarithm of a probability for each of {shape(like)}, or one for each of the "
            f"last axis; it is {shape(log_q)}."
        )
    log_q = xp.broadcast_to(log_q, like.shape)
    if keep is not None:
        log_q = xp.where(keep if keep.ndim == like.ndim else keep[..., None], log_q, xp.zeros_like(log_q))
    wrong = ~((log_q <= 0) & (log_q > -xp.inf))
    if readable(log_q) and bool(xp.any(wrong)):
        value = float(log_q[wrong][0] if log_q.ndim else log_q)
        why = "an item of probability 0 is never drawn" if value == -math.inf else "a probability is at most 1"
        raise ValueError(f"{function}: {name} holds logarithms of probabilities above 0; one is {value:g}: {why}.")
    return xp.where(wrong, xp.nan, log_q)
