import os
import sys

import pytest

from rlv2v_fast.errors import InputError
from rlv2v_fast.files import check_folder, check_writable, replaced, temporary, write_text
from tests.data.helpers import no_more_than


def test_a_text_is_written_whole(tmp_path):
    write_text(tmp_path / "a.txt", "ä" * 1000, "note")
    write_text(tmp_path / "a.txt", "new", "note")
    assert (tmp_path / "a.txt").read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files as POSIX does")
def test_a_full_disk_keeps_the_old_text(tmp_path):
    write_text(tmp_path / "a.txt", "precious", "note")
    with no_more_than(100), pytest.raises(InputError, match="note cannot be written: File too large"):
        write_text(tmp_path / "a.txt", "x" * 1000, "note")
    assert (tmp_path / "a.txt").read_text() == "precious"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_an_error_while_writing_keeps_the_old_file(tmp_path):
    (tmp_path / "a.png").write_bytes(b"precious")
    with pytest.raises(KeyError), replaced(tmp_path / "a.png", "picture") as unfinished:  # noqa: PT012
        unfinished.write_bytes(b"half")
        raise KeyError
    assert (tmp_path / "a.png").read_bytes() == b"precious"
    assert os.listdir(tmp_path) == ["a.png"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("old")
    (tmp_path / "b.txt").symlink_to(tmp_path / "real" / "a.txt")
    write_text(tmp_path / "b.txt", "new", "note")
    assert (tmp_path / "b.txt").is_symlink()
    assert (tmp_path / "real" / "a.txt").read_text() == "new"


@pytest.mark.parametrize("length", [1, 100, 250, 251])
def test_a_temporary_name_fits_where_the_name_does(tmp_path, length):
    path = temporary(tmp_path / ("x" * length + ".mp4"))
    assert path.suffix == ".mp4"
    path.touch()


def test_what_cannot_be_written_is_told_before(tmp_path, monkeypatch):
    def refused(path, **kwargs):
        with pytest.raises(InputError) as caught:
            check_writable(path, "note", **kwargs)
        return str(caught.value)

    (tmp_path / "a.txt").write_text("x")
    assert refused(tmp_path / "a.txt", overwrite=False) == "note exists already; pass --overwrite to replace it"
    check_writable(tmp_path / "a.txt", "note")
    assert "it is a folder" in refused(tmp_path)
    assert "is not a folder" in refused(tmp_path / "none" / "a.txt")
    assert "is not a folder" in refused(tmp_path / "a.txt" / "b.txt")
    too_long = refused(tmp_path / ("x" * 300))
    assert "name" in too_long
    monkeypatch.setattr("os.access", lambda path, mode: False)  # the superuser may write anywhere
    assert "is not writable" in refused(tmp_path / "b.txt")


def test_a_folder_that_cannot_be_made_is_told_before(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    check_folder(tmp_path / "new" / "deep", "out")
    assert os.listdir(tmp_path) == ["file"]
    with pytest.raises(InputError, match=r"file' is not a folder"):
        check_folder(tmp_path / "file" / "run", "out")
    with pytest.raises(InputError, match=r"out cannot be written: .*name"):
        check_folder(tmp_path / ("x" * 300) / "run", "out")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(InputError, match="is not writable"):
        check_folder(tmp_path / "new", "out")
