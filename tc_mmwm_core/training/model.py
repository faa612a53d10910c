"""The model of a configuration, in the shapes of a robot."""

from __future__ import annotations

from tc_mmwm_core.interface.robot import RobotInterface
from tc_mmwm_core.models.decoder import SIDE
from tc_mmwm_core.models.world_model import WorldModel
from tc_mmwm_core.training.config import TrainConfig
from tc_mmwm_core.training.stage import TrainingError


def build_model(config: TrainConfig, interface: RobotInterface) -> WorldModel:
    """An untrained model of the interface's shapes. TrainingError: it has no camera, or of sizes that no model has."""
    if not interface.images:
        raise TrainingError(f"robot interface {interface.name}: 'images' is empty; the model needs a camera")
    for image in interface.images:
        if image.height % SIDE or image.width % SIDE:
            raise TrainingError(
                f"robot interface {interface.name}: camera {image.name} is {image.height}x{image.width}; height and "
                f"width must be multiples of {SIDE}"
            )
    sizes = {(image.height, image.width) for image in interface.images}
    if len(sizes) != 1:
        raise TrainingError(f"robot interface {interface.name}: cameras of sizes {sorted(sizes)}; one size is needed")
    return WorldModel(config.model, len(interface.images), sizes.pop(), interface.sensor_size, interface.action_size)
