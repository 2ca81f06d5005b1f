"""Outputs with exactly one thing wrong, one function per code of `check`, and calibrated ones with nothing wrong.

Targets are drawn from the probabilities that the scores say, so a clean model is calibrated by construction.
"""

from dataclasses import replace

import numpy as np

from lastlayer.outputs import Outputs


def softmax(z):
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def draw(rng, probs):
    """One class per row of probabilities."""
    return (rng.random((len(probs), 1)) > probs.cumsum(1)[:, :-1]).sum(1)


def multiclass(seed=0, rows=4000, classes=5, spread=2.0, prior=None, **more):
    """Calibrated logits; ``prior`` makes some classes rarer than others."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(rows, classes)) * spread
    if prior is not None:
        z = z + np.log(prior)
    return Outputs(z, "logits", target=draw(rng, softmax(z)), **more)


def binary(seed=0, rows=4000, spread=2.0, **more):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=rows) * spread
    return Outputs(z, "logits", target=(rng.random(rows) < sigmoid(z)).astype(int), **more)


def multilabel(seed=0, rows=4000, labels=5, spread=2.0, **more):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(rows, labels)) * spread
    return Outputs(z, "logits", target=(rng.random(z.shape) < sigmoid(z)).astype(int), **more)


def anything_clean(rng, most):
    """Calibrated outputs of any task, size, precision and kind, with groups or weights, at most ``most`` entries.

    Probabilities of a model so confident that they round to 1 are saturated, and that is no false alarm: such a model
    comes as logits.
    """
    task = rng.choice(["binary", "multilabel", "multiclass", "multiclass"])
    columns = {"binary": 1, "multilabel": 5}.get(task) or int(rng.choice([2, 3, 10, 100]))
    rows = int(np.exp(rng.uniform(np.log(300), np.log(np.clip(most // columns, 400, 20_000)))))
    z = rng.normal(size=(rows, columns)) * np.exp(rng.normal()) * 2 + rng.normal(size=columns) * rng.choice([0, 1, 2])
    z = z.astype(rng.choice(["float32", "float64"]))
    exact = z.astype(np.float64)
    if task == "multiclass":
        logp = exact - exact.max(1, keepdims=True)
        logp = logp - np.log(np.exp(logp).sum(1, keepdims=True))
        target = draw(rng, np.exp(logp))
    else:
        logp = -np.log1p(np.exp(-exact))
        target = (rng.random(z.shape) < sigmoid(exact)).astype(int)
    kind = rng.choice(["logits", "logits", "logp", "probs"]) if np.abs(z).max() < 7 else "logits"
    scores = {"logits": z, "logp": logp.astype(z.dtype), "probs": np.exp(logp).astype(z.dtype)}[kind]
    if task == "binary":
        scores, target = scores[:, 0], target[:, 0]
    groups = {"a": rng.integers(0, 4, rows), "b": z[:, 0] > 1} if rng.random() < 0.5 else {}
    weight = rng.gamma(2.0, size=rows) if rng.random() < 0.25 else None
    return Outputs(scores, kind, target=target, task=task, groups=groups, weight=weight)


def discrete_clean(rng):
    """Calibrated outputs that take few values: logits that sum over categorical features, or leaves of a tree."""
    task = rng.choice(["multiclass", "multilabel", "binary"])
    rows, columns = int(np.exp(rng.uniform(np.log(300), np.log(20_000)))), int(rng.choice([3, 5]))
    if rng.random() < 0.5:
        features = [(rng.integers(0, c, rows), rng.normal(size=(c, columns))) for c in rng.integers(2, 9, size=4)]
        z = sum(table[chosen] for chosen, table in features)
    else:
        leaves = rng.dirichlet(np.ones(columns), size=int(rng.choice([4, 16, 64])))
        z = np.log(leaves)[rng.choice(len(leaves), rows, p=rng.dirichlet(np.ones(len(leaves))))]
    if task == "multiclass":
        return Outputs(z, "logits", target=draw(rng, softmax(z)))
    z = z if task == "multilabel" else z[:, 0]
    return Outputs(z, "logits", target=(rng.random(z.shape) < sigmoid(z)).astype(int))


def changed(outputs, rows, value):
    scores = outputs.scores.copy()
    scores[rows] = value
    return replace(outputs, scores=scores)


def nan_rows():
    return changed(multiclass(), np.arange(7), np.nan)


def infinite_rows():
    clean = multiclass()
    right = (np.arange(9), clean.target[:9])
    return changed(changed(clean, right, np.inf), slice(9, 12), -np.inf)


def duplicated_rows():
    return multiclass().rows(np.r_[np.arange(4000), np.arange(60)])


def too_few_rows():
    return multiclass(rows=90)


def probabilities_as_logits():
    clean = multiclass()
    return replace(clean, scores=softmax(clean.scores))


def softmax_twice():
    clean = multiclass(spread=5.0)
    return replace(clean, scores=softmax(softmax(clean.scores)), kind="probs")


def not_probabilities():
    clean = multiclass()
    return replace(clean, scores=sigmoid(clean.scores), kind="probs")


def other_order():
    clean = multiclass()
    return replace(clean, scores=clean.scores[:, [2, 1, 0, 3, 4]])


def saturated_scores():
    clean = multiclass()
    return replace(clean, scores=np.minimum(clean.scores, np.quantile(clean.scores, 0.995)))


def tied_rows():
    rng = np.random.default_rng(0)
    z = np.round(rng.normal(size=(4000, 5)) * 2 * 8) / 8  # logits in steps of 1/8
    return Outputs(z, "logits", target=draw(rng, softmax(z)))


def impossible_labels():
    clean = multiclass()
    return changed(clean, (np.arange(3), clean.target[:3]), -np.inf)


def coarse_margin():
    clean = binary()
    return replace(clean, scores=clean.scores * 1e-4, kind="margin")


def class_bias():
    clean = multiclass()
    return replace(clean, scores=clean.scores + np.array([0.6, 0.0, 0.0, 0.0, -0.6]))


def constant_class():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4000, 5)) * 2
    z[:, 1] = 0.7
    return Outputs(z, "logits", target=draw(rng, softmax(z)))


def dead_class():
    """A class of 3 % that the model never gives more than a thousandth."""
    clean = multiclass()
    scores = clean.scores.copy()
    scores[:, 4] = scores[:, :4].max(1) - 8 + np.random.default_rng(1).random(4000)
    target = draw(np.random.default_rng(2), softmax(scores))
    return replace(clean, scores=scores, target=np.where(np.arange(4000) < 120, 4, target))


def label_unseen():
    """A class of 3 % whose rows were labelled as something else."""
    clean = multiclass(prior=[1.0, 1.0, 1.0, 1.0, 0.1], spread=1.0)
    return replace(clean, target=np.where(clean.target == 4, 0, clean.target))


def over_confident():
    clean = multiclass()
    return replace(clean, scores=clean.scores * 1.5)


def under_confident():
    clean = multiclass()
    return replace(clean, scores=clean.scores / 1.5)


def group_apart():
    clean = multiclass()
    night = np.random.default_rng(1).random(4000) < 0.15
    scores = np.where(night[:, None], clean.scores * 4, clean.scores)
    return replace(clean, scores=scores, groups={"time": np.where(night, "night", "day")})


GENERATORS = {
    "L101": nan_rows,
    "L102": infinite_rows,
    "L103": duplicated_rows,
    "L104": too_few_rows,
    "L201": probabilities_as_logits,
    "L202": softmax_twice,
    "L203": not_probabilities,
    "L204": other_order,
    "L301": saturated_scores,
    "L302": tied_rows,
    "L303": impossible_labels,
    "L304": coarse_margin,
    "L401": class_bias,
    "L402": constant_class,
    "L403": dead_class,
    "L404": label_unseen,
    "L501": over_confident,
    "L502": under_confident,
    "L503": group_apart,
}
