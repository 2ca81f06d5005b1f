"""Products of matrices into memory that is there already, by the library that the arrays came in.

``fresh`` says that ``out`` holds nothing yet and is stored to, not added to. All products are of one library: the
threads of two BLAS wait for work on the same cores. ``beside(work, count, size)`` calls ``work(a, b)`` for ranges that
may be worked on beside one another, and lists what they give; ``lanes`` does so for ranges that depend on ``count``
alone.
"""

import importlib
import sys
from typing import Any

import numpy as np

from lastlayer.linear.plan import CHUNK
from lastlayer.linear.tile import over_rows
from lastlayer.parallel import over_ranges

LANE = 256  # rows (or classes) of a product that one thread makes: fewer do not reach the full rate
PARTS = 8  # of a large product: more make the pieces small, and no faster on a few cores


class NumpyProducts:
    """float32 and float64, by SciPy's BLAS, which can add; it takes C-ordered arrays as the transposes of its own."""

    def __init__(self, dtype):
        blas: Any = importlib.import_module("scipy.linalg.blas")
        self.dtype, self.half = np.dtype(dtype), False
        single = self.dtype == np.float32
        self._product = blas.sgemm if single else blas.dgemm
        self._by_vector = blas.sgemv if single else blas.dgemv

    def room(self, *shape, products=1):
        """Room for a sum of so many products."""
        return np.empty(shape, self.dtype)

    def bits(self, tile):
        """A tile as the functions of tiles take it."""
        return tile

    def beside(self, work, count, size):
        """One range: the products are made by the threads of BLAS, which wants to be alone."""
        return [work(0, count)]

    def lanes(self, work, count):
        """The only range."""
        return [work(0, count)]

    def parts(self, count, size=LANE):
        """How many ranges `lanes` makes of so many rows."""
        return 1

    def logits(self, features, weight, bias, tile):
        """``tile = features @ weight.T + bias``."""
        self._product(1.0, weight.T, features.T, trans_a=True, c=tile.T, overwrite_c=True)
        if bias is not None:
            over_rows(lambda part: np.add(part, bias, out=part), tile)

    def rows(self, tile, weight, out, fresh):
        """``out += tile @ weight``."""
        self._product(1.0, weight.T, tile.T, beta=float(not fresh), c=out.T, overwrite_c=True)

    def columns(self, tile, features, out, fresh):
        """``out += tile.T @ features``."""
        self._product(1.0, features.T, tile.T, trans_b=True, beta=float(not fresh), c=out.T, overwrite_c=True)

    def sums(self, tile):
        """``tile.sum(0)``, as a product: it reads the tile at the speed of the memory."""
        return self._by_vector(1.0, tile.T, np.ones(len(tile), self.dtype))


class TorchProducts:
    """PyTorch's, each thread of ours making its own: a barrier among the library's threads costs more than a small
    product does, and they go on spinning where ours would work. In bfloat16 a product is rounded once, and sums of
    several are float32."""

    def __init__(self, dtype):
        self.torch: Any = sys.modules["torch"]
        self.dtype = getattr(self.torch, dtype)
        self.half = dtype == "bfloat16"

    def room(self, *shape, products=1):
        """Room for a sum of so many products; NumPy asks the system for large pages, PyTorch does not."""
        if self.half and products == 1:
            return self.torch.from_numpy(np.empty(shape, np.int16)).view(self.dtype)
        return self.torch.from_numpy(np.empty(shape, np.float64 if self.dtype == self.torch.float64 else np.float32))

    def bits(self, tile):
        """A tile as the functions of tiles take it."""
        return tile.view(self.torch.int16).numpy().view(np.uint16) if self.half else tile.numpy()

    def beside(self, work, count, size):
        """Ranges on all cores, PyTorch using no other thread than the one of a range; a single one has them all."""
        threads = self.torch.get_num_threads()
        if size >= count:
            return [work(0, count)]

        def alone(a, b):
            if self.torch.get_num_threads() > 1:
                self.torch.set_num_threads(1)
            with self.torch.inference_mode():
                return work(a, b)

        try:
            return list(over_ranges(alone, count, size))
        finally:
            if threads > 1:
                self.torch.set_num_threads(threads)  # of this thread, and of those that come

    def lanes(self, work, count):
        """`beside` for ranges of rows or classes."""
        return self.beside(work, count, -(-count // self.parts(count)))

    def parts(self, count, size=LANE):
        """How many ranges of about ``size``: an even number, for machines have an even number of cores."""
        return min(2 * max(round(count / (2 * size)), 1), PARTS) if count > LANE else 1

    def logits(self, features, weight, bias, tile):
        """``tile = features @ weight.T + bias``."""
        if bias is None:
            self.torch.mm(features, weight.T, out=tile)
        else:
            self.torch.addmm(bias, features, weight.T, out=tile)

    def rows(self, tile, weight, out, fresh):
        """``out += tile @ weight``."""
        self.lanes(lambda a, b: self.add(tile[a:b], weight, out[a:b], fresh), len(tile))

    def columns(self, tile, features, out, fresh):
        """``out += tile.T @ features``."""
        self.lanes(lambda a, b: self.add(tile[:, a:b].T, features, out[a:b], fresh), tile.shape[1])

    def sums(self, tile):
        """``tile.sum(0)``."""
        wide = self.torch.float32 if self.half else self.dtype
        return np.concatenate(self.lanes(lambda a, b: tile[:, a:b].sum(0, dtype=wide).numpy(), tile.shape[1]))

    def add(self, left, right, out, fresh):
        """``out += left @ right``, by the thread that asks; sums in float32 are made `CHUNK` rows at a time."""
        if out.dtype == self.dtype:
            self.torch.addmm(out, left, right, beta=0 if fresh else 1, out=out)
            return
        for start in range(0, len(out), CHUNK):
            part = out[start : start + CHUNK]
            (part.copy_ if fresh else part.add_)(self.torch.mm(left[start : start + CHUNK], right))
