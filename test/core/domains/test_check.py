"""A tiny domain as the protocol has it passes; broken in each way, it is told what is wrong with it, and where."""

import dataclasses
import re

import numpy as np
import pytest
import tiny_domain
import yaml
from gymnasium.spaces import Box, Discrete
from tiny_domain import GOAL, ROBOT, SLOW, Dot, DotEnv

from tc_mmwm_core.cli import main
from tc_mmwm_core.domains.check import check
from tc_mmwm_core.interface.robot import RobotInterface
from tc_mmwm_core.models.vocabulary import TextTokens

INTERFACE, TOKENS = RobotInterface.from_dict(ROBOT, "test"), TextTokens(48)
OBSERVE, RESET, STEP, JUDGE, DRIVER = DotEnv.observe, DotEnv.reset, DotEnv.step, Dot.judge, Dot.driver
ENVIRONMENT, RNG = DotEnv(), np.random.default_rng(0)
SEED = 3  # from here on, some of few episodes break a rule


def verdicts(domain):
    return {finding.checked: finding for finding in check(domain, INTERFACE, TOKENS, 3, 40, SEED)}


def wrong(domain, verdict="WRONG"):
    return {name: finding.told for name, finding in verdicts(domain).items() if finding.verdict == verdict}


def test_a_domain_as_the_protocol_has_it_is_told_so():
    found = verdicts(Dot())
    assert {finding.verdict for finding in found.values()} == {"OK"}, found
    assert found["outcomes"].told == (
        "expert: of 3 episodes 2 succeed, 0 break a rule\nhasty: of 3 episodes 2 succeed, 1 break a rule"
    )


IMAGE = "image.camera"


@pytest.mark.parametrize(
    ("checked", "part", "key", "value", "says"),
    [
        (
            "images",
            0,
            IMAGE,
            lambda image: image[:8],
            r"'image.camera' is uint8 \[8, 16, 3\], the interface needs uint8",
        ),
        (
            "images",
            0,
            IMAGE,
            lambda image: image / 255,
            r"is float64 \[16, 16, 3\], the interface needs uint8 \[16, 16",
        ),
        (
            "images",
            0,
            "image.front",
            lambda _: None,
            "'image.front' is not an image of the interface, which has",
        ),
        (
            "sensor",
            0,
            "sensor",
            lambda sensor: sensor.tolist(),
            r"'sensor' is \[.*\(list\), the interface needs float32",
        ),
        (
            "sensor",
            0,
            "sensor",
            lambda sensor: sensor[:1],
            r"'sensor' is float32 \[1\], the interface needs float32 \[2",
        ),
        (
            "sensor",
            0,
            "sensor",
            lambda _: np.float32([0, np.inf]),
            "'sensor' is inf at place.y, a finite number is need",
        ),
        ("info", 1, "rules", None, r"info\['rules'\] is missing, a list is needed"),
        ("info", 1, "success", None, r"info\['success'\] is missing, a bool is needed"),
        (
            "info",
            1,
            "scene",
            lambda scene: {"a": np.zeros(2)},
            r"info\['scene'\] holds a value that JSON cannot hold: .*; give Python",
        ),
        ("info", 1, "scene", lambda scene: scene | {"a": np.nan}, "that JSON cannot hold: Out of range float values"),
        ("info", 1, "scene", None, r"info\['scene'\] is missing, a dict is needed"),
        ("info", 1, "violation", float, r"info\['violation'\] is 0.0 \(float\), a bool is needed"),
        ("info", 1, "success", lambda _: None, r"info\['success'\] is None \(NoneType\), a bool is needed"),
        ("info", 1, "margin", lambda _: np.nan, r"info\['margin'\] is nan, a finite number is needed"),
        ("info", 1, "margin", lambda _: 1.0, r"info\['violation'\] is False and info\['margin'\] 1: a margin above 0"),
        ("info", 1, "state", lambda state: state * np.nan, r"info\['state'\] is nan at column 0"),
        ("info", 1, "state", lambda state: state.tolist(), r"info\['state'\] is \[.*\(list\), float32 \[P\] is needed"),
        ("info", 1, "instruction", lambda _: " ", r"info\['instruction'\] is empty"),
    ],
)
def test_what_is_wrong_in_a_step_is_told_with_episode_step_and_field(monkeypatch, checked, part, key, value, says):
    def bent(self):
        returned = OBSERVE(self)
        held = returned[part].pop(key, None)
        if value:
            returned[part][key] = value(held)
        return returned

    monkeypatch.setattr(DotEnv, "observe", bent)
    found = wrong(Dot())
    assert set(found) == {checked}
    assert re.search(rf"episode {SEED} \(driver expert\), step \d+: .*{says}", found[checked]), found


def test_an_image_that_is_missing_later_is_no_error_of_the_check(monkeypatch):
    def bent(self):
        observation, info = OBSERVE(self)
        return {name: value for name, value in observation.items() if name != IMAGE or self.steps != 2}, info

    monkeypatch.setattr(DotEnv, "observe", bent)
    found = wrong(Dot())
    assert set(found) == {"images"} and "step 2: 'image.camera' is missing" in found["images"]


def test_an_instruction_that_changes_in_the_episode_is_told(monkeypatch):
    def bent(self):
        observation, info = OBSERVE(self)
        return observation, info | {"instruction": info["instruction"] + "!" * (self.steps > 1)}

    monkeypatch.setattr(DotEnv, "observe", bent)
    assert re.search("step 2: .* is now 'drive .*!', at the reset it was 'drive.*[^!]'", wrong(Dot())["info"])


def test_a_scene_that_changes_in_the_episode_is_told(monkeypatch):
    def bent(self):
        observation, info = OBSERVE(self)
        self.told = getattr(self, "told", {}) if self.steps else {}  # the same dict in every step
        self.told.update(info["scene"], time=self.steps)
        return observation, info | {"scene": self.told}

    monkeypatch.setattr(DotEnv, "observe", bent)
    assert "step 1: info['scene'] has changed at 'time'; what moves belongs into info['state']" in wrong(Dot())["info"]


def test_a_success_despite_a_violation_is_none(monkeypatch):
    def bent(self):
        observation, info = OBSERVE(self)
        return observation, info | {"success": info["reached"]}

    monkeypatch.setattr(DotEnv, "observe", bent)
    assert re.search(
        r"step (\d+): info\['success'\] is True, though the instruction was broken at step \d+", wrong(Dot())["info"]
    )
    monkeypatch.setattr(DotEnv, "observe", lambda self: (OBSERVE(self)[0], OBSERVE(self)[1] | {"success": True}))
    assert "'success'] is True and info['reached'] False" in wrong(Dot())["info"]


def still(self):
    observation, info = OBSERVE(self)
    observation["image.camera"][:] = np.arange(16, dtype=np.uint8)[:, None, None]
    return observation, info


def blank(self):
    observation, info = OBSERVE(self)
    observation["image.camera"][:] = 7
    return observation, info


def no_steps(self, saved):
    self.place, self.speed, _, self.broken = saved


def no_copy(self, saved):
    vars(self).update(saved)


def unseeded(self, *, seed=None, options=None):
    return RESET(self, seed=None, options=options)


def one_seed(self, *, seed=None, options=None):
    return RESET(self, seed=0, options=options)


def deaf(self, *, seed=None, options=None):
    return RESET(self, seed=seed)


def other_scene(self, *, seed=None, options=None):
    return RESET(self, seed=seed + bool(options), options=options)


def endless(self, action):
    observation, reward, _, _, info = STEP(self, action)
    return observation, reward, False, False, info


@pytest.mark.parametrize(
    ("checked", "changes", "says"),
    [
        ("action space", {"action_space": Box(-2, 2, (2,))}, r"has the limits \[-2, 2\], \[-2, 2\], a Box of \[2\] is"),
        ("action space", {"action_space": Discrete(3)}, r"the action space is Discrete\(3\), a Box of \[2\] is needed"),
        ("running", {"step": lambda self, action: 1 / 0}, r"step 1: ZeroDivisionError: division by zero \(test_check"),
        ("running", {"step": lambda *given: STEP(*given)[1:]}, r"step\(\) has to return \(observation, reward, term"),
        ("running", {"reset": lambda *given, **_: 0}, r"reset\(\) has to return \(observation, info\)"),
        ("views", {"observe": blank}, "'image.camera' is of one colour in every step"),
        ("views", {"observe": still}, "'image.camera' is the same in every step of an episode"),
        ("end of an episode", {"step": endless}, "episode 3 .*: after 40 steps neither terminated nor truncated"),
        ("instructions", {"reset": deaf}, r"'instruction': 'drive .*\) gives the instruction 'drive"),
        ("instructions", {"reset": other_scene}, "gives another scene than the seed alone"),
        ("seed", {"reset": one_seed}, "6 seeds give the same instruction, scene and state"),
        ("save and restore", {"restore": no_steps}, "restored in the same environment: truncated differs at step"),
        ("save and restore", {"save": vars, "restore": no_copy}, "is everything saved, and copied"),
        ("save and restore", {"save": lambda self: 1 / 0}, "ZeroDivisionError: division by zero"),
        ("save and restore", {"save": None}, r"the environment has no save\(\)$"),
    ],
)
def test_what_is_wrong_with_the_environment_is_told(monkeypatch, checked, changes, says):
    for name, value in changes.items():
        monkeypatch.setattr(DotEnv, name, value)
    found = wrong(Dot())
    assert checked in found and re.search(says, found[checked]), found
    assert set(found) <= {checked, "instructions"}  # a seed that is not heeded changes the scene that is given


def test_an_episode_that_follows_from_no_seed_is_told(monkeypatch):
    monkeypatch.setattr(DotEnv, "reset", unseeded)
    assert re.search(r"again: .* differs at step 0.*draw from self.np_random", wrong(Dot())["seed"])


@pytest.mark.parametrize(
    ("array", "value", "says"),
    [
        (
            "margin",
            lambda margin: margin > 0,
            r"judge\(\) of 'drive .* on \d+ states returned margin bool \[\d+\], float32",
        ),
        ("margin", lambda margin: margin[None], r"margin float32 \[1, \d+\], float32 \[\d+\] is needed"),
        ("margin", lambda margin: margin * np.nan, r"margin nan at \[0\], finite numbers are needed"),
        (
            "margin",
            lambda margin: -margin,
            r"judge\(\) and info disagree on the violation in \d+ of \d+ steps; first in",
        ),
        ("margin", lambda margin: margin - margin[-1], "gives a state alone another result than among others"),
        ("cost", lambda cost: cost + np.inf, r"cost inf at \[0\], finite numbers"),
        ("cost", lambda cost: -cost, r"returns a cost of -[\d.]+; 0 is done"),
        ("place", lambda place: place[:, :1], r"place float32 \[\d+, 1\], x and y of each of B points are needed"),
        ("referents", lambda rows: rows[0], r"referents float32 \[4\], float32 \[R, 4\] is needed"),
        ("referents", lambda rows: rows * 2, r"referents whose last column, present, is \[2.0\]; allowed are 0 and 1"),
        ("field_cost", lambda field: field[1:], r"field_cost float32 \[3, 4\] and field_margin float32 \[4, 4\], both"),
        ("field_cost", lambda field: field * 1e6, "field_cost of up to .*, at most 65504 is allowed"),
        (
            "elsewhere",
            lambda _: np.zeros((1, 2), np.float32),
            r"elsewhere float32 \[1, 2\], float32 \[\d+, 0, 1, 2\] is",
        ),
        (
            "place",
            lambda place: 8 * (place + 1),
            "within the first camera's image, .* in [1-4]?[0-9]% of the states: x",
        ),
        (
            "field_cost",
            np.flipud,
            r"field_cost is lowest at \(.*\), and the goal, .* is at \(.*\): x goes right and y up",
        ),
    ],
)
def test_what_is_wrong_with_a_judgement_is_told(monkeypatch, array, value, says):
    def bent(*given):
        judgement = JUDGE(*given)
        return dataclasses.replace(judgement, **{array: value(getattr(judgement, array))})

    monkeypatch.setattr(Dot, "judge", bent)
    found = wrong(Dot())
    assert set(found) == {"judge"} and re.search(says, found["judge"]), found


def test_rounding_that_depends_on_how_many_states_are_judged_is_nothing_wrong(monkeypatch):
    def bent(*given):
        judgement = JUDGE(*given)
        alone = len(judgement.cost) == 1
        return dataclasses.replace(judgement, cost=np.full_like(judgement.cost, 1e-7 * alone))

    monkeypatch.setattr(Dot, "judge", bent)
    assert not wrong(Dot())


def test_fields_without_a_place_are_none(monkeypatch):
    none = dict.fromkeys(("field_cost", "field_margin"), np.zeros((0, 0), np.float32))
    monkeypatch.setattr(Dot, "judge", lambda *given: dataclasses.replace(JUDGE(*given), **none))
    assert r"field_cost float32 [0, 0] and field_margin float32 [0, 0], both [G, G] are needed" in wrong(Dot())["judge"]


@pytest.mark.parametrize(
    ("checked", "member", "value", "says"),
    [
        ("judge", "judge", lambda *_: (0, 0), r"returned \(0, 0\) \(tuple\), a Judgement is needed"),
        ("judge", "judge", lambda _, scene, *__: scene["goal"], r"KeyError: 'goal' \(test_check.py, line \d+"),
        (
            "judge",
            "judge",
            lambda *given: JUDGE(*given[:3], GOAL),
            "'qzx vlorp' returns a verdict, DomainError is needed",
        ),
        ("state", "state", {"x": "m"}, r"info\['state'\] has 4 columns, the domain's 'state' names 1: x"),
        (
            "instructions",
            "draw_instruction",
            lambda *_: None,
            r"draw_instruction\(\) returns None, a sentence is needed",
        ),
        ("instructions", "draw_instruction", lambda *_: "go " * 60, "tokens found, at most 48 allowed"),
        (
            "instructions",
            "draw_instruction",
            lambda *_: [GOAL, SLOW][RNG.integers(2)],
            "gives others for an rng of the same seed",
        ),
        (
            "other members",
            "advise",
            lambda *_: np.zeros(2),
            r"advise\(\) of 'drive .* returned float64 \[2\], float32 \[",
        ),
        (
            "other members",
            "self_filter",
            lambda _, image: image[..., 0],
            r"self_filter\(\) of \d+ images returned uint8",
        ),
        ("other members", "rules", lambda *_: "speed", r"rules\(\) of 'drive .* returns 'speed', a tuple of str is"),
        ("other members", "absent_goal", lambda *_: "", r"absent_goal\(\) returns '', a sentence or None is needed"),
        ("unknown driver", "driver", lambda *given: DRIVER(given[0], "expert", given[2]), r"'qzx vlorp'\) returns one"),
        (
            "actions",
            "driver",
            lambda *_: lambda *_: np.zeros(3),
            r"step 0: the action is float64 \[3\], float32 \[2\] is",
        ),
        (
            "running",
            "driver",
            lambda *_: None,
            r"driver\('expert'\) returns None .*, a function of \(environment, info\) is",
        ),
        ("members", "state", ["x", "y"], r"'state' is \['x', 'y'\] \(list\), a dict is needed"),
        ("actions", "driver", lambda *_: lambda *_: np.float32([0, 9]), "the action is beyond the interface's limits"),
        ("members", "drivers", lambda *_: {}, r"drivers\(\) returns \{\}; shares by name are needed"),
        ("members", "__reduce__", lambda *_: 0, r"it cannot be sent to other processes \(pickled\)"),
        (
            "environment",
            "environment",
            lambda *_, **__: 0,
            r"environment\(render=True\) returns 0 \(int\), a gymnasium.Env is",
        ),
        (
            "environment",
            "environment",
            lambda *_, **__: ENVIRONMENT,
            "returns the same object again, a new one each time is",
        ),
    ],
)
def test_what_is_wrong_with_another_member_is_told(monkeypatch, checked, member, value, says):
    monkeypatch.setattr(Dot, member, value)
    found = wrong(Dot())
    assert checked in found and re.search(says, found[checked]), found


def test_an_environment_that_does_not_render_has_to_do_the_same(monkeypatch):
    class Other(DotEnv):
        def restore(self, saved):
            super().restore(saved)
            self.place += 0.01

    monkeypatch.setattr(Dot, "environment", lambda _, render=True: DotEnv() if render else Other())
    assert "restored in environment(render=False): sensor differs at step 0" in wrong(Dot())["save and restore"]


def test_a_member_that_is_missing_is_named():
    class Half:
        name, robot, state = "half", "half.yaml", {}

    told = wrong(Half())["members"]
    assert "'judge' is missing" in told and "'advise' is missing; inherit from" in told and "'state'" not in told
    assert "Error" not in told  # what is missing is asked for nothing more


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"driver": lambda *_: lambda *_: np.float32([-0.1, 0.1])}, "no episode succeeds: there is nothing to imitate"),
        ({"drivers": lambda *_: {"expert": 1.0}}, "no episode breaks a rule: no threshold can be calibrated"),
    ],
)
def test_what_nothing_can_be_learned_from_is_a_warning(monkeypatch, changes, says):
    for name, value in changes.items():
        monkeypatch.setattr(Dot, name, value)
    assert says in wrong(Dot(), "WARNING")["outcomes"]


def test_one_instruction_is_a_warning(monkeypatch):
    monkeypatch.setattr(tiny_domain, "SLOW", tiny_domain.GOAL)
    told = wrong(Dot(), "WARNING")["variety"]
    assert told == "every episode has the instruction 'drive to the square': no words are learned"


def test_the_command_prints_the_list_and_says_by_its_exit_code_whether_all_is_well(tmp_path, capsys, monkeypatch):
    robot = tmp_path / "dot.yaml"
    robot.write_text(yaml.safe_dump(ROBOT))
    command = ["check", "--domain", "tiny_domain:make", "--episodes", "3", "--seed", str(SEED)]
    assert main(command) == 2 and "--robot is missing" in capsys.readouterr().err
    assert main([*command, "--robot", str(robot)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("OK       members: all there\n") and said.endswith(
        "make: 0 wrong, 0 warnings, 19 as promised\n"
    )
    monkeypatch.setattr(DotEnv, "observe", blank)
    assert main([*command, "--robot", str(robot)]) == 1
    said = capsys.readouterr().out
    assert "\nWRONG    views: 'image.camera' is of one" in said and said.endswith(
        ": 1 wrong, 0 warnings, 18 as promised\n"
    )
