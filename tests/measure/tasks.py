"""Simulated rows of each task for the tests of measures, with probabilities and occurrences computed plainly."""

import numpy as np
import pytest

every_task = pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])


def sample(task, n=200, seed=0, sharpness=1.0):
    """Logits, target, probabilities of each column and their occurrence; true where the sharpness is 1."""
    rng = np.random.default_rng(seed)
    if task == "multiclass":
        z = rng.normal(scale=2, size=(n, 4))
        y = (z / sharpness + rng.gumbel(size=z.shape)).argmax(1)
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        return z, y, p, np.eye(4)[y]
    z = rng.normal(scale=2, size=n if task == "binary" else (n, 3))
    y = (rng.uniform(size=z.shape) < 1 / (1 + np.exp(-z / sharpness))).astype(int)
    p = 1 / (1 + np.exp(-z))
    return z, y, p.reshape(n, -1), y.reshape(n, -1).astype(float)


def decisions(task, z, y, p, occurs):
    """Confidence and hit of each decision, ``(n,)`` or, of labels, ``(n, labels)``."""
    if task == "multiclass":
        return p.max(1), (z.argmax(1) == y).astype(float)
    confidence, hits = np.maximum(p, 1 - p), ((p > 0.5) == (occurs == 1)).astype(float)
    return (confidence[:, 0], hits[:, 0]) if task == "binary" else (confidence, hits)


def densenet(shared_data, temperature=1.0):
    """Test logits of DenseNet-40 on CIFAR-10, float64, and their target."""
    with np.load(shared_data / "logits" / "densenet40_c10_logits.npz") as data:
        return data["test_logits"].astype(np.float64) / temperature, data["test_labels"]


GUO = 2.8825607  # the temperature fitted on that model's validation rows
