"""Which tiles of the logits a memory budget gives, and what they cost."""

import math
import re
from dataclasses import dataclass

import numpy as np

from lastlayer._array import dtype_name
from lastlayer._check import one_of

ITEMSIZE = {"bfloat16": 2, "float32": 4, "float64": 8}
LEAST_TILE = 16, 64  # rows and classes: below it a product of matrices is a loop of dot products
# A product with r rows (or classes) runs at r / (r + 40) of the full rate: 32 rows at 0.55, 128 at 0.8, 256 at 0.9
# (OpenBLAS, two cores).
SIDE = 40
HALF_ROWS = 1000  # in bfloat16 a group of rows is cheap, and dear to add to a float32 gradient of the weight
UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
COLUMNS = 256  # bytes beside each row of a tile: its sums, its slope, its target
EVEN = 64  # rows or classes, of which vector loops leave no rest
CHUNK = 512  # rows of products in bfloat16 that are there before they are added in float32


@dataclass(frozen=True)
class Plan:
    """How a head of ``rows`` x ``width`` features and ``classes`` is swept; print it.

    ``tile`` is the rows and classes of logits that exist at a time, ``sweeps`` how often each logit is made: once where
    a tile holds whole rows, else once for the sums and once for the slopes. ``flops`` counts the products of matrices,
    ``bytes`` what they read and write, ``peak`` the memory beside the arguments and the gradients.
    """

    rows: int
    width: int
    classes: int
    dtype: str
    memory: int
    gradients: bool
    tile: tuple[int, int]
    sweeps: int
    flops: int
    bytes: int
    peak: int

    @property
    def tiles(self):
        """How many tiles a sweep has."""
        return max(math.ceil(self.rows / self.tile[0]), 1) * math.ceil(self.classes / self.tile[1])

    def __str__(self):
        whole = "whole rows" if self.tile[1] == self.classes else "blocks of the classes"
        logits = self.rows * self.classes * ITEMSIZE[self.dtype]
        return (
            f"{self.rows:,} rows x {self.width:,} features x {self.classes:,} classes, {self.dtype}\n"
            f"tiles   {self.tiles} of {self.tile[0]:,} x {self.tile[1]:,}, {whole}\n"
            f"sweeps  {self.sweeps}{'' if self.gradients else ', without gradients'}\n"
            f"flops   {self.flops:,}\n"
            f"bytes   {self.bytes:,}\n"
            f"peak    {size_of(self.peak)} of {size_of(self.memory)}; all the logits would be {size_of(logits)}"
        )


def plan(features, weight, *, dtype=None, memory: int | str = "64MiB", gradients=True) -> Plan:
    """How `linear_cross_entropy` would sweep a head within a budget: tiles, sweeps, flops, bytes, peak memory.

        cost = products * (1 + side / rows of the tile) * (1 + 40 / classes of the tile)

    ``features`` and ``weight`` are arrays, or their shapes ``(rows, width)`` and ``(classes, width)`` with a ``dtype``
    (float32). ``memory`` is a number of bytes or a string, "64MiB". A tile of whole rows needs three products of
    matrices for the gradients, blocks of the classes need four and can be of better proportions: the plan is the
    cheaper one; ``side`` is 40, and 1,000 in bfloat16. It depends on shapes, dtype and budget alone. A budget below one
    tile is refused, naming the smallest.

    >>> print(plan((1024, 512), (32000, 512), memory="8MB"))
    1,024 rows x 512 features x 32,000 classes, float32
    tiles   18 of 1,024 x 1,856, blocks of the classes
    sweeps  2
    flops   134,217,728,000
    bytes   937,426,944
    peak    7.5 MiB of 7.6 MiB; all the logits would be 125.0 MiB
    """
    name = dtype or (_made_in(features) if hasattr(features, "dtype") else "float32")
    one_of("plan", "dtype", name, tuple(ITEMSIZE))
    *batch, width = _shape("features", features)
    classes, other = _shape("weight", weight)
    if width != other:
        raise ValueError(f"plan: features end in {width} numbers, weight takes {other}; weight is (classes, width).")
    return planned("plan", math.prod(batch), width, classes, name, memory, gradients)


def planned(function, rows, width, classes, dtype, memory, gradients, sweeps=2, share=1, beside=0, held=0) -> Plan:
    """The plan for a head; ``sweeps`` is how often blocks of classes are made, ``share`` how many heads there are.

    ``beside`` is the bytes that come with each class of a tile, ``held`` those that are there all along.
    """
    budget, itemsize = bytes_of(function, memory) // share, ITEMSIZE[dtype]
    shared = held // share + (CHUNK * width * itemsize if dtype == "bfloat16" else 0)
    least = max(min(rows, LEAST_TILE[0]), 1), min(classes, LEAST_TILE[1])

    def used(tile):
        return tile[0] * (tile[1] * itemsize + COLUMNS) + tile[1] * beside + shared

    if used(least) > budget:
        raise ValueError(
            f"{function}: memory={memory!r} is less than a tile of {least[0]} x {least[1]} logits takes; the smallest "
            f"budget that works is memory={used(least) * share}."
        )
    room = budget - shared
    whole = _most(max(rows, 1), max(room - classes * beside, 0) // (classes * itemsize + COLUMNS)), classes
    most = (room - least[1] * beside) // (least[1] * itemsize + COLUMNS)
    tall = _most(max(rows, 1), max(min(math.isqrt(room // itemsize), most), 1))
    blocks = tall, _most(classes, (room - tall * COLUMNS) // (tall * itemsize + beside))
    products = 3 if gradients else 1
    again = products + sweeps - 1
    if whole[0] and products * _waste(*whole, dtype) <= again * _waste(*blocks, dtype):
        tile, sweeps = whole, 1
    else:
        tile, products = blocks, again
    groups, parts = math.ceil(rows / tile[0]), math.ceil(classes / tile[1])
    operands = groups * classes * width + parts * rows * width
    return Plan(
        rows,
        width,
        classes,
        dtype,
        budget,
        gradients,
        tile,
        sweeps,
        flops=2 * products * rows * width * classes,
        bytes=products * (operands + rows * classes) * itemsize,
        peak=used(tile),
    )


def _most(count, room):
    """So many of ``count`` rows or classes for which there is room: a multiple of `EVEN`, where not all."""
    return count if room >= count else room // EVEN * EVEN or room


def _waste(rows, classes, dtype):
    """The time of a product of matrices with so short sides, over that at the full rate."""
    return (1 + (HALF_ROWS if dtype == "bfloat16" else SIDE) / rows) * (1 + SIDE / classes)


def bytes_of(function, memory):
    """A budget in bytes: a number, or a string with a unit."""
    if isinstance(memory, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", memory)
        unit = UNITS.get(found[2].lower()) if found else None
        if found and unit:
            return int(float(found[1]) * unit)
    elif isinstance(memory, int | np.integer) and not isinstance(memory, bool) and memory > 0:
        return int(memory)
    raise ValueError(f'{function}: memory is a number of bytes, or a string such as "64MiB" or "2GB"; {memory!r} came.')


def size_of(count):
    """Bytes as a string that `bytes_of` takes."""
    for unit in ("GiB", "MiB", "KiB"):
        if count >= UNITS[unit.lower()]:
            return f"{count / UNITS[unit.lower()]:.1f} {unit}"
    return f"{count} B"


def _made_in(array):
    """The dtype that logits of such features are made in."""
    name = dtype_name(array)
    return "float32" if name == "float16" else name if name in ITEMSIZE else "float64"


def _shape(name, array):
    """The shape of an array, or the one that stands for it."""
    given = tuple(array.shape) if hasattr(array, "shape") else array
    proper = isinstance(given, tuple) and all(isinstance(n, int | np.integer) and n >= 0 for n in given)
    if not proper or len(given) < 1 or (name == "weight" and len(given) != 2):
        law = "(classes, width)" if name == "weight" else "(*batch, width)"
        raise ValueError(f"plan: {name} is an array {law} or that shape as a tuple; {given!r} came.")
    return given
