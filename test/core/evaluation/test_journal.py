"""The journal that a killed evaluation goes on with."""

import pytest

from tc_mmwm_core.evaluation.journal import Journal, JournalError


def test_what_was_written_is_there_again_and_a_cut_off_line_is_not(tmp_path):
    path = tmp_path / "sub" / "log.jsonl"
    with Journal(path, {"bundle": "a@1"}) as journal:
        journal.write("home/1", {"x": 0.1})
        journal.write("home/2", None)
    with path.open("a") as file:
        file.write('{"key": "home/3", "res')  # a kill in the middle of a write
    with Journal(path, {"bundle": "a@1"}) as journal:
        assert journal.lines == {"home/1": {"x": 0.1}, "home/2": None}
        journal.write("home/3", 3)
    with Journal(path, {"bundle": "a@1"}) as journal:
        assert list(journal.lines) == ["home/1", "home/2", "home/3"]


def test_a_kill_in_the_first_line_leaves_nothing_behind(tmp_path):
    (tmp_path / "log").write_text('{"bundle": ')
    with Journal(tmp_path / "log", {"bundle": "a@1"}) as journal:
        assert journal.lines == {}
    with Journal(tmp_path / "log", {"bundle": "a@1"}):
        pass


def test_what_is_being_written_can_be_read_and_is_left_as_it_is(tmp_path):
    path = tmp_path / "log"
    assert Journal.read(path, {}) == {} and not path.exists()
    with Journal(path, {"bundle": "a@1"}) as journal:
        journal.write("home/1", 1)
        with path.open("a") as file:
            file.write('{"key": "home/2", "res')  # as far as it has come
        before = path.read_bytes()
        assert Journal.read(path, {"bundle": "a@1"}) == {"home/1": 1} and path.read_bytes() == before
        with pytest.raises(JournalError, match="log: another process is writing it"):
            Journal(path, {"bundle": "a@1"})
        assert path.read_bytes() == before
    with pytest.raises(JournalError, match="bundle was a@1, is b@2"):
        Journal.read(path, {"bundle": "b@2"})


def test_the_work_of_another_is_refused_by_what_differs(tmp_path):
    with Journal(tmp_path / "log", {"bundle": "a@1", "seed": 0}):
        pass
    with pytest.raises(JournalError, match=r"log: holds the results of something else: bundle was a@1, is b@2; choose"):
        Journal(tmp_path / "log", {"bundle": "b@2", "seed": 0})


def test_a_damaged_line_is_named(tmp_path):
    with Journal(tmp_path / "log", {}) as journal:
        journal.write("a", 1)
    with (tmp_path / "log").open("a") as file:
        file.write("nonsense\n")
    with pytest.raises(JournalError, match="log:3: not a record"):
        Journal(tmp_path / "log", {})


def test_without_a_path_it_is_kept_in_memory():
    with Journal(None, {}) as journal:
        journal.write("a", 1)
        assert journal.lines == {"a": 1}
