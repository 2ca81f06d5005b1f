"""Numba kernels, one file per function of the table. `compiled` is the only way one is made."""

import functools
import hashlib
import os
import pathlib
import tempfile
from typing import Any

import numba
import numpy as np
from numba.core import config

settings: Any = config  # its attributes are made at run time


def compiled(*signatures, inner=False, **options):
    """``numba.njit`` with the GIL released, and a disk cache that knows every kernel's source.

    Numba keys its cache on the one file of the function, and returns the old result when a helper in another file was
    edited; here the folder is named by a hash of all of them. Where no folder can be written the kernel compiles anew.
    What only other kernels call is ``inner``: nothing is compiled for Python to call it by. Without signatures it is
    compiled for the types it meets: who asks for float32 does not wait for float64.
    """

    def decorate(function):
        folder = cache_folder()
        before = settings.CACHE_DIR
        settings.CACHE_DIR = folder or before
        try:
            wrappers = {"no_cfunc_wrapper": True, "no_cpython_wrapper": inner}
            make = numba.njit(list(signatures) or None, nogil=True, cache=folder is not None, **wrappers, **options)
            return make(function)
        finally:
            settings.CACHE_DIR = before

    return decorate


def only_read(table, dtype):
    """A table to compute with, a copy where it lies otherwise: one type, for which alone kernels are compiled."""
    ready = np.require(table, dtype, ["C", "A"]).view()
    ready.flags.writeable = False
    return ready


@functools.cache
def cache_folder() -> str | None:
    """The writable folder for this version of the kernels, or None."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(pathlib.Path(__file__).parent.rglob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    try:
        base = (
            os.environ.get("LASTLAYER_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        )
        folder = pathlib.Path(base, "lastlayer", "kernels", digest.hexdigest())
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return str(folder)
    except (OSError, RuntimeError):  # RuntimeError: no home at all; a shared folder would run what others left in it
        return None


def cold(kernel: str) -> bool:
    """Whether nothing of a kernel is on disk yet."""
    folder = cache_folder()
    return folder is None or not any(pathlib.Path(folder).rglob(f"{kernel}*.nbi"))
