"""Which robot interface is meant."""

import re
from pathlib import Path

import pytest

from tc_mmwm_core.resources import ResourceError, resource, robot_file, robot_given


def test_a_robot_interface_is_found_by_path_and_by_the_name_of_a_shipped_one(tmp_path, monkeypatch):
    shipped = resource("config", "robots", "navigation.yaml")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "navigation").mkdir()  # a folder is no interface
    assert robot_file("navigation") == robot_file("navigation.yaml") == robot_given(Path("navigation")) == shipped
    (tmp_path / "navigation.yaml").write_text("name: mine")
    assert robot_given(Path("navigation.yaml")).read_text() == "name: mine"
    assert robot_file("navigation.yaml") == shipped  # what a domain names is not what lies about here


@pytest.mark.parametrize("name", ["navigatoin", "missing/navigation.yaml"])
def test_no_such_robot_interface_names_those_that_are_shipped(name):
    told = f"robot interface {name}: no such file; shipped are manipulation, navigation; did you mean 'navigation'?"
    with pytest.raises(ResourceError, match=re.escape(told)):
        robot_given(Path(name))
