"""Turns of threads that share tiles: each takes the next, and what all of them add to is added to in order."""

import math
from collections import deque
from dataclasses import dataclass
from threading import Condition
from typing import Any


class Turns:
    """Places in a queue. A thread goes on taking the next ``with`` these, so that one that fails lets the others end.

    A place is taken after all before it, so whoever waits waits for a thread that runs, however many there are.
    """

    def __init__(self, count):
        self.moved, self.at = Condition(), 0.0
        self._left = deque(range(count))

    def __iter__(self):
        while True:
            try:
                yield Turn(self, self._left.popleft())
            except IndexError:
                return

    def __enter__(self):
        return self

    def __exit__(self, kind, *error):
        if kind is not None:
            self._left.clear()
            self.move(math.inf)

    def move(self, to):
        """Those before ``to`` are done."""
        with self.moved:
            self.at = max(self.at, to)
            self.moved.notify_all()


@dataclass(frozen=True)
class Turn:
    """``with`` it, a thread is alone, and all before it are done."""

    turns: Any
    place: int

    def __enter__(self):
        with self.turns.moved:
            self.turns.moved.wait_for(lambda: self.turns.at >= self.place)

    def __exit__(self, *error):
        self.turns.move(self.place + 1)
