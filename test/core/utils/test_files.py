"""Files and folders that are whole or not there, also where several processes write the same one."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from tc_mmwm_core.utils import files
from tc_mmwm_core.utils.files import put_in_place, shown, write_atomically


def test_the_folder_is_made_and_what_was_there_replaced(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    write_atomically(path, b"old")
    write_atomically(path, memoryview(b"new"))
    assert path.read_bytes() == b"new" and os.listdir(path.parent) == ["file"]


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "text")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def _write(path: Path, letter: bytes) -> None:
    for _ in range(30):
        write_atomically(path, letter * 300_000)


def test_processes_that_write_the_same_file_do_not_mix(tmp_path):
    path = tmp_path / "file"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(path, letter)) for letter in (b"a", b"b", b"c")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert len(set(path.read_bytes())) == 1 and path.stat().st_size == 300_000 and os.listdir(tmp_path) == ["file"]


@pytest.fixture(params=["in one step", "in several"])
def two_folders(request, tmp_path, monkeypatch) -> tuple[Path, Path]:
    """One to be put in the other's place, where names can be exchanged and where they cannot."""
    if request.param == "in several":
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    for name in ("fresh", "folder"):
        write_atomically(tmp_path / name / "file", name.encode())
    return tmp_path / "fresh", tmp_path / "folder"


def test_a_folder_takes_anothers_place(two_folders, tmp_path):
    fresh, folder = two_folders
    put_in_place(fresh, folder)
    assert (folder / "file").read_bytes() == b"fresh" and (fresh / "file").read_bytes() == b"folder"
    put_in_place(folder, tmp_path / "elsewhere")
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "fresh"]


def test_a_folder_is_where_it_was_if_no_other_can_take_its_place(two_folders, tmp_path, monkeypatch):
    fresh, folder = two_folders
    rename = Path.rename
    monkeypatch.setattr(files, "_exchange", lambda *_: False)

    def fail(path, target):
        if path == fresh:
            raise OSError("no space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no space left"):
        put_in_place(fresh, folder)
    assert (folder / "file").read_bytes() == b"folder" and sorted(os.listdir(tmp_path)) == ["folder", "fresh"]


def _swap(fresh: Path, folder: Path) -> None:
    while True:
        put_in_place(fresh, folder)


def test_there_is_a_folder_at_every_moment(tmp_path):
    """As a process sees it that looks on; and a kill may come at any of these moments."""
    for name in ("fresh", "folder"):
        write_atomically(tmp_path / name / "file", name.encode())
    if not files._exchange(tmp_path / "fresh", tmp_path / "folder"):
        pytest.skip("this file system cannot exchange two names")
    process = multiprocessing.get_context("fork").Process(target=_swap, args=(tmp_path / "fresh", tmp_path / "folder"))
    process.start()
    seen, looks, deadline = set(), 0, time.monotonic() + 60  # a busy machine may let the other begin late
    while looks < 3000 or (len(seen) < 2 and time.monotonic() < deadline):
        seen.add((tmp_path / "folder" / "file").read_bytes())
        looks += 1
    process.kill()
    process.join()
    assert seen == {b"fresh", b"folder"} and sorted(os.listdir(tmp_path)) == ["folder", "fresh"]


def test_a_message_names_what_is_below_the_working_folder_relative_to_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shown(tmp_path / "runs" / "mine") == shown(Path("runs") / "mine") == Path("runs/mine")
    assert shown(tmp_path.parent / "other") == tmp_path.parent / "other"
