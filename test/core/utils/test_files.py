"""Files that are whole or not there, also where several processes write the same one."""

import multiprocessing
import os
from pathlib import Path

import pytest

from tc_mmwm_core.utils.files import write_atomically


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
