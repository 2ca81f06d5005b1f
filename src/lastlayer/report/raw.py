"""Findings about the scores as they came: rows that say nothing, precision, and what was declared. Counts, mostly."""

import numpy as np

from lastlayer.measure.read import COLUMN_NAMES
from lastlayer.measure.rows import ROUNDING
from lastlayer.report.chance import LOG_ALPHA, log_chance
from lastlayer.report.claims import class_gaps, confidence_gap
from lastlayer.report.codes import AS_LOGITS, AS_PROBS, finding, in_range
from lastlayer.report.wording import number, percent, plain
from lastlayer.state import cells

FEW = 3  # rows that show an effect by themselves; fewer may be chance
ALMOST_ALL = 0.999
BEYOND_ROUNDING = 1e-5  # a float32 softmax sums to 1 to better than this
CEILING = 0.9  # a probability that, put through a softmax once more, is near the largest that can come out
COARSE = 0.005  # the bound of an AUROC from which its grid is too coarse for the scores
MANY = 20  # counts that have a common divisor by chance less often than once in ten thousand
MIXED = 0.05  # of the outputs that repeat come with different targets: more than copies of rows do
OFTEN, NEARLY_ALL = 0.02, 0.95  # of the rows share their output with another
MOST_VALUES = 1000  # of one number per row; low precision repeats more of them by chance
CROWD = 0.05  # of the rows are there when a model was confident; one that is weak in itself has them nowhere near


def nan_rows(e):
    if count := int(e.signs.nan_rows):
        where = f"np.isnan({e.kind})" + (".any(axis=-1)" if e.task != "binary" else "")
        fix = f"bad = {where}  # where the model goes wrong: look at its inputs for these rows"
        return finding("L101", *_counted(e, count, "hold a nan"), fix=fix)


def infinite_rows(e):
    infinite, empty = int(e.signs.infinite_rows), int(e.signs.empty_rows)
    if infinite or empty:
        share, evidence, numbers = _counted(e, infinite, "hold +inf")
        evidence += f", and {empty:,} nothing but -inf" if empty else ""
        each, every = ("", "") if e.task == "binary" else (".any(axis=-1)", ".all(axis=-1)")
        fix = f"bad = np.isposinf({e.kind}){each} | np.isneginf({e.kind}){every}  # the rows to look at"
        return finding("L102", share + empty / e.signs.rows, evidence, numbers | {"empty_rows": empty}, fix=fix)


def duplicated_rows(e):
    distinct, columns = e.signs.distinct, len(e.signs.least)
    if columns < 2 or not e.signs.rows:
        return None
    repeated = float(distinct.value()) * int(e.means.rows)
    share = repeated / int(e.signs.rows)
    saturated = max((rows for rows, _, _ in _crowded_ends(e)), default=0)
    if repeated < FEW or share < 1e-3 or repeated <= saturated:  # saturated rows repeat each other, too
        return None
    exact = len(distinct.hashes) < distinct.LIMIT
    about = "" if exact else "about "
    counted = f"{about}{round(repeated):,} rows of {int(e.signs.rows):,} ({about}{percent(share)})"
    estimated = "" if exact else f", estimated from {distinct.LIMIT:,} hashes"
    numbers = {"rows": repeated, "share": share}
    if _few_outputs(e):
        rows, _ = e.signs.copies
        different = round(len(rows) / rows.sum() * int(e.means.rows))
        evidence = f"few distinct outputs: {about}{different:,} different rows{estimated}; a tree or a model of a few "
        evidence += f"categories does this; if not, the file holds rows twice: {counted} repeat an earlier row"
        fix = f"np.unique({e.kind}, axis=0, return_counts=True)  # the different outputs, and the rows of each"
        return finding("L103", share, evidence, numbers | {"different": different}, fix=fix, note=True)
    fix = f"_, first = np.unique(np.column_stack([{e.kind}, target]), axis=0, return_index=True)  # rows to keep"
    return finding("L103", share, f"{counted} repeat an earlier row{estimated}", numbers, fix=fix)


def _few_outputs(e):
    """Whether the model says few different things, rather than the file holding rows twice.

    Rows with the same scores then have different targets, or nearly every row has copies. A file that was read c times
    over shows in counts that c divides, which chance does not do to many. The two most crowded outputs are left out:
    they may be saturated.
    """
    rows, targets = e.signs.copies
    order = np.argsort(rows)[:-2]
    many, shared = (rows > 1).sum(), rows[order][rows[order] > 1].sum()
    if not many or (len(e.signs.least) == 1 and len(rows) > MOST_VALUES):
        return False
    if len(rows) >= MANY and np.gcd.reduce(e.signs.hash_count) > 1:
        return False
    if shared >= NEARLY_ALL * rows[order].sum():
        return True
    return bool((targets > 1).sum() >= MIXED * many and shared >= OFTEN * rows[order].sum())


def saturated_scores(e):
    ends = _crowded_ends(e)
    if not ends:
        return None
    count, value, name = ends[0]
    certain = {"probs": (0.0, 1.0), "logp": (0.0,)}.get(e.kind, ())
    if value not in certain and e.signs.distinct.value() > 0.5 and _few_outputs(e):
        return None
    share, evidence, numbers = _counted(e, count, f"hold exactly {number(value)}, the {name} score of all")
    evidence += f", and {ends[1][0]:,} the {ends[1][2]}" if len(ends) > 1 else ""
    return finding("L301", share, evidence, numbers | {"value": value})


def tied_rows(e):
    count = int(e.signs.tied_rows)
    if count >= FEW and count >= 1e-3 * e.signs.rows:
        counted = _counted(e, count, "have equal scores for their two best classes")
        return finding("L302", *counted, note=_few_outputs(e))


def impossible_labels(e):
    if count := int(e.signs.impossible_rows):
        return finding("L303", *_counted(e, count, "give the label that happened probability 0"))


def coarse_margin(e):
    """Margins so small or large that the grid on which ranking is summed can not tell them apart."""
    if e.kind != "margin" or _few_outputs(e):
        return None
    auroc = e.metrics().get("auroc")
    if auroc is None or not auroc.bound > COARSE:
        return None
    evidence = (
        f"scores from {number(e.signs.lowest)} to {number(e.signs.highest)}: the AUROC, {number(auroc)}, is known "
    )
    evidence += f"to within {number(auroc.bound)} only"
    numbers = {"auroc": auroc, "bound": auroc.bound, "lowest": e.signs.lowest, "highest": e.signs.highest}
    return finding("L304", auroc.bound, evidence, numbers)


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
    masked = still & (s.peak == 0)  # a class that no row could have
    scores = e.kind if e.task == "binary" else f"{e.kind}[:, {np.flatnonzero(still)[0]}]"
    fix = f"np.unique({scores})  # one value: look at how this column is produced"
    share = (still & ~masked).mean()
    numbers = {"columns": still.sum(), "share": still.mean()}
    return finding("L402", share, evidence, numbers, fix=fix, note=not share)


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
    empty = s.empty_rows if e.task == "multiclass" else 0
    lost = int(s.rows - s.nan_rows - empty - e.means.rows)
    low, high = (float(v) if e.kind == "probs" else float(np.exp(min(v, 700.0))) for v in (s.lowest, s.highest))
    distance = max(float(s.worst_sum), -low, high - 1)
    if distance <= BEYOND_ROUNDING and not lost:
        return None
    what = f"are not probabilities: from {number(s.lowest)} to {number(s.highest)}"
    what += f", row sums up to {number(s.worst_sum)} from 1" if s.worst_sum > 0 else ""
    _, evidence, numbers = _counted(e, int(s.improper_rows), what)
    evidence += f"; {lost:,} can not be scored and are left out" if lost else ""
    numbers |= {"lowest": s.lowest, "highest": s.highest, "worst_sum": s.worst_sum, "left_out": lost}
    unlike = max(-low, high - 1) > 0.05 or (e.kind == "logp" and e.task == "multiclass")
    fix = AS_LOGITS if unlike else in_range(e.task, e.kind)
    return finding("L203", max(distance, lost / int(s.rows)), evidence, numbers, fix=fix)


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
    wide = f'{e.kind}.astype("float64")'
    fix = (
        f"z = {f'np.log({wide})' if e.kind == 'probs' else wide}; p = z - z.mean(-1, keepdims=True) + 1 / z.shape[-1]; "
    )
    fix += "p = np.maximum(p, 0); probs = p / p.sum(-1, keepdims=True)  # undoes one softmax"
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
    fix = 'p = np.log(probs / (1 - probs.astype("float64"))); probs = np.minimum(np.maximum(p, 0), 1)'
    fix += "  # undoes one sigmoid"
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
