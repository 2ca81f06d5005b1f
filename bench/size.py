"""How does the cost of `evaluate` grow with the data, and its memory?

    python bench/size.py [--full]

Simulated float32 logits on disk: 10 classes in parquet, 1,000 in an npy file that is mapped into memory. Each size is
evaluated by a process of its own, kernels compiled; its peak of resident memory is that of the kernel's record, and
pages of a mapped file count there as long as nothing else wants them, so they are named apart. Seconds of all cores
say what the work costs where others compute too. Before timing, the accuracy is checked against NumPy's. Up to 1e8
logits; --full goes on to 1e9, for which 8 GB of disk are needed.
"""

import json
import pathlib
import sys
import tempfile

import numpy as np

from _measure import process, report
from _picture import lines

CHUNK = 2**22  # logits that are simulated and written at once
CHILD = """
import json, re, sys, time
import numpy as np
import lastlayer as ll

path, target = sys.argv[1:]

def run(source):
    return ll.evaluate(source)

if target == "-":
    blocks = ll.blocks(path)
    warm = next(iter(blocks)).rows(slice(0, 1000))
else:
    blocks = ll.Outputs(np.load(path, mmap_mode="r"), "logits", target=np.load(target))
    warm = blocks.rows(slice(0, 1000))
run(warm)
start, before = time.perf_counter(), time.process_time()
accuracy = float(run(blocks).metrics()["accuracy"])
seconds, cpu = time.perf_counter() - start, time.process_time() - before
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
kib = {name: int(re.sub(r"[^0-9]", "", status[name])) for name in ("VmHWM", "RssAnon", "RssFile")}
print(json.dumps({"seconds": seconds, "cpu": cpu, "accuracy": accuracy} | kib))
"""


def chunks(logits, classes):
    """Logits and targets, piece by piece; every piece has the same rows in another order."""
    rng = np.random.default_rng(0)
    rows = min(CHUNK, logits) // classes
    z = (rng.normal(size=(rows, classes)) * 2).astype(np.float32)
    target = np.argmax(z + rng.gumbel(size=z.shape).astype(np.float32), axis=1)
    left = logits // classes
    while left:
        some = rng.permutation(rows)[:left]
        yield z[some], target[some]
        left -= len(some)


def parquet(folder, logits):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, hits, writer = folder / "rows.parquet", 0, None
    for z, target in chunks(logits, 10):
        column = pa.FixedSizeListArray.from_arrays(pa.array(z.ravel()), 10)
        table = pa.table({"logits": column, "target": pa.array(target)})
        writer = writer or pq.ParquetWriter(
            path,
            table.schema,
            compression="zstd",
            use_dictionary=["target"],
            use_byte_stream_split=["logits.list.element"],
        )
        writer.write_table(table)
        hits += int((z.argmax(1) == target).sum())
    writer.close()
    return [str(path), "-"], hits


def mapped(folder, logits):
    paths, hits, start = [str(folder / name) for name in ("rows.npy", "target.npy")], 0, 0
    z = np.lib.format.open_memmap(paths[0], "w+", np.float32, (logits // 1000, 1000))
    y = np.lib.format.open_memmap(paths[1], "w+", np.int64, (logits // 1000,))
    for some, target in chunks(logits, 1000):
        rows = slice(start, start + len(some))
        z[rows], y[rows] = some, target
        start += len(some)
        hits += int((some.argmax(1) == target).sum())
    z.flush()
    return paths, hits


def main(full):
    rows, curves = [], {}
    for what, classes, write in (("parquet, 10 classes", 10, parquet), ("mapped npy, 1,000 classes", 1000, mapped)):
        for logits in (10**5, 10**6, 10**7, 10**8, *([10**9] if full else [])):
            with tempfile.TemporaryDirectory() as name:
                arguments, hits = write(pathlib.Path(name), logits)
                found = min(
                    (json.loads(process("-c", CHILD, *arguments)().stdout) for _ in range(1 if logits > 10**7 else 3)),
                    key=lambda each: each["seconds"],
                )
            assert abs(found["accuracy"] - hits / (logits // classes)) < 1e-9
            curves.setdefault(what, []).append((logits, found["seconds"]))
            rows.append(
                (
                    what,
                    f"{logits:.0e}",
                    f"{found['seconds']:.3f}",
                    f"{logits / found['seconds'] / 1e6:.1f}",
                    f"{found['cpu']:.3f}",
                    f"{found['VmHWM'] / 1024:.0f}",
                    f"{found['RssFile'] / 1024:.0f}",
                )
            )
            print(*rows[-1], flush=True)
    header = (
        "logits",
        "how many",
        "s",
        "millions a second",
        "s of all cores",
        "peak memory, MiB",
        "of it pages of files, at the end, MiB",
    )
    report("size", header, rows)
    lines("size", "Time of evaluate against the number of logits", "logits", "seconds", curves)


if __name__ == "__main__":
    main("--full" in sys.argv[1:])
