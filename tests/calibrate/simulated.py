"""Logits whose true conditional distribution is known: ``target ~ softmax(z)``, reported as ``temperature * z``."""

import numpy as np

from lastlayer import Outputs


def multiclass(seed, n=1000, classes=4, temperature=1.0, spread=2.0):
    """`Outputs` that are over-confident by ``temperature``."""
    rng = np.random.default_rng(seed)
    z = spread * rng.normal(size=(n, classes))
    target = (z + rng.gumbel(size=z.shape)).argmax(1)
    return Outputs(temperature * z, "logits", target=target)


def binary(seed, n=1000, temperature=1.0, spread=2.0):
    rng = np.random.default_rng(seed)
    z = spread * rng.normal(size=n)
    return Outputs(temperature * z, "logits", target=(z + rng.logistic(size=n) > 0).astype(int))


def multilabel(seed, n=1000, labels=3, temperature=1.0, spread=2.0):
    rng = np.random.default_rng(seed)
    z = spread * rng.normal(size=(n, labels))
    target = (z + rng.logistic(size=z.shape) > 0).astype(int)
    return Outputs(temperature * z, "logits", target=target, task="multilabel")


def nll(outputs):
    """The mean loss in float64, written from the definition with a naive logsumexp."""
    z = outputs.scores.astype(np.float64)
    if outputs.task == "multiclass":
        shifted = z - z.max(1, keepdims=True)
        return np.mean(np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(z)), outputs.target])
    losses = np.logaddexp(0.0, np.where(outputs.target == 1, -z, z))
    return losses.mean() if outputs.task == "binary" else losses.sum(1).mean()
