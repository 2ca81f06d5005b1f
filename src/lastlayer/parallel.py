"""Threads for kernels and blocks: fixed ranges of rows on a pool of our own.

Numba's threading layers abort when two Python threads enter at once (workqueue) or break the children of a fork (omp),
so kernels are compiled without ``parallel`` and release the GIL instead. Ranges depend on the number of rows alone, and
each works on its own output, so the number of threads changes no bit.
"""

import contextlib
import contextvars
import functools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

AHEAD = 3  # ranges for each core that may wait to be given: with fewer, helpers wait for the caller to end its own

_pool: ThreadPoolExecutor | None = None
_inside = threading.local()
_placed: dict[int, set[int]] = {}  # the threads of the pool, and the cores that each may use


def workers() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def over_ranges(work: Callable[[int, int], T], rows: int, size: int) -> Iterator[T]:
    """``work(start, stop)`` for each range of ``size`` rows, in the order of the rows; few are in memory at once.

    The caller's thread works too. Within a range others run one after another: each has its core already.
    """
    ranges = [(start, min(start + size, rows)) for start in range(0, rows, size)]
    if len(ranges) <= 1 or workers() == 1 or getattr(_inside, "pool", False):
        yield from (work(*each) for each in ranges)
        return
    sweep = _Sweep(work, ranges)
    try:
        for _ in ranges:
            yield sweep.next_result()
    finally:
        sweep.end()


class _Sweep:
    """Ranges that the threads take one by one, and the results that wait for their turn."""

    def __init__(self, work, ranges):
        self.work, self.ranges, self.cores = work, ranges, workers()
        self.begun = self.given = self.helpers = self.helped = 0
        self.results, self.changed = {}, threading.Condition(threading.Lock())

    def _left(self):
        """How many may be begun."""
        return min(len(self.ranges), self.given + AHEAD * self.cores) - self.begun

    def _begin(self, helper):
        """The number of the next range; where there is none for now, a helper is none any more."""
        with self.changed:
            if self._left() <= 0:
                self.helpers -= helper
                return None
            self.begun += 1
            self.helped += helper
            return self.begun - 1

    def _compute(self, i, helper):
        try:
            result = self.work(*self.ranges[i]), None
        except BaseException as error:  # its turn comes: what was given before it is whole
            result = None, error
        with self.changed:
            self.results[i] = result
            self.helped -= helper
            self.changed.notify()

    def _help(self):
        while (i := self._begin(True)) is not None:
            self._compute(i, True)

    def _call_helpers(self):
        with self.changed:
            wanted = min(self.cores - 1, self._left()) - self.helpers
            self.helpers += max(wanted, 0)
        if wanted > 0:
            _keep_off()
        for _ in range(wanted):
            # A copy of the context for each: `with formulas():` holds in the threads too.
            _threads().submit(contextvars.copy_context().run, self._help)

    def next_result(self):
        self._call_helpers()
        while self.given not in self.results:
            i = self._begin(False)
            if i is None:
                with self.changed:
                    self.changed.wait_for(lambda: self.given in self.results)
                continue
            _inside.pool = True
            try:
                self._compute(i, False)
            finally:
                _inside.pool = False
        with self.changed:
            result, error = self.results.pop(self.given)
            self.given += 1
        if error is not None:
            raise error
        return result

    def end(self):
        """Begin no other range, and wait for what helpers began: they write where the caller may read."""
        with self.changed:
            self.ranges = self.ranges[: self.begun]
            self.changed.wait_for(lambda: self.helped == 0)


def _threads():
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(workers(), thread_name_prefix="lastlayer", initializer=_started)
    return _pool


def _started():
    alone()
    _placed[threading.get_native_id()] = set()


def _keep_off():
    """The pool's threads leave the caller's core to the caller.

    Linux may queue them behind it where another core is idle, since a halted core of a virtual machine counts as in
    use; there they would wait for the end of its time slice: 9.1 ms for 5.7, of a call after a pause.
    """
    core = _core()
    if core is None:
        return
    others = os.sched_getaffinity(0) - {core()}
    for thread, cores in list(_placed.items()) if others else ():
        if cores != others:
            _placed[thread] = others
            with contextlib.suppress(OSError):  # it has ended, or may not be moved
                os.sched_setaffinity(thread, others)


@functools.cache
def _core():
    """What gives the core of the calling thread, where threads can be kept off one."""
    import ctypes

    return getattr(ctypes.CDLL(None), "sched_getcpu", None) if hasattr(os, "sched_setaffinity") else None


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
    _placed.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
