"""Threads that share work take it in order, and none waits for one that has failed."""

import threading
import time

import pytest

from lastlayer.linear.turns import Turns


def run(work, threads):
    """``work`` on so many threads: none is left after a few seconds."""
    started = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join(10)
    assert not any(thread.is_alive() for thread in started)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_place_has_its_turn_in_order(threads):
    turns, done, inside = Turns(40), [], []

    def work():
        with turns:
            for turn in turns:
                time.sleep(0.002 * (turn.place % 3 == 0))  # the first of three comes late
                with turn:
                    inside.append(1)
                    assert len(inside) == 1
                    done.append(turn.place)
                    inside.pop()

    run(work, threads)
    assert done == list(range(40))


def test_one_that_fails_lets_the_others_end():
    turns, done, failed = Turns(1000), [], []

    def work():
        try:
            with turns:
                for turn in turns:
                    if turn.place == 3:
                        time.sleep(0.05)  # the others wait for it
                        raise KeyError
                    with turn:
                        done.append(turn.place)
        except KeyError:
            failed.append(1)

    run(work, 3)
    assert failed == [1]
    assert {0, 1, 2} <= set(done) and len(done) < 10
