"""Findings about the scores as they came: rows that say nothing, precision, and what was declared. Counts, mostly."""

import numpy as np

from lastlayer.measure.read import COLUMN_NAMES
from lastlayer.measure.signs import ROUNDING
from lastlayer.report.chance import LOG_ALPHA, log_chance
from lastlayer.report.claims import class_gaps, confidence_gap
from lastlayer.report.codes import AS_LOGITS, AS_PROBS, finding
from lastlayer.report.wording import number, percent, plain
from lastlayer.state import cells

FEW = 3  # rows that show an effect by themselves; fewer may be chance
ALMOST_ALL = 0.999
BEYOND_ROUNDING = 1e-5  # a float32 softmax sums to 1 to better than this
CEILING = 0.9  # a probability that, put through a softmax once more, is near the largest that can come out
CROWD = 0.05  # of the rows are there when a model was confident; one that is weak in itself has them nowhere near


def nan_rows(e):
    if count := int(e.signs.nan_rows):
        return finding("L101", *_counted(e, count, "hold a nan"))


def infinite_rows(e):
    infinite, empty = int(e.signs.infinite_rows), int(e.signs.empty_rows)
    if infinite or empty:
        share, evidence, numbers = _counted(e, infinite, "hold +inf")
        evidence += f", and {empty:,} nothing but -inf" if empty else ""
        return finding("L102", share + empty / e.signs.rows, evidence, numbers | {"empty_rows": empty})


def duplicated_rows(e):
    distinct, columns = e.signs.distinct, len(e.signs.least)
    if columns < 2 or not e.signs.rows:
        return None
    silent = int(e.signs.nan_rows + e.signs.empty_rows)  # these repeat each other, which is another finding
    repeated = float(distinct.value()) * int(e.signs.rows) - silent
    share = repeated / int(e.signs.rows)
    saturated = max((rows for rows, _, _ in _crowded_ends(e)), default=0)
    if repeated < FEW or share < 1e-3 or repeated <= saturated:  # saturated rows repeat each other, too
        return None
    exact = len(distinct.hashes) < distinct.LIMIT
    about = "" if exact else "about "
    evidence = (
        f"{about}{round(repeated):,} rows of {int(e.signs.rows):,} ({about}{percent(share)}) repeat an earlier row"
    )
    evidence += "" if exact else f", estimated from {distinct.LIMIT:,} hashes"
    return finding("L103", share, evidence, {"rows": repeated, "share": share})


def saturated_scores(e):
    ends = _crowded_ends(e)
    if not ends:
        return None
    count, value, name = ends[0]
    share, evidence, numbers = _counted(e, count, f"hold exactly {number(value)}, the {name} score of all")
    evidence += f", and {ends[1][0]:,} the {ends[1][2]}" if len(ends) > 1 else ""
    return finding("L301", share, evidence, numbers | {"value": value})


def tied_rows(e):
    count = int(e.signs.tied_rows)
    if count >= FEW and count >= 1e-3 * e.signs.rows:
        return finding("L302", *_counted(e, count, "have equal scores for their two best classes"))


def impossible_labels(e):
    if count := int(e.signs.impossible_rows):
        return finding("L303", *_counted(e, count, "give the label that happened probability 0"))


def constant_class(e):
    s = e.signs
    columns = len(s.least)
    still = s.least >= s.largest
    if e.kind == "logits" and columns > 1 and still.sum() == 1 and s.least[still][0] == 0:
        return None  # a reference class
    if s.rows < 2 or len(e.classes) < 2 or not still.any():
        return None
    names = e.classes[-columns:]
    shown = [
        f"{plain(names[k], 30)} (always {number(s.least[k])})"
        if np.isfinite(s.least[k])
        else f"{plain(names[k], 30)} (never finite)"
        for k in np.flatnonzero(still)[:3]
    ]
    evidence = (
        f"{int(still.sum())} of {columns} score columns never change{'s' if columns == 1 else ''}: {', '.join(shown)}"
    )
    evidence += ", ..." if still.sum() > 3 else ""
    return finding("L402", still.mean(), evidence, {"columns": still.sum(), "share": still.mean()})


def logits_that_are_probabilities(e):
    s = e.signs
    heard = int(s.rows - s.nan_rows)
    if e.kind != "logits" or heard < 5 or s.simplex_rows < ALMOST_ALL * heard:
        return None
    what = "lie in [0, 1] and sum to 1"
    if e.task != "multiclass":
        if not _off(e):
            return None
        what = "lie in [0, 1], and taken as logits they give probabilities that are clearly off"
    elif len(e.classes) < 2:
        return None
    return finding("L201", *_counted(e, int(s.simplex_rows), what), fix=AS_PROBS)


def not_probabilities(e):
    s = e.signs
    if e.kind not in ("probs", "logp") or not s.improper_rows:
        return None
    low, high = (float(v) if e.kind == "probs" else float(np.exp(min(v, 700.0))) for v in (s.lowest, s.highest))
    distance = max(float(s.worst_sum), -low, high - 1)
    if distance <= BEYOND_ROUNDING:
        return None
    what = f"are not probabilities: from {number(s.lowest)} to {number(s.highest)}"
    what += f", row sums up to {number(s.worst_sum)} from 1" if s.worst_sum > 0 else ""
    _, evidence, numbers = _counted(e, int(s.improper_rows), what)
    numbers |= {"lowest": s.lowest, "highest": s.highest, "worst_sum": s.worst_sum}
    unlike = max(-low, high - 1) > 0.05 or e.kind == "logp"
    return finding("L203", distance, evidence, numbers, fix=AS_LOGITS if unlike else None)


def softmax_twice(e):
    """Under-confident, at the ceiling of a softmax of probabilities, and better by Brier when one softmax is undone."""
    s = e.signs
    if e.task != "multiclass":
        return _sigmoid_twice(e)
    k, heard = len(e.classes), int(s.rows - s.nan_rows - s.empty_rows)
    if e.kind == "margin" or k < 2 or heard < 5 or s.softmaxed_rows < ALMOST_ALL * heard:
        return None
    if e.kind == "logits" and s.simplex_rows >= ALMOST_ALL * heard:
        return None  # probabilities declared as logits
    column = COLUMN_NAMES.index("undone_gain")
    gain, variance = float(e.means.total[column]), float(e.means.square[column])
    gap = confidence_gap(e)
    near = _near_ceiling(e, k)
    if near < CROWD or gap.total > 0 or log_chance(gain, variance, 2 * float(s.heaviest)) > LOG_ALPHA:
        return None
    mean, z = gain / float(e.means.weight), gain / np.sqrt(variance)
    evidence = f"{percent(near)} of the rows stand just below {number(np.e / (np.e + k - 1))}, where a softmax of "
    evidence += (
        f"probabilities ends, none above, and undoing one lowers the Brier score by {number(mean)} (z = {z:.1f})"
    )
    source = "np.log(probs)" if e.kind == "probs" else e.kind
    fix = f"probs = {source} - {source}.mean(-1, keepdims=True) + 1 / {e.kind}.shape[-1]  # undoes one softmax"
    return finding("L202", abs(gap.mean), evidence, {"near": near, "brier_gain": mean, "z": z}, fix=fix)


def _near_ceiling(e, k):
    """The share of rows whose confidence comes from a probability of CEILING or more.

    Log-odds of e^p against k - 1 times e^((1 - p) / (k - 1)).
    """
    log_odds = (CEILING * k - 1) / (k - 1) - np.log(k - 1)
    by_cell = e.odds.weight.sum(0)
    return float(by_cell[cells(np.array(log_odds)) :].sum() / by_cell.sum())


def _sigmoid_twice(e):
    """One probability per row or label: all in [sigmoid(0), sigmoid(1)], and clearly off."""
    s = e.signs
    if e.kind != "probs" or s.rows < 5:
        return None
    low, high = float(s.least.min()), float(s.largest.max())
    most = np.e / (1 + np.e)
    if not (0.5 - ROUNDING <= low and high <= most + ROUNDING and _off(e)):
        return None
    if np.log(low / (1 - low)) > 1 - CEILING or np.log(high / (1 - high)) < CEILING:
        return None
    worst = np.abs(class_gaps(e).mean).max()
    evidence = (
        f"every probability lies between {number(low)} and {number(high)}, where a sigmoid of probabilities lies "
    )
    evidence += f"between 0.5 and {number(most)}, and the mean probability is off by {number(worst)}"
    fix = "probs = np.log(probs / (1 - probs))  # undoes one sigmoid"
    return finding("L202", worst, evidence, {"least": low, "largest": high, "gap": worst}, fix=fix)


def _crowded_ends(e):
    """The extremes that many rows share, as (rows, value, name), the more crowded first.

    Scores that were shifted to have their maximum (or minimum) at 0 in every row are not saturated.
    """
    s = e.signs
    heard = int(s.rows - s.nan_rows - s.empty_rows)
    ends = []
    for value, rows, name in ((s.highest, s.highest_rows, "largest"), (s.lowest, s.lowest_rows, "smallest")):
        shifted = value == 0 and rows == heard and e.kind in ("logits", "margin")
        if rows >= max(5, 0.01 * heard) and not shifted and len(e.classes) > 1:
            ends.append((int(rows), float(value), name))
    return sorted(ends, reverse=True)


def _off(e):
    """Whether mean probability and frequency clearly differ for some class."""
    gaps = class_gaps(e)
    return bool((gaps.log_chance < LOG_ALPHA).any())


def _counted(e, count, what):
    """Share, sentence and numbers of a count of rows."""
    rows = int(e.signs.rows)
    share = count / rows
    return share, f"{count:,} of {rows:,} rows ({percent(share)}) {what}", {"rows": count, "share": share}
