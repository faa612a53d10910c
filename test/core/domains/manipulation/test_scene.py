"""Layouts of the manipulation table."""

import json

import numpy as np
import pytest

from tc_mmwm_core.domains.layouts import FACTORS, box_distance
from tc_mmwm_core.domains.manipulation.scene import (
    BODY_RADIUS,
    FAR_ENOUGH,
    MARK_RADIUS,
    TASKS,
    VIEW,
    VIEW_CENTRE,
    Factors,
    Scene,
    draw_scene,
    wall_distance,
)

SCENES = [draw_scene(seed) for seed in range(60)]


def test_a_seed_gives_the_same_layout_and_others_other_ones():
    assert draw_scene(3) == SCENES[3]
    assert len({scene.to_json() for scene in SCENES}) == len(SCENES)


def test_the_seeds_draw_every_task():
    assert {scene.task for scene in SCENES} == set(TASKS)
    assert draw_scene(3, task="push").task == "push"


@pytest.mark.parametrize("scene", SCENES[:5], ids=lambda scene: scene.task)
def test_json_reads_back_what_it_wrote(scene):
    assert Scene.from_dict(json.loads(scene.to_json())) == scene


def test_what_must_be_got_at_is_in_view_and_free():
    for scene in SCENES:
        marks = np.array([(mark.x, mark.y) for mark in scene.marks])
        points = np.vstack([marks, scene.puck, scene.hand[:2]])
        assert (np.abs(points - VIEW_CENTRE) + MARK_RADIUS < VIEW).all()
        assert all(box_distance(points, zone).min() > BODY_RADIUS for zone in scene.zones)
        assert not scene.wall or wall_distance(points).min() > 0
        assert np.hypot(*(marks - np.array(scene.puck)).T).min() >= FAR_ENOUGH
        assert len({mark.colour for mark in scene.marks}) == len(marks)
        assert len({zone.colour for zone in scene.zones}) == len(scene.zones)


def test_zones_stand_in_the_way():
    """Else no rule would cost anything: in many layouts a zone lies across the straight way to some mark."""

    def crossed(scene):
        start = np.array(scene.hand[:2] if scene.task == "reach-wall" else scene.puck)
        ways = [start + np.linspace(0, 1, 50)[:, None] * (np.array([m.x, m.y]) - start) for m in scene.marks]
        return any(box_distance(way, zone).min() < BODY_RADIUS for way in ways for zone in scene.zones)

    assert np.mean([crossed(scene) for scene in SCENES]) > 0.5


@pytest.mark.parametrize("factor", FACTORS)
def test_a_factor_beyond_training_leaves_its_range_and_no_other(factor):
    varied = {"colour": {"shade"}, "light": {"light"}, "dynamics": {"gain", "mass", "friction"}, "size": set()}[factor]
    usual = SCENES[:40]
    beyond = [draw_scene(seed, beyond=(factor,)) for seed in range(20)]

    def ranges(scenes, name):
        values = [getattr(scene.factors, name) for scene in scenes]
        return min(values), max(values), values

    for name in Factors.__dataclass_fields__:
        low, high, _ = ranges(usual, name)
        outside = [not low <= value <= high for value in ranges(beyond, name)[2]]
        assert all(outside) if name in varied else not all(outside), name
    halves = [zone.half for scene in beyond for zone in scene.zones]
    assert all(half < 0.045 or half > 0.07 for half in halves) == (factor == "size")
