"""Products of matrices into memory that is there already, by the library that the arrays came in.

``fresh`` says that ``out`` holds nothing yet and is stored to, not added to. All products are of one library: the
threads of two BLAS wait for work on the same cores.
"""

import importlib
import sys
from typing import Any

import numpy as np

from lastlayer.linear.plan import CHUNK
from lastlayer.linear.tile import over_rows


class NumpyProducts:
    """float32 and float64, by SciPy's BLAS, which can add; it takes C-ordered arrays as the transposes of its own."""

    def __init__(self, dtype):
        blas: Any = importlib.import_module("scipy.linalg.blas")
        self.dtype = np.dtype(dtype)
        single = self.dtype == np.float32
        self._product = blas.sgemm if single else blas.dgemm
        self._by_vector = blas.sgemv if single else blas.dgemv

    def room(self, *shape, products=1):
        """Room for a sum of so many products."""
        return np.empty(shape, self.dtype)

    def bits(self, tile):
        """A tile as the functions of tiles take it."""
        return tile

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
    """PyTorch's. A product in bfloat16 rounds once; sums of several are float32."""

    def __init__(self, dtype):
        self.torch: Any = sys.modules["torch"]
        self.dtype = getattr(self.torch, dtype)
        self.half = dtype == "bfloat16"

    def room(self, *shape, products=1):
        """Room for a sum of so many products."""
        return self.torch.empty(shape, dtype=self.torch.float32 if self.half and products > 1 else self.dtype)

    def bits(self, tile):
        """A tile as the functions of tiles take it."""
        return tile.view(self.torch.int16).numpy().view(np.uint16) if self.half else tile.numpy()

    def logits(self, features, weight, bias, tile):
        """``tile = features @ weight.T + bias``."""
        if bias is None:
            self.torch.mm(features, weight.T, out=tile)
        else:
            self.torch.addmm(bias, features, weight.T, out=tile)

    def rows(self, tile, weight, out, fresh):
        """``out += tile @ weight``."""
        self._add(tile, weight, out, fresh)

    def columns(self, tile, features, out, fresh):
        """``out += tile.T @ features``."""
        self._add(tile.T, features, out, fresh)

    def sums(self, tile):
        """``tile.sum(0)``."""
        return tile.sum(0, dtype=self.torch.float32 if self.half else self.dtype).numpy()

    def _add(self, left, right, out, fresh):
        if out.dtype == self.dtype:
            self.torch.addmm(out, left, right, beta=0 if fresh else 1, out=out)
            return
        for start in range(0, len(out), CHUNK):
            part = self.torch.mm(left[start : start + CHUNK], right)
            if fresh:
                out[start : start + CHUNK].copy_(part)
            else:
                out[start : start + CHUNK].add_(part)
