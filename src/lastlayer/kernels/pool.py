"""Threads for kernels: fixed ranges of rows on a pool of our own.

Numba's threading layers abort when two Python threads enter at once (workqueue) or break the children of a fork (omp),
so kernels are compiled without ``parallel`` and release the GIL instead. Ranges depend on the number of rows alone, and
each works on its own output, so the number of threads changes no bit.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

_pool: ThreadPoolExecutor | None = None


def workers() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def over_ranges(work: Callable[[int, int], object], rows: int, size: int) -> list:
    """``work(start, stop)`` for each range of ``size`` rows, in the order of the rows."""
    starts = range(0, rows, size)
    if len(starts) <= 1 or workers() == 1:
        return [work(start, min(start + size, rows)) for start in starts]
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(workers(), thread_name_prefix="lastlayer")
    return list(_pool.map(lambda start: work(start, min(start + size, rows)), starts))


def _forget():
    global _pool
    _pool = None  # a child of a fork has none of its threads


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
