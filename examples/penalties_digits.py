"""Do penalties on wrong confidence make an over-fitted network say what it knows? Digits, a tenth of them mislabelled.

A small network learns 300 digits by heart, the wrong labels too, and is then too sure of others, which are mislabelled
alike. Each penalty is added to cross-entropy, and each keeps the network from being so sure. The penalties of a batch
(`mmce`, `soft_ece`, `dca`) also keep it from learning the wrong labels, so its accuracy rises; but not for ever: once
every row is known by heart, confidence and accuracy agree on them at 1, and nothing is left to penalise. The confidence
penalty has no such end.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits

import lastlayer as ll
from lastlayer.loss.penalty import confidence_penalty, dca, mmce, soft_ece

TRAIN, WRONG, STEPS, SEEDS = 300, 0.1, (300, 800), 3
LAST, EVERY = 100, 10  # a penalty of the batch makes the way bumpy: figures are medians over the last steps
METRICS = ll.accuracy, ll.calibration_error, ll.nll
PENALTIES = {
    "cross_entropy": lambda logits, y: 0.0,
    "+ 4 mmce": lambda logits, y: 4 * mmce(logits, y),
    "+ 4 soft_ece": lambda logits, y: 4 * soft_ece(logits, y),
    "+ 4 dca": lambda logits, y: 4 * dca(logits, y),
    "+ 0.3 confidence_penalty": lambda logits, y: 0.3 * ll.mean(confidence_penalty(logits)),
}


def digits(seed):
    """Digits in a random order, and their labels, of which a share was drawn by lot."""
    rng = np.random.default_rng(seed)
    data = load_digits()
    order = rng.permutation(len(data.target))
    y = np.where(rng.random(len(order)) < WRONG, rng.integers(0, 10, len(order)), data.target[order])
    return torch.tensor(data.data[order] / 16, dtype=torch.float32), torch.tensor(y)


def run(seed):
    """For each loss and number of steps: `METRICS` of rows held out, and accuracy in training."""
    x, y = digits(seed)
    learned, held_out = slice(TRAIN), slice(TRAIN, None)
    figures = {}
    for name, penalty in PENALTIES.items():
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for step in range(1, max(STEPS) + 1):
            optimizer.zero_grad()
            logits = model(x[learned])
            (ll.mean(ll.cross_entropy(logits, y[learned])) + penalty(logits, y[learned])).backward()
            optimizer.step()
            for last in STEPS:
                if last - LAST < step <= last and step % EVERY == 0:
                    with torch.no_grad():
                        logits = model(x)
                    rows = logits[held_out], y[held_out]
                    measured = *(f(*rows) for f in METRICS), ll.accuracy(logits[learned], y[learned])
                    figures.setdefault((name, last), []).append(tuple(map(float, measured)))
    return {key: np.median(metrics, axis=0) for key, metrics in figures.items()}


def main():
    """The means over several draws of rows, labels and weights."""
    runs = [run(seed) for seed in range(SEEDS)]
    means = {key: np.mean([figures[key] for figures in runs], axis=0).tolist() for key in runs[0]}
    for steps in STEPS:
        print(f"{f'{steps} steps':26}{'accuracy':>10}{'ECE':>8}{'NLL':>8}{'accuracy in training':>23}")
        for name in PENALTIES:
            accuracy, ece, nll, learned = means[name, steps]
            print(f"{name:26}{accuracy:10.3f}{ece:8.3f}{nll:8.3f}{learned:23.3f}")
    return means


if __name__ == "__main__":
    main()
