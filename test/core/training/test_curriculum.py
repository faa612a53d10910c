import pytest

from tc_mmwm_core.config import ConfigError
from tc_mmwm_core.training.config import ObjectiveConfig, StageConfig, TrainConfig
from tc_mmwm_core.training.curriculum import select_stages, stage_steps


def test_an_epoch_is_one_window_of_each_trajectory():
    stage = StageConfig(name="full", epochs=3, trajectories=32)
    assert stage_steps(stage, 320) == 30
    assert stage_steps(stage, 321) == 31
    assert stage_steps(stage.model_copy(update={"epochs": 0.01}), 10) == 1


def test_stages_can_be_skipped_reordered_and_repeated(config):
    assert select_stages(config.stages, None) == config.stages
    assert [s.name for s in select_stages(config.stages, ["full"])] == ["full"]
    names = ["full", "world_model", "full"]
    assert [s.name for s in select_stages(config.stages, names)] == names
    twice = (*config.stages, config.stages[2].model_copy(update={"epochs": 9}))
    assert select_stages(twice, ["world_model", "full"]) == twice[1:]
    with pytest.raises(ConfigError, match="stage fulll: the config has reconstruction, world_model, full"):
        select_stages(config.stages, ["fulll"])


def test_rollouts_have_a_least_depth_below_their_largest():
    assert ObjectiveConfig(min_rollout=4, max_rollout=4).min_rollout == 4
    with pytest.raises(ValueError, match="min_rollout 5 is above max_rollout 4"):
        ObjectiveConfig(min_rollout=5, max_rollout=4)


def test_a_stage_that_predicts_needs_two_steps():
    with pytest.raises(ValueError, match="min_length must be at least 2"):
        StageConfig(name="full", epochs=1, min_length=1)
    with pytest.raises(ValueError, match="min_length 9 is above max_length 8"):
        StageConfig(name="full", epochs=1, min_length=9, max_length=8)


def test_grounding_without_the_term_that_it_learns_by_is_refused(config):
    stages = [{"name": "grounding", "epochs": 1}, {"name": "reconstruction", "epochs": 1}]
    content = config.model_dump(mode="json") | {"stages": stages}
    assert TrainConfig(**content).stages[0].name == "grounding"
    content["weights"] |= {"referring": 0}
    with pytest.raises(ValueError, match="stage grounding learns nothing without the term referring"):
        TrainConfig(**content)
