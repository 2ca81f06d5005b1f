"""The points of a reliability diagram, with intervals."""

import numpy as np

from lastlayer._check import one_of
from lastlayer._typing import Array, Float, Int
from lastlayer.measure._entries import (
    SCHEMES,
    Entries,
    bin_sums,
    cells_of,
    count_of,
    entries_of,
    labels_together,
    with_hits,
)
from lastlayer.measure.metric import Z95, simultaneous
from lastlayer.measure.read import BinRow, bin_rows
from lastlayer.state import Bins


def reliability(
    logits: Float[Array, "n ..."],
    target: Int[Array, "n ..."],
    *,
    of=None,
    bins=15,
    scheme="width",
    at_once=False,
    weight=None,
) -> list[BinRow]:
    """Mean confidence and frequency of hits in each bin ``(low, high]``, with Wilson's interval and its rows.

    ``of=None`` is about the predicted class: its confidence, and whether it was right; ``of=k`` about class (or label)
    k: its probability, and whether it came true, for a binary task ``of=1`` (or 0). ``scheme="mass"`` has bins of equal
    numbers of rows, as in `calibration_error`, from the least to the largest probability in each. ``at_once=True``
    widens the intervals until all of them hold together (Bonferroni over the bins that hold rows).

    >>> z, y = np.array([[2.0, 0.0]] * 4), np.array([0, 0, 1, 1])
    >>> [(round(b.confidence, 3), b.accuracy) for b in reliability(z, y) if b.share]
    [(0.881, Metric(0.5, low=0.150039, high=0.849961, n=4))]
    """
    one_of("reliability", "scheme", scheme, SCHEMES)
    if bins < 1:
        raise ValueError(f"reliability: bins is at least 1, not {bins}.")
    rows = with_hits("reliability", logits, target, weight)
    entries = _about(rows, of).counted()
    cell, p, y = (a.reshape(-1) for a in (cells_of(entries, bins, scheme), entries.probs, entries.hits))
    w = np.repeat(entries.weight, entries.odds.shape[1])
    edges = np.linspace(0.0, 1.0, bins + 1)
    if scheme == "mass":
        edges = _edges(cell, p, bins)
    state = Bins(edges, *bin_sums(cell, p, y, w, bins))
    per_weight = count_of(rows)[1] / (labels_together(rows, "top") if of is None else 1)
    z = simultaneous(int((state.weight > 0).sum())) if at_once else Z95
    return bin_rows(state, per_weight, z)


def _about(rows, of):
    if of is None:
        entries = entries_of(rows, "top")
        table = entries.odds.reshape(-1, 1), entries.hits.reshape(-1, 1)
        return Entries(*table, np.repeat(entries.weight, entries.odds.shape[1]))
    entries = entries_of(rows, "classwise")
    columns = len(rows.classes)
    if isinstance(of, bool) or not isinstance(of, int | np.integer) or not 0 <= of < columns:
        raise ValueError(f"reliability: of is None or the index of one of {columns} classes, not {of!r}.")
    if rows.task == "binary":
        return entries if of == 1 else Entries(-entries.odds, 1 - entries.hits, entries.weight)
    return entries.columns()[of]


def _edges(cell, p, bins):
    """From the least probability through the largest of each bin; an empty one has no width."""
    highest = np.full(bins, -np.inf)
    np.maximum.at(highest, cell, p)
    return np.append(p.min(), np.maximum.accumulate(np.maximum(highest, p.min())))
