"""The robot's physics and senses."""

import math

import numpy as np
import pytest

from tc_mmwm_core.domains.layouts import Zone
from tc_mmwm_core.domains.navigation.scene import ARENA, PILLAR_RADIUS, ROBOT_RADIUS, Pad, Scene, draw_scene
from tc_mmwm_core.domains.navigation.simulator import CONTROL_PERIOD, LIDAR_RANGE, LIDAR_RAYS, SUBSTEPS, Simulator


def empty(start=(0.0, 0.0, 0.0), **more):
    return Scene(**({"seed": 0, "pads": (), "zones": (), "pillars": (), "start": start} | more))


@pytest.fixture
def simulator():
    made = Simulator(render=False)
    yield made
    made.close()


@pytest.fixture
def camera():
    made = Simulator()
    yield made
    made.close()


@pytest.mark.parametrize("yaw", [0.0, 2.0])
def test_drives_straight_at_the_commanded_speed(simulator, yaw):
    simulator.reset(empty((0.0, 0.0, yaw)))
    for _ in range(20):
        simulator.step(np.array([0.5, 0.0]))
    reading = simulator.read()
    along, across = np.array([[math.cos(yaw), math.sin(yaw)], [-math.sin(yaw), math.cos(yaw)]]) @ reading.pose[:2]
    assert along == pytest.approx(0.5 * 20 * CONTROL_PERIOD, rel=0.1)
    assert abs(across) < 0.05
    assert reading.forward_speed == pytest.approx(0.5, rel=0.05)


def test_turns_counter_clockwise_in_place(simulator):
    simulator.reset(empty())
    for _ in range(10):
        simulator.step(np.array([0.0, 1.0]))
    reading = simulator.read()
    assert reading.pose[2] == pytest.approx(1.0, rel=0.15)
    assert math.hypot(*reading.pose[:2]) < 0.02


def drive(simulator, steps=30):
    rng = np.random.default_rng(5)
    states = []
    for _ in range(steps):
        simulator.step(rng.uniform([-0.3, -2.5], [0.7, 2.5]))
        states.append(np.concatenate([simulator.save(), simulator.read().sensor]))
    return np.array(states)


def test_restore_continues_bit_for_bit(simulator):
    simulator.reset(draw_scene(1))
    drive(simulator, 7)
    saved = simulator.save()
    first = drive(simulator)
    simulator.restore(saved)
    np.testing.assert_array_equal(drive(simulator), first)


def test_a_seed_gives_the_same_motion_in_another_simulator(simulator):
    simulator.reset(draw_scene(4))
    first = drive(simulator)
    other = Simulator(render=False)
    other.reset(draw_scene(9))
    drive(other)
    other.reset(draw_scene(4))  # nothing of the layout before is left
    np.testing.assert_array_equal(drive(other), first)


def test_a_control_period_in_parts_is_the_same_as_in_one(simulator):
    simulator.reset(draw_scene(2))
    simulator.step(np.array([0.4, 0.7]))
    whole = simulator.save()
    simulator.reset(draw_scene(2))
    for _ in range(SUBSTEPS):
        simulator.step(np.array([0.4, 0.7]), substeps=1)
    np.testing.assert_array_equal(simulator.save(), whole)


def test_lidar_begins_straight_ahead_and_goes_counter_clockwise(simulator):
    pillars = ((1.0, 0.0), (0.0, 0.7))
    ranges = simulator.reset(empty(pillars=pillars)).ranges
    assert ranges[0] == pytest.approx(1.0 - PILLAR_RADIUS, abs=1e-3)
    assert ranges[LIDAR_RAYS // 4] == pytest.approx(0.7 - PILLAR_RADIUS, abs=1e-3)
    assert ranges[LIDAR_RAYS // 2] == pytest.approx(ARENA, abs=1e-3)
    turned = simulator.reset(empty((0.0, 0.0, math.pi / 2), pillars=pillars)).ranges
    np.testing.assert_allclose(turned, np.roll(ranges, -LIDAR_RAYS // 4), atol=1e-3)


def test_lidar_without_a_return_reads_infinity_and_the_sensor_vector_is_finite(simulator):
    corner = -(ARENA - ROBOT_RADIUS - 0.05)
    reading = simulator.reset(empty((corner, corner, 0.0)))
    beyond = np.isinf(reading.ranges)
    assert beyond.any() and not beyond.all()
    assert (reading.ranges[~beyond] <= LIDAR_RANGE).all()
    assert np.isfinite(reading.sensor).all()


def test_bumper_is_pressed_by_a_wall_and_not_by_the_floor(simulator):
    assert not simulator.reset(empty((ARENA - 0.4, 0.0, 0.0))).bumper
    for _ in range(15):
        simulator.step(np.array([0.7, 0.0]))
    reading = simulator.read()
    assert reading.bumper
    assert reading.pose[0] == pytest.approx(ARENA - ROBOT_RADIUS, abs=0.02)


def test_paint_changes_no_physics(simulator):
    simulator.reset(empty())
    plain = drive(simulator)[:, :-31]
    painted = empty(pads=(Pad("red", 0.3, 0.0),), zones=(Zone("blue", -0.2, 0.2, 0.3),))
    simulator.reset(painted)
    np.testing.assert_array_equal(drive(simulator)[:, :-31], plain)


def pixel(x, y, size):
    """Row and column of a point of the floor in the overhead picture."""
    scale = size / 2 / (ARENA + 0.08)
    return int(size / 2 - y * scale), int(size / 2 + x * scale)


def test_camera_shows_things_where_they_are(camera):
    layout = empty((-1.0, -1.0, 0.0), pads=(Pad("green", 1.0, 0.5),), zones=(Zone("blue", -0.5, 0.9, 0.3),))
    image = camera.reset(layout).image.astype(int)
    assert image.shape == (64, 64, 3) and image.dtype == int
    for (x, y), channel in (((1.0, 0.5), 1), ((-0.5, 0.9), 2)):
        colour = image[pixel(x, y, 64)]
        assert colour.argmax() == channel and colour[channel] > 2 * np.delete(colour, channel).mean()
    assert image[pixel(0.0, -1.0, 64)].std() < 5  # the floor is grey
    assert image[pixel(-1.05, -1.0, 64)].mean() < 0.5 * image[pixel(0.0, -1.0, 64)].mean()  # the robot is dark


def test_photograph_is_large_and_leaves_the_camera_as_it_was(camera):
    before = camera.reset(draw_scene(3)).image
    assert camera.photograph(320).shape == (320, 320, 3)
    np.testing.assert_array_equal(camera.render(), before)


def test_rendering_without_a_camera_is_refused(simulator):
    assert simulator.reset(draw_scene(0)).image is None
    with pytest.raises(RuntimeError, match="render=False"):
        simulator.render()
