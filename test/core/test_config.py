"""Settings that people write: what a YAML reader would pass over in silence is refused."""

from __future__ import annotations

import re

import pytest

from tc_mmwm_core.config import Config, ConfigError, load
from tc_mmwm_core.interface.robot import RobotInterface
from tc_mmwm_core.training.config import TrainConfig

STAGES = "stages:\n  - {name: full, epochs: 1}\n"


def test_a_key_that_stands_twice_is_refused_with_both_lines(tmp_path):
    file = tmp_path / "train.yaml"
    file.write_text(f"seed: 1\n{STAGES}seed: 2\n")
    with pytest.raises(ConfigError, match=r"train\.yaml: line 4: key 'seed' stands twice, first in line 1$"):
        load(file, TrainConfig)
    file.write_text("stages:\n  - {name: full, epochs: 1,\n     epochs: 2}\n")
    with pytest.raises(ConfigError, match=r"line 3: key 'epochs' stands twice, first in line 2$"):
        load(file, TrainConfig)
    file.write_text("rate: 10\nrate: 20\n")
    with pytest.raises(ConfigError, match="line 2: key 'rate' stands twice"):
        RobotInterface.load(file)
    file = tmp_path / "train.json"
    file.write_text('{"seed": 1, "stages": [], "seed": 2}')
    with pytest.raises(ConfigError, match=r"train\.json: key 'seed' stands twice in one object$"):
        load(file, TrainConfig)


def test_a_key_may_replace_what_is_merged_in_and_stand_in_several_mappings(tmp_path):
    file = tmp_path / "train.yaml"
    file.write_text("stages:\n  - &first {name: full, epochs: 1, starts: 2}\n  - {<<: *first, epochs: 3}\n")
    first, second = load(file, TrainConfig).stages
    assert (first.epochs, second.epochs, second.starts) == (1, 3, 2)


def test_a_mapping_that_is_merged_into_another_may_itself_replace_what_it_merges(tmp_path):
    class Nested(Config):
        base: dict
        outer: dict
        last: dict

    file = tmp_path / "nested.yaml"
    file.write_text("base: &base {x: 0}\nouter:\n  inner: &inner {<<: *base, x: 1}\nlast: {<<: *inner, y: 2}\n")
    assert load(file, Nested).last == {"x": 1, "y": 2}
    assert load(file, Nested).outer == {"inner": {"x": 1}}


def test_an_unknown_key_is_told_with_those_that_there_are(tmp_path):
    class Small(Config):
        rate: int = 1

    file = tmp_path / "small.yaml"
    for key, says in (("zzz", "'zzz'. Known keys here: rate"), ("rat", "'rat'; did you mean 'rate'? Known keys here")):
        file.write_text(f"{key}: 1")
        with pytest.raises(ConfigError, match=re.escape(says)):
            load(file, Small)
