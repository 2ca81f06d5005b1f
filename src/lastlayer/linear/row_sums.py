"""The statistics of a head's rows, from one sweep over its tiles, and the slopes of those that have any."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lastlayer.linear.gradients import Gradients
from lastlayer.linear.head import Head, Lines, Parts, Picks
from lastlayer.linear.tile import head_cross, head_ranks, head_slopes, head_stats, over_rows, picked


class Tops(NamedTuple):
    """The largest entries of each row in falling order, the first of equals first, and their classes."""

    values: np.ndarray
    index: np.ndarray

    def merge(self, other, k):
        """Those of both blocks; ``other`` has the later classes."""
        values = np.concatenate([self.values, other.values], axis=1)
        order = np.argsort(-values, axis=1, kind="stable")[:, :k]
        index = np.concatenate([self.index, other.index], axis=1)
        return Tops(np.take_along_axis(values, order, 1), np.take_along_axis(index, order, 1))


class RowSums(NamedTuple):
    """What is known of each row; what was not asked for is None."""

    target: np.ndarray
    parts: Parts
    tops: Any
    rank: Any
    teacher: Any
    cross: Any  # sum of exp(t_i - m_t) (t_i - z_i), t being the teacher's logits

    def merge(self, other, k):
        """Those of both blocks of classes; ranks are counted in a sweep of their own."""
        parts = self.parts.merge(other.parts)
        tops = None if self.tops is None else self.tops.merge(other.tops, k)
        if self.teacher is None:
            return RowSums(self.target, parts, tops, None, None, None)
        teacher, cross = self.teacher.merge(other.teacher), np.zeros(len(parts.rest))
        for side in (self, other):
            there = side.teacher.largest > -np.inf
            share = np.where(there, np.exp(np.where(there, side.teacher.largest - teacher.largest, 0.0)), 0.0)
            cross += np.where(share > 0, share * side.cross, 0.0)
        return RowSums(self.target, parts, tops, None, teacher, cross)


@dataclass(frozen=True)
class Asked:
    """What to find: the first ``tops`` classes, the rank of ``target``, the divergence from a ``teacher``."""

    target: np.ndarray
    tops: int
    rank: bool
    teacher: Any


def row_sums(head: Head, asked: Asked) -> RowSums:
    """The sums of every row."""
    room = head.room()
    with np.errstate(all="ignore"):  # written for limits
        groups = [_of_group(head, asked, rows, room) for rows in head.groups()]
    if not groups:
        groups = [_none(head, asked)]
    return _joined(groups)


def _of_group(head, asked: Asked, rows, room) -> RowSums:
    found: Any = None
    target = asked.target[rows]
    tiles = head.tiles(rows, room)
    teacher = asked.teacher and asked.teacher.tiles(rows, asked.teacher.room())
    for block, tile in tiles:
        bits = head.products.bits(tile)
        whole = head.plan.tile[1] == head.plan.classes
        sums = _of_tile(bits, target, block.start, asked.tops, asked.rank and whole)
        if teacher is not None:
            theirs = asked.teacher.products.bits(next(teacher)[1])
            other = Parts.of(theirs, target - block.start, False)
            cross = np.concatenate(over_rows(head_cross, theirs, bits, other.largest))
            sums = sums._replace(teacher=other, cross=cross)
        found = sums if found is None else found.merge(sums, asked.tops)
    if asked.rank and found.rank is None:
        ranks = (_ranks(head.products.bits(t), found.parts.at, target - b.start) for b, t in head.tiles(rows, room))
        found = found._replace(rank=sum(ranks))
    return found


def _of_tile(bits, target, start, k, rank):
    """The sums of one tile, whose first class is ``start``; one narrower than ``k`` gives all the classes it has."""

    def of_range(part, local):
        at = picked(part, local)
        parts, *others = head_stats(part, min(k, part.shape[1]), at if rank else None, local)
        return *parts, at, *others

    columns = zip(*over_rows(of_range, bits, target - start), strict=True)
    m, rest, moment, at, ranks, values, index = (np.concatenate(column) for column in columns)
    tops = Tops(values.astype(np.float64), index + start) if k else None
    none = np.zeros_like(m)
    return RowSums(target, Parts(m, rest, moment, none, none, at), tops, ranks if rank else None, None, None)


def _ranks(bits, at, target):
    return np.concatenate(over_rows(head_ranks, bits, at, target))


def _none(head, asked):
    """The sums of no rows."""
    parts, width = Parts(*np.empty((6, 0))), min(asked.tops, head.plan.classes)
    tops = Tops(np.empty((0, width)), np.empty((0, width), np.int64)) if asked.tops else None
    teacher = None if asked.teacher is None else parts
    none = np.empty(0, np.int64)
    return RowSums(none, parts, tops, none if asked.rank else None, teacher, parts.rest)


def _joined(groups) -> Any:
    """The rows of all groups."""

    def join(values):
        if values[0] is None:
            return None
        if isinstance(values[0], np.ndarray):
            return np.concatenate(values)
        return type(values[0])(*(join(column) for column in zip(*values, strict=True)))

    return join(groups)


def back(head: Head, teacher: Any, sums: RowSums, slopes, wanted) -> Gradients:
    """The gradients for the cotangents of each row's statistics, by name."""
    out, room = Gradients(head, wanted), head.room()
    with np.errstate(all="ignore"):
        for rows in head.groups():
            *made, pull = _slopes(_rows_of(sums, rows), {name: each[rows] for name, each in slopes.items()})
            lines, picks = head.seen(*made)
            theirs = teacher and teacher.tiles(rows, teacher.room())
            for block, tile in head.tiles(rows, room):
                bits = head.products.bits(tile)
                head.slope(bits, block, lines, picks)
                if theirs is not None:
                    _subtract_shares(bits, teacher.products.bits(next(theirs)[1]), sums.teacher, rows, pull)
                out.add(rows, block, tile)
    return out


def _slopes(sums, cotangents):
    """Per row: what `Head.slope` takes, and what the teacher's probabilities are multiplied by.

    A number of one class, such as log p, has the slope ``w (onehot - p)``: at that class ``w (1 - p)`` is written by
    itself, as ``w - w p`` would lose it where p rounds to 1.
    """
    parts, one = sums.parts, 1 + sums.parts.rest
    w = {name: cotangents.get(name, np.zeros_like(one)) for name in ("logp", "lse", "entropy", "max_prob", "kl")}
    smooth = w["lse"] + w["kl"] - w["entropy"] * parts.moment / one
    pulls, adds, index, logit = [], [], [], []
    if "logp" in cotangents:
        pulls.append((sums.target, w["logp"]))
        index, logit = [sums.target], [parts.at]
    if sums.tops is not None:
        classes = list(sums.tops.index.T)
        index, logit = index + classes, logit + list(sums.tops.values.T)
        pulls.append((classes[0], w["max_prob"] / one))
        gap = cotangents.get("top2_gap", np.zeros_like(one))
        adds = [(c, sign * gap) for c, sign in zip(classes, (1, -1), strict=False)]
        adds += list(zip(classes, cotangents.get("topk", np.empty((len(one), 0))).T, strict=False))
    slopes = []
    for each, z in zip(index, logit, strict=True):
        d = np.where(z == parts.largest, 0.0, z - parts.largest)
        p = np.exp(d) / one
        other = np.where(d == 0, parts.rest / one, 1 - p)
        slope = p * (smooth - w["entropy"] * np.where(p > 0, d, 0.0))
        slope += sum(pull * np.where(c == each, other, -p) for c, pull in pulls)
        slope += sum(np.where(c == each, add, 0.0) for c, add in adds)
        slopes.append(np.where(z == -np.inf, 0.0, slope))
    lines = Lines(parts.largest, (smooth - sum(pull for _, pull in pulls)) / one, -w["entropy"] / one, 0 * one)
    columns = (np.stack(c, axis=1) if c else np.empty((len(one), 0), np.int64) for c in (index, logit, slopes))
    return lines, Picks(*columns), w["kl"]


def _subtract_shares(bits, theirs, parts, rows, pull):
    """Take the teacher's probabilities, times ``pull``, off a tile of slopes."""
    none = np.zeros(len(pull))
    over_rows(head_slopes, theirs, parts.largest[rows], pull / (1 + parts.rest[rows]), none, none, 0.0)
    np.subtract(bits, theirs, out=bits)


def _rows_of(sums, rows):
    """The sums of some rows."""

    def part(value):
        if value is None or isinstance(value, np.ndarray):
            return value if value is None else value[rows]
        return type(value)(*(part(column) for column in value))

    return part(sums)
