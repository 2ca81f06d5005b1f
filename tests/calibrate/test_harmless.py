"""auto does no harm: never worse than the scores as they are, by more than 0.002 in nll, on rows it has not seen."""

from dataclasses import replace

import numpy as np
import pytest

from calibrate import simulated
from lastlayer import Outputs, nll
from lastlayer.calibrate import fit

FILES = {
    "densenet40_c10_logits": ("test_logits", "test_labels", "logits"),
    "lenet5_c10_probs": ("predictions", "ground_truth", "probs"),
    "wrn16-4_c10_probs": ("predictions", "ground_truth", "probs"),
    "densenet-bc100_c100_probs": ("predictions", "ground_truth", "probs"),
    "label_errors_cifar10": (None, None, "probs"),
    "label_errors_imdb": (None, None, "probs"),
}  # the other, label_errors_20news, has zeros on its labels: its loss is infinite as it is


def problem(seed):
    """Calibration rows and fresh ones of one of 200 problems: what is known of them is their generator alone.

    The task, the number of classes, the rows (1,000 to 4,000), the temperature (0.4 to 4), whether classes are biased,
    whether some are rare, and whether one temperature is right for all rows all follow from the seed.
    """
    rng = np.random.default_rng(seed)
    n, fresh = int(rng.integers(1000, 4001)), 20_000
    temperature = float(np.exp(rng.uniform(np.log(0.4), np.log(4.0)))) if seed % 4 else 1.0
    spread = float(rng.uniform(0.5, 4.0))
    kind = ("multiclass", "binary", "multiclass", "multilabel")[seed % 4]
    classes = int(rng.integers(2, 21)) if kind == "multiclass" else int(rng.integers(2, 5))
    shape = (n + fresh, classes) if kind != "binary" else (n + fresh,)
    z = spread * rng.normal(size=shape) - (rng.exponential(size=classes) if seed % 3 == 0 and kind != "binary" else 0)
    if kind == "multiclass":
        target = (z + rng.gumbel(size=shape)).argmax(1)
    else:
        target = (z + rng.logistic(size=shape) > 0).astype(int)
    said = temperature * z
    if seed % 5 == 0:
        said = said + rng.normal(size=shape[1:])  # class biases
    if seed % 7 == 0:
        said = said * np.exp(0.5 * rng.normal(size=(n + fresh,) + (1,) * (z.ndim - 1)))  # no one temperature
    whole = Outputs(said.astype(np.float32), "logits", target=target, task=kind)
    return whole.rows(slice(0, n)), whole.rows(slice(n, None))


def harm(calibrator, fresh):
    after = calibrator.apply(fresh)
    return simulated.nll(after) - simulated.nll(fresh)


@pytest.mark.parametrize("seed", [pytest.param(s, marks=[] if s < 12 else pytest.mark.slow) for s in range(200)])
def test_on_200_simulated_problems(seed):
    held_out, fresh = problem(seed)
    assert harm(fit(held_out), fresh) <= 0.002


@pytest.mark.parametrize("seed", range(4))
def test_over_confidence_by_2_is_recovered(seed):
    held_out = simulated.multiclass(seed, n=2000, temperature=2.0)
    fresh = simulated.multiclass(seed + 100, n=20_000, temperature=2.0)
    calibrator = fit(held_out)
    attainable = simulated.nll(fresh) - simulated.nll(fresh.with_logits(fresh.scores / 2))
    assert -harm(calibrator, fresh) >= 0.9 * attainable


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_on_real_scores(name, shared_data):
    folder = shared_data / "logits"
    scores_key, target_key, kind = FILES[name]
    if scores_key is None:
        scores = np.load(folder / f"{name}_pyx.npy")
        target = np.load(folder / f"{name}_labels.npy")
    else:
        with np.load(folder / f"{name}.npz") as file:
            scores, target = file[scores_key], file[target_key]
    outputs = Outputs(scores, kind, target=target)
    harms = []
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(outputs))
        held_out, fresh = (outputs.rows(half) for half in np.array_split(order, 2))
        fresh = replace(fresh, ids=None)
        after = fit(held_out, seed=seed).apply(fresh)
        harms.append(float(nll(after.logits, after.target)) - float(nll(fresh.logits, fresh.target)))
    assert np.mean(harms) <= 0.002


@pytest.mark.slow
def test_densenet_val_to_test(shared_data):
    with np.load(shared_data / "logits" / "densenet40_c10_logits.npz") as file:
        val = Outputs(file["val_logits"], "logits", target=file["val_labels"])
        test = Outputs(file["test_logits"], "logits", target=file["test_labels"])
    after = fit(val).apply(test)
    assert float(nll(after.logits, after.target)) <= 0.2251
