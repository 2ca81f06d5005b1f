import errno
import os
import stat

import pytest

from lastlayer._check import DataError
from lastlayer.io.atomic import atomic_writer


def test_writes_the_bytes_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_writer(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_mode_follows_the_umask_and_then_the_file_replaced(tmp_path):
    path = tmp_path / "a.txt"
    before = os.umask(0o027)
    try:
        with atomic_writer(path) as file:
            file.write(b"1")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o604)
        with atomic_writer(path) as file:
            file.write(b"2")
        assert stat.S_IMODE(path.stat().st_mode) == 0o604
    finally:
        os.umask(before)


@pytest.mark.parametrize("failure", [RuntimeError("bug"), KeyboardInterrupt()])
def test_old_file_survives_an_exception(tmp_path, failure):
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    with pytest.raises(type(failure)), atomic_writer(path) as file:
        file.write(b"half")
        raise failure
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("moment", ["write", "fsync", "replace"])
def test_old_file_survives_a_full_disk(tmp_path, monkeypatch, moment):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    if moment != "write":
        monkeypatch.setattr(os, moment, full)
    with (
        pytest.raises(DataError, match=r"a\.txt: could not be written: No space left on device"),
        atomic_writer(path) as file,
    ):
        file.write(b"new")
        if moment == "write":
            full()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_an_existing_file_is_replaced_only_by_force(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    with pytest.raises(DataError, match=r"exists already.*--force"), atomic_writer(path, force=False):
        pytest.fail("the block must not run")
    assert path.read_bytes() == b"old"


def test_a_folder_that_is_a_file_or_missing_is_one_sentence(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file" / "a.txt", tmp_path / "none" / "a.txt"):
        with pytest.raises(DataError, match="could not be written"), atomic_writer(path):
            pytest.fail("the block must not run")
    with pytest.raises(DataError, match="is a directory"), atomic_writer(tmp_path):
        pytest.fail("the block must not run")


def test_a_link_stays_a_link(tmp_path):
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    real.write_bytes(b"old")
    link.symlink_to(real)
    with atomic_writer(link) as file:
        file.write(b"new")
    assert link.is_symlink() and real.read_bytes() == b"new"


def test_a_device_is_written_to_not_replaced():
    with atomic_writer(os.devnull) as file:
        file.write(b"gone")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_a_dash_is_standard_output(capfdbinary):
    with atomic_writer("-") as file:
        file.write(b"\x00bytes")
    assert capfdbinary.readouterr().out == b"\x00bytes"
