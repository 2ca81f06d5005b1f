"""States of blocks, added: over worker processes, and over the ranks of ``torchrun``.

A pass sums a state of each block. Blocks of a part are added in pairs, then parts, then ranks, each along a tree that
their number alone decides: processes change no bit, and every rank has the same ones.
"""

import hashlib
import io
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from lastlayer._check import DataError, require
from lastlayer.parallel import alone, single_products
from lastlayer.train.blocks import Blocks

READ, FAILED = b"r", b"f"


def merged(states: Iterable) -> Any:
    """The sum of states, in pairs of neighbours; None of none."""
    waiting: list[Any] = []
    for count, state in enumerate(states, 1):
        waiting.append(state)
        while count % 2 == 0:
            last = waiting.pop()
            waiting[-1] = waiting[-1].plus(last)
            count //= 2
    while len(waiting) > 1:
        last = waiting.pop()
        waiting[-1] = waiting[-1].plus(last)
    return waiting[0] if waiting else None


class Passes:
    """Goes over blocks, by ``processes`` if there are more than one, and adds what ``group`` found in its own.

    ``group`` is None, "world" or a group of torch.distributed, each of whose ranks does the same with other rows.
    """

    def __init__(self, blocks: Blocks, processes=1, group=None):
        if not (isinstance(processes, int) and processes >= 1):
            raise ValueError(f"fit_blocks: processes is a whole number of at least 1; it is {processes!r}.")
        if processes > 1 and not blocks.source.separate:
            raise ValueError(
                "fit_blocks: processes read the rows themselves, from parquet files, .npy files or memory maps; these "
                "are in memory, where processes=1 uses every core already."
            )
        self.blocks, self._processes, self._pool = blocks, processes, None
        self._ranks = None if group is None else Ranks(group)

    def __enter__(self):
        if self._processes > 1:
            import multiprocessing
            from concurrent.futures import ProcessPoolExecutor

            # Not by fork: the threads of our pool, and what locks they hold, would not be there.
            spawn = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._processes, spawn, _begin, (self.blocks,))
        return self

    def __exit__(self, *error):
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def total(self, work: Callable, *arrays) -> Any:
        """The sum of ``work(block, *arrays)`` over all blocks; it and the arrays are the same on every rank."""
        if self._ranks is None:
            return self._own(work, arrays)
        try:
            own = self._own(work, arrays)
        except Exception as error:
            self._ranks.give_up(error)
            raise
        return self._ranks.total(own, arrays)

    def _own(self, work, arrays):
        while True:
            try:
                total = merged(self._states(work, arrays))
            except MemoryError:
                fewer = self.blocks.halved()
                if fewer is None:
                    raise
                self.blocks = fewer
                continue
            if total is None:
                raise DataError("there are no rows.", field="blocks", fix="give each rank a part that has some.")
            return total

    def _states(self, work, arrays):
        parts = self.blocks.parts()
        if self._pool is None:
            for part in parts:
                state = _of_part(self.blocks, part, work, arrays)
                if state is not None:
                    yield state
            return
        from concurrent.futures.process import BrokenProcessPool

        count = len(parts)
        try:
            states = self._pool.map(_in_worker, [self.blocks.rows] * count, parts, [work] * count, [arrays] * count)
            yield from (state for state in states if state is not None)
        except BrokenProcessPool:
            raise RuntimeError(
                "fit_blocks: a worker process ended before its time: killed for memory (a smaller memory= of the "
                "blocks), or a script that calls fit_blocks outside `if __name__ == '__main__':`."
            ) from None


def _of_part(blocks, part, work, arrays):
    return merged(_at(block, work, arrays) for block in blocks.read(part) if np.shape(block.features)[0])


def _at(block, work, arrays):
    """The state of a block; a complaint about it names the rows as the source counts them."""
    try:
        return work(block, *arrays)
    except DataError as error:
        rows = None if error.rows is None else [block.first + row for row in error.rows]
        file = error.file or block.file
        raise DataError(error.message, file=file, field=error.field, rows=rows, fix=error.fix) from None


_worker: dict[str, Blocks] = {}


def _begin(blocks):
    """A worker: it has one core, and opens the rows itself."""
    alone()
    _worker["blocks"] = blocks


def _in_worker(rows, part, work, arrays):
    from dataclasses import replace

    with single_products():
        return _of_part(replace(_worker["blocks"], rows=rows), part, work, arrays)


class Ranks:
    """The ranks of a group: what each of them has, all of them get, in their order."""

    def __init__(self, group):
        self._torch: Any = require("torch", "torch", "fitting over ranks")
        self._dist: Any = require("torch.distributed", "torch", "fitting over ranks")
        if not (self._dist.is_available() and self._dist.is_initialized()):
            raise ValueError(
                "fit_blocks: group is one of torch.distributed, which is not begun: "
                'torch.distributed.init_process_group("gloo"), in a script that torchrun starts.'
            )
        self._group = None if isinstance(group, str) and group == "world" else group
        backend = self._dist.get_backend(self._group)
        if "gloo" not in backend and "mpi" not in backend:
            raise ValueError(
                f"fit_blocks: states are in the memory of the CPU, where the backend {backend} does not go; give "
                'group=torch.distributed.new_group(backend="gloo").'
            )

    def total(self, own, arrays):
        """The sum of the states of all ranks, which were made at the same ``arrays``."""
        answers = self._exchanged(READ + _digest(arrays) + _packed(own))
        if len({answer[:33] for answer in answers}) > 1:
            raise RuntimeError(
                "fit_blocks: ranks are at different parameters; give every rank the same estimator, and machines that "
                "round alike."
            )
        return merged(_unpacked(own, answer[33:]) for answer in answers)

    def give_up(self, error):
        """Tell the other ranks why there is no state."""
        self._exchanged(FAILED + str(error).encode())

    def _exchanged(self, message: bytes) -> list[bytes]:
        torch, dist = self._torch, self._dist
        count = dist.get_world_size(self._group)
        size = torch.tensor([len(message)])
        sizes = [torch.zeros_like(size) for _ in range(count)]
        dist.all_gather(sizes, size, group=self._group)
        sizes = [int(size) for size in sizes]
        mine = torch.zeros(max(sizes), dtype=torch.uint8)
        mine[: len(message)] = torch.frombuffer(bytearray(message), dtype=torch.uint8)
        rooms = [torch.empty_like(mine) for _ in range(count)]
        dist.all_gather(rooms, mine, group=self._group)
        answers = [room.numpy()[:size].tobytes() for room, size in zip(rooms, sizes, strict=True)]
        if not message.startswith(FAILED):
            for rank, answer in enumerate(answers):
                if answer.startswith(FAILED):
                    raise DataError(f"rank {rank}: {answer[1:].decode()}", fix="see that rank.")
        return answers


def _digest(arrays):
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.digest()


def _packed(state) -> bytes:
    """The arrays of a state one after the other, as ``.npy``."""
    buffer = io.BytesIO()
    for leaf in _leaves(state):
        np.lib.format.write_array(buffer, np.asarray(leaf), allow_pickle=False)
    return buffer.getvalue()


def _unpacked(like, data: bytes):
    """A state of the same kind as ``like``."""
    return _rebuilt(like, io.BytesIO(data))


def _leaves(state):
    for field in state:
        if isinstance(field, tuple):
            yield from _leaves(field)
        else:
            yield field


def _rebuilt(like, buffer):
    def read(field):
        if isinstance(field, tuple):
            return _rebuilt(field, buffer)
        return np.lib.format.read_array(buffer, allow_pickle=False)[()]

    return type(like)._make(read(field) for field in like)
