"""Layouts: drawn from a seed, read back exactly, and never blocked."""

import json

import numpy as np
import pytest

from tc_mmwm_core.domains.layouts import FACTORS, box_distance
from tc_mmwm_core.domains.navigation import scene as scenes
from tc_mmwm_core.domains.navigation.scene import Scene, draw_scene


@pytest.mark.parametrize("seed", [0, 7, 2**40])
def test_a_seed_gives_the_same_layout_and_another_seed_another(seed):
    assert draw_scene(seed) == draw_scene(seed)
    assert draw_scene(seed).pads != draw_scene(seed + 1).pads


def test_json_reads_back_exactly():
    layout = draw_scene(3)
    assert Scene.from_dict(json.loads(layout.to_json())) == layout


@pytest.mark.parametrize("seed", range(20))
def test_robot_fits_beside_every_object(seed):
    layout = draw_scene(seed)
    places = np.array([layout.start[:2], *((pad.x, pad.y) for pad in layout.pads)])
    assert np.abs(places).max() < scenes.ARENA - scenes.ROBOT_RADIUS
    for zone in layout.zones:
        assert box_distance(places, zone).min() > scenes.ROBOT_RADIUS
    for pillar in layout.pillars:
        assert np.hypot(*(places - pillar).T).min() > scenes.ROBOT_RADIUS + scenes.PILLAR_RADIUS


def test_colours_of_pads_and_of_zones_differ():
    for seed in range(20):
        layout = draw_scene(seed)
        for objects in (layout.pads, layout.zones):
            colours = [thing.colour for thing in objects]
            assert len(set(colours)) == len(colours)


def test_counts_are_as_asked():
    layout = draw_scene(1, pads=4, zones=3, pillars=0, colours=("red", "green", "blue", "yellow"))
    assert (len(layout.pads), len(layout.zones), len(layout.pillars)) == (4, 3, 0)


@pytest.mark.parametrize("factor", FACTORS)
def test_a_factor_beyond_training_leaves_the_range_of_training_and_nothing_else_does(factor):
    def ranges(beyond):
        layouts = [draw_scene(seed, beyond=beyond) for seed in range(60)]
        values = {name: [getattr(s.factors, name) for s in layouts] for name in ("light", "friction", "shade")}
        values["half"] = [zone.half for s in layouts for zone in s.zones]
        return {name: np.array(found) for name, found in values.items()}

    usual, beyond = ranges(()), ranges((factor,))
    named = {"light": "light", "dynamics": "friction", "colour": "shade", "size": "half"}[factor]
    for name, found in beyond.items():
        inside = (found >= usual[name].min() - 0.02) & (found <= usual[name].max() + 0.02)
        assert not inside.any() if name == named else inside.all(), name
