"""The finding that class columns stand in another order than the target's classes."""

import math

import numpy as np

from lastlayer.report.chance import LOG_ALPHA, log_chance
from lastlayer.report.codes import finding
from lastlayer.report.wording import percent, plain

CONTRARY = 0.1  # of what the cycle gains, what its classes that are better as they stand may lose
LARGEST = 2048  # classes up to which the confusion matrix is kept whole
LISTED = 12  # columns that a sentence or a line of code can name


def class_order(e):
    """The best permutation of the columns, where it is clearly better than the order that was given."""
    if e.task == "multilabel" or not 2 <= len(e.classes) <= LARGEST:
        return None
    matrix = e.confusion.value()
    count = matrix.sum(1)
    present = count > 0
    if (matrix.argmax(1) == np.arange(len(matrix)))[present].all():
        return None
    moved, source = _clear_cycles(matrix, count, float(e.signs.heaviest))
    if not len(moved):
        return None
    total = count.sum()
    now = np.trace(matrix) / total
    then = now + (matrix[moved, source] - matrix[moved, moved]).sum() / total
    evidence = f"accuracy {percent(now)} -> {percent(then)} if {_in_words(e, moved, source)}"
    numbers = {"accuracy": now, "accuracy_then": then, "columns": len(moved)}
    return finding("L204", then - now, evidence, numbers, fix=_in_code(e, moved, source))


def _clear_cycles(matrix, count, heaviest):
    """Classes to move and the column each is found in.

    In a cycle of m classes the sum of the recalls must rise more than chance explains, K^m times over. Recall, not
    counts: if predictions say nothing about the target, every class is called anything equally often, so the recalls of
    any permutation sum to the same, while a model that favours some classes could gain by counts.
    """
    from scipy.optimize import linear_sum_assignment

    recall = matrix / np.where(count > 0, count, 1.0)[:, None]
    k = len(recall)
    stay = 1e-9 * np.eye(k)  # a tie-break: of permutations that do equally well, the order that is given
    _, source = linear_sum_assignment(recall + stay, maximize=True)
    moved = []
    for cycle in _cycles(source):
        there, here = recall[cycle, source[cycle]], recall[cycle, cycle]
        gain, known = there - here, count[cycle] > 0
        variance = heaviest * ((there + here)[known] / count[cycle][known]).sum()
        largest = heaviest / count[cycle][known].min(initial=np.inf)
        if gain.sum() <= 0 or -gain[gain < 0].sum() > CONTRARY * gain.sum():
            continue
        if log_chance(gain.sum(), variance, largest) + len(cycle) * math.log(k) <= LOG_ALPHA:
            moved.extend(cycle)
    moved = np.array(sorted(moved), dtype=np.int64)
    return moved, source[moved]


def _cycles(source):
    """The cycles of a permutation that are longer than 1."""
    seen = source == np.arange(len(source))
    for start in range(len(source)):
        cycle = []
        while not seen[start]:
            seen[start] = True
            cycle.append(start)
            start = source[start]
        if cycle:
            yield cycle


def _in_words(e, moved, source):
    if e.task == "binary":
        return "the sign of the score is turned" if e.kind in ("logits", "margin") else "1 - p is taken for p"
    if len(moved) > LISTED:
        return f"{len(moved)} of {len(e.classes)} columns are put in another order"

    def listed(columns):
        return ", ".join(str(k) for k in columns)

    names = [plain(e.classes[k], 20) for k in moved]
    if len(moved) == 2:
        named = "" if names == [str(k) for k in moved] else f" ({names[0]} and {names[1]})"
        return f"columns {moved[0]} and {moved[1]}{named} are swapped"
    return f"columns {listed(moved)} are taken from {listed(source)}"


def _in_code(e, moved, source):
    if e.task == "binary":
        turned = {"logits": "-logits", "margin": "-margin", "probs": "1 - probs", "logp": "np.log1p(-np.exp(logp))"}
        return f"{e.kind} = {turned[e.kind]}  # before saving"
    if len(moved) > LISTED:
        return None
    return f"{e.kind}[:, {moved.tolist()}] = {e.kind}[:, {source.tolist()}]  # before saving"
