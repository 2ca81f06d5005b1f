"""Threads for kernels and blocks: fixed ranges of rows on a pool of our own.

Numba's threading layers abort when two Python threads enter at once (workqueue) or break the children of a fork (omp),
so kernels are compiled without ``parallel`` and release the GIL instead. Ranges depend on the number of rows alone, and
each works on its own output, so the number of threads changes no bit.
"""

import contextvars
import functools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_pool: ThreadPoolExecutor | None = None
_inside = threading.local()


def workers() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def over_ranges(work: Callable[[int, int], T], rows: int, size: int) -> Iterator[T]:
    """``work(start, stop)`` for each range of ``size`` rows, in the order of the rows; few are in memory at once.

    Within a thread of the pool the ranges run one after another: waiting there for a free thread could wait for ever.
    """
    ranges = [(start, min(start + size, rows)) for start in range(0, rows, size)]
    if len(ranges) <= 1 or workers() == 1 or getattr(_inside, "pool", False):
        yield from (work(*each) for each in ranges)
        return
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(workers(), thread_name_prefix="lastlayer", initializer=alone)
    waiting = deque()
    for each in ranges:
        # A copy of the context for each: `with formulas():` holds in the threads too.
        waiting.append(_pool.submit(contextvars.copy_context().run, work, *each))
        if len(waiting) > workers():
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def single_products():
    """A context in which products of matrices use no threads of their own.

    Beside those of our pool they took 40 seconds for what takes 2, on two cores in use.
    """
    return _blas().limit(limits=1)


@functools.cache
def _blas():
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


def alone():
    """From here on the ranges of this thread run one after another: it is one of many, and each has its core."""
    _inside.pool = True


def _forget():
    global _pool
    _pool = None  # a child of a fork has none of its threads


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
