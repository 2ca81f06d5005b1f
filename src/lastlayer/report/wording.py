"""How numbers, intervals, names and metrics are written for a reader, in the card and on the page alike."""

import math
from typing import NamedTuple

from lastlayer.measure import Evaluation, Metric


class Name(NamedTuple):
    """A metric as a reader meets it."""

    title: str
    share: bool  # written in percent
    meaning: str


NAMES = {
    "nll": Name("NLL", False, "mean negative log-likelihood, in nats; lower is better"),
    "accuracy": Name("accuracy", True, "share of rows whose predicted class is right"),
    "error": Name("error", True, "share of rows whose predicted class is wrong"),
    "top5_accuracy": Name("top-5 accuracy", True, "share of rows whose class is among the five most probable"),
    "brier": Name("Brier score", False, "mean squared error of the probabilities, summed over classes"),
    "brier_per_class": Name("Brier per class", False, "the Brier score over the number of classes"),
    "ece": Name("calibration error", True, "ECE: how far confidence is from accuracy, on average over the rows"),
    "ece_classwise": Name("classwise ECE", True, "the same for the probability of every class"),
    "mce": Name("largest gap", True, "MCE: confidence against accuracy in the worst bin"),
    "confidence": Name("mean confidence", True, "mean probability of the predicted class"),
    "auroc": Name("AUROC", False, "chance that a row of a class is ranked above one that is not, mean over classes"),
    "average_precision": Name("average precision", False, "precision averaged over recall, mean over classes"),
}
HEADLINE = ("accuracy", "nll", "ece", "brier", "confidence", "auroc")


def number(value) -> str:
    """Four significant digits; a dash for what is not known.

    >>> [number(v) for v in (0.430059, 1797.0, 12.3456, -0.00123456, 2.5e-9, float("nan"))]
    ['0.4301', '1797', '12.35', '−0.001235', '2.5e−9', '–']
    """
    value = float(value)
    if math.isnan(value):
        return "–"
    if value == 0 or math.isinf(value):
        text = f"{abs(value):g}"
    else:
        power = math.floor(math.log10(abs(value)))
        text = f"{abs(value):.{max(0, 3 - power)}f}" if -5 <= power < 7 else f"{abs(value):.4g}".replace("e-0", "e-")
    return (("-" if value < 0 else "") + text).replace("-", "−").replace("e+", "e")


def percent(share) -> str:
    """Two decimals, and more where these would round to 0 or to 100.

    >>> [percent(v) for v in (0.9242, 1.0, 0.99987, 0.000123, 1e-9, float("nan"))]
    ['92.42 %', '100 %', '99.99 %', '0.01 %', '< 0.0001 %', '–']
    """
    share = float(share)
    if math.isnan(share):
        return "–"
    if share < 0:
        return f"−{percent(-share)}"
    nearer = min(share, abs(1 - share))
    if nearer < 1e-15 or share > 1:  # 1e-15: what rounding leaves of an interval that ends at 0 or 1
        return f"{100 * round(share, 15):.4g} %"
    if nearer < 1e-6:
        return "< 0.0001 %" if share < 0.5 else "> 99.9999 %"
    decimals = (
        2 if nearer >= 5e-5 else 1 - math.floor(math.log10(100 * nearer) + 1e-9)
    )  # 1e-9: log10(1e-3) may be -3.0000000000000004
    return f"{100 * share:.{decimals}f} %"


def signed(share) -> str:
    """A difference of two shares, with its sign, to a hundredth of a percent.

    >>> signed(0.0549), signed(-0.0031), signed(float("nan"))
    ('+5.49 %', '−0.31 %', '–')
    """
    return "–" if math.isnan(share) else f"{100 * share:+.2f} %".replace("-", "−")


def count(rows) -> str:
    """Rows, or a weight that need not be whole.

    >>> count(10000), count(12.5)
    ('10,000', '12.50')
    """
    return f"{round(rows):,}" if rows == round(rows) else number(rows)


def between(metric: Metric, write=number) -> str:
    """The 95 % interval in words; a dash where the value is not known."""
    if math.isnan(metric):
        return "–"
    low, high = write(metric.low), write(metric.high)
    return f"{low.removesuffix(' %')} to {high}" if high.endswith(" %") else f"{low} to {high}"


def metric_texts(name, metric: Metric) -> tuple[str, str]:
    """Value and interval of a metric, in percent where it is a share."""
    write = percent if NAMES[name].share else number
    return write(metric), between(metric, write)


def plain(text, longest=200) -> str:
    """A name as it may be shown: what is not printable (control codes, changes of direction) replaced, the rest cut.

    >>> plain("cat" + chr(27) + "[31m", 6)
    'cat�[…'
    """
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def summary(evaluation: Evaluation) -> list[str]:
    """What was looked at: rows, classes, task and kind of scores, in a few words each."""
    rows, scored = int(evaluation.signs.rows), int(evaluation.means.rows)
    found = [_many(rows, "row")]
    if scored != rows:
        found.append(f"{scored:,} scored")
    what = "label" if evaluation.task == "multilabel" else "class"
    if evaluation.task == "binary":
        found.append(f"binary, positive: {plain(evaluation.classes[-1], 30)}")
    else:
        found.append(_many(len(evaluation.classes), what))
    return [*found, evaluation.kind if evaluation.kind != "margin" else "margins"]


def _many(number, what):
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}{'es' if what.endswith('s') else 's'}"
