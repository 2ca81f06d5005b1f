"""Does a file of 20 million rows in ten shards read the same as whole, and what does it cost?

    python bench/shards.py [rows]

Each shard is evaluated by its own `evaluate`, as `lastlayer check` does with several files, in a scrambled order, and
the states are merged after a round trip through bytes. Metrics, intervals and bounds must agree to 1e-12.
"""

import resource
import sys
import time

import numpy as np

import lastlayer as ll
from _measure import report


def main(rows=20_000_000, classes=5):
    rng = np.random.default_rng(0)
    z = (rng.normal(size=(rows, classes)) * 2).astype(np.float32)
    target = np.concatenate([np.argmax(part + rng.gumbel(size=part.shape), axis=1) for part in np.array_split(z, 20)])
    start = time.perf_counter()
    whole = ll.evaluate(ll.Outputs(z * 1.5, "logits", target=target))
    seconds = time.perf_counter() - start
    cuts = [0, *sorted(rng.choice(rows, 9, replace=False)), rows]
    order = rng.permutation(10)
    states = [
        ll.Evaluation.from_bytes(
            ll.evaluate(
                ll.Outputs(z[cuts[i] : cuts[i + 1]] * 1.5, "logits", target=target[cuts[i] : cuts[i + 1]])
            ).to_bytes()
        )
        for i in order
    ]
    merged = ll.merge(*states)
    worst = 0.0
    for name, metric in whole.metrics().items():
        other = merged.metrics()[name]
        for field in ("value", "low", "high", "bound"):
            a, b = getattr(metric, field), getattr(other, field)
            worst = max(worst, abs(a - b) / max(abs(a), 1.0))
        assert metric.n == other.n
    assert worst <= 1e-12, worst
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rows_ = [
        (
            f"{rows:,} x {classes}",
            f"{seconds:.1f} s",
            f"{rows / seconds / 1e6:.2f}",
            f"{worst:.1e}",
            f"{memory:.1f} GiB",
        )
    ]
    report("shards", ("rows", "whole", "Mrows/s", "largest difference", "peak memory, data included"), rows_)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
