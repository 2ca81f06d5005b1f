"""How long does a converged calibrator take beside scikit-learn and probmetrics?

    OMP_NUM_THREADS=1 python bench/calibrators.py

Simulated logits (float32) that are twice as confident as they should be, with row means of 0, so that vector scaling is
one problem for all (ours centres rows, theirs does not). One thread: this process is bound to one core,
and PyTorch told so. Ours is `calibrate.fit`, with its checks, its certificate and its hash of the rows, and beside it
`solve`, which is what the peers do. Before timing, our loss on the rows of the fit must be no higher than any peer's.
Peers: scikit-learn's temperature scaling on decision values; probmetrics' temperature scaling, vector scaling (Guo et
al.'s, "torchcal"), SVS and SMS, where it is installed (with PyTorch and pytorch-minimize).
"""

import importlib.util
import os
import warnings

import numpy as np
from sklearn.calibration import _TemperatureScaling

import lastlayer as ll
from _measure import alternate, report
from lastlayer.calibrate import METHODS
from lastlayer.calibrate.rows import Rows

SIZES = ((5_000, 10), (5_000, 100), (25_000, 1_000))
SLACK = 1e-6  # of a loss: what the float32 of the peers may gain or lose


def simulated(rows, classes):
    rng = np.random.default_rng(0)
    z = 2 * rng.normal(size=(rows, classes))
    target = (z + rng.gumbel(size=z.shape)).argmax(1)
    return (2 * z - 2 * z.mean(axis=1, keepdims=True)).astype(np.float32), target


def nll(z, target):
    return float(ll.cross_entropy(np.asarray(z, dtype=np.float64), target).mean())


def sklearn_temperature(z, target):
    return z * np.float64(_TemperatureScaling().fit(z, target).beta_)


def probmetrics_peers(classes):
    """By our name of the method, what fits theirs to logits and gives back calibrated ones."""
    if importlib.util.find_spec("probmetrics") is None or importlib.util.find_spec("torchmin") is None:
        print("probmetrics or pytorch-minimize is not installed: scikit-learn alone is the peer")
        return {}
    import torch
    from probmetrics.calibrators.logistic import SMSCalibrator, SVSCalibrator, VectorScalingCalibrator
    from probmetrics.calibrators.temperature_scaling import TemperatureScalingCalibrator
    from probmetrics.distributions import CategoricalLogits

    torch.set_num_threads(1)

    def on_logits(make):
        def run(z, target):
            calibrator, logits = make(), CategoricalLogits(torch.tensor(z))
            calibrator.fit_torch(logits, torch.tensor(target))
            return calibrator.predict_proba_torch(logits).get_logits().numpy()

        return run

    def on_probabilities(make):
        def run(z, target):
            calibrator, probabilities = make(), ll.softmax(z.astype(np.float64))
            calibrator.fit(probabilities, target)
            return np.log(calibrator.predict_proba(probabilities))

        return run

    peers = {"temperature": on_logits(TemperatureScalingCalibrator)}
    if classes <= 100:
        peers["vector"] = on_logits(VectorScalingCalibrator)
        peers["structured_vector"] = on_probabilities(SVSCalibrator)
    if classes <= 10:
        peers["matrix"] = on_probabilities(SMSCalibrator)
    return peers


def main():
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    table = []
    for rows, classes in SIZES:
        z, target = simulated(rows, classes)
        outputs = ll.Outputs(z, "logits", target=target)
        theirs = probmetrics_peers(classes)
        for method in ("temperature", "vector", "structured_vector", "matrix"):
            if method == "matrix" and classes > 100:
                continue
            peers = {"probmetrics": theirs[method]} if method in theirs else {}
            if method == "temperature":
                peers["sklearn"] = sklearn_temperature
            table.append(row(method, outputs, peers))
    header = ("method", "rows", "nll", "fit, ms", "solve, ms", "fastest peer, ms", "peer / fit", "peer / solve")
    report("calibrators", header, table)


def row(method, outputs, peers):
    """One line of the table: equality first, then the times."""
    z, target, made = outputs.scores, outputs.target, METHODS[method].calibrator
    mine = ll.calibrate.fit(outputs, method).certificate
    assert mine.converged, (method, mine)
    for name, run in peers.items():
        loss = nll(run(z, target), target)
        if method in ("temperature", "vector"):  # the penalised ones do not have the least loss
            assert mine.nll_after <= loss + SLACK, (method, name, mine.nll_after, loss)
    candidates = {
        "fit": lambda: ll.calibrate.fit(outputs, method),
        "solve": lambda: made.solve(Rows.of(outputs)),
        **{name: lambda run=run: run(z, target) for name, run in peers.items()},
    }
    times = alternate(candidates, rounds=3 if z.size > 10**6 else 7)
    fastest = min((times[name] for name in peers), default=float("nan"))
    ratios = (fastest / times["fit"], fastest / times["solve"])
    return (
        method,
        f"{z.shape[0]:,} x {z.shape[1]:,}",
        f"{mine.nll_after:.6f}",
        *(f"{1e3 * seconds:.1f}" for seconds in (times["fit"], times["solve"], fastest)),
        *(f"{ratio:.1f}" for ratio in ratios),
    )


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the peers'
        main()
