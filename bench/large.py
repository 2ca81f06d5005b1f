"""What does a fit cost whose rows are read in blocks, from a memory map or from parquet, beside one in memory?

    python bench/large.py [rows [folder]]

5,000,000 x 30 binary rows of float32 (600 MB), C=1. Each fit is a process of its own: its rate is rows times passes,
the one that looks at the rows included, in a second; its memory is what it adds to what the process held before, not
counting pages of mapped files, which the system takes back when it wants them, nor what worker processes hold.
Coefficients are compared first. A folder keeps the rows for another time.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from _measure import report

WIDTH, ROUNDS = 30, 3
TOL = 1e-10  # so that coefficients can be compared
WAYS = ("in memory", "memory map, fit", "memory map, blocks", "memory map, 2 processes", "parquet, blocks")


def write(folder, rows):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    X = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (rows, WIDTH))
    coef = rng.normal(size=WIDTH) * 0.3
    y = np.empty(rows, np.int8)
    for a in range(0, rows, 2**18):
        part = rng.normal(size=(min(2**18, rows - a), WIDTH)).astype(np.float32)
        X[a : a + len(part)] = part
        y[a : a + len(part)] = rng.random(len(part)) < 1 / (1 + np.exp(-(part @ coef + 0.2)))
    np.save(folder / "y.npy", y)
    table = pa.table({f"x{j}": np.ascontiguousarray(X[:, j]) for j in range(WIDTH)} | {"y": y})
    pq.write_table(table, folder / "rows.parquet", row_group_size=2**18, use_dictionary=False)


def own():
    """MiB that are the process's own: mapped files are not."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(status["RssAnon"].split()[0]) / 2**10


def fitted(way, folder):
    """Seconds of each of some fits, their passes, the MiB of the first, and the coefficients."""
    from lastlayer.train import Blocks, LinearClassifier, fit_blocks

    mapped, y = np.load(folder / "x.npy", mmap_mode="r"), np.load(folder / "y.npy")
    parquet = Blocks.of_parquet(folder / "rows.parquet", "y")
    LinearClassifier().fit(mapped[:1000], y[:1000])  # imports and kernels
    peak, ended = [own()], threading.Event()
    began = peak[0]

    def watch():
        while not ended.wait(0.01):
            peak.append(own())

    threading.Thread(target=watch, daemon=True).start()
    if way == "in memory":
        mapped = np.array(mapped)
    seconds = []
    for _ in range(ROUNDS):
        model, start = LinearClassifier(tol=TOL), time.perf_counter()
        if way in ("in memory", "memory map, fit"):
            model.fit(mapped, y)
        else:
            rows = parquet if "parquet" in way else Blocks.of_arrays(mapped, y)
            fit_blocks(model, rows, processes=2 if "processes" in way else 1)
        seconds.append(time.perf_counter() - start)
        ended.set()
    return seconds, model.certificate_.passes, max(peak) - began, model.coef_[0].tolist()


def main(rows=5_000_000, folder=None):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(folder or name)
        if not (folder / "rows.parquet").exists():
            write(folder, rows)
        table, wanted = [], None
        for way in WAYS:
            found = subprocess.check_output([sys.executable, __file__, "--way", way, folder])
            seconds, passes, memory, coef = json.loads(found)
            wanted = np.array(coef) if wanted is None else wanted
            apart = np.abs(coef - wanted).max()
            assert apart < 1e-8, (way, apart)
            best, median = min(seconds), statistics.median(seconds)
            rate = rows * passes / median / 1e6
            table.append((way, f"{median:.2f} s", f"{best:.2f} s", passes, f"{rate:.1f}", f"{memory:.0f} MiB"))
    report("large", (f"{rows:,} x {WIDTH} float32", "median", "least", "passes", "Mrows/s", "memory added"), table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--way"]:
        print(json.dumps(fitted(sys.argv[2], Path(sys.argv[3]))))
    else:
        main(*map(int, sys.argv[1:2]), *sys.argv[2:])
