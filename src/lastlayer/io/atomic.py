"""Writing a file whole or not at all, for every part of the library that writes one."""

import os
import stat
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

from lastlayer._check import DataError


@contextmanager
def atomic_writer(path, *, force=True):
    """A binary file that takes the place of ``path`` when the block ends, and leaves no trace when it fails.

    The bytes go to a hidden file in the same folder, are synced, and are renamed over ``path``; so a full disk, an
    exception or a kill leaves the old file as it was. ``force=False`` refuses a file that exists. ``-`` is standard
    output; a pipe or a device is written straight through, since renaming over it would replace it.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "note.txt"
    >>> with atomic_writer(path) as file:
    ...     _ = file.write(b"ready")
    >>> path.read_text()
    'ready'
    """
    if str(path) == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(path)
    try:
        if path.is_dir():
            raise DataError("is a directory.", file=path, fix="name a file in it.")
        special = path.exists() and not path.is_file()
        if path.exists() and not special and not force:
            raise DataError(
                "exists already.",
                file=path,
                fix="give another name, or replace it with --force (in Python: force=True).",
            )
        with open(path, "wb") if special else _replacing(path) as file:
            yield file
    except OSError as error:
        raise DataError(
            f"could not be written: {error.strerror or error}; nothing was changed.",
            file=path,
            fix="choose a folder that exists, has room and may be written to.",
        ) from error


@contextmanager
def _replacing(path):
    target = Path(os.path.realpath(path))  # a link stays a link; the file it points to is replaced
    unfinished = target.with_name(f".{target.name[:200]}.{os.urandom(6).hex()}.tmp")
    try:
        # "xb", not tempfile: the file gets the mode that the user's umask gives, not 0600.
        with open(unfinished, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            os.chmod(unfinished, stat.S_IMODE(target.stat().st_mode))
        os.replace(unfinished, target)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise
