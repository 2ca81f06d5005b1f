"""The codes that `check` may find, with what each means in a sentence, what fixes it, and when it is serious.

    L1xx  the data          L3xx  precision         L5xx  confidence
    L2xx  the declaration   L4xx  classes

A code keeps its meaning for ever; one that is given up is not used again. The page of each is in `explain`.
"""

import math
import shlex
from collections.abc import Mapping
from typing import NamedTuple

from lastlayer.report.finding import Finding

FIT = "lastlayer fit {file} -o calibrator.json"
AS_PROBS = "lastlayer check {file} --kind probs"
AS_LOGITS = "lastlayer check {file} --kind logits"
KEEP_LOGITS = 'np.savez("scores.npz", logits=logits.astype("float32"), target=target)'


# What adds one number per class, so that mean probability and frequency agree.
BALANCE = {
    "multiclass": "lastlayer fit {file} --method temperature_bias -o calibrator.json",
    "binary": "lastlayer fit {file} --method platt -o calibrator.json",
    "multilabel": "lastlayer fit {file} --method platt --by label -o calibrator.json",
}


def by_group(name):
    """The command that gives each group of a grouping a calibrator of its own."""
    return f"lastlayer fit {{file}} --by {shlex.quote(name)} -o calibrator.json"


def in_range(task, kind):
    """The line that makes probabilities of what rounding has taken past 0 or 1, or off a sum of 1."""
    wide = f'{kind}.astype("float64")'
    if kind == "logp":
        return f"logp = np.minimum({wide}, 0)  # where rounding took them above"
    if task == "multiclass":
        return f"probs = np.maximum({wide}, 0); probs = probs / probs.sum(axis=-1, keepdims=True)"
    return f"probs = np.clip({wide}, 0, 1)  # where rounding took them past"


class Levels(NamedTuple):
    """From where a finding is a warning, and from where an error, on the scale of ``unit``; None is never."""

    unit: str
    warning: float | None
    error: float | None

    def severity(self, magnitude) -> str:
        if self.error is not None and magnitude >= self.error:
            return "error"
        return "warning" if self.warning is not None and magnitude >= self.warning else "note"

    def __str__(self):
        if self.warning is None and self.error is None:
            return "always a note"
        if self.error == 0:
            return "always an error"
        steps = [f"{name} from {level:g}" for name, level in zip(("warning", "error"), self[1:], strict=True) if level]
        return f"by {self.unit}: " + ", ".join(["warning" if self.warning == 0 else "note", *steps])


class Code(NamedTuple):
    """One kind of finding."""

    code: str
    title: str
    meaning: str
    fix: str
    levels: Levels


NOTE, ERROR = Levels("", None, None), Levels("", 0.0, 0.0)
GAP = Levels("the gap", 0.02, 0.05)
ROWS = Levels("the share of rows", 0.0, 0.01)

_ALL = (
    Code(
        "L101",
        "nan in the scores",
        "These rows say nothing, so they are left out of every number here; a user would get no answer for them",
        "bad = np.isnan(logits).any(axis=-1)  # where the model goes wrong: look at its inputs for these rows",
        ROWS,
    ),
    Code(
        "L102",
        "infinite scores",
        "An infinite score decides its row alone, and a row of nothing but -inf allows no class at all",
        "bad = np.isposinf(logits).any(axis=-1) | np.isneginf(logits).all(axis=-1)  # the rows to look at",
        ROWS,
    ),
    Code(
        "L103",
        "duplicated rows",
        "Rows that are there twice count as evidence twice, so intervals are narrower than they should be",
        "_, first = np.unique(np.column_stack([logits, target]), axis=0, return_index=True)  # rows to keep",
        Levels("the share of rows", 0.01, 0.1),
    ),
    Code(
        "L104",
        "too few rows to say",
        "That nothing is found about confidence means little: a gap that matters could hide in so few rows",
        'np.savez("scores.npz", logits=logits, target=target)  # again, with more held-out rows',
        NOTE,
    ),
    Code(
        "L201",
        "probabilities declared as logits",
        "A softmax is taken of what is a probability already: confidence is squeezed towards 1/K, the loss is wrong",
        AS_PROBS,
        ERROR,
    ),
    Code(
        "L202",
        "softmax applied twice",
        "The model ends in a softmax and another was taken after it, so its probabilities can not come near 0 or 1",
        "probs = np.log(probs) - np.log(probs).mean(-1, keepdims=True) + 1 / probs.shape[-1]  # undoes one softmax",
        ERROR,
    ),
    Code(
        "L203",
        "not probabilities",
        "What is declared as probabilities is none: rows are normalised again here, or dropped where one is negative",
        in_range("multiclass", "probs"),
        Levels("the distance from [0, 1] or of a sum from 1, or the share of rows left out, if larger", 0.001, 0.05),
    ),
    Code(
        "L204",
        "class columns in another order",
        "Scores and target number the classes differently, so good predictions are counted as wrong",
        "scores = scores[:, order]  # with order[i] the column that holds class i",
        Levels("the accuracy gained", 0.01, 0.05),
    ),
    Code(
        "L301",
        "saturated scores",
        "Rows that share the extreme value can not be told apart any more, and their true confidence is lost",
        KEEP_LOGITS,
        Levels("the share of rows", 0.1, None),
    ),
    Code(
        "L302",
        "ties from low precision",
        "In these rows the two best classes have the same score, so the prediction is the order of the columns",
        KEEP_LOGITS,
        Levels("the share of rows", 0.01, 0.2),
    ),
    Code(
        "L303",
        "impossible labels",
        "The model excludes what happened, so its loss is infinite, and so is every mean that such a row enters",
        KEEP_LOGITS,
        ERROR,
    ),
    Code(
        "L304",
        "margins of a scale far from 1",
        "Ranking is summed on a grid made for scores of about 1 to 100; beyond it different scores fall together",
        "margin = margin / margin[np.isfinite(margin)].std()  # before saving",
        NOTE,
    ),
    Code(
        "L401",
        "class bias",
        "Averaged over all rows these classes are held too probable or too rare, so counts and expected costs are off",
        BALANCE["multiclass"],
        Levels("the probability in the wrong classes", 0.02, 0.05),
    ),
    Code(
        "L402",
        "constant class",
        "This column carries no information about the rows",
        "logits[:, column].std()  # 0: look at how this column is produced",
        Levels("the share of columns", 0.0, 1.0),
    ),
    Code(
        "L403",
        "dead class",
        "No row is ever given even half the probability that this class has on average: the model does not know it",
        "rows = np.flatnonzero(target == column)  # train with more like these, or leave the class out",
        Levels("the frequency of the class", 0.01, 0.05),
    ),
    Code(
        "L404",
        "label unseen",
        "Either this label was lost on the way here, or the model expects a class that these rows do not have",
        "np.unique(target, return_counts=True)  # against `classes`",
        Levels("the share of rows expected", 0.01, 0.05),
    ),
    Code(
        "L501",
        "over-confident",
        "It is right less often than it says, so costs, thresholds and review rates computed from it are optimistic",
        FIT,
        GAP,
    ),
    Code(
        "L502",
        "under-confident",
        "It is right more often than it says, so rows go to review, or cost a hedge, that need none",
        FIT,
        GAP,
    ),
    Code(
        "L503",
        "a group worse calibrated than the rest",
        "The same probability means something else for this group, so one threshold treats it differently",
        by_group("GROUP"),
        Levels("the difference of the gaps", 0.02, 0.05),
    ),
)

CODES: Mapping[str, Code] = {code.code: code for code in _ALL}


def finding(code, magnitude, evidence, numbers, fix=None, note=False) -> Finding:
    """The finding of ``code`` with its severity, or a ``note`` whatever the magnitude.

    Numbers that are not finite are left out, as JSON has none.
    """
    known = CODES[code]
    numbers = {name: float(value) for name, value in numbers.items() if math.isfinite(value)}
    severity = "note" if note else known.levels.severity(magnitude)
    return Finding(code, known.title, severity, evidence, numbers, known.meaning, fix or known.fix)
