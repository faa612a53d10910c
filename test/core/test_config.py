"""Settings that people write: what a YAML reader would pass over in silence is refused."""

from __future__ import annotations

import pytest

from tc_mmwm_core.config import ConfigError, load
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
