"""Fixed ranges of rows on a pool of our own."""

import os
import subprocess
import sys
import threading

import pytest

import lastlayer as ll
from lastlayer import parallel
from lastlayer.kernels import _formulas


@pytest.fixture(autouse=True)
def own_pool(monkeypatch):
    monkeypatch.setattr(parallel, "_pool", None)
    monkeypatch.setattr(parallel, "workers", lambda: 3)


@pytest.mark.parametrize("rows", [0, 1, 9, 10, 11, 35])
def test_ranges_are_fixed_by_the_rows_and_come_back_in_order(rows):
    ranges = list(parallel.over_ranges(lambda a, b: (a, b), rows, 10))
    assert ranges == [(a, min(a + 10, rows)) for a in range(0, rows, 10)]
    assert [row for a, b in ranges for row in range(a, b)] == list(range(rows))


def test_a_single_range_and_a_single_core_run_in_the_caller(monkeypatch):
    here = threading.get_ident()
    assert list(parallel.over_ranges(lambda a, b: threading.get_ident(), 10, 10)) == [here]
    monkeypatch.setattr(parallel, "workers", lambda: 1)
    assert list(parallel.over_ranges(lambda a, b: threading.get_ident(), 30, 10)) == [here] * 3
    assert parallel._pool is None


def test_ranges_run_at_the_same_time():
    together = threading.Barrier(3, timeout=30)
    places = list(parallel.over_ranges(lambda a, b: (together.wait(), threading.get_ident())[1], 30, 10))
    assert len(set(places)) == 3
    assert threading.get_ident() not in places


def test_the_pool_is_made_once():
    list(parallel.over_ranges(lambda a, b: a, 30, 10))
    first = parallel._pool
    list(parallel.over_ranges(lambda a, b: a, 30, 10))
    assert parallel._pool is first is not None


def test_an_error_in_one_range_reaches_the_caller_and_leaves_the_pool_usable():
    def work(a, b):
        if a == 10:
            raise ZeroDivisionError("range 10")
        return a

    with pytest.raises(ZeroDivisionError, match="range 10"):
        list(parallel.over_ranges(work, 30, 10))
    assert list(parallel.over_ranges(lambda a, b: a, 30, 10)) == [0, 10, 20]


def test_ranges_within_a_range_run_in_its_own_thread_instead_of_waiting_for_a_free_one():
    def inner(a, b):
        return threading.get_ident()

    def outer(a, b):
        return {threading.get_ident(), *parallel.over_ranges(inner, 100, 10)}

    assert all(len(threads) == 1 for threads in parallel.over_ranges(outer, 100, 10))


def test_few_results_wait_at_a_time():
    started = []
    results = parallel.over_ranges(lambda a, b: started.append(a), 1000, 10)
    next(results)
    assert len(started) <= 4
    results.close()


def test_formulas_hold_in_the_threads():
    with ll.formulas():
        assert all(parallel.over_ranges(lambda a, b: _formulas.get(), 100, 10))
    assert not any(parallel.over_ranges(lambda a, b: _formulas.get(), 100, 10))


def test_workers_are_the_cores_this_process_may_use():
    program = "import os; from lastlayer.parallel import workers; print(workers(), len(os.sched_getaffinity(0)))"
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system does not pin processes to cores")
    command = [sys.executable, "-c", "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); " + program]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split() == ["1", "1"]
