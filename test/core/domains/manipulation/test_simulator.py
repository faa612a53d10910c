"""Meta-World's arm and what its cameras see."""

import dataclasses

import numpy as np
import pytest

from tc_mmwm_core.domains.layouts import COLOURS
from tc_mmwm_core.domains.manipulation import oracle
from tc_mmwm_core.domains.manipulation.scene import TASKS, Factors, draw_scene
from tc_mmwm_core.domains.manipulation.simulator import (
    ENVIRONMENTS,
    FULL_SPEED,
    GAP_LIMIT,
    IMAGE,
    STEPS,
)

TARGET = np.array([0.0, 0.87, 0.05])
NEUTRAL = Factors()


def layout(seed, task, **changes):
    return dataclasses.replace(draw_scene(seed, task), factors=NEUTRAL, **changes)


def pixel(image, xy):
    """Colour at a point of the table, [3]."""
    x, y = oracle.in_image(np.array(xy))
    return image[int((1 - y) / 2 * IMAGE[0]), int((1 + x) / 2 * IMAGE[1])].astype(int)


@pytest.mark.parametrize("task", TASKS)
def test_the_physics_is_meta_worlds_bit_for_bit(simulator, task):
    scene = layout(1, task)
    simulator.reset(scene, TARGET)
    own = ENVIRONMENTS[task]()
    own._set_task_called = own._freeze_rand_vec = True
    own.mocap_low, own.mocap_high = simulator.task.mocap_low, simulator.task.mocap_high
    own._last_rand_vec, own.hand_init_pos = simulator.task._last_rand_vec, np.array(scene.hand)
    own.reset()
    rng = np.random.default_rng(0)
    for action in rng.uniform(-0.3, 0.3, (15, 4)):
        simulator.step(action)
        for _ in range(STEPS):
            own.step(np.array([*(action[:3] / FULL_SPEED), action[3]]))
        np.testing.assert_array_equal(simulator.task.data.qpos, own.data.qpos)
        np.testing.assert_array_equal(simulator.task.data.qvel, own.data.qvel)
    own.close()


def test_zones_and_marks_are_seen_but_not_felt(simulator):
    def play(scene):
        reading = simulator.reset(scene, TARGET)
        for _ in range(10):
            simulator.step(np.array([-0.1, 0.2, -0.2, 1.0]))
        return reading.images["overhead"], simulator.read(images=False).state

    scene = layout(2, "push")
    (bare, one), (painted, other) = play(dataclasses.replace(scene, zones=(), marks=())), play(scene)
    np.testing.assert_array_equal(one, other)
    assert (bare != painted).any()


def test_overhead_marks_and_zones_are_where_the_oracle_says_and_in_their_colours(simulator):
    for seed in range(4):
        scene = layout(seed, "push")
        image = simulator.reset(scene, TARGET).images["overhead"]
        bare = simulator.reset(dataclasses.replace(scene, zones=(), marks=()), TARGET).images["overhead"]
        seen = 0
        for thing in (*scene.marks, *scene.zones):
            found = pixel(image, (thing.x, thing.y)) / 255
            if (pixel(bare, (thing.x, thing.y)) / 255 == found).all():
                continue  # the arm hides it
            named = min(COLOURS, key=lambda name: np.abs(np.array(COLOURS[name]) - found).sum())
            assert named == thing.colour
            seen += 1
        assert seen >= 3


def test_the_wrist_camera_sees_the_puck_that_the_hand_hides(simulator):
    scene = layout(5, "push", hand=(0.0, 0.6, 0.10), puck=(0.005, 0.6))
    beside = dataclasses.replace(scene, puck=(0.025, 0.6))
    under, moved = simulator.reset(scene, TARGET), simulator.reset(beside, TARGET)
    assert np.hypot(*(under.hand - under.puck)[:2]) < 0.03
    changed = {
        name: (np.abs(image.astype(int) - moved.images[name]).sum(-1) > 60).sum()
        for name, image in under.images.items()
    }
    assert changed["wrist"] > 60 and changed["wrist"] > 10 * changed["overhead"]


def test_the_wrist_camera_sees_the_puck_where_the_oracle_says(simulator):
    for x, y in ((0.0, 0.60), (0.04, 0.64), (-0.05, 0.57)):
        scene = layout(6, "push", hand=(0.0, 0.6, 0.14), puck=(x, y), zones=(), marks=())
        reading = simulator.reset(scene, TARGET)
        [[hand, puck]] = oracle.wrist_places(reading.state[None])
        white = (reading.images["wrist"].min(-1) > 120) & (np.ptp(reading.images["wrist"].astype(int), axis=-1) < 25)
        rows, columns = np.nonzero(white[24:])  # below the gripper
        seen = (columns.mean() + 0.5) / 32 - 1, 1 - (rows.mean() + 24.5) / 32
        np.testing.assert_allclose(puck, seen, atol=0.1)
        assert abs(hand[0]) < 1e-6 and hand[1] > 0  # above what the camera looks at
    state = reading.state.copy()
    state[oracle.PUCK] = [0.2, 0.9, 0.02]
    assert np.isnan(oracle.wrist_places(state[None])[0, 1]).all()


def test_sensors_know_nothing_of_puck_marks_and_zones(simulator):
    scene = layout(6, "push")
    moved = dataclasses.replace(scene, puck=(scene.puck[0] + 0.03, scene.puck[1]), zones=(), marks=())
    one, other = simulator.reset(scene, TARGET), simulator.reset(moved, TARGET)
    np.testing.assert_allclose(one.sensor, other.sensor, atol=1e-6)
    assert one.state[oracle.PUCK][0] != other.state[oracle.PUCK][0]


def test_velocity_is_what_is_commanded_times_the_gain(simulator):
    scene = layout(7, "push", hand=(0.0, 0.6, 0.13))
    for gain in (1.0, 0.8):
        factors = dataclasses.replace(NEUTRAL, gain=gain)
        simulator.reset(dataclasses.replace(scene, factors=factors), TARGET)
        for _ in range(14):
            simulator.step(np.array([-0.2, 0.0, 0.0, 0.0]))
        assert simulator.read(images=False).velocity[0] == pytest.approx(-0.2 * gain, abs=0.012)


def test_gaps_are_measured_from_the_body(simulator):
    assert simulator.reset(layout(8, "push"), TARGET).wall_gap == GAP_LIMIT
    scene = layout(8, "reach-wall", hand=(0.1, 0.6, 0.12))
    simulator.reset(scene, TARGET)
    for _ in range(40):
        simulator.step(np.array([0.0, 0.2, 0.0, 0.0]))
        if simulator.read(images=False).wall_gap < oracle.TOUCH:
            break
    reading = simulator.read(images=False)
    assert reading.wall_gap < oracle.TOUCH
    assert reading.hand[1] == pytest.approx(0.74 - 0.053, abs=0.01)  # the wall's face, and half the open hand


def test_factors_are_set_and_taken_back(simulator):
    scene = layout(9, "push")
    nominal = simulator.reset(scene, TARGET)
    model = simulator.task.model
    mass, friction = model.body("obj").mass.copy(), model.geom("objGeom").friction.copy()
    factors = Factors(light=0.5, shade=-0.1, mass=2.0, friction=0.5)
    dark = simulator.reset(dataclasses.replace(scene, factors=factors), TARGET)
    assert dark.images["overhead"].mean() < 0.8 * nominal.images["overhead"].mean()
    np.testing.assert_allclose(model.body("obj").mass, 2 * mass)
    np.testing.assert_allclose(model.geom("objGeom").friction, friction / 2)
    again = simulator.reset(scene, TARGET)
    np.testing.assert_array_equal(again.images["overhead"], nominal.images["overhead"])
    np.testing.assert_array_equal(model.body("obj").mass, mass)


def test_photographs_are_large(simulator):
    simulator.reset(layout(0, "push"), TARGET)
    assert {name: image.shape for name, image in simulator.photograph(200).items()} == {
        "overhead": (200, 200, 3),
        "wrist": (200, 200, 3),
    }


def test_a_gap_is_never_longer_than_its_limit(simulator):
    """MuJoCo gives 1e10 for some geoms that are far apart: here while the hand goes away from the puck."""
    simulator.reset(layout(8, "push", puck=(-0.1, 0.6)), TARGET)
    gaps = []
    for _ in range(60):
        simulator.step(np.array([1.0, 1.0, 1.0, 0.0]))
        gaps.append(simulator.read(images=False).puck_gap)
    assert max(gaps) == GAP_LIMIT and min(gaps) < GAP_LIMIT
