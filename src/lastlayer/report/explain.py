"""`explain`: the page of one code."""

import textwrap
from typing import NamedTuple

from lastlayer._check import one_of
from lastlayer.report.chance import ALPHA
from lastlayer.report.codes import CODES as CODES

WIDTH = 80
CHANCE = (
    f"On true probabilities the chance of a false alarm is at most {ALPHA:g} (Bennett's bound, for any number of rows)"
)


def explain(code: str) -> str:
    """The page of a code in plain Markdown: what it is, how it is tested, why it matters, how to fix it, how bad it is.

    >>> print(explain("L501").splitlines()[0])
    # L501 over-confident
    """
    one_of("explain", "code", code, tuple(CODES))
    known, page = CODES[code], PAGES[code]
    sections = {
        "What it is": page.what,
        "How it is tested": page.test.replace("{chance}", CHANCE),
        "Why it matters": f"{known.meaning}. {page.why}",
        "How to fix it": page.mend,
        "How bad it is": f"It is {known.levels}.",
    }
    parts = [f"# {code} {known.title}"]
    for title, text in sections.items():
        parts += [f"## {title}", textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)]
        if title == "How to fix it":
            parts.append("    " + known.fix.replace("{file}", "FILE"))
    return "\n\n".join(parts) + "\n"


class Page(NamedTuple):
    """What `explain` says beside the title, the meaning and the severity that the code has in `codes`."""

    what: str
    test: str
    why: str
    mend: str


PAGES = {
    "L101": Page(
        what="Some rows hold a nan. They are counted and left out of every metric; rows of weight 0 are not counted.",
        test="Counted, exactly. There is no threshold.",
        why="A nan rarely comes alone: it is the last trace of an overflow in half precision, of a division by "
        "zero or of a missing input. Metrics over the other rows look better than the model is, because the "
        "hard rows are the ones lost.",
        mend="Find the rows with the line below and run the model on them in float32. A row that should not count "
        "is left out by weight 0, which says so.",
    ),
    "L102": Page(
        what="Some rows hold +inf, or nothing but -inf. A -inf beside finite scores is a masked class, and no finding.",
        test="Counted, exactly. There is no threshold.",
        why="+inf is an overflow: float16 ends at 65,504, and log(p / (1 - p)) is infinite at p = 1. Such a row "
        "has probability 1 and, where it is wrong, an infinite loss. A row of nothing but -inf has every "
        "class masked; its loss is nan.",
        mend="Compute the last layer in float32, and save logits, not functions of probabilities. Look at the mask "
        "of rows without any class.",
    ),
    "L103": Page(
        what="Rows with the same scores and the same target as an earlier row.",
        test="By 64-bit hashes of scores and target: exact while fewer than 16,384 rows differ, an estimate from as "
        "many hashes beyond. Three rows and 0.1 % of them are needed, and more than the saturated rows (L301), "
        "which repeat each other. A note where the model has few distinct outputs, as a tree does: rows with the same "
        "scores have different targets, or nearly every row has copies, and not all of them occur c times. "
        "Binary scores are not tested: one float32 number per row repeats by chance.",
        why="A shard read twice, oversampling before the split, or augmentation that changed nothing. Duplicates "
        "across the split that a calibrator is fitted on and the one it is judged on make it look better than "
        "it is.",
        mend="Drop the repeats, or give each distinct row its number of copies as weight and know that intervals "
        "then follow the effective number of rows.",
    ),
    "L104": Page(
        what="So few rows that a gap of 5 points between confidence and accuracy could go unnoticed. Nothing is "
        "wrong with the scores.",
        test="The smallest gap that would be found for certain (Bernstein's bound, at the error level of L501) "
        "exceeds 0.05. Not said where over- or under-confidence is found all the same.",
        why="An evaluation on 200 rows with accuracy 0.8 has a 95 % interval of 11 points: most differences "
        "between models, and most miscalibration, are smaller.",
        mend="Label more rows; the evidence says about how many. Until then read the intervals, not the values.",
    ),
    "L201": Page(
        what="The scores are declared as logits, but each row lies in [0, 1] and sums to 1. The kind is never "
        "guessed: what is computed follows the declaration, and this finding says that it is probably wrong.",
        test="99.9 % of the rows (at least five) lie on the simplex, to within 0.001. For one score per row or "
        "label, where a logit may lie in [0, 1] by chance, all of them do and the probabilities that follow "
        "are clearly off as well (mean against frequency). {chance} there.",
        why="Guessing the kind per batch is the most repeated defect of the field: torchmetrics (1604, 2195, "
        "2329, 3179) gives the same 2,000 logits an AUROC of 0.724 one by one and of 0.764 in one batch. "
        "scikit-learn 1.9.1 decides by value too: probabilities rounded to float16 are taken for logits and "
        "its log-loss goes from 1.34 to 1.59.",
        mend="Declare what they are with the command below. Better, save the logits themselves: they know more.",
    ),
    "L202": Page(
        what="Every row is what a softmax makes of a row of probabilities: no probability exceeds e / (e + K - 1), "
        "0.23 for ten classes. For one probability per row or label: none lies outside [0.5, 0.731].",
        test="Three things together: 99.9 % of the rows, taken back through a softmax, lie on the simplex to "
        "within 1e-6; 5 % of them come from a probability of 0.9 or more; and undoing one softmax lowers the "
        "Brier score clearly, which never helps true probabilities, while the model is under-confident. For one "
        "probability per row or label: the range, used from end to end, and a mean that is clearly off. {chance}.",
        why="The model's last layer is a softmax and the loss or the export applies its own: a maintainer of "
        "Keras calls `from_logits` one of its larger pain points (keras-hub 1008, keras 6636 and 6143, "
        "Mask_RCNN 427). A model trained so still learns, slowly, which is why it goes unnoticed.",
        mend="Save the scores from before the softmax. Where only these probabilities are left, the line below "
        "recovers the ones from before the second softmax.",
    ),
    "L203": Page(
        what="Scores declared as probabilities (or their logarithms) leave [0, 1], or rows do not sum to 1.",
        test="Any row further off than 1e-5, which is above the rounding of float32, and any row that can not be "
        "scored for a value outside [0, 1], however near. There is no chance in it.",
        why="Sigmoid outputs of a multilabel model, logits, or numbers rounded for a table. The published IMDB "
        "predictions of the label-errors project reach p = 1.00001 and sums of 1.00002: libraries that assert "
        "a tolerance refuse them, others clip in silence.",
        mend="Declare logits as logits with --kind logits. Labels that do not exclude one another take a target of "
        "the same shape as the scores. Rounded probabilities: normalise before saving, or save logits.",
    ),
    "L204": Page(
        what="Some columns, taken in another order, fit the target far better than as they stand. Binary: the sign "
        "of the score is turned.",
        test="The permutation with the highest recall (Hungarian assignment on the confusion matrix), cycle by "
        "cycle. In a cycle of m classes the mean recall must rise clearly even after paying for the K^m "
        "cycles there are, and classes that argue against it may weigh a tenth at most. {chance}. A merely "
        "weak or biased model does not do this: its best guess for some class is still that class. Up to "
        "2,048 classes.",
        why="MNLI models number entailment and contradiction differently from the data set: accuracies of 5 to 6 "
        "% in optimum 197, datasets 2457 and thermostat 10. scikit-learn's log_loss sorts labels on its own "
        "(30910), and class folders sort as 0, 1, 10, 2 (logit-adj-pytorch 2).",
        mend="Reorder the columns when saving, or give the class names in the order of the columns: `classes` "
        "travels with the scores, and targets given as names are looked up in it.",
    ),
    "L301": Page(
        what="Many rows hold exactly the same largest (or smallest) score: probabilities that rounded to 1 or 0, a "
        "clip, a saturated tanh.",
        test="At least five rows and 1 % of them attain the extreme exactly. Scores shifted so that every row has "
        "its maximum (or minimum) at 0 are no finding, nor is the extreme of a model with few distinct outputs (L103) "
        "unless it is a probability of 0 or 1.",
        why="On DenseNet-40's CIFAR-10 logits a float32 softmax puts 5,598 of 10,000 rows at exactly 1.0; the "
        "log-odds of the same rows are 10,000 different numbers. What is rounded away can not be ranked, "
        "thresholded or calibrated.",
        mend="Save the logits, in float32. Do not clip.",
    ),
    "L302": Page(
        what="The two largest scores of a row are equal.",
        test="At least three rows and 0.1 % of them. Two float32 logits of a trained model agree in about one row "
        "in a million. A note where the model has few distinct outputs (L103).",
        why="bfloat16 keeps eight bits: rounding random logits of 1,000 classes to it ties the top two in 3.2 % "
        "of the rows and changes the prediction in 1.5 %. Probabilities with two decimals do the same.",
        mend="Compute or at least save the last layer in float32.",
    ),
    "L303": Page(
        what="Rows whose label has probability exactly 0: a hard zero, a masked class, or another class at +inf.",
        test="Counted, exactly. One row is enough.",
        why="The 20-newsgroups predictions of the label-errors project hold 111,050 exact zeros; their log-loss "
        "is infinite, and reads 6.02 where a library adds 1e-300 inside the logarithm. The number then "
        "measures the constant.",
        mend="Save logits: they have no zeros. A probability counted from votes of n trees is at least smoothed, "
        "(votes + 1) / (n + K). Look at the mask if there is one: it excludes true classes.",
    ),
    "L304": Page(
        what="Margins so small or so large that AUROC and average precision are known only roughly here.",
        test="The bound that the AUROC carries for scores that share a cell of its grid exceeds 0.005. The cells are "
        "made for log-odds: fine from about 0.1 to 1,000. Not said of a model with few distinct outputs (L103).",
        why="A grid is what lets shards merge to the whole without keeping every score. Margins of scale 0.0001 or of "
        "a million use a few of its cells: an AUROC of 0.9255 then reads 0.84, with a bound of 0.13 that says so.",
        mend="Rescale the margin to about 1: divide it by its standard deviation, the same number for every row and "
        "shard. The order of the rows does not change.",
    ),
    "L401": Page(
        what="The mean probability of a class is not its frequency among the rows.",
        test="For each class the sum of p - y against its variance, the one that true probabilities give or the "
        "one found if larger, over K classes at once (Bonferroni). {chance}, all classes together. The magnitude "
        "is half the sum of the gaps of the classes named (binary: the gap; multilabel: the largest).",
        why="The usual causes are class weights, resampling, and priors that changed since training. People undo "
        "them in the probabilities by hand (imbalanced-learn 1128, xgboost 863, LightGBM 1042); in logits it "
        "is one number per class.",
        mend="Fit one number per class on held-out rows (binary: --method platt; multilabel: --method platt --by "
        "label). Where the frequencies changed for a known reason, ll.transform.adjust_prior with the old and the new "
        "ones needs no fit.",
    ),
    "L402": Page(
        what="The score of a class never changes, or is never finite.",
        test="The least and the largest finite score of the column are equal, over at least two rows. A single "
        "column of logits that is 0 everywhere is a reference class, and no finding. A class of probability 0 in "
        "every row, masked with -inf for instance, is a note.",
        why="A dead output unit, a placeholder class such as a background or an `unk` token, or a column that was "
        "filled in when classes were added.",
        mend="Remove the column and the class with it, or train the unit: constant for good means that its weights "
        "are zero.",
    ),
    "L403": Page(
        what="The largest probability that a class reaches in any row is below half of its frequency.",
        test="The count of its rows against the most that such probabilities allow (peak times rows), over K "
        "classes at once. {chance}.",
        why="A class that was absent or rare in training, or merged into another. Its rows are found at no "
        "threshold one would choose, and accuracy hides it.",
        mend="Calibration raises the class at most to its frequency. It needs training data; until then send its "
        "neighbours to review.",
    ),
    "L404": Page(
        what="The probabilities add up to many rows of a class, and not one row has that label.",
        test="With probabilities that are true, no row at all has the chance exp(-expected). {chance}, all classes "
        "together.",
        why="Labels that start at 1, a class merged or filtered out after training, or a test set of only some of "
        "the classes. Accuracy falls a little and nobody asks why.",
        mend="Compare the names in the target with `classes`. If the class can not occur here, mask it with -inf.",
    ),
    "L501": Page(
        what="The mean confidence (probability of the predicted class) exceeds the accuracy.",
        test="The sum of confidence minus hits over all rows against the variance that true probabilities give "
        "it (weighted rows and labels of one row: the variance found, if larger). {chance}, L501 and L502 "
        "together. It does not rest on the calibration error: the interval of that speaks of sampling around the value "
        "found, and near perfect calibration the value itself is biased upwards, by about what the noise of 15 bins "
        "gives, so a small one on few rows can be chance.",
        why="Networks trained to the end are over-confident: DenseNet-40 on CIFAR-10 says 97.9 % and is right in "
        "92.4 %. One number, a temperature of 2.88, takes its calibration error from 0.055 to 0.009 without "
        "changing a decision.",
        mend="Fit a calibrator on held-out rows and give it to check, decide and your service.",
    ),
    "L502": Page(
        what="The accuracy exceeds the mean confidence (probability of the predicted class).",
        test="As L501, on the other side. {chance}, L501 and L502 together.",
        why="Strong regularisation, label smoothing, bagging and an average of several models all do this. If a "
        "softmax was applied twice or probabilities were declared as logits, that is found instead.",
        mend="Fit a calibrator on held-out rows and give it to check, decide and your service.",
    ),
    "L503": Page(
        what="Confidence minus accuracy of one group differs from that of all other rows, and is larger in size.",
        test="The difference of the two gaps against what chance gives it, over all groups at once (Bonferroni). "
        "{chance}, all groups together. A group whose gap is as large as that of the rest is no finding.",
        why="A calibrator fitted on everyone is right on average and may be wrong for each part. Calibration "
        "within groups is asked for (mlr3fairness 30) and shipped by nobody.",
        mend="Give each group a calibrator of its own, on held-out rows; a group with too few rows shares that of all.",
    ),
}
