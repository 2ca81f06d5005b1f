"""Reports of every task, small and seeded, and one whose every name is hostile."""

import numpy as np

from lastlayer import Outputs
from lastlayer.measure import evaluate
from lastlayer.report import Report

HOSTILE = "</script><script>alert('x')</script>\"' onload=\"alert(1)\" &amp; \x1b[31m[bold]"


def classified(rows=2000, classes=10, sharpness=3.0, seed=0):
    """Logits of an over-confident classifier (the true ones times ``sharpness``) and its targets."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, classes)) * 1.5
    target = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)
    return logits * sharpness, target


def multiclass(**given):
    logits, target = classified()
    return Outputs(logits, "logits", target=target, **({"source": "scores.npz"} | given))


def binary(**given):
    rng = np.random.default_rng(1)
    z = rng.normal(size=1500) * 2 - 1
    target = rng.random(1500) < 1 / (1 + np.exp(-z))
    groups = {"region": np.where(rng.random(1500) < 0.3, "north", "south")}
    return Outputs(z * 1.5, "logits", target=target, classes=["repaid", "default"], groups=groups, **given)


def multilabel():
    rng = np.random.default_rng(2)
    z = rng.normal(size=(800, 4))
    return Outputs(z, "logits", target=(rng.random(z.shape) < 1 / (1 + np.exp(-z))).astype(int))


def margin():
    logits, target = classified()
    return Outputs(logits / 10, "margin", target=target)


def hostile():
    groups = {HOSTILE: np.where(np.arange(2000) % 2, HOSTILE, "[bold]plain")}
    return multiclass(classes=[f"{i}{HOSTILE}" for i in range(10)], groups=groups, source=f"{HOSTILE}.npz")


def many_classes(classes, rows=1500, seed=3):
    logits, target = classified(rows, classes, 1.0, seed)
    return Outputs(logits, "logits", target=target, source="many.npz")


def calibrated():
    """Before and after dividing by the right temperature."""
    given = multiclass()
    after = evaluate(given.with_logits(given.scores / 3))
    return Report(after, given.source, evaluate(given), "temperature 3")


def report(outputs):
    return Report(evaluate(outputs), outputs.source or "outputs")


OF_EVERY_KIND = {
    "multiclass": lambda: report(multiclass()),
    "binary": lambda: report(binary()),
    "multilabel": lambda: report(multilabel()),
    "margin": lambda: report(margin()),
    "calibrated": calibrated,
    "hostile": lambda: report(hostile()),
    "40 classes": lambda: report(many_classes(40)),
    "300 classes": lambda: report(many_classes(300)),
    "one row": lambda: report(multiclass().rows(slice(0, 1))),
    "weighted": lambda: report(multiclass(weight=np.linspace(0.1, 2, 2000))),
}
