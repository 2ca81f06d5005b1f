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
    monkeypatch.setattr(parallel, "_placed", {})
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
    assert threading.get_ident() in places


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


def test_an_error_comes_when_all_before_it_were_given_and_nothing_runs_on_behind_it():
    gate, ended = threading.Event(), []

    def work(a, b):
        if a == 0:
            raise KeyboardInterrupt
        gate.wait(30)
        ended.append(a)

    threading.Timer(0.2, gate.set).start()
    with pytest.raises(KeyboardInterrupt):
        list(parallel.over_ranges(work, 300, 10))
    left = len(ended)
    assert 0 < left <= 3 * parallel.AHEAD
    assert list(parallel.over_ranges(lambda a, b: a, 30, 10)) == [0, 10, 20]
    assert len(ended) == left


def test_the_pool_may_be_busy_with_the_ranges_of_others():
    first = parallel.over_ranges(lambda a, b: a, 1000, 10)
    assert [next(first), next(first)] == [0, 10]  # it waits for its caller
    blocked = threading.Event()
    for _ in range(3):
        parallel._threads().submit(blocked.wait, 30)
    try:
        assert list(parallel.over_ranges(lambda a, b: a, 100, 10)) == list(range(0, 100, 10))
        assert list(first) == list(range(20, 1000, 10))
    finally:
        blocked.set()


def test_the_threads_of_the_pool_leave_the_core_of_the_caller_to_it(monkeypatch):
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("threads are not kept off a core here")
    allowed = os.sched_getaffinity(0)
    together = threading.Barrier(3, timeout=30)
    for core in allowed:
        monkeypatch.setattr(parallel, "_core", lambda core=core: lambda: core)
        for _ in range(2):  # a thread that starts during a call is placed by the next
            list(parallel.over_ranges(lambda a, b: together.wait(), 30, 10))
        placed = [os.sched_getaffinity(thread) for thread in parallel._placed]
        assert len(placed) >= 2
        assert all(cores == allowed - {core} for cores in placed)
    assert os.sched_getaffinity(0) == allowed


def test_few_results_wait_at_a_time():
    started = []
    results = parallel.over_ranges(lambda a, b: started.append(a), 1000, 10)
    next(results)
    assert len(started) <= 3 * parallel.AHEAD
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
