"""NumPy's own files: ``.npz`` (named arrays) and ``.npy`` (one array), read without ever unpickling.

An array's header says its size. Here that claim is held against the bytes that are there before anything is allocated.
"""

import ast
import math
import re
import struct
import zipfile
import zlib
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from lastlayer._check import DataError
from lastlayer.io._fields import Arrays, bare, columns_of

_HEADER_LIMIT = 10_000  # NumPy's own; the header is parsed as a literal, and a parser can be made to work hard
_DTYPE = re.compile(r"[<>|=](?:f[248]|[iu][1248]|b1|[SU][1-9]\d{0,6})")
_CHUNK = 1 << 24
_DEFLATE_LIMIT = 1032  # no byte of deflate holds more than this many (a match of 258 bytes takes 2 bits at least)
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OSError, KeyError)


class _Header(NamedTuple):
    dtype: np.dtype
    fortran: bool
    shape: tuple[int, ...]
    length: int
    """Bytes before the data."""


def read(file, form):
    """The arrays of an open ``.npz`` or ``.npy`` file."""
    size = file.seek(0, 2)
    file.seek(0)
    if form == "npy":
        with _damage(None):
            header = _header(file, size)
        return bare(header.dtype, header.shape, lambda: _whole(file, header), lambda: _Reader.of(file, header))
    with _damage(None):
        archive = zipfile.ZipFile(file)
        members = {m.filename.removesuffix(".npy"): m for m in archive.infolist() if m.filename.endswith(".npy")}

    def get(name):
        with _damage(name), _open(archive, members[name], size) as member:
            return _data(member, _header(member, members[name].file_size))

    def outline(name):
        with _damage(name), _open(archive, members[name], size) as member:
            header = _header(member, members[name].file_size)
        return header.dtype, header.shape

    def opened(name):
        with _damage(name):
            member = _open(archive, members[name], size)
            return _Reader.of(member, _header(member, members[name].file_size), name)

    return Arrays(members, get, outline, opened=opened)


def _whole(file, header):
    file.seek(header.length)
    with _damage(None):
        return _data(file, header)


class _Reader(NamedTuple):
    """The rows of one array in an open file, read one after another."""

    file: Any
    header: _Header
    name: str | None

    @classmethod
    def of(cls, file, header, name=None):
        """None for an array whose rows do not stand together."""
        together = header.shape and not (header.fortran and len(header.shape) > 1)
        return cls(file, header, name) if together else None

    @property
    def rows(self):
        return self.header.shape[0]

    def skip(self, rows):
        width = self.header.dtype.itemsize * math.prod(self.header.shape[1:])
        with _damage(self.name):
            self.file.seek(self.header.length + rows * width)

    def take(self, rows):
        with _damage(self.name):
            return _data(self.file, self.header._replace(shape=(rows, *self.header.shape[1:])))


def write(outputs, file, form):
    """``outputs`` as an ``.npz``: its columns, its class names and its task."""
    if form == "npy":
        raise ValueError("save: .npy holds one array and would lose kind, target and classes; save to .npz.")
    arrays = columns_of(outputs) | {"classes": np.array(outputs.classes, dtype=np.str_), "task": np.array(outputs.task)}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


@contextmanager
def _damage(field):
    """What zipfile and zlib raise on a damaged file, as one sentence of ours."""
    try:
        yield
    except DataError as error:
        raise DataError(error.message, field=field, fix=error.fix) from None
    except _DAMAGE as error:
        raise DataError(
            f"damaged or cut short: {error or type(error).__name__}.",
            field=field,
            fix="write the file again, or copy it again.",
        ) from error


def _open(archive, info, size):
    """A member of the archive, once the sizes it claims are possible in a file of ``size`` bytes."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"compression method {info.compress_type} is not read")
    ratio = 1 if info.compress_type == zipfile.ZIP_STORED else _DEFLATE_LIMIT
    if info.compress_size > size or info.file_size > ratio * info.compress_size:
        raise ValueError(f"claims {info.file_size} bytes in a file of {size}")
    return archive.open(info)


def _header(file, size):
    """The header at the start of an array, its claim checked against the ``size`` bytes of header and data."""
    start = file.read(8)
    if len(start) < 8 or start[:6] != b"\x93NUMPY":
        raise ValueError("not an array in NumPy's format")
    width = 2 if start[6:7] == b"\x01" else 4
    (length,) = struct.unpack("<H" if width == 2 else "<I", file.read(width))
    if length > _HEADER_LIMIT:
        raise ValueError(f"a header of {length} bytes")
    text = file.read(length).decode("latin-1" if start[6] < 3 else "utf-8")
    try:
        claims = ast.literal_eval(text.strip())
        descr, fortran, dims = claims["descr"], claims["fortran_order"], claims["shape"]
    except (SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as error:
        raise ValueError("its header cannot be parsed") from error
    _refuse_dtype(descr)
    if not isinstance(dims, tuple) or not all(type(n) is int and n >= 0 for n in dims):
        raise ValueError(f"its header gives the shape {dims!r:.80}")
    dtype = np.dtype(descr)
    header = _Header(dtype, bool(fortran), dims, 8 + width + length)
    need, have = dtype.itemsize * math.prod(dims), size - header.length
    if need != have:
        raise DataError(
            f"the header claims {dims!s:.80} of {dtype}, but {have} bytes follow.", fix="write the file again."
        )
    if need == 0:
        raise DataError(f"the array is empty, {dims}.", fix="check how the file was written.")
    return header


def _refuse_dtype(descr):
    if isinstance(descr, str) and _DTYPE.fullmatch(descr):
        return
    if descr == "|O":
        raise DataError(
            "holds Python objects, that is a pickle, which can run any code; it is never unpickled.",
            fix="store plain arrays: np.stack the rows, and names as np.array(names, dtype=str).",
        )
    raise DataError(
        f"arrays of {descr!r:.60} are not read.", fix="store float32 or float64 scores, integers and texts."
    )


def _data(file, header):
    """The array after the header, in chunks, so that no second copy of it is held."""
    array: Any = np.empty(header.shape, dtype=header.dtype, order="F" if header.fortran else "C")
    view = array.ravel(order="K").view(np.uint8).data
    done = 0
    while done < len(view):
        count = file.readinto(view[done : done + _CHUNK])
        if not count:
            raise EOFError(f"{done} of {len(view)} bytes are there")
        done += count
    if header.dtype.kind == "S":
        return np.strings.decode(array, "utf-8")
    if header.dtype.kind == "U":
        _refuse_no_characters(array)
    return array


def _refuse_no_characters(array):
    """Four bytes of a text need not be a character; NumPy would hand them on until something prints them."""
    points = np.ascontiguousarray(array).reshape(-1).view(f"{array.dtype.byteorder}u4")
    if ((points > 0x10FFFF) | ((points >= 0xD800) & (points < 0xE000))).any():
        raise ValueError("it holds texts that are no texts")
