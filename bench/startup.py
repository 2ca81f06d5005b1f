"""What does it cost to start: import, ``--help``, a cold and a warm ``check``, the demo, and the size of an install?

    python bench/startup.py

Whole processes, in turn with the peer named in the same row; medians of 9. The bars are those of the first release.
"""

import importlib.metadata
import os
import pathlib
import statistics
import tempfile
import time

import numpy as np
from packaging.requirements import Requirement

import lastlayer as ll
from _measure import alternate, process, report

HEAVY = ("numba", "sklearn", "torch", "jax", "pandas", "pyarrow", "matplotlib")


def core_packages():
    """Every distribution that a plain install of lastlayer brings, besides itself."""
    found, todo = set(), ["lastlayer"]
    while todo:
        for line in importlib.metadata.requires(todo.pop()) or []:
            need = Requirement(line)
            if (need.marker is None or need.marker.evaluate({"extra": ""})) and need.name.lower() not in found:
                found.add(need.name.lower())
                todo.append(need.name)
    return sorted(found)


def main():
    rows = []
    times = alternate(
        {
            "numpy": process("-c", "import numpy"),
            "import": process("-c", "import lastlayer"),
            "help": process("-m", "lastlayer", "--help"),
        },
        rounds=9,
    )
    rows.append(
        ("import lastlayer, beyond import numpy", f"{1e3 * (times['import'] - times['numpy']):.0f} ms", "40 ms")
    )
    rows.append(("lastlayer --help, beyond import numpy", f"{1e3 * (times['help'] - times['numpy']):.0f} ms", "120 ms"))
    loaded = f"import lastlayer, sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    rows.append(("heavy modules after import", process("-c", loaded)().stdout.decode().strip(), "[]"))

    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        z = rng.normal(size=(10_000, 10)) * 3
        target = np.argmax(z + rng.gumbel(size=z.shape), axis=1)
        path = pathlib.Path(folder, "rows.npz")
        ll.save(ll.Outputs(z.astype(np.float32), "logits", target=target), path)
        check = ["-m", "lastlayer", "check", str(path), "--quiet"]
        warm = alternate({"check": process(*check, cwd=folder)}, rounds=7)["check"]
        rows.append(("lastlayer check, 10,000 x 10, warm", f"{warm:.2f} s", "1.5 s"))
        rows.append(("lastlayer check, cold kernel cache", f"{cold_check(check, folder):.2f} s", "4 s"))
        demo = alternate({"demo": process("-m", "lastlayer", "demo", "--out", f"{folder}/demo")}, rounds=3)["demo"]
        rows.append(("lastlayer demo", f"{demo:.1f} s", "30 s"))
    packages = core_packages()
    rows.append(("packages of a core install", len(packages), "18"))
    report("startup", ("what", "measured", "bar"), rows)
    print("core:", ", ".join(packages))


def cold_check(check, folder):
    """Median of three runs, each with a kernel cache of its own that does not exist yet."""
    times = []
    for i in range(3):
        run = process(*check, cwd=folder, env=dict(os.environ, LASTLAYER_CACHE_DIR=f"{folder}/cold{i}"))
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    main()
