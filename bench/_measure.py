"""How every script here measures: the peer and us in turn, medians of several rounds, a table and a CSV."""

import csv
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

RESULTS = pathlib.Path(__file__).parent / "results"
PAUSE = 0.02  # seconds
PROCESSOR = pathlib.Path("/proc/cpuinfo")
PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def alternate(candidates, rounds=7):
    """Seconds of each ``{name: callable}``, run in turn ``rounds`` times after one warm-up each, as medians.

    Before each of them nothing runs for a while: threads of OpenMP spin for some milliseconds after their work is done,
    on the core of whoever comes next.
    """
    times = {name: [] for name in candidates}
    for round_ in range(rounds + 1):
        for name, run in candidates.items():
            time.sleep(PAUSE)
            start = time.perf_counter()
            run()
            if round_:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def process(*arguments, **options):
    """A callable that runs ``python *arguments`` as a whole process and insists that it succeeds."""
    return lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True, **options)


def machine():
    """Where it was measured, in words: also what a fresh output costs there, which is pages from the allocator."""
    lines = PROCESSOR.read_text("utf-8").splitlines() if PROCESSOR.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
    pages = PAGES.read_text("utf-8").split("[")[1].split("]")[0] if PAGES.exists() else "unknown"
    allocator = " ".join(filter(None, platform.libc_ver())) or "the system's"
    return (
        f"{model or platform.machine()}, {os.cpu_count()} cores; Python {platform.python_version()}; "
        f"allocator {allocator}, huge pages: {pages}"
    )


def report(name, header, rows):
    """Print a table and write it to ``results/NAME.csv`` with the machine it was measured on."""
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    RESULTS.mkdir(exist_ok=True)
    with open(RESULTS / f"{name}.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*header, "machine"])
        writer.writerows([*row, machine()] for row in rows)
