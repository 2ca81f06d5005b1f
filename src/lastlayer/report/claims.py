"""Findings about what the probabilities claim: confidence, classes and groups, each against what chance would do."""

import math
from typing import NamedTuple

import numpy as np

from lastlayer.measure.read import COLUMN_NAMES
from lastlayer.report.chance import ALPHA, LOG_ALPHA, clear_gap, log_chance
from lastlayer.report.codes import BALANCE, by_group, finding
from lastlayer.report.wording import number, percent, plain

OVER = COLUMN_NAMES.index("overconfidence")
CLEAR = 0.05  # with too few rows to see a gap of this size, nothing found means little
SHOWN = 3  # classes or groups named in one sentence


class Gap(NamedTuple):
    """Claimed minus found: the weighted sum over rows, its variance if the claims are true, the sum of the weights."""

    total: float
    variance: float
    weight: float

    @property
    def mean(self) -> float:
        return self.total / self.weight

    @property
    def z(self) -> float:
        return self.total / math.sqrt(self.variance) if self.variance > 0 else math.copysign(math.inf, self.total)


class ClassGaps(NamedTuple):
    """The same per class, as arrays, with the log of the chance of a gap that large on either side in any class."""

    mean: np.ndarray
    z: np.ndarray
    log_chance: np.ndarray


def confidence_gap(e) -> Gap:
    """Mean confidence minus accuracy of all rows, with the variance that true confidences give it.

    Labels of a row may go together, and so may weights and confidences; there the variance found counts if larger.
    """
    gap = _gap(e.means, e.top)
    simple = e.task != "multilabel" and float(e.means.weight2) == gap.weight
    return gap._replace(variance=float(_claimed_variance(e.top))) if simple else gap


def class_gaps(e) -> ClassGaps:
    """Mean probability minus frequency of each class, whether or not the model is confident as it should be."""
    total, weight = e.frequency.total, float(e.frequency.weight)
    claimed = _claimed_variance(e.classwise) * float(e.frequency.weight2) / weight
    variance = np.maximum(claimed, e.frequency.square)
    with np.errstate(all="ignore"):
        z = np.where(total == 0, 0.0, total / np.sqrt(variance))
    surprise = log_chance(np.abs(total), variance, float(e.signs.heaviest)) + math.log(2 * len(total))
    return ClassGaps(total / weight, z, surprise)


def confidence(e):
    """Over- or under-confident; too few rows to tell where neither is found."""
    gap, heaviest = confidence_gap(e), float(e.signs.heaviest)
    if log_chance(abs(gap.total), gap.variance, heaviest) + math.log(2) > LOG_ALPHA:
        return too_few_rows(e)
    mean = e.means.total / e.means.weight
    said, right = mean[COLUMN_NAMES.index("confidence")], mean[COLUMN_NAMES.index("correct")]
    numbers = {"confidence": said, "accuracy": right, "gap": gap.mean, "z": gap.z}
    order = "exceeds" if gap.total > 0 else "is below"
    evidence = f"mean confidence {percent(said)} {order} accuracy {percent(right)} by {number(abs(gap.mean))}"
    evidence += f" (z = {gap.z:.1f})"
    return finding("L501" if gap.total > 0 else "L502", abs(gap.mean), evidence, numbers)


def too_few_rows(e):
    """The gap that is found for certain is larger than one that matters."""
    rows, weight = int(e.means.rows), float(e.means.weight)
    if not weight:
        return finding("L104", 0.0, "no row can be scored", {"rows": 0})
    accuracy = float(e.means.total[COLUMN_NAMES.index("correct")]) / weight
    variance = accuracy * (1 - accuracy) * float(e.means.weight2)
    if e.kind != "margin":
        variance = max(variance, confidence_gap(e).variance)
    heaviest = float(e.signs.heaviest)
    seen = min(clear_gap(variance, heaviest, tests=2) / weight, 1.0)
    if seen <= CLEAR:
        return None
    wanted = _rows_for(CLEAR, variance / weight, heaviest) / weight * rows
    wanted = math.ceil(wanted / 10 ** (digits := max(int(math.log10(wanted)) - 1, 0))) * 10**digits
    evidence = f"with {rows:,} row{'s' if rows > 1 else ''} a gap below {number(seen)} between confidence and accuracy "
    evidence += "can go unnoticed; "
    evidence += f"about {wanted:,} show one of {CLEAR:g}"
    return finding("L104", seen, evidence, {"rows": rows, "gap": seen, "rows_wanted": wanted})


def class_bias(e):
    gaps = class_gaps(e)
    off = np.flatnonzero(gaps.log_chance <= LOG_ALPHA)
    if not len(off) or label_unseen(e):  # the probability of a label that is missing is that finding
        return None
    frequency = e.occurrence.total / e.occurrence.weight
    names = e.classes[-len(frequency) :]
    worst = off[np.lexsort((off, -np.round(np.abs(gaps.z[off]), 6)))]
    size = np.abs(gaps.mean[off])
    exclusive = e.task == "multiclass"
    magnitude = float(size.sum() / 2 if exclusive else size.max())
    told = [
        f"class {plain(names[k], 30)} has mean probability {percent(frequency[k] + gaps.mean[k])} and frequency "
        f"{percent(frequency[k])} (z = {gaps.z[k]:+.1f})"
        for k in worst[:SHOWN]
    ]
    numbers = {"classes": len(off), "misplaced": magnitude, "z": gaps.z[worst[0]], "gap": gaps.mean[worst[0]]}
    return finding("L401", magnitude, _list(told, len(off)), numbers, fix=BALANCE[e.task])


def dead_class(e):
    """Classes that come up more often than their largest probability allows, by half and clearly."""
    count, weight = e.occurrence.total, float(e.occurrence.weight)
    peak = np.maximum(e.signs.peak, 0.0)
    frequency, names = count / weight, e.classes[-len(count) :]
    allowed = peak * weight
    surprise = log_chance(count - allowed, peak * float(e.occurrence.weight2), float(e.signs.heaviest))
    dead = np.flatnonzero((peak < frequency / 2) & (surprise + math.log(len(count)) <= LOG_ALPHA))
    if not len(dead):
        return None
    worst = dead[np.lexsort((dead, -frequency[dead]))]
    told = [
        f"class {plain(names[k], 30)} has {percent(frequency[k])} of the rows and never more than {percent(peak[k])} "
        "probability"
        for k in worst[:SHOWN]
    ]
    numbers = {"classes": len(dead), "frequency": frequency[worst[0]], "peak": peak[worst[0]]}
    own = {"multiclass": f"target == {worst[0]}", "multilabel": f"target[:, {worst[0]}] == 1"}.get(
        e.task, "target == 1"
    )
    fix = f"rows = np.flatnonzero({own})  # train with more like these, or leave the class out"
    return finding("L403", float(frequency[worst[0]]), _list(told, len(dead)), numbers, fix=fix)


def label_unseen(e):
    """Classes of which the model expects many rows, and none is there: P(none) <= exp(-expected)."""
    weight, rows = float(e.occurrence.weight), int(e.means.rows)
    found, expected, names = (
        e.occurrence.total,
        e.frequency.total + e.occurrence.total,
        e.classes[-len(e.occurrence.total) :],
    )
    if e.task == "binary":
        found, expected = (np.append(weight - column, column) for column in (found, expected))
        names = e.classes
    surprise = -expected / float(e.signs.heaviest) + math.log(len(found))
    unseen = np.flatnonzero((found == 0) & (surprise <= LOG_ALPHA))
    if not len(unseen):
        return None
    worst = unseen[np.lexsort((unseen, -np.round(expected[unseen], 6)))]
    told = [
        f"class {plain(names[k], 30)} should be about {expected[k] / weight * rows:,.0f} of {rows:,} rows and is none"
        for k in worst[:SHOWN]
    ]
    share = float(expected[worst[0]]) / weight
    return finding("L404", share, _list(told, len(unseen)), {"classes": len(unseen), "expected_share": share})


def group_apart(e):
    """Groups whose gap differs from that of all other rows, and is larger in size."""
    tests = sum(len(parts) for parts in e.groups.values())
    apart = []
    for name, parts in e.groups.items():
        for value, part in sorted(parts.items()):
            mine, rest = _gap(part.means, part.top), _rest(e, part)
            if rest is None or not mine.weight or abs(mine.mean) <= abs(rest.mean):
                continue
            difference = Gap(
                mine.mean - rest.mean, mine.variance / mine.weight**2 + rest.variance / rest.weight**2, 1.0
            )
            largest = float(e.signs.heaviest) / min(mine.weight, rest.weight)
            surprise = log_chance(abs(difference.total), difference.variance, largest) + math.log(2 * tests)
            if surprise <= LOG_ALPHA:
                apart.append(((name, value), int(part.means.rows), mine, rest, difference))
    if not apart:
        return None
    apart.sort(key=lambda found: (-round(abs(found[-1].mean), 9), found[0]))
    told = [
        f"{plain(name, 30)} = {plain(value, 30)} ({rows:,} rows): confidence minus accuracy {mine.mean:+.3f}, "
        f"elsewhere {rest.mean:+.3f} (z = {difference.z:+.1f})"
        for (name, value), rows, mine, rest, difference in apart[:SHOWN]
    ]
    (name, _), rows, mine, rest, difference = apart[0]
    numbers = {"groups": len(apart), "rows": rows, "gap": mine.mean, "elsewhere": rest.mean, "z": difference.z}
    return finding("L503", abs(difference.mean), _list(told, len(apart)), numbers, fix=by_group(name))


def _gap(means, top) -> Gap:
    """Confidence minus hits, with the variance that true confidences give it, or the one found if that is larger."""
    weight = float(means.weight)
    if not weight:
        return Gap(0.0, 0.0, 0.0)
    entries = float(top.weight.sum()) / weight
    claimed = _claimed_variance(top) * float(means.weight2) / weight / entries**2
    return Gap(float(means.total[OVER]), float(max(claimed, means.square[OVER])), weight)


def _claimed_variance(bins):
    """``sum c (1 - c)`` per column, from above: c (1 - c) is concave, so the mean confidence of a bin gives more."""
    with np.errstate(all="ignore"):
        mean = np.where(bins.weight > 0, bins.confidence / bins.weight, 0.0)
    return (bins.weight * mean * (1 - mean)).sum(-1)


def _rest(e, part):
    """The gap of all rows but those of ``part``; None where there are none."""
    if part.means.rows == e.means.rows:
        return None

    def less(whole, cut):
        return type(whole)(**{k: v - cut.arrays()[k] for k, v in whole.arrays().items()})

    with np.errstate(invalid="ignore"):  # a loss may be infinite in both; only confidence is read
        return _gap(less(e.means, part.means), less(e.top, part.top))


def _rows_for(gap, variance, largest):
    """The sum of weights at which `clear_gap` of ``variance`` per unit is ``gap`` per unit."""
    needed = math.log(2 / ALPHA)
    root = math.sqrt(2 * variance * needed)
    return ((root + math.sqrt(root**2 + 4 * gap * largest * needed / 3)) / (2 * gap)) ** 2


def _list(told, count):
    return "; ".join(told) + (f"; and {count - len(told)} more" if count > len(told) else "")
